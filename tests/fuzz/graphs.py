"""Mutated ONNX files: bytes, declarations, and files of weights beside them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..support.tiny import write_frame_graph
from .filtered import filtered
from .outcome import Case
from .places import replaced


def graphs(folder: Path) -> Callable[[int], Case]:
    """Of a single-frame upscaler, free in its size or not, with its weights in the file or beside it."""
    free = onnx.load(write_frame_graph(folder / "free.onnx", 2))
    fixed = onnx.load(write_frame_graph(folder / "fixed.onnx", 2, size=(16, 24)))

    def make(seed: int) -> Case:
        random, own = Random(seed), folder / f"case {seed}"
        own.mkdir()
        path = own / "model.onnx"
        model = onnx.ModelProto()
        model.CopyFrom(random.choice((free, free, fixed)))
        change = random.choice((_bytes, _bytes, _declared, _declared, _tensors, _beside, _beside, _shape_of_code, _place))
        what, wrong = change(random, model, path)
        return Case(what, lambda: filtered(model=path), wrong)

    return make


def _save(model: onnx.ModelProto, path: Path) -> None:
    path.write_bytes(model.SerializeToString())


def _bytes(random: Random, model: onnx.ModelProto, path: Path) -> tuple[str, bool]:
    data = bytearray(model.SerializeToString())
    match random.randrange(5):
        case 0:
            at = random.randrange(len(data) // 2)
            del data[at:]
            what, wrong = f"cut at {at}", True
        case 1:
            for _ in range(random.choice((1, 4, 32))):
                data[random.randrange(len(data))] = random.randrange(256)
            what, wrong = "bytes changed", False
        case 2:
            at = random.randrange(len(data))
            data[at:at] = bytes(random.randrange(256) for _ in range(random.choice((1, 9, 300))))
            what, wrong = f"bytes added at {at}", False
        case 3:
            data = bytearray(random.choice((b"", b"\0" * 100, b"\x80\x04\x95.", b"\xff" * 64, b"PK\3\4" + bytes(90))))
            what, wrong = f"no model: {bytes(data[:8])!r}", True
        case _:
            data = bytearray(b"\x3a\xff\xff\xff\xff\x0f" + data)
            what, wrong = "a length of 4 GB", True
    path.write_bytes(data)
    return what, wrong


def _declared(random: Random, model: onnx.ModelProto, path: Path) -> tuple[str, bool]:
    """Inputs and outputs say what can't be."""
    value = random.choice((model.graph.input[0], model.graph.input[0], model.graph.output[0]))
    tensor = value.type.tensor_type
    match random.randrange(7):
        case 0:
            sizes = random.choice(((1, 3, 0, 0), (1, 3, 200000, 200000), (1, 3, 16, 2**40), (1, 3, -5, 16), (0, 3, 16, 16)))
            for dim, size in zip(tensor.shape.dim, sizes, strict=True):
                dim.dim_value = size
            what = f"{value.name} is {sizes}"
        case 1:
            tensor.elem_type = random.choice((TensorProto.STRING, TensorProto.INT8, TensorProto.COMPLEX128, 0, 99))
            what = f"{value.name} of type {tensor.elem_type}"
        case 2:
            del tensor.shape.dim[random.randrange(4) :]
            what = f"{value.name} has {len(tensor.shape.dim)} dimensions"
        case 3:
            tensor.shape.dim[1].dim_value = random.choice((2, 4, 1000))
            what = f"{value.name} has {tensor.shape.dim[1].dim_value} channels"
        case 4:
            model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))
            what = "a second input"
        case 5:
            del model.graph.input[:]
            what = "no input"
        case _:
            value.name = random.choice(("", "\x1b[2J", "x" * 70000))
            what = f"{value.name[:9]!r} is a name"
    _save(model, path)
    # What an output declares is believed by nobody: what the graph makes is looked at.
    return what, not what.startswith("output is") and not what.startswith("output has")


