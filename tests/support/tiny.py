"""Tiny causal ONNX models whose output shows every slip of state as a number in the pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from vsflashsr.bundle import write_manifest

FADE = 0.9
"""Share of the old state in the new, per step."""


def _save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: dict[str, np.ndarray],
) -> None:
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _floats(name: str, shape: Sequence[int | str], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(shape))


def write_recurrent_graph(path: Path, reads: int, emits: int, scale: int, channels: int, *, gain: float = 2.0) -> None:
    """``out`` = the frame plus ``gain`` times the fading mean of the detail of all frames read so far, repeated ``scale`` times.

    A flat clip stays flat; in any other, every frame tells the whole history of its run.
    """
    held = 4  # frames of look-ahead, as FlashVSR's
    keep = held if reads != 1 else 0
    c, h, w = channels, "h", "w"
    nodes = [
        helper.make_node(
            "AveragePool", ["frames"], ["smooth"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=0
        ),
        helper.make_node("Sub", ["frames", "smooth"], ["detail"]),
        helper.make_node("ReduceMean", ["detail"], ["mean"], axes=[0], keepdims=1),
        helper.make_node("Mul", ["state.mean", "fade"], ["old"]),
        helper.make_node("Mul", ["mean", "fresh"], ["new"]),
        helper.make_node("Add", ["old", "new"], ["next.mean"]),
    ]
    inputs = [_floats("frames", [reads, c, h, w]), _floats("state.mean", [1, c, h, w])]
    outputs = [_floats("out", [emits, c, "H", "W"]), _floats("next.mean", [1, c, h, w])]
    constants: dict[str, np.ndarray] = {
        "fade": np.array([FADE], np.float32),
        "fresh": np.array([1 - FADE], np.float32),
        "gain": np.array([gain], np.float32),
        "scales": np.array([1, 1, scale, scale], np.float32),
    }
    shown = "frames"
    if keep:
        # Step 0 emits its first frames; later steps emit the held ones first, and hold their own last.
        inputs.append(_floats("state.held", [keep, c, h, w]))
        outputs.append(_floats("next.held", [keep, c, h, w]))
        constants |= {"split": np.array([emits, keep], np.int64)}
        source = "frames"
        if reads == emits:
            nodes.append(helper.make_node("Concat", ["state.held", "frames"], ["all"], axis=0))
            source = "all"
        nodes.append(helper.make_node("Split", [source, "split"], ["shown", "next.held"], axis=0))
        shown = "shown"
    nodes += [
        helper.make_node("Mul", ["next.mean", "gain"], ["memory"]),
        helper.make_node("Add", [shown, "memory"], ["mixed"]),
        helper.make_node("Resize", ["mixed", "", "scales"], ["out"], mode="nearest"),
    ]
    _save(path, nodes, inputs, outputs, constants)


def write_chroma_graph(path: Path, *, planes: int = 3) -> None:
    """U becomes luma, V stays: it shows where luma was taken from, and which chroma was handed over."""
    kernel = np.zeros((planes, planes, 1, 1), np.float32)
    for out, of in enumerate((0, 0, 2)[:planes]):
        kernel[out, of] = 1
    nodes = [helper.make_node("Conv", ["frames", "kernel"], ["out"])]
    inputs, outputs = [_floats("frames", [1, planes, "h", "w"])], [_floats("out", [1, planes, "h", "w"])]
    _save(path, nodes, inputs, outputs, {"kernel": kernel})


def _without_state(path: Path, to: Path) -> None:
    """A graph for step 0: the state inputs become what a cold state is."""
    model = onnx.load(path)
    graph = model.graph
    for value in [i for i in graph.input if i.name.startswith("state.")]:
        graph.input.remove(value)
        if value.name == "state.mean":
            graph.node.insert(0, helper.make_node("Sub", ["first", "first"], ["state.mean"]))
            graph.node.insert(0, helper.make_node("ReduceMean", ["frames"], ["first"], axes=[0], keepdims=1))
    onnx.checker.check_model(model)
    onnx.save(model, to)


def write_tiny_bundle(
    folder: Path,
    *,
    schedule: tuple[int, int, int, int] = (1, 1, 1, 1),
    channels: str = "luma",
    scales: Sequence[int] = (2, 4),
    preroll: int = 5,
    max_segment: int = 40,
    gain: float = 2.0,
    chroma: bool = False,
) -> Path:
    """A bundle of kind ``recurrent``. ``gain`` = NaN makes its weights bad. ``chroma``: with ``write_chroma_graph``'s."""
    folder.mkdir(parents=True)
    c = 1 if channels == "luma" else 3
    first_reads, first_emits, reads, emits = schedule
    states = [{"name": "mean", "shape": [1, c, "h", "w"]}]
    if reads != 1:
        states.append({"name": "held", "shape": [4, c, "h", "w"]})
    graphs: dict[str, dict[str, object]] = {}
    for scale in scales:
        write_recurrent_graph(folder / f"x{scale}.onnx", reads, emits, scale, c, gain=gain)
        graphs[str(scale)] = {"step": f"x{scale}.onnx", "states": states}
        if chroma:
            write_chroma_graph(folder / "chroma.onnx")
            graphs[str(scale)]["chroma"] = "chroma.onnx"
        if schedule != (1, 1, 1, 1):
            cold = folder / "cold.onnx"
            write_recurrent_graph(cold, first_reads, first_emits, scale, c, gain=gain)
            _without_state(cold, folder / f"x{scale}_first.onnx")
            cold.unlink()
            graphs[str(scale)]["first"] = f"x{scale}_first.onnx"
    write_manifest(
        folder,
        {
            "name": "tiny",
            "kind": "recurrent",
            "channels": channels,
            "schedule": dict(zip(("first_reads", "first_emits", "reads", "emits"), schedule, strict=True)),
            "preroll": preroll,
            "max_segment": max_segment,
            "scales": graphs,
            "licence": "CC0-1.0",
            "provenance": {"made by": "tests/tiny.py"},
        },
    )
    return folder


