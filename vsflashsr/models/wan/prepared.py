"""A piece of a DiT on a device, for all the layers it serves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ...runtimes.graph import DeviceGraph, PreparedGraph, Shape

if TYPE_CHECKING:
    from ...gpu.device import Stream


class PreparedPiece:
    """A piece for one number of tokens, with a graph for each layer."""

    def __init__(self, graphs: Sequence[DeviceGraph], shapes: Mapping[str, Shape]) -> None:
        self._graphs = [graph.prepare(shapes) for graph in graphs]
        self.scratch_bytes = max(graph.scratch_bytes for graph in self._graphs)
        self.held_bytes = max(graph.held_bytes for graph in self._graphs)

    def enqueue(self, layer: int, stream: Stream, addresses: Mapping[str, int], scratch: int) -> None:
        """Queue the piece of the layer `layer`, counted among those of its kind."""
        self._graphs[layer].enqueue(stream, addresses, scratch)

    def graph(self, layer: int) -> PreparedGraph:
        """That layer's."""
        return self._graphs[layer]
