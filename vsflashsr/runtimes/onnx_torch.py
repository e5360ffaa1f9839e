"""An ONNX graph as a torch module.

Shapes are known before a graph runs. So everything that depends on shapes and constants alone is computed once for each set of
shapes, on the host, and what is left is a list of torch calls: nothing is fetched from the device between them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from ..errors import FlashsrError
from .onnx_operators import OPERATORS, TYPES, Attributes, Operator


@dataclass(frozen=True, slots=True)
class _OnHost:
    """An input that is known, and stays on the host."""

    value: Tensor


@dataclass(frozen=True, slots=True)
class _Step:
    """A call that is made for every frame."""

    run: Operator
    attributes: Attributes
    inputs: tuple[str | _OnHost | None, ...]
    outputs: tuple[str, ...]
    over: tuple[str, ...]
    """Values that nobody needs after it."""


@dataclass(slots=True)
class _Program:
    """The graph for one set of shapes."""

    steps: list[_Step]
    constants: dict[str, Tensor]
    """What no input reaches, and steps or the caller need."""
    placed: dict[torch.device, dict[str, Tensor]] = field(default_factory=dict)
    """The constants by device."""

    def on(self, device: torch.device) -> dict[str, Tensor]:
        if device not in self.placed:
            self.placed[device] = {name: tensor.to(device) for name, tensor in self.constants.items()}
        return self.placed[device]


class OnnxModule(nn.Module):
    """A graph whose weights are the module's, called with its inputs in the graph's order; returns a tuple.

    Args:
        path: the ``.onnx`` file; external data lies beside it.

    Raises:
        FlashsrError: it has an operator that isn't known here.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        graph = onnx.load(path).graph
        self._path = path
        self._nodes = list(graph.node)
        if unknown := sorted({node.op_type for node in self._nodes} - {*OPERATORS, "Constant", "Shape", "Size"}):
            raise self._refused(f"has the operators {', '.join(unknown)}, which aren't known here")
        host = {
            name
            for node in self._nodes
            if node.op_type in OPERATORS
            for place, name in enumerate(node.input)
            if place in OPERATORS[node.op_type].host
        }
        self._weights: dict[str, str] = {}
        self._constants: dict[str, Tensor] = {}
        for tensor in graph.initializer:
            value = _tensor(tensor)
            if value.is_floating_point() and value.ndim and tensor.name not in host:
                self._weights[tensor.name] = own = f"weight{len(self._weights)}"
                self.register_parameter(own, nn.Parameter(value, requires_grad=False))
            else:
                self._constants[tensor.name] = value
        own_names = {*self._weights, *self._constants}
        self.inputs = [(i.name, TYPES[i.type.tensor_type.elem_type]) for i in graph.input if i.name not in own_names]
        self.outputs = [(o.name, TYPES[o.type.tensor_type.elem_type]) for o in graph.output]
        self._programs: dict[tuple[torch.Size, ...], _Program] = {}

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """One call; the first with new shapes is planned."""
        key = tuple(tensor.shape for tensor in inputs)
        if key not in self._programs:
            self._programs[key] = self._planned(inputs)
        program = self._programs[key]
        values = dict(program.on(inputs[0].device))
        values |= {name: getattr(self, own) for name, own in self._weights.items()}
        values |= {name: tensor for (name, _), tensor in zip(self.inputs, inputs, strict=True)}
        for step in program.steps:
            given = [
                None if name is None else name.value if isinstance(name, _OnHost) else values[name] for name in step.inputs
            ]
            values |= zip(step.outputs, _many(step.run(step.attributes, given)), strict=False)
            for name in step.over:
                del values[name]
        return tuple(values[name] for name, _ in self.outputs)

    def _planned(self, inputs: Sequence[Tensor]) -> _Program:
        """Shapes go through the graph on torch's meta device, which computes nothing; the rest is computed here."""
        known = dict(self._constants)
        values = {name: _meta(tensor) for (name, _), tensor in zip(self.inputs, inputs, strict=True)}
        values |= {name: _meta(getattr(self, own)) for name, own in self._weights.items()}
        calls: list[tuple[Operator, Attributes, tuple[str | _OnHost | None, ...], tuple[str, ...]]] = []
        for node in self._nodes:
            names, attributes = [name or None for name in node.input], _attributes(node)
            outputs = tuple(node.output)
            if node.op_type in ("Shape", "Size"):
                known[outputs[0]] = _shape(node.op_type, (values | known)[node.input[0]], attributes)
                continue
            if node.op_type == "Constant":
                known[outputs[0]] = _constant(attributes)
                continue
            operator = OPERATORS[node.op_type]
            on_host = all(name is None or name in known for name in names)
            given: list[Tensor | None] = []
            later: list[str | _OnHost | None] = []
            for place, name in enumerate(names):
                if name is not None and place in operator.host and name not in known:
                    raise self._refused(f"computes how {node.op_type} {node.name!r} works from the picture")
                host = name is not None and (on_host or place in operator.host)
                given.append(None if name is None else known[name] if host else _meta((values | known)[name]))
                later.append(_OnHost(known[name]) if name is not None and place in operator.host else name)
            try:
                made = dict(zip(outputs, _many(operator.run(attributes, given)), strict=False))
            except (RuntimeError, ValueError, IndexError) as error:
                raise self._refused(f"has {node.op_type} {node.name!r}, which fails ({error})") from error
            if on_host:
                known |= made
            else:
                values |= made
                calls.append((operator.run, attributes, tuple(later), outputs))
        return self._program(calls, known)

    def _program(
        self,
        calls: Sequence[tuple[Operator, Attributes, tuple[str | _OnHost | None, ...], tuple[str, ...]]],
        known: Mapping[str, Tensor],
    ) -> _Program:
        wanted = {name for name, _ in self.outputs}
        made = {name for _, _, _, outputs in calls for name in outputs if name}
        last: dict[str, int] = {}
        used: set[str] = set(wanted)
        for number, (_, _, inputs, outputs) in enumerate(calls):
            read = {name for name in inputs if isinstance(name, str)}
            used |= read
            last |= dict.fromkeys((*read, *filter(None, outputs)), number)
        steps = [
            _Step(*call, tuple(name for name in last if last[name] == number and name in made - wanted))
            for number, call in enumerate(calls)
        ]
        return _Program(steps, {name: tensor for name, tensor in known.items() if name in used})

    def _refused(self, what: str) -> FlashsrError:
        return FlashsrError(
            f"backend 'torch' can't run the graph {str(self._path)!r}: it {what}; "
            "use 'tensorrt', 'tensorrt_rtx' or 'onnxruntime'"
        )


