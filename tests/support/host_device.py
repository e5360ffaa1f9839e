"""Graphs on the mock device: run by ONNX Runtime on its memory, in the order of its streams."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from vsflashsr.gpu.device import Stream
from vsflashsr.runtimes.graph import Shape, Tensor
from vsflashsr.runtimes.onnxruntime import OnnxSession

from .mock_cuda import MockDriver


def _bytes(shape: Shape, tensor: Tensor) -> int:
    return math.prod(shape) * tensor.dtype.itemsize


class HostGraph:
    """A ``DeviceGraph`` whose calls run in ONNX Runtime on the mock's memory, when their turn comes."""

    def __init__(self, path: Path, mock: MockDriver, constant: Mapping[str, np.ndarray] | None = None) -> None:
        self._session = OnnxSession(path, threads=1)
        self._mock = mock
        self.inputs: dict[str, Tensor] = self._session.inputs
        self.outputs: dict[str, Tensor] = self._session.outputs
        self.weights_bytes = 1000
        self.calls = 0

    def prepare(self, shapes: Mapping[str, Shape]) -> PreparedHostGraph:
        """Output shapes are found by a run on zeros."""
        zeros = {name: np.zeros(shape, self.inputs[name].dtype) for name, shape in shapes.items()}
        made = self._session.run(zeros)
        return PreparedHostGraph(self, self._mock, dict(shapes), {name: tuple(v.shape()) for name, v in made.items()})

    def run(self, feeds: Mapping[str, Any]) -> dict[str, ort.OrtValue]:
        """One call."""
        self.calls += 1
        return self._session.run(feeds)


class PreparedHostGraph:
    """See ``PreparedGraph``."""

    scratch_bytes = 4096
    held_bytes = 0

    def __init__(
        self, graph: HostGraph, mock: MockDriver, shapes: dict[str, Shape], outputs: dict[str, Shape]
    ) -> None:
        self._graph, self._mock, self._shapes, self.outputs = graph, mock, shapes, outputs

    def enqueue(self, stream: Stream, addresses: Mapping[str, int], scratch: int) -> None:
        """See ``PreparedGraph.enqueue``. The scratch memory is overwritten, as an engine's would be."""
        graph, mock = self._graph, self._mock
        assert set(addresses) == {*self._shapes, *self.outputs}, sorted(addresses)

        def run() -> None:
            feeds = {
                name: mock.view(addresses[name], math.prod(shape), graph.inputs[name].dtype).reshape(shape).copy()
                for name, shape in self._shapes.items()
            }
            for name, value in graph.run(feeds).items():
                shape = self.outputs[name]
                place = mock.view(addresses[name], math.prod(shape), graph.outputs[name].dtype)
                np.copyto(place, value.numpy().ravel())
            mock.view(scratch, self.scratch_bytes)[:] = 0xFF

        reads = [(addresses[name], _bytes(shape, graph.inputs[name])) for name, shape in self._shapes.items()]
        writes = [(addresses[name], _bytes(shape, graph.outputs[name])) for name, shape in self.outputs.items()]
        mock.enqueue(stream.handle, run, reads=reads, writes=[*writes, (scratch, self.scratch_bytes)], name="graph")
