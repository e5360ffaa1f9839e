"""RealViformer: its tensors, its checkpoint, and the graph against the torch module."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

pytest.importorskip("torch", reason="needs the extra 'export'")

import torch
from safetensors.torch import save_file
from torch import nn

from trt_build.cli import main
from trt_build.random_checkpoint import write_realviformer
from trt_build.realviformer.blocks import in_strips
from trt_build.realviformer.checkpoint import aligned, load_checkpoint
from trt_build.realviformer.export import GRAPH, MAX_SEGMENT, PREROLL, export_bundle
from trt_build.realviformer.layout import MASK, Sizes, layout
from trt_build.realviformer.network import RealViformer
from trt_build.verify import model_of
from vsflashsr.bundle import load_bundle
from vsflashsr.errors import FlashsrError
from vsflashsr.runtimes.onnxruntime import OnnxSession

from ..support.realviformer_small import SMALL, small_bundle, small_checkpoint, small_folder
from ..support.rtx import TARGETS, compile_onnx

ROOT = Path(__file__).parents[2]
GOLDEN = Path(
    os.environ.get("VSFLASHSR_GOLDEN_REALVIFORMER", ROOT.parent / "shared" / "models" / "realviformer" / "golden")
)


def test_the_published_model_has_the_published_tensors() -> None:
    """The md5 of sorted `name:shape` lines, as taken from the official code."""
    shapes = layout(Sizes())
    lines = "\n".join(sorted(f"{name}:{shape}" for name, shape in shapes.items()))
    assert hashlib.md5(lines.encode()).hexdigest() == "718d975a4562ca522242db2daf4c7705"
    with torch.device("meta"):
        network = RealViformer(shapes)
    assert {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()} == shapes
    assert sum(p.numel() for p in network.parameters()) + 6 == 5_817_593 + 6


def test_sizes_are_read_off_the_tensors_and_params_is_taken_not_the_average() -> None:
    checkpoint = small_checkpoint()
    assert checkpoint.shapes == layout(SMALL)
    stored = torch.load(small_folder() / "weights.pth", weights_only=True)
    assert MASK in stored["params"]
    assert torch.equal(checkpoint.tensors["conv_hr.weight"], stored["params"]["conv_hr.weight"])
    assert not torch.equal(checkpoint.tensors["conv_hr.weight"], stored["params_ema"]["conv_hr.weight"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.pop("latent.1.ffn.dwconv.weight"), "it has no latent.1.ffn.dwconv.weight"),
        (lambda t: t.pop("shallow_extraction.0.weight"), "it has no shallow_extraction.0.weight"),
        (lambda t: t.update(extra=torch.zeros(3)), r"1 unexpected \(extra \(3,\)\)"),
        (lambda t: t.update({"compress.bias": torch.zeros(3)}), r"compress.bias \(3,\) instead of \(12,\)"),
        (lambda t: t.update({"compress.bias": torch.zeros(12, dtype=torch.int8)}), "can't be converted"),
    ],
)
def test_what_isnt_a_whole_model_is_refused(tmp_path: Path, change: object, says: str) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in small_checkpoint().tensors.items()}
    assert callable(change)
    change(tensors)
    save_file(tensors, tmp_path / "realviformer.safetensors")
    with pytest.raises(FlashsrError, match=says):
        load_checkpoint(tmp_path)


def test_a_re_pack_gives_the_same_model(tmp_path: Path) -> None:
    save_file({n: t.contiguous() for n, t in small_checkpoint().tensors.items()}, tmp_path / "anything.safetensors")
    again = load_checkpoint(tmp_path)
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in small_checkpoint().tensors.items())


def test_wider_feed_forwards_are_the_same_model() -> None:
    wider = aligned(small_checkpoint().tensors)
    widths = {t.shape[1] for name, t in wider.items() if name.endswith(".ffn.project_out.weight")}
    assert widths == {32, 48, 96}
    network = RealViformer({name: tuple(tensor.shape) for name, tensor in wider.items()})
    network.load_state_dict(wider)
    random = torch.Generator().manual_seed(0)
    inputs = [torch.rand(1, channels, 16, 24, generator=random) for channels in (3, 12, 3)]
    with torch.inference_mode():
        for made, wanted in zip(network(*inputs), small_checkpoint().network()(*inputs), strict=True):
            torch.testing.assert_close(made, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("rows", [4, 8, 36])
def test_strips_are_the_whole(rows: int) -> None:
    """Two 3x3 convolutions see two rows; with one fewer it would show."""
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 1, 3, padding=1))
    x = torch.randn(1, 2, rows, 7)
    with torch.inference_mode():
        torch.testing.assert_close(in_strips(layer, x, halo=2), layer(x), atol=1e-6, rtol=0)
        assert (in_strips(layer, x, halo=1) - layer(x)).abs().max() > 1e-3


@pytest.mark.parametrize(("height", "width"), [(4, 4), (36, 40), (64, 44)])
def test_the_graph_is_the_module(height: int, width: int) -> None:
    """Four steps, each from what the one before left; sizes the graph wasn't traced with."""
    network = small_checkpoint().network()
    session = OnnxSession(small_bundle() / GRAPH, threads=1)
    random = np.random.default_rng(0)
    feat, prev = np.zeros((1, 12, height, width), np.float32), np.zeros((1, 3, height, width), np.float32)
    state = torch.from_numpy(feat), torch.from_numpy(prev)
    for _ in range(4):
        frame = random.random((1, 3, height, width), dtype=np.float32)
        made = session.run({"frames": frame, "state.feat": feat, "state.prev": prev})
        with torch.inference_mode():
            out, *later = network(torch.from_numpy(frame), *state)
        np.testing.assert_allclose(made["out"].numpy(), out.numpy(), atol=2e-4)
        np.testing.assert_allclose(made["next.feat"].numpy(), later[0].numpy(), atol=2e-3)
        assert np.array_equal(made["next.prev"].numpy(), frame)
        # Each carries its own state on, so that a slip in it would grow.
        feat, prev, state = made["next.feat"].numpy(), made["next.prev"].numpy(), (later[0], later[1])


