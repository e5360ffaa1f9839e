"""The sizes of a FlashVSR model, and the tensors (name, shape) each of its parts is made of."""

from __future__ import annotations

from dataclasses import dataclass

from ...wan.network.config import DiTConfig, Layout, Shape

LQ_PATCH = 16
"""Pixels per token side: the projector's pixel-unshuffle."""
LQ_CHANNELS = 3 * LQ_PATCH * LQ_PATCH
"""Channels of an unshuffled frame (projector), and of four frames unshuffled by 8 (decoder condition)."""
LATENT_PATCH = 8
"""Pixels per latent side."""
FRAMES_PER_LATENT = 4
VAE_MULTIPLIERS = (1, 2, 4, 4)
"""Widths of the Wan VAE decoder, output side first, in units of its base width."""


@dataclass(frozen=True)
class FlashVSRConfig(DiTConfig):
    """Sizes of one FlashVSR model; the defaults are the published ones. A part that wasn't loaded keeps None."""

    lq_hidden: tuple[int, int] = (2048, 3072)
    """Channels after the projector's first and second convolution."""
    tc_channels: tuple[int, int, int, int] | None = (512, 256, 128, 128)
    """Widths of the TCDecoder at H/8, H/4, H/2 and H; None in the variant "full"."""
    vae_dim: int | None = None
    """Base width of the Wan VAE decoder (published: 96); None in the variant "tiny"."""


def projector_layout(config: FlashVSRConfig) -> Layout:
    """The LQ projector: 8 tensors, the same in v1 and v1.1."""
    first, second = config.lq_hidden
    return {
        "conv1.weight": (first, LQ_CHANNELS, 4, 3, 3),
        "conv1.bias": (first,),
        "norm1.gamma": (first, 1, 1, 1),
        "conv2.weight": (second, first, 4, 3, 3),
        "conv2.bias": (second,),
        "norm2.gamma": (second, 1, 1, 1),
        "linear_layers.0.weight": (config.dim, second),
        "linear_layers.0.bias": (config.dim,),
    }


def tcdecoder_layout(config: FlashVSRConfig) -> Layout:
    """The TCDecoder: 66 tensors."""
    if config.tc_channels is None:
        return {}
    a, b, c, d = config.tc_channels
    out: Layout = {
        "decoder.1.weight": (a, LQ_CHANNELS + config.latent_channels, 3, 3),
        "decoder.1.bias": (a,),
        "decoder.3.weight": (a, a, 3, 3),
    }

    def memory_blocks(first: int, width: int) -> None:
        for index in range(first, first + 3):
            for part, inputs in ((0, 2 * width), (2, width), (4, width)):
                out[f"decoder.{index}.conv.{part}.weight"] = (width, inputs, 3, 3)
                out[f"decoder.{index}.conv.{part}.bias"] = (width,)

    memory_blocks(5, a)
    out["decoder.9.conv.weight"] = (a, a, 1, 1)
    out["decoder.10.weight"] = (b, a, 3, 3)
    memory_blocks(11, b)
    out["decoder.15.conv.weight"] = (2 * b, b, 1, 1)
    out["decoder.16.weight"] = (c, b, 3, 3)
    memory_blocks(17, c)
    out["decoder.21.conv.weight"] = (2 * c, c, 1, 1)
    out["decoder.22.weight"] = (d, c, 3, 3)
    out["decoder.24.weight"] = (d, d, 3, 3)
    out["decoder.26.weight"] = (3, d, 3, 3)
    out["decoder.26.bias"] = (3,)
    return out


def vae_layout(config: FlashVSRConfig) -> Layout:
    """The Wan VAE's decoder half and `conv2`: 108 tensors."""
    if config.vae_dim is None:
        return {}
    base, z = config.vae_dim, config.latent_channels
    top = base * VAE_MULTIPLIERS[-1]
    out: Layout = {}

    def conv(name: str, shape: Shape) -> None:
        out[f"{name}.weight"] = shape
        out[f"{name}.bias"] = shape[:1]

    def residual(name: str, inputs: int, outputs: int) -> None:
        out[f"{name}.residual.0.gamma"] = (inputs, 1, 1, 1)
        conv(f"{name}.residual.2", (outputs, inputs, 3, 3, 3))
        out[f"{name}.residual.3.gamma"] = (outputs, 1, 1, 1)
        conv(f"{name}.residual.6", (outputs, outputs, 3, 3, 3))
        if inputs != outputs:
            conv(f"{name}.shortcut", (outputs, inputs, 1, 1, 1))

    conv("conv2", (z, z, 1, 1, 1))
    conv("decoder.conv1", (top, z, 3, 3, 3))
    residual("decoder.middle.0", top, top)
    out["decoder.middle.1.norm.gamma"] = (top, 1, 1)
    conv("decoder.middle.1.to_qkv", (3 * top, top, 1, 1))
    conv("decoder.middle.1.proj", (top, top, 1, 1))
    residual("decoder.middle.2", top, top)
    index, inputs = 0, top
    for level, multiplier in enumerate(reversed(VAE_MULTIPLIERS)):
        width = base * multiplier
        for _ in range(3):
            residual(f"decoder.upsamples.{index}", inputs, width)
            index, inputs = index + 1, width
        if level < len(VAE_MULTIPLIERS) - 1:
            conv(f"decoder.upsamples.{index}.resample.1", (width // 2, width, 3, 3))
            if level < 2:
                conv(f"decoder.upsamples.{index}.time_conv", (2 * width, width, 3, 1, 1))
            index, inputs = index + 1, width // 2
    out["decoder.head.0.gamma"] = (base, 1, 1, 1)
    conv("decoder.head.2", (3, base, 3, 3, 3))
    return out
