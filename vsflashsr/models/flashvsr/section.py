"""What a bundle of kind ``flashvsr`` says beyond the common part: sizes, options, and where graphs and weights lie."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from ...errors import FlashsrError
from ...runtimes.graph import TensorEntry
from ..wan.section import Graph
from .options import Options

type Version = Literal["v1", "v1.1"]
type Variant = Literal["tiny", "full"]


@dataclass(frozen=True, slots=True)
class DecoderState:
    """A memory of the decoder."""

    frames: int
    channels: int
    factor: int
    """Its height and width over those of the latent."""


@dataclass(frozen=True, slots=True)
class Section:
    """The object ``flashvsr`` of ``bundle.json``."""

    version: Version
    """What the exporter was told: nothing in a checkpoint tells v1 from v1.1."""
    variant: Variant
    layers: int
    heads: int
    head_dim: int
    projector_hidden: int
    """Channels of the projector's context (v1.1)."""
    first: Graph
    middle: Graph
    last: Graph
    attention: str
    """Softmax attention of one query window in float32, for the CPU: ``q`` (128, d), scaled, ``k`` and ``v`` (n, d) → ``out``."""
    projector: str
    decoder: str
    decoder_first: str | None
    """The decoder's graph for a segment's first latent, with fewer memories; None where ``decoder`` does it too."""
    decoder_states: tuple[DecoderState, ...]
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
        FlashsrError: a field is missing, unknown, or of another kind.
    """

    def graph(value: Mapping[str, Any]) -> Graph:
        tensors = tuple(TensorEntry(**{**entry, "shape": tuple(entry["shape"])}) for entry in value["tensors"])
        return Graph(value["shared"], tuple(value["constant"]), tuple(value["weights"]), tensors)

    try:
        section = Section(
            **{
                **data,
                **{name: graph(data[name]) for name in ("first", "middle", "last")},
                "decoder_states": tuple(DecoderState(**state) for state in data["decoder_states"]),
                "options": Options(**data["options"]),
            }
        )
    except (KeyError, TypeError) as error:
        raise FlashsrError(
            f"{where}: the object 'flashvsr' is incomplete ({error}); export the bundle again"
        ) from error
    for name, value, choices in (
        ("version", section.version, get_args(Version.__value__)),
        ("variant", section.variant, get_args(Variant.__value__)),
    ):
        if value not in choices:
            raise FlashsrError(
                f"{where}: {name!r} is one of {', '.join(choices)}, got {value!r}; export the bundle again"
            )
    return section


def files_of(section: Section) -> list[str]:
    """Every file the section names."""
    graphs = (section.first, section.middle, section.last)
    pieces = [name for graph in graphs for name in (graph.shared, *graph.constant, *graph.weights)]
    return [*pieces, section.attention, section.projector, section.decoder, *filter(None, [section.decoder_first])]