def write_frame_graph(
    path: Path,
    scale: int,
    *,
    channels: int = 3,
    size: tuple[int, int] | None = None,
    half: bool = False,
    multiple: int = 1,
) -> Path:
    """A single-frame upscaler: a 3x3 blur, enlarged by repetition. ``multiple``: it fails at other sizes."""
    kind, dtype = (TensorProto.FLOAT16, np.float16) if half else (TensorProto.FLOAT, np.float32)
    height, width = size or ("height", "width")
    kernel = np.zeros((channels, channels, 3, 3), dtype)
    for i in range(channels):
        kernel[i, i] = 1 / 9
    nodes = [
        helper.make_node("Pad", ["input", "pads"], ["padded"], mode="edge"),
        helper.make_node("Conv", ["padded", "kernel"], ["blurred"]),
    ]
    last = "blurred"
    if multiple > 1:
        nodes.append(helper.make_node("SpaceToDepth", [last], ["packed"], blocksize=multiple))
        nodes.append(helper.make_node("DepthToSpace", ["packed"], ["unpacked"], blocksize=multiple))
        last = "unpacked"
    nodes.append(helper.make_node("Resize", [last, "", "scales"], ["output"], mode="nearest"))
    constants: dict[str, np.ndarray] = {
        "kernel": kernel,
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64),
        "scales": np.array([1, 1, scale, scale], np.float32),
    }
    inputs = [_floats("input", [1, channels, height, width], kind)]
    large: tuple[int | str, int | str] = ("H", "W") if size is None else (size[0] * scale, size[1] * scale)
    outputs = [_floats("output", [1, channels, *large], kind)]
    path.parent.mkdir(parents=True, exist_ok=True)
    _save(path, nodes, inputs, outputs, constants)
    return path
