"""Torch modules on the mock device: run on its memory, in the order of its streams."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from vsflashsr.gpu.device import Device, Stream
from vsflashsr.runtimes.graph import GraphCall, Shape
from vsflashsr.runtimes.onnx_torch import OnnxModule
from vsflashsr.runtimes.torch import TorchGraph

from .mock_cuda import MockDriver


class QueuedModule:
    """A torch module as a graph on the mock: runs in the order of its stream."""

    held_bytes = 0

    def __init__(self, module: Any, inputs: Any, outputs: Any, mock: MockDriver) -> None:
        self._graph = TorchGraph(module, inputs, outputs, "cpu")
        self._module, self._mock = module, mock
        self.inputs, self.outputs = self._graph.inputs, self._graph.outputs
        self.weights_bytes = self._graph.weights_bytes

    @classmethod
    def of(cls, graph: TorchGraph, mock: MockDriver) -> QueuedModule:
        """A loaded module."""
        queued = cls.__new__(cls)
        queued._graph, queued._module, queued._mock = graph, graph._module, mock
        queued.inputs, queued.outputs, queued.weights_bytes = graph.inputs, graph.outputs, graph.weights_bytes
        return queued

    def prepare(self, shapes: Mapping[str, Shape]) -> Any:
        makes = self._graph.prepare(shapes).outputs
        inputs, outputs, module, mock = self.inputs, self.outputs, self._module, self._mock

        class Prepared:
            scratch_bytes = 0
            held_bytes = self.held_bytes

            def __init__(self) -> None:
                self.outputs = makes

            def enqueue(self, stream: Stream, addresses: Mapping[str, int], scratch: int) -> None:
                def run() -> None:
                    given = [
                        torch.from_numpy(mock.view(addresses[n], math.prod(shapes[n]), t.dtype).reshape(shapes[n]).copy())
                        for n, t in inputs.items()
                    ]
                    with torch.inference_mode():
                        made = module(*given)
                    made = made if isinstance(made, tuple) else (made,)
                    for (name, tensor), part in zip(outputs.items(), made, strict=True):
                        place = mock.view(addresses[name], math.prod(makes[name]), tensor.dtype)
                        np.copyto(place, part.numpy().ravel())

                mock.enqueue(stream.handle, run, name="module")

        return Prepared()


@dataclass
class OnMock:
    """Backend "torch" on the mock device, as far as a kind knows it."""

    device: Device
    mock: MockDriver
    name: str = "torch"
    where: str = "the mock"
    place: Literal["device"] = "device"
    captures: bool = False

    def load(self, calls: Sequence[GraphCall]) -> list[QueuedModule]:
        """The modules that graphs were exported from, and where there is none the graphs as modules."""
        return [self._one(call) for call in calls]

    def _one(self, call: GraphCall) -> QueuedModule:
        if call.module is None:
            module = OnnxModule(call.path)
            return QueuedModule(module, module.inputs, module.outputs, self.mock)
        graph = call.module("cpu")
        assert isinstance(graph, TorchGraph)
        return QueuedModule(graph._module, graph._inputs, graph._outputs, self.mock)

    def keep_compiled(self) -> None: ...

    def close(self) -> None: ...
