"""The DiT cut at its self-attentions: per-token pieces with every constant folded in.

A piece is everything between one self-attention and the next, so it works on each token alone and its graph serves every
resolution. Its weights are a flat name → tensor mapping (`first_weights` and so on), folded from a checkpoint layer by layer, so
that no more than one layer need be in memory. In half precision only the matrix products and their biases are half: the residual
`x`, the norms and the gates stay float32 (`to_precision`), and q, k, v and what attention returns are half.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import DiTConfig
from .dit import Constants, RMSNorm, cross_keys_values, exporting

Weights = dict[str, Tensor]


def _wide(x: Tensor) -> Tensor:
    """For an operand of something float32: torch promotes it as it computes, without a copy, and to the same bits."""
    return x.float() if exporting() else x


class _Norm(nn.Module):
    """LayerNorm of the residual, all float32; modulation is folded into its weight (1 + scale) and bias (shift)."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.dim, self.eps = config.dim, config.eps
        self.weight = nn.Parameter(torch.empty(config.dim))
        self.bias = nn.Parameter(torch.empty(config.dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (self.dim,), self.weight, self.bias, self.eps)


class _Before(nn.Module):
    """What comes before a self-attention: norm, q, k and v in one product, RMS norm of q and k over all heads."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.norm1 = _Norm(config)
        self.qkv = nn.Linear(config.dim, 3 * config.dim)
        self.norm_q = RMSNorm(config.dim, config.eps)
        self.norm_k = RMSNorm(config.dim, config.eps)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.qkv(self.norm1(x).to(self.qkv.weight.dtype)).split(self.norm1.dim, dim=-1)
        return self.norm_q(q), self.norm_k(k), v


class _After(nn.Module):
    """What comes after a self-attention: output projection, cross-attention to the prompt, feed-forward."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.heads, self.head_dim = config.heads, config.head_dim
        self.o = nn.Linear(config.dim, config.dim)
        self.gate1 = nn.Parameter(torch.empty(config.dim))
        self.norm3 = _Norm(config)
        self.cross_q = nn.Linear(config.dim, config.dim)
        self.cross_norm_q = RMSNorm(config.dim, config.eps)
        self.cross_k = nn.Parameter(torch.empty(config.heads, config.head_dim, config.text_len))
        self.cross_v = nn.Parameter(torch.empty(config.heads, config.text_len, config.head_dim))
        self.cross_o = nn.Linear(config.dim, config.dim)
        self.norm2 = _Norm(config)
        self.ffn_in = nn.Linear(config.dim, config.ffn)
        self.ffn_out = nn.Linear(config.ffn, config.dim)
        self.gate2 = nn.Parameter(torch.empty(config.dim))

    def cross(self, x: Tensor) -> Tensor:
        q = self.cross_norm_q(self.cross_q(x))
        q = (q * self.head_dim**-0.5).reshape(-1, self.heads, self.head_dim).transpose(0, 1)
        mixed = torch.softmax(q @ self.cross_k, dim=-1) @ self.cross_v
        out: Tensor = self.cross_o(mixed.transpose(0, 1).reshape(-1, self.heads * self.head_dim))
        return out

    def forward(self, x: Tensor, attended: Tensor) -> Tensor:
        half = self.o.weight.dtype
        x = x + self.gate1 * _wide(self.o(attended))
        x = x + _wide(self.cross(self.norm3(x).to(half)))
        hidden = F.gelu(self.ffn_in(self.norm2(x).to(half)), approximate="tanh")
        out: Tensor = x + self.gate2 * _wide(self.ffn_out(hidden))
        return out


class PatchPiece(nn.Module):
    """patches (T, values) float32 → x, q, k, v of layer 0."""

    inputs: tuple[str, ...] = ("patches",)
    outputs = ("x", "q", "k", "v")

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.patch = nn.Linear(patch_values(config), config.dim)
        self.before = _Before(config)

    def forward(self, patches: Tensor, lq: Tensor | None = None) -> tuple[Tensor, ...]:
        x = self.patch(patches.to(self.patch.weight.dtype)).float()
        if lq is not None:
            x = x + _wide(lq)
        return x, *self.before(x)


class FirstPiece(PatchPiece):
    """patches (T, 64) float32 and the projector's tokens (T, dim) → x, q, k, v of layer 0."""

    inputs = ("patches", "lq")


class MiddlePiece(nn.Module):
    """x (T, dim) float32 and layer i's attention (T, dim) → x, q, k, v of layer i + 1."""

    inputs = ("x", "attended")
    outputs = ("x_out", "q", "k", "v")

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.after = _After(config)
        self.before = _Before(config)

    def forward(self, x: Tensor, attended: Tensor) -> tuple[Tensor, ...]:
        x = self.after(x, attended)
        return x, *self.before(x)


class LastPiece(nn.Module):
    """x, the last layer's attention and the noise patches → latents = noise - velocity, as patches (T, 64) float32."""

    inputs = ("x", "attended", "patches")
    outputs = ("latents",)

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.after = _After(config)
        self.norm = _Norm(config)
        self.head = nn.Linear(config.dim, patch_values(config))

    def forward(self, x: Tensor, attended: Tensor, patches: Tensor) -> Tensor:
        velocity: Tensor = self.head(self.norm(self.after(x, attended)).to(self.head.weight.dtype))
        return patches - _wide(velocity)


class WindowAttention(nn.Module):
    """q (128, d), already scaled, and the keys and values (n, d) it sees → (128, d); float32, for the CPU."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.softmax(q @ k.T, dim=-1) @ v


def precision_of(name: str, dtype: torch.dtype) -> torch.dtype:
    """What a weight is stored as in a bundle of precision `dtype`: norms and gates stay float32."""
    return torch.float32 if "norm" in name or "gate" in name else dtype


def to_precision[M: nn.Module](piece: M, dtype: torch.dtype) -> M:
    """The piece with its matrix products in `dtype`."""
    for name, parameter in piece.named_parameters():
        parameter.data = parameter.data.to(precision_of(name, dtype))
    return piece


def patch_values(config: DiTConfig) -> int:
    """Values of a patch, ordered (row, column, channel) with the channel fastest, both in and out."""
    return config.latent_channels * config.patch[0] * config.patch[1] * config.patch[2]


def _linear(tensors: Mapping[str, Tensor], source: str, target: str) -> Weights:
    return {f"{target}.{part}": tensors[f"{source}.{part}"].float() for part in ("weight", "bias")}


def _before_weights(tensors: Mapping[str, Tensor], layer: int, constants: Constants) -> Weights:
    block = f"blocks.{layer}"
    modulation = tensors[f"{block}.modulation"].float()[0] + constants.t_mod
    attention = f"{block}.self_attn"
    return {
        "before.norm1.weight": 1 + modulation[1],
        "before.norm1.bias": modulation[0],
        **{
            f"before.qkv.{part}": torch.cat([tensors[f"{attention}.{name}.{part}"].float() for name in "qkv"])
            for part in ("weight", "bias")
        },
        "before.norm_q.weight": tensors[f"{attention}.norm_q.weight"].float(),
        "before.norm_k.weight": tensors[f"{attention}.norm_k.weight"].float(),
    }


def _after_weights(config: DiTConfig, tensors: Mapping[str, Tensor], layer: int, constants: Constants) -> Weights:
    block = f"blocks.{layer}"
    modulation = tensors[f"{block}.modulation"].float()[0] + constants.t_mod
    keys, values = cross_keys_values(config, tensors, layer, constants)
    by_head = (-1, config.heads, config.head_dim)
    return {
        **_linear(tensors, f"{block}.self_attn.o", "after.o"),
        "after.gate1": modulation[2],
        **_linear(tensors, f"{block}.norm3", "after.norm3"),
        **_linear(tensors, f"{block}.cross_attn.q", "after.cross_q"),
        "after.cross_norm_q.weight": tensors[f"{block}.cross_attn.norm_q.weight"].float(),
        "after.cross_k": keys.reshape(by_head).permute(1, 2, 0).contiguous(),
        "after.cross_v": values.reshape(by_head).transpose(0, 1).contiguous(),
        **_linear(tensors, f"{block}.cross_attn.o", "after.cross_o"),
        "after.norm2.weight": 1 + modulation[4],
        "after.norm2.bias": modulation[3],
        **_linear(tensors, f"{block}.ffn.0", "after.ffn_in"),
        **_linear(tensors, f"{block}.ffn.2", "after.ffn_out"),
        "after.gate2": modulation[5],
    }


def first_weights(config: DiTConfig, tensors: Mapping[str, Tensor], constants: Constants) -> Weights:
    """Weights of `FirstPiece`."""
    patch = tensors["patch_embedding.weight"].float()[:, :, 0]
    return {
        "patch.weight": patch.permute(0, 2, 3, 1).reshape(config.dim, -1).contiguous(),
        "patch.bias": tensors["patch_embedding.bias"].float(),
        **_before_weights(tensors, 0, constants),
    }


def middle_weights(config: DiTConfig, tensors: Mapping[str, Tensor], layer: int, constants: Constants) -> Weights:
    """Weights of the `MiddlePiece` after the self-attention of `layer`."""
    return _after_weights(config, tensors, layer, constants) | _before_weights(tensors, layer + 1, constants)


def last_weights(config: DiTConfig, tensors: Mapping[str, Tensor], constants: Constants) -> Weights:
    """Weights of `LastPiece`."""
    modulation = tensors["head.modulation"].float()[0] + constants.t
    return {
        **_after_weights(config, tensors, config.layers - 1, constants),
        "norm.weight": 1 + modulation[1],
        "norm.bias": modulation[0],
        **_linear(tensors, "head.head", "head"),
    }
