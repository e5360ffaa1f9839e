"""From a torch module to an ONNX graph whose weights are inputs, and from that to one whose weights lie in a file.

A module is exported once, without any weight value: the graph with weights as inputs serves every layer. Binding it to a
layer's weight file gives the constant form; both are a few kilobytes and read the same file.
"""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import onnx
import torch
from torch import Tensor, nn

from vsflashsr.models.wan.network.precision import DTYPE_NAMES
from vsflashsr.runtimes.graph import TensorEntry

OPSET = 20
"""The first with Gelu in one node."""
IR_VERSION = 10
_PAGE_BYTES, _LINE_BYTES = 4096, 64
"""Tensors of a few pages or more begin on one, so that runtimes can map them; small ones are read."""

_ONNX_TYPES = {
    torch.float32: onnx.TensorProto.FLOAT,
    torch.float16: onnx.TensorProto.FLOAT16,
    torch.bfloat16: onnx.TensorProto.BFLOAT16,
}


class _WeightsAsInputs(nn.Module):
    """`module(*inputs)` with every weight taken from further arguments."""

    def __init__(self, module: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self._names = names
        self.__dict__["_bare"] = module  # not registered: its weights must not become initializers

    def forward(self, *arguments: Tensor) -> Any:
        bare: nn.Module = self.__dict__["_bare"]
        inputs = len(arguments) - len(self._names)
        for name, weight in zip(self._names, arguments[inputs:], strict=True):
            owner, _, leaf = name.rpartition(".")
            # Not a Parameter: a traced value, which nn.Module's own checks refuse.
            bare.get_submodule(owner)._parameters[leaf] = weight  # type: ignore[assignment]
        return bare(*arguments[:inputs])


def weights_as_inputs(
    module: nn.Module,
    examples: Mapping[str, Tensor],
    outputs: Sequence[str],
    dynamic: Mapping[str, Mapping[int, str]],
) -> onnx.ModelProto:
    """Exports `module` (on the meta device: no weight is read).

    `examples` are inputs by name, `dynamic` names the free axes of inputs and outputs. The graph's further inputs are the
    weights, under their names in the module. The same module gives the same bytes.
    """
    weights = {name: torch.zeros(p.shape, dtype=p.dtype) for name, p in module.named_parameters()}
    return traced(_WeightsAsInputs(copy.deepcopy(module), list(weights)), {**examples, **weights}, outputs, dynamic)


def traced(
    module: nn.Module,
    examples: Mapping[str, Tensor],
    outputs: Sequence[str],
    dynamic: Mapping[str, Mapping[int, str]],
) -> onnx.ModelProto:
    """`module` as a graph that holds its weights. The same module gives the same bytes.

    By the TorchScript exporter: it takes 2 s for the Wan VAE, the newer one 40 s (two cores, 2026-11-22).
    """
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        path = Path(folder, "traced.onnx")
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            tuple(examples.values()),
            path,
            dynamo=False,
            opset_version=OPSET,
            input_names=list(examples),
            output_names=list(outputs),
            dynamic_axes={name: dict(dynamic[name]) for name in (*examples, *outputs) if name in dynamic},
        )
        model = onnx.load(path)
    model.producer_name, model.producer_version, model.ir_version = "vsflashsr", "", IR_VERSION
    for node in model.graph.node:
        node.doc_string = ""
    return model


def bound(model: onnx.ModelProto, tensors: Iterable[TensorEntry], location: str) -> onnx.ModelProto:
    """The constant form: weight inputs become initializers that lie in the file `location` beside the graph."""
    out = copy.deepcopy(model)
    entries = {entry.name: entry for entry in tensors}
    inputs = [value for value in out.graph.input if value.name not in entries]
    weights = [value for value in out.graph.input if value.name in entries]
    del out.graph.input[:]
    out.graph.input.extend(inputs)
    for value in weights:
        entry = entries[value.name]
        tensor = onnx.TensorProto(
            name=value.name,
            dims=entry.shape,
            data_type=value.type.tensor_type.elem_type,
            data_location=onnx.TensorProto.EXTERNAL,
        )
        place = {"location": location, "offset": str(entry.offset_bytes), "length": str(entry.length_bytes)}
        tensor.external_data.extend(onnx.StringStringEntryProto(key=key, value=text) for key, text in place.items())
        out.graph.initializer.append(tensor)
    return out


def write_graph(model: onnx.ModelProto, path: Path) -> None:
    """The same graph gives the same bytes."""
    path.write_bytes(model.SerializeToString(deterministic=True))


def write_weights(weights: Iterable[tuple[str, Tensor]], path: Path) -> list[TensorEntry]:
    """Writes tensors one after the other, each as it comes, and says where they lie."""
    with path.open("wb") as file:
        return [_write_tensor(file, name, tensor) for name, tensor in weights]


def _write_tensor(file: BinaryIO, name: str, tensor: Tensor) -> TensorEntry:
    file.write(b"\0" * (-file.tell() % (_PAGE_BYTES if tensor.nbytes >= 16 * _PAGE_BYTES else _LINE_BYTES)))
    offset = file.tell()
    raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    file.write(raw.data)
    return TensorEntry(name, DTYPE_NAMES[tensor.dtype], tuple(tensor.shape), offset, raw.nbytes)
