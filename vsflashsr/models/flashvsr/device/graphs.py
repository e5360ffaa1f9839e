"""FlashVSR's graphs on a device: three pieces that serve all layers, the projector, the decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ....runtimes.graph import DeviceGraph, PreparedGraph, Shape
from ..section import Section
from ..windows import BLOCK_PX, Grid

if TYPE_CHECKING:
    from ....gpu.device import Stream


@dataclass(frozen=True, slots=True)
class Piece:
    """One kind of piece, for all layers it serves."""

    graphs: Sequence[DeviceGraph]
    """One for all layers (weights are inputs), or one for each."""
    weights: Sequence[Mapping[str, int]]
    """Where each layer's weight inputs lie on the device; empty mappings where the weights are in the graph."""
    weight_shapes: Mapping[str, Shape]
    """Shapes of the weight inputs."""

    def prepare(self, shapes: Mapping[str, Shape]) -> PreparedPiece:
        """The piece for these shapes of its other inputs."""
        given = {**shapes, **self.weight_shapes}
        return PreparedPiece([graph.prepare(given) for graph in self.graphs], self.weights)


class PreparedPiece:
    """A piece for one number of tokens."""

    def __init__(self, graphs: Sequence[PreparedGraph], weights: Sequence[Mapping[str, int]]) -> None:
        self._graphs, self._weights = graphs, weights
        self.scratch_bytes = max(graph.scratch_bytes for graph in graphs)
        self.held_bytes = max(graph.held_bytes for graph in graphs)

    def enqueue(self, layer: int, stream: Stream, addresses: Mapping[str, int], scratch: int) -> None:
        """Queue the piece of the layer `layer`, counted among those of its kind."""
        graph = self._graphs[layer if len(self._graphs) > 1 else 0]
        graph.enqueue(stream, {**addresses, **self._weights[layer]}, scratch)


@dataclass(frozen=True, slots=True)
class StepGraphs:
    """All that a step runs besides the kernels."""

    first: Piece
    middle: Piece
    last: Piece
    projector: DeviceGraph
    decoder: DeviceGraph
    decoder_first: DeviceGraph | None
    """For a segment's first latent, where `decoder` doesn't do it too."""
    weights_bytes: int
    """Device memory of all weights."""


def token_shapes(kind: str, tokens: int, dim: int, patch_values: int) -> dict[str, Shape]:
    """Shapes of the inputs of a piece (`first`, `middle`, `last`), weights aside."""
    wide, patches = (tokens, dim), (tokens, patch_values)
    match kind:
        case "first":
            return {"patches": patches, "lq": wide}
        case "middle":
            return {"x": wide, "attended": wide}
        case _:
            return {"x": wide, "attended": wide, "patches": patches}


def projector_shapes(section: Section, grid: Grid) -> dict[str, Shape]:
    """Shapes of the projector's inputs."""
    pixels = (grid.height_px, grid.width_px)
    if section.version == "v1":
        return {"clip": (4, 3, *pixels)}
    hidden = (2, section.projector_hidden, grid.height_px // 16, grid.width_px // 16)
    return {"clip": (4, 3, *pixels), "ctx1": (2, 3, *pixels), "ctx2": hidden}


def decoder_shapes(section: Section, grid: Grid, channels: int, states: Sequence[int]) -> dict[str, Shape]:
    """Shapes of the decoder's inputs, with those of its memories that it reads."""
    rows, cols = grid.height_px // 8, grid.width_px // 8
    shapes: dict[str, Shape] = {"latent": (1, channels, rows, cols)}
    if section.variant == "tiny":
        shapes["lq"] = (4, 3, grid.rows * BLOCK_PX, grid.cols * BLOCK_PX)
    for n in states:
        state = section.decoder_states[n]
        shapes[f"state{n}"] = (state.frames, state.channels, rows * state.factor, cols * state.factor)
    return shapes
