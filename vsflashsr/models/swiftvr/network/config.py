"""The sizes of a SwiftVR model, and the tensors (name, shape) its autoencoder is made of."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...wan.network.config import DiTConfig, Layout

PUBLISHED_DIT = DiTConfig(dim=3072, heads=24, ffn=14336, latent_channels=48)
MEMORIES = 9
"""Memory blocks of the encoder, and of the decoder."""
ENCODER_MEMORIES = (4, 5, 6, 9, 10, 11, 14, 15, 16)
DECODER_MEMORIES = (3, 4, 5, 9, 10, 11, 15, 16, 17)
"""Published indices of the blocks that remember their previous input, in the order of the states."""


@dataclass(frozen=True)
class SwiftVRConfig:
    """Sizes of one model; the defaults are the published ones."""

    dit: DiTConfig = field(default_factory=lambda: PUBLISHED_DIT)
    encoder: int = 64
    """Width of the encoder."""
    decoder: tuple[int, int, int, int] = (512, 256, 128, 64)
    """Widths of the decoder at 1/16, 1/8, 1/4 and 1/2 of the picture."""
    window: tuple[int, int] = (16, 16)
    """Rows and columns of an attention window, in tokens. Nothing in a checkpoint tells it."""


def reae_layout(config: SwiftVRConfig) -> Layout:
    """The autoencoder: 128 tensors."""
    e, latent = config.encoder, config.dit.latent_channels
    a, b, c, d = config.decoder
    out: Layout = {}

    def memory(name: str, width: int) -> None:
        for part, inputs in ((0, 2 * width), (2, width), (4, width)):
            out[f"{name}.conv.{part}.weight"] = (width, inputs, 3, 3)
            out[f"{name}.conv.{part}.bias"] = (width,)

    out |= {"encoder.0.weight": (e, 12, 3, 3), "encoder.0.bias": (e,), "encoder.2.conv.weight": (e, 2 * e, 1, 1)}
    out |= {"encoder.3.weight": (e, e, 3, 3), "encoder.7.conv.weight": (e, 2 * e, 1, 1), "encoder.8.weight": (e, e, 3, 3)}
    out |= {"encoder.12.conv.weight": (e, e, 1, 1), "encoder.13.weight": (e, e, 3, 3)}
    out |= {"encoder.17.weight": (latent, e, 3, 3), "encoder.17.bias": (latent,)}
    for index in ENCODER_MEMORIES:
        memory(f"encoder.{index}", e)
    out |= {"decoder.1.weight": (a, latent, 3, 3), "decoder.1.bias": (a,)}
    out |= {"decoder.7.proj.weight": (a, a, 1, 1), "decoder.8.weight": (b, a, 3, 3)}
    out |= {"decoder.13.conv3d.weight": (b, b, 3, 1, 1), "decoder.14.weight": (c, b, 3, 3)}
    out |= {"decoder.19.conv3d.weight": (c, c, 3, 1, 1), "decoder.20.weight": (d, c, 3, 3)}
    out |= {"decoder.22.weight": (12, d, 3, 3), "decoder.22.bias": (12,)}
    for index, width in zip(DECODER_MEMORIES, (a, a, a, b, b, b, c, c, c), strict=True):
        memory(f"decoder.{index}", width)
    return out
