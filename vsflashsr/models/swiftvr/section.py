"""What a bundle of kind ``swiftvr`` says beyond the common part: sizes, options, and where graphs and weights lie."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ...errors import FlashsrError
from ..wan.section import Graph
from .options import Options


@dataclass(frozen=True, slots=True)
class Memory:
    """What a block of the autoencoder remembers: its input of the frame before."""

    channels: int
    pixels: int
    """Pixels of the picture for one of its own, along each side."""


@dataclass(frozen=True, slots=True)
class Section:
    """The object ``swiftvr`` of ``bundle.json``."""

    layers: int
    heads: int
    head_dim: int
    latent_channels: int
    window: tuple[int, int]
    """Rows and columns of an attention window, in tokens."""
    first: Graph
    middle: Graph
    last: Graph
    attention: str
    """Windowed self-attention: q, k, v (T, dim), cos, sin (T, head_dim / 2), gather (W, L), owner (T) → attended (T, dim)."""
    upscale: str
    """frames (4, 3, h, w), tables of rows and columns → upscaled (4, 3, H, W)."""
    encoder: str
    """frames (4, 3, H, W), state0.. → patches of a latent (H/32 * W/32, 4C), next0.."""
    decoder: str
    """patches of a latent (H/32 * W/32, 4C), state0.. → frames (4, 3, H, W), next0.."""
    encoder_memories: tuple[Memory, ...]
    decoder_memories: tuple[Memory, ...]
    config: Mapping[str, Any] = field(default_factory=dict)
    """All sizes of the checkpoint, for readers."""
    options: Options = field(default_factory=Options)
    """Defaults of this bundle."""

    def to_json(self) -> dict[str, Any]:
        """The JSON object."""
        return dataclasses.asdict(self)


def read_section(where: str, data: Mapping[str, Any]) -> Section:
    """Check and read the JSON object.

    Raises:
        FlashsrError: a field is missing, or of another kind.
    """
    try:
        return msgspec.convert(data, Section)
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, FlashsrError):
            raise error.__cause__ from error
        raise FlashsrError(f"{where}: the object 'swiftvr' is wrong ({error}); export the bundle again") from error


def files_of(section: Section) -> list[str]:
    """Every file the section names."""
    graphs = (section.first, section.middle, section.last)
    pieces = [name for graph in graphs for name in (graph.shared, *graph.constant, *graph.weights)]
    return [*pieces, section.attention, section.upscale, section.encoder, section.decoder]
