"""The DiT as torch modules with the published names, and the constants that follow from prompt and timestep.

The modules hold the layers; the order in which a step calls them is in `pieces` (per-token graphs) and in each model's step
(what lies between those).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import DiTConfig

TIMESTEP = 1000.0
"""The only timestep: one step from pure noise."""


def exporting() -> bool:
    """Is the module being exported? ONNX promotes no types, so graphs say every conversion."""
    return torch.onnx.is_in_onnx_export()


class RMSNorm(nn.Module):
    """RMS norm over all channels (all heads together), computed in float32; the weight is meant to be float32 too."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(dim))

    def forward(self, x: Tensor) -> Tensor:
        if exporting():
            wide = x.float()
            return (wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + self.eps) * self.weight).to(x.dtype)
        # Nothing is widened in memory: the norm reads x as it is, and the product is promoted as it is computed.
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        scale = torch.rsqrt(length.square() / x.shape[-1] + self.eps)
        return (x * scale * self.weight).to(x.dtype)


class Attention(nn.Module):
    """The projections of one attention; who attends to what is decided elsewhere."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.q = nn.Linear(config.dim, config.dim)
        self.k = nn.Linear(config.dim, config.dim)
        self.v = nn.Linear(config.dim, config.dim)
        self.o = nn.Linear(config.dim, config.dim)
        self.norm_q = RMSNorm(config.dim, config.eps)
        self.norm_k = RMSNorm(config.dim, config.eps)

    def keys_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-attention's constant keys and values: (tokens, dim) each."""
        return self.norm_k(self.k(context)), self.v(context)


class Block(nn.Module):
    """One of the DiT's layers. Rows of `modulation`: shift, scale, gate of self-attention, then of the feed-forward."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.cross_attn = Attention(config)
        self.norm3 = nn.LayerNorm(config.dim, eps=config.eps)
        self.ffn = nn.Sequential(
            nn.Linear(config.dim, config.ffn), nn.GELU(approximate="tanh"), nn.Linear(config.ffn, config.dim)
        )
        self.modulation = nn.Parameter(torch.empty(1, 6, config.dim))


class Head(nn.Module):
    """From tokens to 2 x 2 latent pixels. Rows of `modulation`: shift, scale."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        outputs = config.latent_channels * config.patch[0] * config.patch[1] * config.patch[2]
        self.head = nn.Linear(config.dim, outputs)
        self.modulation = nn.Parameter(torch.empty(1, 2, config.dim))


class Embeddings(nn.Module):
    """The layers that see only the prompt and the timestep; nothing of them is left in a bundle."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.text_embedding = nn.Sequential(
            nn.Linear(config.text_dim, config.dim), nn.GELU(approximate="tanh"), nn.Linear(config.dim, config.dim)
        )
        self.time_embedding = nn.Sequential(
            nn.Linear(config.freq_dim, config.dim), nn.SiLU(), nn.Linear(config.dim, config.dim)
        )
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(config.dim, 6 * config.dim))


class DiT(Embeddings):
    """All layers: 825 tensors at the published size."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__(config)
        self.patch_embedding = nn.Conv3d(
            config.latent_channels, config.dim, kernel_size=config.patch, stride=config.patch
        )
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.head = Head(config)


@dataclass(frozen=True)
class Constants:
    """What prompt and timestep come to, in float32."""

    t: Tensor
    """(1, dim), added to both rows of the head's modulation."""
    t_mod: Tensor
    """(6, dim), added to every block's modulation."""
    context: Tensor
    """(prompt tokens, dim): the embedded prompt every block's cross-attention reads."""


def timestep_embedding(freq_dim: int) -> Tensor:
    """(1, freq_dim): cosines, then sines of the constant timestep."""
    half = freq_dim // 2
    angles = TIMESTEP * 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    return torch.cat([angles.cos(), angles.sin()])[None].float()


def build_constants(
    config: DiTConfig, tensors: Mapping[str, Tensor], prompt: Tensor, timestep: Tensor | None = None
) -> Constants:
    """Run the embeddings of a checkpoint once. `prompt` is (1, tokens, text_dim); `timestep` None: `timestep_embedding`."""
    with torch.device("meta"):
        layers = Embeddings(config)
    layers.load_state_dict({name: tensors[name].float() for name in layers.state_dict()}, assign=True)
    with torch.inference_mode():
        t = layers.time_embedding(timestep_embedding(config.freq_dim) if timestep is None else timestep)
        t_mod = layers.time_projection(t).reshape(6, config.dim)
        context = layers.text_embedding(prompt.float().reshape(-1, config.text_dim))
    return Constants(t, t_mod, context)


def cross_keys_values(
    config: DiTConfig, tensors: Mapping[str, Tensor], layer: int, constants: Constants
) -> tuple[Tensor, Tensor]:
    """(prompt tokens, dim) keys, after their RMS norm, and values of one block."""

    def get(name: str) -> Tensor:
        return tensors[f"blocks.{layer}.cross_attn.{name}"].float()

    with torch.inference_mode():
        keys = F.linear(constants.context, get("k.weight"), get("k.bias"))
        keys = F.rms_norm(keys, (config.dim,), get("norm_k.weight"), config.eps)
        return keys, F.linear(constants.context, get("v.weight"), get("v.bias"))