def test_the_bundle_is_the_models() -> None:
    bundle = load_bundle(small_bundle())
    assert (bundle.kind, bundle.channels, bundle.preroll, bundle.max_segment) == ("recurrent", "rgb", PREROLL, MAX_SEGMENT)
    assert MAX_SEGMENT <= 100
    assert list(bundle.scales) == [4] and [state.name for state in bundle.scales[4].states] == ["feat", "prev"]


@pytest.mark.long
def test_the_same_checkpoint_gives_the_same_bytes(tmp_path: Path) -> None:
    again = tmp_path / "again"
    export_bundle(small_checkpoint(), again, precision="fp32", name="small")
    assert (again / GRAPH).read_bytes() == (small_bundle() / GRAPH).read_bytes()
    assert (again / "bundle.json").read_bytes() == (small_bundle() / "bundle.json").read_bytes()


@pytest.mark.long
def test_half_precision_keeps_what_must_be_wide() -> None:
    """Sums over a picture, norms, flow and state in float32; a state of zeros gives no NaN, as 1e-12 does in float16."""
    model = onnx.load(small_bundle("fp16") / GRAPH)
    types = {value.name: value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    assert set(types.values()) == {onnx.TensorProto.FLOAT}
    inferred = onnx.shape_inference.infer_shapes(model)
    known = {v.name: v.type.tensor_type.elem_type for v in inferred.graph.value_info} | types
    wide = {"GridSample", "Softmax", "Sqrt", "ReduceMean", "ReduceMax", "Sigmoid", "Resize"}
    seen = {node.op_type: known[node.output[0]] for node in model.graph.node if node.op_type in wide}
    assert set(seen) == wide and set(seen.values()) == {onnx.TensorProto.FLOAT}
    halves = {known.get(node.output[0]) for node in model.graph.node if node.op_type == "Conv"}
    assert halves == {onnx.TensorProto.FLOAT16}


def test_the_command_refuses_what_makes_no_sense(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["export", "--model", "realviformer", "--checkpoint", str(small_folder()), "--out", str(tmp_path / "b ü")]
    for more, says in (
        (["--precision", "bf16"], "can't be exported as bf16"),
        (["--version", "v1"], "--version says nothing to --model realviformer"),
        (["--option", "seed=1"], "--option says nothing to"),
    ):
        assert main([*given, *more]) == 1
        assert says in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []
    assert main(["export", "--checkpoint", str(small_folder()), "--out", str(tmp_path / "b")]) == 1
    assert "--version" in capsys.readouterr().err


def test_a_golden_set_says_which_model_it_is_of(tmp_path: Path) -> None:
    assert model_of(tmp_path) == "flashvsr"
    (tmp_path / "info.json").write_text(json.dumps({"config": {"num_feat": 8}}), encoding="utf-8")
    assert model_of(tmp_path) == "realviformer"
    (tmp_path / "info.json").write_text(json.dumps({"config": {"else": 8}}), encoding="utf-8")
    with pytest.raises(FlashsrError, match="no model known here"):
        model_of(tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("executor", ["torch", "onnxruntime"])
@pytest.mark.skipif(not GOLDEN.is_dir(), reason="needs the golden set: set VSFLASHSR_GOLDEN_REALVIFORMER to its folder")
def test_the_golden_set(executor: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(GOLDEN), "--executor", executor]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 78 and all(line.startswith("ok") for line in lines)


@pytest.mark.long
@pytest.mark.skipif(not GOLDEN.is_dir(), reason="needs the golden set: set VSFLASHSR_GOLDEN_REALVIFORMER to its folder")
def test_a_damaged_golden_set_fails(tmp_path: Path) -> None:
    for name in ("ckpt_small.safetensors", "info.json", "primitives.npz"):
        shutil.copy(GOLDEN / name, tmp_path)
    with np.load(tmp_path / "primitives.npz") as data:
        arrays = {key: data[key].copy() for key in data}
    arrays["warp_border"][0, 0, 0] += 1e-3
    np.savez(tmp_path / "primitives.npz", **arrays)
    assert main(["verify", str(tmp_path)]) == 1


@pytest.mark.long
@pytest.mark.parametrize("capability", TARGETS)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_tensorrt_rtx_compiles_the_published_size(
    tmp_path: Path, precision: str, capability: tuple[int, int]
) -> None:
    pytest.importorskip("tensorrt_rtx")
    write_realviformer(tmp_path, Sizes())
    export_bundle(load_checkpoint(tmp_path), tmp_path / "bundle", precision=precision)
    size = (272, 480)
    profile = {n: ((1, c, *size),) * 3 for n, c in (("frames", 3), ("state.feat", 48), ("state.prev", 3))}
    plan, seconds = compile_onnx(tmp_path / "bundle" / GRAPH, capability, profile)
    print(f"{precision} {capability}: {len(plan) / 1e6:.1f} MB in {seconds:.1f} s")
    assert len(plan) > 1e6