def _meta(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, device="meta")


def _many(made: Any) -> tuple[Tensor, ...]:
    return tuple(made) if isinstance(made, (tuple, list)) else (made,)


def _tensor(tensor: onnx.TensorProto) -> Tensor:
    """Through the raw bytes where NumPy doesn't know the type."""
    if tensor.data_type == onnx.TensorProto.BFLOAT16:
        bits = onnx.numpy_helper.to_array(tensor).view("uint16").astype("int32") << 16
        return torch.from_numpy(bits).view(torch.float32).to(torch.bfloat16)
    return torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy())


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    found: dict[str, Any] = {"op_type": node.op_type, "output_count": len(node.output)}
    for attribute in node.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        if isinstance(value, bytes):
            value = value.decode()
        elif isinstance(value, onnx.TensorProto):
            value = _tensor(value)
        found[attribute.name] = value
    return found


def _constant(attributes: Attributes) -> Tensor:
    (value,) = (value for name, value in attributes.items() if name not in ("op_type", "output_count"))
    if isinstance(value, Tensor):
        return value
    numbers = list(value) if isinstance(value, (list, tuple)) else value
    whole = isinstance(numbers, int) or (isinstance(numbers, list) and all(isinstance(n, int) for n in numbers))
    return torch.tensor(numbers, dtype=torch.int64 if whole else torch.float32)


def _shape(kind: str, tensor: Tensor, attributes: Attributes) -> Tensor:
    if kind == "Size":
        return torch.tensor(tensor.numel())
    return torch.tensor(tensor.shape, dtype=torch.int64)[attributes.get("start", 0) : attributes.get("end")]