def _tensors(random: Random, model: onnx.ModelProto, path: Path) -> tuple[str, bool]:
    """Constants whose declaration doesn't fit their bytes."""
    tensor = random.choice(model.graph.initializer)
    match random.randrange(5):
        case 0:
            tensor.dims[0] = random.choice((2**40, -1, 0, 200000))
            what = f"{tensor.name} is {list(tensor.dims)}"
        case 1:
            tensor.dims.extend([10**6] * random.choice((1, 3, 400)))
            what = f"{tensor.name} has {len(tensor.dims)} dimensions"
        case 2:
            tensor.raw_data = tensor.raw_data[:-3]
            what = f"{tensor.name} is cut"
        case 3:
            tensor.data_type = random.choice((0, 8, 99, 2**31 - 1))
            what = f"{tensor.name} of type {tensor.data_type}"
        case _:
            scales = next(t for t in model.graph.initializer if t.name == "scales")
            factor = random.choice((0.0, -2.0, 1e9, float("nan"), 30000.0))
            scales.CopyFrom(numpy_helper.from_array(np.array([1, 1, factor, factor], np.float32), "scales"))
            what = f"upscales by {factor}"
    _save(model, path)
    return what, True


def _beside(random: Random, model: onnx.ModelProto, path: Path) -> tuple[str, bool]:
    """Weights in another file."""
    tensor = next(t for t in model.graph.initializer if t.name == "kernel")
    weights = path.parent / "w.bin"
    weights.write_bytes(tensor.raw_data)
    size = len(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    said = {"location": "w.bin", "offset": "0", "length": str(size)}
    wrong = True
    what = "weights beside it"
    match random.randrange(5):
        case 0:
            wrong = False
        case 1:
            outside = path.parent.parent / "outside.bin"
            outside.write_bytes(weights.read_bytes())
            said["location"] = random.choice(
                ("../outside.bin", str(outside), "gone.bin", "", ".", "..", "w.bin/", "sub/../../outside.bin", "/dev/zero",
                 "C:\\w.bin", "w\0.bin", "\x1b[2J", "x" * 5000, "*/_ORT_MEM_ADDR_/*")
            )  # fmt: skip
            what = f"weights in {said['location']!r:.40}"
        case 2:
            said |= random.choice(
                ({"length": str(2**40)}, {"length": "-1"}, {"offset": "-4"}, {"offset": str(2**62)}, {"length": "x"},
                 {"offset": "4"}, {"length": "4"}, {"offset": "9" * 400})
            )  # fmt: skip
            what = f"weights at {said['offset']:.40}, {said['length']}"
        case 3:
            weights.write_bytes(weights.read_bytes()[: random.randrange(size)])
            what = "weights cut"
        case _:
            what = replaced(random, weights)
    tensor.external_data.extend(onnx.StringStringEntryProto(key=k, value=v) for k, v in said.items())
    _save(model, path)
    return what, wrong


def _shape_of_code(random: Random, model: onnx.ModelProto, path: Path) -> tuple[str, bool]:
    """Nodes that don't exist, ask for too much, or go on for ever into one another."""
    graph = model.graph
    match random.randrange(6):
        case 0:
            random.choice(graph.node).op_type = random.choice(("Cnov", "", "Loop", "\x1b[2J"))
            what = "another operator"
        case 1:
            size = numpy_helper.from_array(np.array([random.choice((10**6, 10**9, 2**40))] * 2, np.int64), "much")
            graph.initializer.append(size)
            graph.node.append(helper.make_node("ConstantOfShape", ["much"], ["huge"]))
            graph.node.append(helper.make_node("ReduceMax", ["huge"], ["one"], keepdims=0))
            graph.node[-3].output[0] = "almost"
            graph.node.append(helper.make_node("Add", ["almost", "one"], ["output"]))
            what = "a constant of terabytes"
        case 2:
            inner = helper.make_graph([], "leaf", [], [])
            for _ in range(random.choice((10, 30))):
                node = helper.make_node("If", ["c"], ["o"], then_branch=inner, else_branch=helper.make_graph([], "e", [], []))
                inner = helper.make_graph([node], "g", [], [])
            graph.node.append(inner.node[0])
            what = "branches in branches"
        case 3:
            graph.node[0].input[0] = graph.node[-1].output[0]
            what = "a circle"
        case 4:
            model.opset_import[0].version = random.choice((0, -1, 10**6))
            what = f"opset {model.opset_import[0].version}"
        case _:
            del graph.node[random.randrange(len(graph.node))]
            what = "a node less"
    _save(model, path)
    return what, True


def _place(random: Random, model: onnx.ModelProto, path: Path) -> tuple[str, bool]:
    _save(model, path)
    what = replaced(random, path)
    # A user may well link to a model of his.
    return what, "link_out" not in what
