"""ONNX graphs as torch modules: what they make is what ONNX Runtime makes of the same graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'export'")

import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto, helper, numpy_helper

from vsflashsr.errors import FlashsrError
from vsflashsr.runtimes.onnx_torch import OnnxModule
from vsflashsr.runtimes.torch import TorchGraph

from ..support.tiny import write_frame_graph

BUNDLES = Path(__file__).parents[2] / "vsflashsr" / "bundles"
torch.set_num_threads(1)


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def graph_of(path: Path, nodes: list[Any], inputs: dict[str, np.ndarray], outputs: list[str], opset: int, **weights: Any) -> Path:
    """A graph whose inputs' heights and widths are free."""

    def free(array: np.ndarray) -> list[Any]:
        return [*array.shape[:2], *(f"s{size}" for size in array.shape[2:])]

    kinds = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.float16): TensorProto.FLOAT16}
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(n, kinds[a.dtype], free(a)) for n, a in inputs.items()],
        [helper.make_tensor_value_info(n, kinds[next(iter(inputs.values())).dtype], None) for n in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


def difference(path: Path, feeds: dict[str, np.ndarray]) -> float:
    """The largest, relative to 1, of all outputs; shapes and types must be equal."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    module = OnnxModule(path)
    with torch.inference_mode():
        made = module(*(torch.from_numpy(feeds[name]) for name, _ in module.inputs))
        again = module(*(torch.from_numpy(feeds[name]) for name, _ in module.inputs))
    wanted = session.run([name for name, _ in module.outputs], feeds)
    worst = 0.0
    for ours, twice, theirs in zip(made, again, wanted, strict=True):
        assert torch.equal(ours, twice)
        assert tuple(ours.shape) == theirs.shape and ours.numpy().dtype == theirs.dtype
        worst = float(np.maximum(worst, np.abs(ours.numpy().astype(np.float64) - theirs).max(initial=0)))
    return worst


@pytest.mark.parametrize(("bundle", "scale"), [("builtin", 2), ("builtin-hq", 4)])
def test_the_built_in_models_are_what_onnx_runtime_makes_of_them(bundle: str, scale: int) -> None:
    random = np.random.default_rng(0)
    for height, width in ((32, 48), (48, 32)):
        shapes = {"frames": 1, "state.luma": 1, "state.picture": 2}
        feeds = {
            name: random.random((1, 1, height * by, width * by), dtype=np.float32) for name, by in shapes.items()
        }
        assert difference(BUNDLES / bundle / f"x{scale}.onnx", feeds) < 1e-5


def test_a_device_graph_of_it_knows_shapes_and_frees_what_is_over() -> None:
    path = BUNDLES / "builtin" / "x2.onnx"
    module = OnnxModule(path)
    graph = TorchGraph(module, module.inputs, module.outputs, "cpu")
    shapes = {"frames": (1, 1, 32, 48), "state.luma": (1, 1, 32, 48), "state.picture": (1, 1, 64, 96)}
    assert graph.prepare(shapes).outputs["out"] == (1, 1, 64, 96)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert set(graph.inputs) == {i.name for i in session.get_inputs()}
    assert set(graph.outputs) == {o.name for o in session.get_outputs()}
    (program,) = module._programs.values()
    made = {name for step in program.steps for name in step.outputs if name}
    assert {name for step in program.steps for name in step.over} == made - set(graph.outputs)


def test_a_frame_graph_of_free_size(tmp_path: Path) -> None:
    path = write_frame_graph(tmp_path / "up.onnx", 2)
    (name,) = (i.name for i in ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).get_inputs())
    for size in ((8, 12), (9, 7)):
        assert difference(path, {name: np.random.default_rng(1).random((1, 3, *size), dtype=np.float32)}) < 1e-5


PICTURE = drawn(1, 8, 6, 10)
ONE = {"x": PICTURE}
CASES: dict[str, tuple[int, list[Any], dict[str, Any]]] = {}
"""Name → opset, nodes from x to y, weights."""


def case(name: str, opset: int, *nodes: Any, **weights: Any) -> None:
    CASES[name] = (opset, list(nodes), weights)


def node(kind: str, inputs: str, output: str = "y", **attributes: Any) -> Any:
    return helper.make_node(kind, inputs.split(), output.split(), **attributes)


for kind in ("Abs", "Neg", "Ceil", "Floor", "Round", "Exp", "Relu", "Sigmoid", "Tanh", "Erf", "Softplus", "Sign", "Sin", "Cos"):
    case(kind, 17, node(kind, "x"))
case("LeakyRelu", 17, node("LeakyRelu", "x", alpha=0.2))
case("PRelu", 17, node("PRelu", "x s"), s=drawn(8, 1, 1))
case("Elu", 17, node("Elu", "x", alpha=0.7))
case("HardSigmoid", 17, node("HardSigmoid", "x"))
case("HardSwish", 17, node("HardSwish", "x"))
case("Gelu", 20, node("Gelu", "x"))
case("Gelu, tanh", 20, node("Gelu", "x", approximate="tanh"))
case("Mish", 18, node("Mish", "x"))
case("Softmax", 17, node("Softmax", "x", axis=1))
case("Clip", 17, node("Clip", "x a b"), a=np.float32(-0.3), b=np.float32(0.4))
case("Clip from below", 17, node("Clip", "x a"), a=np.float32(-0.3))
case("Clip of old", 6, node("Clip", "x", min=-0.2, max=0.5))
case("Min, Max", 17, node("Min", "x a", "m"), node("Max", "m b"), a=drawn(8, 1, 1), b=drawn(10))
case("Div, Pow", 17, node("Div", "x a", "d"), node("Pow", "d b"), a=np.float32(3), b=np.float32(2))
case("Mod", 17, node("Mod", "x a", fmod=1), a=np.float32(0.7))
case("Where", 17, node("Greater", "x a", "c"), node("Not", "c", "n"), node("Where", "n x a"), a=np.float32(0.1))
case("Conv", 17, node("Conv", "x w b", pads=[1, 1, 1, 1], kernel_shape=[3, 3]), w=drawn(4, 8, 3, 3), b=drawn(4))
case("Conv in groups", 17, node("Conv", "x w", group=4, strides=[2, 1], dilations=[1, 2]), w=drawn(8, 2, 2, 3))
case("Conv, uneven pads", 17, node("Conv", "x w", pads=[0, 1, 2, 1]), w=drawn(4, 8, 3, 3))
case("Conv, SAME", 17, node("Conv", "x w", auto_pad="SAME_UPPER", strides=[2, 2]), w=drawn(4, 8, 4, 3))
case(
    "ConvTranspose", 17,
    node("ConvTranspose", "x w b", strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]),
    w=drawn(8, 3, 3, 3), b=drawn(3),
)  # fmt: skip
case("ConvTranspose, 4 of 2", 17, node("ConvTranspose", "x w", strides=[2, 2], pads=[1, 1, 1, 1]), w=drawn(8, 3, 4, 4))
case("MatMul", 17, node("MatMul", "x w"), w=drawn(10, 4))
case("Gemm", 17, node("Flatten", "x", "f"), node("Gemm", "f w b", transB=1), w=drawn(5, 480), b=drawn(5))
case("Einsum", 17, node("Einsum", "x w", equation="nchw,cd->ndhw"), w=drawn(8, 3))
case("AveragePool", 17, node("AveragePool", "x", kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]))
case("MaxPool", 17, node("MaxPool", "x", kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 0]))
case("GlobalAveragePool", 17, node("GlobalAveragePool", "x"))
case(
    "BatchNormalization", 17, node("BatchNormalization", "x a b m v"),
    a=drawn(8), b=drawn(8), m=drawn(8), v=np.abs(drawn(8)) + 1,
)  # fmt: skip
case("InstanceNormalization", 17, node("InstanceNormalization", "x a b"), a=drawn(8), b=drawn(8))
case("LayerNormalization", 17, node("LayerNormalization", "x a b", axis=-1), a=drawn(10), b=drawn(10))
case("ReduceMean of old", 13, node("ReduceMean", "x", axes=[2, 3], keepdims=0))
case("ReduceMean", 18, node("ReduceMean", "x a"), a=np.array([1, -1]))
for kind in ("ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL2"):
    case(kind, 18, node(kind, "x a"), a=np.array([-2]))
case("Concat", 17, node("Concat", "x x w", axis=1), w=drawn(1, 2, 6, 10))
case("Split", 17, node("Split", "x s", "a b", axis=1), node("Concat", "b a", axis=1), s=np.array([3, 5]))
case("Split in equal parts", 18, node("Split", "x", "a b c", axis=3, num_outputs=3), node("Concat", "b a c", axis=3))
case("Split of old", 11, node("Split", "x", "a b", axis=1, split=[2, 6]), node("Concat", "b a", axis=1))
case(
    "Slice", 17, node("Slice", "x s e a t"),
    s=np.array([-3, 1]), e=np.array([2**62, -1]), a=np.array([2, -1]), t=np.array([1, 3]),
)  # fmt: skip
case(
    "Slice backwards", 17, node("Slice", "x s e a t"),
    s=np.array([-1, 4]), e=np.array([-(2**62), 0]), a=np.array([1, 3]), t=np.array([-1, -2]),
)  # fmt: skip
case("Slice of nothing", 17, node("Slice", "x s e a", "n"), node("Concat", "n x", axis=2),
     s=np.array([4]), e=np.array([2]), a=np.array([2]))  # fmt: skip
case("Slice of old", 9, node("Slice", "x", starts=[1], ends=[7], axes=[1]))
case("Reshape", 17, node("Reshape", "x s"), s=np.array([0, 2, -1, 10]))
case("Transpose", 17, node("Transpose", "x", perm=[0, 2, 3, 1]))
case(
    "Squeeze, Unsqueeze", 17, node("Squeeze", "x a", "q"), node("Unsqueeze", "q b"), a=np.array([0]), b=np.array([0, -1])
)  # fmt: skip
case("Unsqueeze of old", 11, node("Unsqueeze", "x", axes=[2]))
case("Expand", 17, node("Unsqueeze", "x a", "u"), node("Expand", "u s"), a=np.array([1]), s=np.array([3, 1, 1, 1]))
case("Tile", 17, node("Tile", "x r"), r=np.array([1, 2, 1, 3]))
case("Gather", 17, node("Gather", "x i", axis=1), i=np.array([[0, -1], [3, 3]]))
case("DepthToSpace", 17, node("DepthToSpace", "x", blocksize=2))
case("DepthToSpace, CRD", 17, node("DepthToSpace", "x", blocksize=2, mode="CRD"))
case("SpaceToDepth", 17, node("SpaceToDepth", "x", blocksize=2))
case("Pad", 17, node("Pad", "x p v"), p=np.array([0, 0, 1, 2, 0, 0, -1, 3]), v=np.float32(0.5))
for mode in ("reflect", "edge"):
    case(f"Pad, {mode}", 17, node("Pad", "x p", mode=mode), p=np.array([0, 0, 3, 2, 0, 0, 1, 4]))
case("Pad, wrapped", 19, node("Pad", "x p", mode="wrap"), p=np.array([0, 0, 3, 2, 0, 0, 1, 4]))
case("Pad of some axes", 18, node("Pad", "x p v a"), p=np.array([1, 2]), v=np.float32(0), a=np.array([-1]))
case("Pad of old", 9, node("Pad", "x", pads=[0, 0, 1, 1, 0, 0, 2, 2], mode="reflect"))
case(
    "Shape arithmetic", 17, node("Shape", "x", "s"), node("Slice", "s two four", "hw"), node("Mul", "hw by", "large"),
    node("Concat", "nc large", "all", axis=0),
    helper.make_node("Resize", ["x", "", "", "all"], ["y"], mode="nearest", coordinate_transformation_mode="asymmetric",
                     nearest_mode="floor"),
    two=np.array([2]), four=np.array([4]), by=np.array([2, 3]), nc=np.array([1, 8]),
)  # fmt: skip
case(
    "Positions", 17, node("Shape", "x", "s"), node("Gather", "s three", "w"), node("Range", "zero w one", "r"),
    node("Cast", "r", "f", to=1), node("Add", "x f"),
    three=np.array(3), zero=np.array(0), one=np.array(1),
)  # fmt: skip
HALF = numpy_helper.from_array(np.array([0.5], np.float32))
case("ConstantOfShape", 17, node("Shape", "x", "s"), node("ConstantOfShape", "s", "c", value=HALF), node("Add", "x c"))
case("Upsample", 9, node("Upsample", "x s", mode="nearest"), s=np.array([1, 1, 2, 2], np.float32))
for transformation in ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"):
    for mode in ("nearest", "linear", "cubic"):
        for scales in ((2, 2), (1.5, 0.75), (3, 4)):
            case(
                f"Resize {mode} {transformation} {scales}", 13,
                helper.make_node("Resize", ["x", "", "s"], ["y"], mode=mode,
                                 coordinate_transformation_mode=transformation, nearest_mode="floor"),
                s=np.array([1, 1, *scales], np.float32),
            )  # fmt: skip
for rounding in ("round_prefer_floor", "round_prefer_ceil", "ceil"):
    case(
        f"Resize, {rounding}", 13,
        helper.make_node("Resize", ["x", "", "s"], ["y"], mode="nearest", nearest_mode=rounding),
        s=np.array([1, 1, 2, 3], np.float32),
    )  # fmt: skip
for mode in ("bilinear", "nearest", "bicubic"):
    for padding in ("zeros", "border", "reflection"):
        case(
            f"GridSample {mode} {padding}", 16,
            node("GridSample", "x g", mode=mode, padding_mode=padding, align_corners=0), g=drawn(1, 4, 5, 2),
        )  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_an_operator_is_what_onnx_says(name: str, tmp_path: Path) -> None:
    opset, nodes, weights = CASES[name]
    path = graph_of(tmp_path / "graph.onnx", nodes, ONE, ["y"], opset, **weights)
    assert difference(path, ONE) < 2e-5


def test_half_precision_stays_half(tmp_path: Path) -> None:
    x = PICTURE.astype(np.float16)
    nodes = [node("Conv", "x w", "c"), node("LeakyRelu", "c", "l"), node("DepthToSpace", "l", blocksize=2)]
    path = graph_of(tmp_path / "half.onnx", nodes, {"x": x}, ["y"], 17, w=drawn(8, 8, 3, 3).astype(np.float16))
    assert difference(path, {"x": x}) < 0.02


def test_what_is_not_known_is_refused_by_name(tmp_path: Path) -> None:
    path = graph_of(tmp_path / "odd.onnx", [node("Det", "x")], ONE, ["y"], 17)
    with pytest.raises(FlashsrError, match=r"has the operators Det, which aren't known here; use 'tensorrt'"):
        OnnxModule(path)


def test_a_shape_that_depends_on_the_picture_is_refused(tmp_path: Path) -> None:
    nodes = [
        node("ReduceSum", "x", "s", keepdims=0),
        node("Cast", "s", "i", to=7),
        node("Unsqueeze", "i z", "n"),
        node("Tile", "x n"),
    ]
    path = graph_of(tmp_path / "data.onnx", nodes, ONE, ["y"], 17, z=np.array([0]))
    with pytest.raises(FlashsrError, match=r"computes how Tile '' works from the picture; use"):
        OnnxModule(path)(torch.from_numpy(PICTURE))
