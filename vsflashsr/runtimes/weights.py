"""Weights as inputs: uploaded once for each layer, and bound to the one graph that serves all layers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import FlashsrError
from .graph import DeviceGraph, PreparedGraph, Shape, Tensor, WeightFile

if TYPE_CHECKING:
    from ..gpu.device import Buffer, Device, Stream

_ALIGNMENT = 512
"""TensorRT wants each tensor at a multiple of 256 bytes."""


class DeviceWeights:
    """Weight files on a device; each is uploaded once, however often a model is opened."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._uploaded: dict[Path, tuple[Buffer, dict[str, int]]] = {}

    def upload(self, file: WeightFile) -> tuple[Mapping[str, int], int]:
        """Where each tensor lies on the device, and what all take.

        Raises:
            FlashsrError: the file is too short.
        """
        if file.path not in self._uploaded:
            self._uploaded[file.path] = self._send(file)
        buffer, places = self._uploaded[file.path]
        return places, buffer.size_bytes

    def _send(self, file: WeightFile) -> tuple[Buffer, dict[str, int]]:
        offsets, end = {}, 0
        for entry in file.tensors:
            offsets[entry.name] = end
            end += -(-entry.length_bytes // _ALIGNMENT) * _ALIGNMENT
        data = np.memmap(file.path, np.uint8, mode="r")

        def fill(raw: NDArray[np.uint8]) -> None:
            for entry in file.tensors:
                part = data[entry.offset_bytes : entry.offset_bytes + entry.length_bytes]
                if part.size != entry.length_bytes:
                    raise FlashsrError(
                        f"the weights {str(file.path)!r} are shorter than bundle.json says, got {data.size} bytes; export again"
                    )
                raw[offsets[entry.name] : offsets[entry.name] + part.size] = part

        buffer = self._device.constant(end, fill)
        return buffer, {name: buffer.address + offset for name, offset in offsets.items()}


class SharedGraph:
    """A loaded graph that serves several layers. It is prepared once for each set of shapes: execution contexts aren't cheap."""

    def __init__(self, graph: DeviceGraph) -> None:
        self._graph = graph
        self._prepared: dict[object, PreparedGraph] = {}
        self._counted = False

    def bound(self, file: WeightFile, weights: DeviceWeights) -> DeviceGraph:
        """The graph as one layer has it."""
        places, uploaded_bytes = weights.upload(file)
        own_bytes = 0 if self._counted else self._graph.weights_bytes
        self._counted = True
        return _Layer(self, self._graph, file, places, own_bytes + uploaded_bytes)

    def prepare(self, shapes: Mapping[str, Shape]) -> PreparedGraph:
        """See ``DeviceGraph.prepare``."""
        key = frozenset(shapes.items())
        if key not in self._prepared:
            self._prepared[key] = self._graph.prepare(shapes)
        return self._prepared[key]


class _Layer:
    """See ``DeviceGraph``: a shared graph with one layer's weights."""

    def __init__(
        self, shared: SharedGraph, graph: DeviceGraph, file: WeightFile, places: Mapping[str, int], weights_bytes: int
    ) -> None:
        self._shared, self._places = shared, places
        self._shapes = {entry.name: entry.shape for entry in file.tensors}
        self.inputs: Mapping[str, Tensor] = {n: t for n, t in graph.inputs.items() if n not in self._shapes}
        self.outputs: Mapping[str, Tensor] = graph.outputs
        self.weights_bytes = weights_bytes

    def prepare(self, shapes: Mapping[str, Shape]) -> PreparedGraph:
        """See ``DeviceGraph.prepare``."""
        return _PreparedLayer(self._shared.prepare({**shapes, **self._shapes}), self._places)


class _PreparedLayer:
    """See ``PreparedGraph``."""

    def __init__(self, prepared: PreparedGraph, places: Mapping[str, int]) -> None:
        self._prepared, self._places = prepared, places
        self.outputs = prepared.outputs
        self.scratch_bytes, self.held_bytes = prepared.scratch_bytes, prepared.held_bytes

    def enqueue(self, stream: Stream, addresses: Mapping[str, int], scratch: int) -> None:
        """See ``PreparedGraph.enqueue``."""
        self._prepared.enqueue(stream, {**addresses, **self._places}, scratch)
