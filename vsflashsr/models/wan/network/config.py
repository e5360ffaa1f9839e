"""The sizes of a diffusion transformer of Wan's kind, and the tensors (name, shape) it is made of."""

from __future__ import annotations

from dataclasses import dataclass

Shape = tuple[int, ...]
Layout = dict[str, Shape]
"""Published tensor names and shapes, in the order of the published modules."""


@dataclass(frozen=True)
class DiTConfig:
    """Sizes of a diffusion transformer of Wan's kind; the defaults are those of FlashVSR's."""

    dim: int = 1536
    """Width of the DiT."""
    heads: int = 12
    """Attention heads; ``dim == heads * head_dim``."""
    head_dim: int = 128
    """Channels per head. Shapes can't tell it: it is given to `load_checkpoint`."""
    layers: int = 30
    """DiT blocks."""
    ffn: int = 8960
    """Hidden width of a block's feed-forward."""
    text_dim: int = 4096
    """Channels of the prompt tensor."""
    text_len: int = 512
    """Tokens of the prompt tensor; padding is part of it and is not masked."""
    freq_dim: int = 256
    """Width of the timestep's sinusoid."""
    latent_channels: int = 16
    """Channels of a latent, in and out."""
    patch: tuple[int, int, int] = (1, 2, 2)
    """Latent frames, rows and columns of one token."""
    eps: float = 1e-6
    """Epsilon of the DiT's LayerNorm and RMSNorm."""


def dit_layout(config: DiTConfig) -> Layout:
    """The DiT: 15 + 27 tensors per block (825 at the published size)."""
    d, f, c = config.dim, config.ffn, config.latent_channels
    pixels = config.patch[0] * config.patch[1] * config.patch[2]
    out: Layout = {
        "patch_embedding.weight": (d, c, *config.patch),
        "patch_embedding.bias": (d,),
        "text_embedding.0.weight": (d, config.text_dim),
        "text_embedding.0.bias": (d,),
        "text_embedding.2.weight": (d, d),
        "text_embedding.2.bias": (d,),
        "time_embedding.0.weight": (d, config.freq_dim),
        "time_embedding.0.bias": (d,),
        "time_embedding.2.weight": (d, d),
        "time_embedding.2.bias": (d,),
        "time_projection.1.weight": (6 * d, d),
        "time_projection.1.bias": (6 * d,),
    }
    for layer in range(config.layers):
        block = f"blocks.{layer}"
        out[f"{block}.modulation"] = (1, 6, d)
        for attention in ("self_attn", "cross_attn"):
            for linear in "qkvo":
                out[f"{block}.{attention}.{linear}.weight"] = (d, d)
                out[f"{block}.{attention}.{linear}.bias"] = (d,)
            out[f"{block}.{attention}.norm_q.weight"] = (d,)
            out[f"{block}.{attention}.norm_k.weight"] = (d,)
        out[f"{block}.norm3.weight"] = (d,)
        out[f"{block}.norm3.bias"] = (d,)
        out[f"{block}.ffn.0.weight"] = (f, d)
        out[f"{block}.ffn.0.bias"] = (f,)
        out[f"{block}.ffn.2.weight"] = (d, f)
        out[f"{block}.ffn.2.bias"] = (d,)
    out["head.modulation"] = (1, 2, d)
    out["head.head.weight"] = (pixels * c, d)
    out["head.head.bias"] = (pixels * c,)
    return out
