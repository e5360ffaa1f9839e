"""Building engines with the real TensorRT-RTX, which needs no GPU for it: what comes out, what is refused, what is told."""

from __future__ import annotations

import dataclasses
import logging
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import external_data_helper

pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx: pip install tensorrt-rtx")
pytest.importorskip("filelock", reason="needs the extra 'rtx'")

from vsflashsr.arguments import Arguments
from vsflashsr.bundle import load_bundle, write_manifest
from vsflashsr.errors import FlashsrError
from vsflashsr.models.recurrent.kind import read_recurrent
from vsflashsr.onnx_file import read_onnx
from vsflashsr.runtimes.engines.build import build_plan
from vsflashsr.runtimes.engines.key import EngineRequest, ShapeRange, key_of
from vsflashsr.runtimes.engines.modules import load_module, target_of, target_without_gpu
from vsflashsr.runtimes.engines.progress import BuildStatus, LogProgress, Phases
from vsflashsr.runtimes.engines.requests import engine_requests

from ...support.fake_tensorrt import FakeTensorRT
from ...support.models import engines_of
from ...support.rtx import TARGETS
from ...support.rtx_engines import BUILTIN, small_request
from ...support.tiny import write_frame_graph, write_tiny_bundle


def with_external_weights(request: EngineRequest, folder: Path) -> EngineRequest:
    """The same graph with its kernel in a file of its own, in a folder with a name that is no ASCII."""
    folder.mkdir()
    model = onnx.load(request.graph)
    external_data_helper.convert_model_to_external_data(model, location="weights ü.bin", size_threshold=0)
    onnx.save(model, folder / "graph.onnx")
    return dataclasses.replace(request, graph=folder / "graph.onnx")


@pytest.mark.parametrize("capability", TARGETS, ids=str)
def test_a_small_engine_is_built_for_each_target(capability: tuple[int, int], tmp_path: Path) -> None:
    plan = build_plan(small_request(tmp_path, capability=capability))
    assert len(plan.data) > 100_000
    assert [(t.name, t.shape, t.dtype) for t in plan.inputs] == [("input", (1, 3, None, None), "FLOAT")]
    assert [(t.name, t.dtype) for t in plan.outputs] == [("output", "FLOAT")]


@pytest.mark.parametrize("scale", [2, 4])
def test_the_built_in_model_is_built(scale: int) -> None:
    request, chroma = engines_of(BUILTIN, [(90, 60)], target_without_gpu("tensorrt_rtx", (8, 9)), scale=scale)
    assert request.graph.name == f"x{scale}.onnx" and chroma.graph.name == f"x{scale}-chroma.onnx"
    assert request.shapes["frames"] == ShapeRange.fixed((1, 1, 64, 96))
    # Half of the result's 180x120 or 360x240, to the next multiple of 8.
    assert chroma.shapes["frames"] == ShapeRange.fixed({2: (1, 3, 64, 96), 4: (1, 3, 120, 184)}[scale])
    assert [t.name for t in build_plan(chroma).outputs] == ["out"]
    seen: list[BuildStatus] = []
    plan = build_plan(request, progress=seen.append)
    assert [t.name for t in plan.outputs] == ["out", "next.luma", "next.picture"]
    fractions = [status.fraction for status in seen]
    # TensorRT says nothing for four fifths of the time, but phases go by before and after.
    assert fractions == sorted(fractions) and len(set(fractions)) > 2 and fractions[-1] == 1
    assert [status.finished for status in seen] == [False] * (len(seen) - 1) + [True]
    assert {status.phase for status in seen} > {""}


def test_half_precision_and_ranges_of_shapes(tmp_path: Path) -> None:
    path = write_frame_graph(tmp_path / "half.onnx", 2, half=True)
    request = dataclasses.replace(
        small_request(tmp_path), graph=path, shapes={"input": ShapeRange((1, 3, 8, 8), (1, 3, 16, 16), (1, 3, 32, 64))}
    )
    assert [t.dtype for t in build_plan(request).inputs] == ["HALF"]


def test_weights_in_files_beside_the_graph(tmp_path: Path) -> None:
    plain = small_request(tmp_path)
    request = with_external_weights(plain, tmp_path / "a model ü")
    assert read_onnx(request.graph).external == ("weights ü.bin",)
    assert read_onnx(plain.graph).external == ()
    assert len(build_plan(request).data) > 100_000
    before = key_of(request)
    weights = request.graph.parent / "weights ü.bin"
    data = bytearray(weights.read_bytes())
    data[0] ^= 1
    weights.write_bytes(data)
    assert key_of(request) != before
    weights.unlink()
    with pytest.raises(FlashsrError, match=r"reads weights from 'weights ü.bin', which is not beside it; put both"):
        build_plan_of(request)


def build_plan_of(request: EngineRequest) -> None:
    """As the store does it: key first."""
    key_of(request)
    build_plan(request)


def test_weights_inside_nodes_and_loops_are_found(tmp_path: Path) -> None:
    weights = onnx.numpy_helper.from_array(np.ones(3, np.float32), "c")
    (tmp_path / "in a loop").write_bytes(weights.raw_data)
    external_data_helper.set_external_data(weights, "in a loop")
    weights.ClearField("raw_data")
    constant = onnx.helper.make_node("Constant", [], ["c"], value=weights)
    body = onnx.helper.make_graph([constant], "body", [], [onnx.helper.make_tensor_value_info("c", 1, [3])])
    node = onnx.helper.make_node("If", ["which"], ["out"], then_branch=body, else_branch=body)
    graph = onnx.helper.make_graph(
        [node], "g", [onnx.helper.make_tensor_value_info("which", 9, [])], [onnx.helper.make_tensor_value_info("out", 1, [3])]
    )
    path = tmp_path / "g.onnx"
    path.write_bytes(onnx.helper.make_model(graph).SerializeToString())
    read = read_onnx(path)
    assert read.external == ("in a loop",)
    assert [(i.name, i.shape) for i in read.inputs] == [("which", ())]


@pytest.mark.parametrize("name", ["../outside.bin", "/etc/passwd", "C:\\weights.bin"])
def test_weights_outside_the_folder_are_refused(name: str, tmp_path: Path) -> None:
    request = with_external_weights(small_request(tmp_path), tmp_path / "model")
    request.graph.write_bytes(request.graph.read_bytes())
    model = onnx.load(request.graph, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = name
    request.graph.write_bytes(model.SerializeToString())
    with pytest.raises(FlashsrError, match="names a file outside its folder"):
        key_of(request)


@pytest.mark.parametrize("path", [*sorted(BUILTIN.glob("*.onnx"))], ids=lambda path: path.name)
def test_inputs_are_read_as_onnx_reads_them(path: Path) -> None:
    wanted = [
        (v.name, tuple(size.dim_value or None for size in v.type.tensor_type.shape.dim))
        for v in onnx.load(path).graph.input
    ]
    assert [(i.name, i.shape) for i in read_onnx(path).inputs] == wanted


@pytest.mark.parametrize("length", [0, 1, 100, 20_000])
def test_a_file_that_is_cut_short_or_no_onnx_is_refused(length: int, tmp_path: Path) -> None:
    path = tmp_path / "cut.onnx"
    path.write_bytes((BUILTIN / "x2.onnx").read_bytes()[:length])
    with pytest.raises(FlashsrError, match="is no ONNX"):
        read_onnx(path)
    with pytest.raises(FlashsrError, match=r"can't read the model .*; give another file"):
        read_onnx(tmp_path / "nothing.onnx")


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ({}, r"'input' of the graph 'x2.onnx' is \(1, 3, free, free\), got no shape"),
        ({"inputs": ShapeRange.fixed((1, 3, 8, 8))}, "has the inputs input, got a shape for 'inputs'"),
        ({"input": ShapeRange.fixed((1, 1, 8, 8))}, r"is \(1, 3, free, free\), got \(1, 1, 8, 8\) to"),
        ({"input": ShapeRange.fixed((1, 3, 8))}, r"got \(1, 3, 8\) to"),
        ({"input": ShapeRange((1, 3, 8, 8), (1, 3, 4, 8), (1, 3, 8, 8))}, "give one that fits"),
        ({"input": ShapeRange.fixed((1, 3, 0, 8))}, "give one that fits"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shapes: dict[str, ShapeRange], said: str, tmp_path: Path) -> None:
    with pytest.raises(FlashsrError, match=said):
        build_plan(dataclasses.replace(small_request(tmp_path), shapes=shapes))


def test_a_graph_that_tensorrt_does_not_take_is_told_with_its_reason(tmp_path: Path) -> None:
    request = small_request(tmp_path)
    request.graph.write_bytes(request.graph.read_bytes().replace(b"Conv", b"Cnov"))
    with pytest.raises(FlashsrError, match=r"tensorrt_rtx can't read the graph .*x2.onnx' \(Cnov '.*\); export"):
        build_plan(request)


def test_a_build_that_fails_is_told_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTensorRT(build_error="Error Code 10: no implementation\nfor node 7")
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    target = dataclasses.replace(small_request(tmp_path).target, module="tensorrt", version=fake.__version__)
    with pytest.raises(
        FlashsrError,
        match=r"'blur 16' doesn't build with tensorrt 10.12.0.36 \(Error Code 10: no implementation for node 7\); use",
    ):
        build_plan(dataclasses.replace(small_request(tmp_path), target=target))


def test_an_error_in_the_builder_thread_reaches_the_caller(tmp_path: Path) -> None:
    def no_gpu() -> None:
        raise FlashsrError("no such GPU")

    with pytest.raises(FlashsrError, match="no such GPU"):
        build_plan(small_request(tmp_path), enter_thread=no_gpu)


# Modules and targets


def test_capabilities_that_are_not_listed_are_refused_with_what_is() -> None:
    with pytest.raises(FlashsrError, match=r"7\.5, 8\.0, 8\.6, 8\.9, 12\.0, .*got 9\.0; use backend='tensorrt'"):
        target_without_gpu("tensorrt_rtx", (9, 0))


def test_only_tensorrt_rtx_builds_without_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRT())
    with pytest.raises(FlashsrError, match=r"tensorrt builds for the GPU it runs on only, got the compute capability 8.9"):
        target_without_gpu("tensorrt", (8, 9))


@pytest.mark.parametrize("version", ["10.11.0.33", "9.3", "8.6.1"])
def test_an_old_tensorrt_is_refused(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRT(__version__=version))
    with pytest.raises(FlashsrError, match=rf"10.12 or newer is needed, got {version}; pip install -U"):
        load_module("tensorrt")


def test_a_module_that_is_not_there_is_told_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(FlashsrError, match=r"tensorrt can't be loaded \(.*\); pip install vsflashsr\[tensorrt\]"):
        load_module("tensorrt")
    with pytest.raises(FlashsrError, match="got 'onnx'; choose one of them"):
        load_module("onnx")


# Keys


def test_every_field_of_a_request_changes_the_key(tmp_path: Path) -> None:
    request = small_request(tmp_path)
    target = dataclasses.replace(request.target, module="tensorrt", gpu="GPU A")
    request = dataclasses.replace(request, target=target)
    other_graph = write_frame_graph(tmp_path / "other.onnx", 4)
    usual = request.shapes["input"]
    changed = [
        dataclasses.replace(request, graph=other_graph),
        dataclasses.replace(request, target=dataclasses.replace(target, gpu="GPU B")),
        dataclasses.replace(request, target=dataclasses.replace(target, capability=(8, 6))),
        dataclasses.replace(request, target=dataclasses.replace(target, version="1.7.1.117")),
        dataclasses.replace(request, target=dataclasses.replace(target, module="tensorrt_rtx")),
        dataclasses.replace(request, shapes={"inputs": usual}),
        dataclasses.replace(request, shapes={}),
        *(
            dataclasses.replace(request, shapes={"input": dataclasses.replace(usual, **{name: (1, 3, 16, 17)})})
            for name in ("min", "opt", "max")
        ),
    ]
    digests = [key_of(r).digest for r in (request, *changed)]
    assert len(set(digests)) == len(digests)
    copied = tmp_path / "copy" / "renamed.onnx"
    copied.parent.mkdir()
    shutil.copy(request.graph, copied)
    assert key_of(dataclasses.replace(request, graph=copied, label="another")).digest == digests[0]
    assert dataclasses.replace(key_of(request), precision="other").digest != digests[0]
    assert dataclasses.replace(key_of(request), builder=0).digest != digests[0]


def test_an_engine_of_tensorrt_rtx_that_was_built_without_the_gpu_is_found_on_it(tmp_path: Path) -> None:
    """Its engines fit every GPU of their capability; those of TensorRT only the GPU that they were built on."""

    class Gpu:
        name, capability = "NVIDIA GeForce RTX 4090", (8, 9)

    request = small_request(tmp_path)
    assert key_of(dataclasses.replace(request, target=target_of("tensorrt_rtx", Gpu()))) == key_of(request)


# Which engines a model needs


def test_a_recurrent_bundle_with_a_first_graph(tiny_25_21: Path) -> None:
    target = target_without_gpu("tensorrt_rtx", (8, 9))
    requests = engines_of(tiny_25_21, [(30, 20)], target, scale=2)
    assert [r.graph.name for r in requests] == ["x2_first.onnx", "x2.onnx"]
    first, step = (dict(r.shapes) for r in requests)
    assert first == {"frames": ShapeRange.fixed((25, 1, 20, 30))}
    assert step == {
        "frames": ShapeRange.fixed((8, 1, 20, 30)),
        "state.mean": ShapeRange.fixed((1, 1, 20, 30)),
        "state.held": ShapeRange.fixed((4, 1, 20, 30)),
    }
    for request in requests:
        assert set(request.shapes) == {i.name for i in read_onnx(request.graph).inputs}
    assert [r.label for r in requests] == ["tiny/x2_first 30x20", "tiny/x2 30x20"]
    assert len(engines_of(tiny_25_21, [(30, 20), (40, 20), (30, 20)], target)) == 4


def test_a_recurrent_bundle_whose_first_step_reads_more(tmp_path: Path) -> None:
    bundle = load_bundle(write_tiny_bundle(tmp_path / "tiny", scales=(2,)))
    schedule = dataclasses.replace(bundle.schedule, first_reads=3, first_emits=3)
    calls = read_recurrent(dataclasses.replace(bundle, schedule=schedule), 2, Arguments()).graphs((16, 16))
    (request,) = engine_requests(calls, target_without_gpu("tensorrt_rtx", (8, 9)))
    assert request.shapes["frames"] == ShapeRange((1, 1, 16, 16), (1, 1, 16, 16), (3, 1, 16, 16))


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, (1, 3, 30, 50)),
        ({"channels": 1}, (1, 1, 30, 50)),
        ({"multiple": 8}, (1, 3, 32, 56)),
        ({"size": (64, 80)}, (1, 3, 64, 80)),
    ],
)
def test_single_frame_upscalers(options: dict[str, object], shape: tuple[int, ...], tmp_path: Path) -> None:
    path = write_frame_graph(tmp_path / "my upscaler.onnx", 2, **options)  # type: ignore[arg-type]  # a table of keywords
    (request,) = engines_of(path, [(50, 30)], target_without_gpu("tensorrt_rtx", (8, 9)))
    assert dict(request.shapes) == {"input": ShapeRange.fixed(shape)}
    assert request.label == "my upscaler 50x30"
    assert len(build_plan(request).data) > 0


def graph_with(path: Path, inputs: dict[str, list[int | str]]) -> None:
    """A graph that reads these and does nothing with them."""
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    nodes = [onnx.helper.make_node("Identity", [name], [f"{name}.out"]) for name in inputs]
    outputs = [onnx.helper.make_tensor_value_info(f"{name}.out", 1, shape) for name, shape in inputs.items()]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", values, outputs)), path)


def flashvsr_bundle(folder: Path, version: str, variant: str) -> Path:
    """All that is asked of a bundle: graphs with the inputs of the published ones, two layers of 2 heads of 16."""
    folder.mkdir()
    tokens: dict[str, dict[str, list[int | str]]] = {
        "first": {"patches": ["n", 64], "lq": ["n", 32]},
        "middle": {"x": ["n", 32], "attended": ["n", 32]},
        "last": {"x": ["n", 32], "attended": ["n", 32], "patches": ["n", 64]},
    }
    section: dict[str, object] = {}
    for name, inputs in tokens.items():
        graph_with(folder / f"{name}.onnx", {**inputs, "weight": [32, 32]})
        graph_with(folder / f"{name}.constant.onnx", inputs)
        (folder / f"{name}.weights").write_bytes(b"")
        section[name] = {
            "shared": f"{name}.onnx", "constant": [f"{name}.constant.onnx"], "weights": [f"{name}.weights"], "tensors": []
        }  # fmt: skip
    context: dict[str, list[int | str]] = {"ctx1": [2, 3, "h", "w"], "ctx2": [2, 8, "h", "w"]}
    graph_with(folder / "projector.onnx", {"clip": [4, 3, "h", "w"], **(context if version == "v1.1" else {})})
    states: dict[str, list[int | str]] = {"state0": [1, 4, "h", "w"], "state1": [1, 6, "h", "w"]}
    condition: dict[str, list[int | str]] = {"lq": [4, 3, "h", "w"]} if variant == "tiny" else {}
    graph_with(folder / "decoder.onnx", {"latent": [1, 16, "h", "w"], **condition, **states})
    graph_with(folder / "decoder.first.onnx", {"latent": [1, 16, "h", "w"], "state1": [1, 6, "h", "w"]})
    graph_with(folder / "attention.onnx", {"q": [128, 16]})
    section |= {
        "version": version, "variant": variant, "layers": 2, "heads": 2, "head_dim": 16, "projector_hidden": 8,
        "attention": "attention.onnx", "projector": "projector.onnx", "decoder": "decoder.onnx",
        "decoder_first": None if variant == "tiny" else "decoder.first.onnx",
        "decoder_states": [{"frames": 1, "channels": 4, "factor": 1}, {"frames": 1, "channels": 6, "factor": 2}],
        "config": {}, "options": {},
    }  # fmt: skip
    write_manifest(
        folder,
        {
            "name": "small", "kind": "flashvsr", "channels": "rgb", "max_segment": 480,
            "schedule": {"first_reads": 25, "first_emits": 21, "reads": 8, "emits": 8},
            "scales": {str(scale): {"step": "projector.onnx"} for scale in (2, 3, 4)}, "flashvsr": section,
        },
    )  # fmt: skip
    return folder


@pytest.mark.parametrize(("version", "variant"), [("v1", "tiny"), ("v1.1", "tiny"), ("v1.1", "full")])
@pytest.mark.parametrize("form", ["shared", "constant"])
def test_flashvsr_needs_projector_pieces_and_decoder(version: str, variant: str, form: str, tmp_path: Path) -> None:
    folder = flashvsr_bundle(tmp_path / "bundle", version, variant)
    target = target_without_gpu("tensorrt_rtx", (8, 9))
    # 100x60 becomes 400x240, and that is padded to 512x256: 4 x 2 windows of 128 tokens.
    requests = engines_of(folder, [(100, 60)], target, piece_weights=form)
    suffix = "" if form == "shared" else ".constant"
    decoders = ["decoder"] if variant == "tiny" else ["decoder.first", "decoder"]
    assert [r.graph.stem for r in requests] == [
        "projector", *(f"{piece}{suffix}" for piece in ("first", "middle", "last")), *decoders
    ]  # fmt: skip
    tokens = 4 * 2 * 128
    fixed = ShapeRange.fixed

    def rows(width: int) -> ShapeRange:
        return ShapeRange((tokens, width), (tokens, width), (3 * tokens, width))

    shapes = {r.graph.stem.removesuffix(".constant"): dict(r.shapes) for r in requests}
    assert shapes["first"] == {"patches": rows(64), "lq": rows(32)}
    assert shapes["middle"] == {"x": rows(32), "attended": rows(32)}
    assert shapes["last"] == {"x": rows(32), "attended": rows(32), "patches": rows(64)}
    context = {"ctx1": fixed((2, 3, 256, 512)), "ctx2": fixed((2, 8, 16, 32))} if version == "v1.1" else {}
    assert shapes["projector"] == {"clip": fixed((4, 3, 256, 512)), **context}
    latent = {"latent": fixed((1, 16, 32, 64))}
    states = {"state0": fixed((1, 4, 32, 64)), "state1": fixed((1, 6, 64, 128))}
    condition = {"lq": fixed((4, 3, 256, 512))} if variant == "tiny" else {}
    assert shapes["decoder"] == {**latent, **condition, **states}
    if variant == "full":
        assert shapes["decoder.first"] == {**latent, "state1": states["state1"]}
    assert dict(engines_of(folder, [(100, 60)], target, scale=2)[0].shapes)["clip"] == fixed((4, 3, 128, 256))


@pytest.mark.long
@pytest.mark.parametrize("variant", ["tiny", "full"])
@pytest.mark.parametrize("form", ["shared", "constant"])
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_all_engines_of_an_exported_flashvsr_are_built(variant: str, form: str, precision: str) -> None:
    pytest.importorskip("torch", reason="the exporter needs the extra 'export'")
    from ...support.flashvsr_small import small_bundle

    folder = small_bundle(variant, precision=precision)
    for capability in TARGETS:
        target = target_without_gpu("tensorrt_rtx", capability)
        for request in engines_of(folder, [(100, 60)], target, piece_weights=form):
            assert len(build_plan(request).data) > 0


# Progress


def test_log_lines_come_every_five_seconds_and_none_for_a_short_build(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    progress = LogProgress()
    for tenth in range(49):
        progress(BuildStatus("x", "", 0.5, tenth / 10))
    progress(BuildStatus("x", "", 1.0, 4.9, finished=True))
    assert caplog.messages == []
    for tenth in range(170):
        progress(BuildStatus("x", "", tenth / 340, tenth / 10))
    progress(BuildStatus("x", "", 1.0, 17.0, finished=True))
    assert [message.split(":")[0] for message in caplog.messages] == ["building the engine 'x'"] * 3 + [
        "the engine 'x' is built, it took 17 s"
    ]
    assert "15 %, 5 s" in caplog.messages[0] and "44 %, 15 s" in caplog.messages[2]


def test_phases_inside_phases_make_one_number() -> None:
    phases = Phases()
    phases.start("all", None, 4)
    phases.step("all", 0)
    assert phases.now() == ("all", 0.25)
    phases.start("part", "all", 2)
    phases.start("detail", "part", 10)
    assert phases.now() == ("detail", 0.25)
    phases.step("detail", 4)
    assert phases.now()[1] == pytest.approx(0.25 + 0.125 * 0.5)
    phases.finish("detail")
    phases.step("all", 0)  # told again, without the detail
    assert phases.now()[1] == pytest.approx(0.25 + 0.125 * 0.5)
    phases.step("part", 0)
    assert phases.now()[1] == pytest.approx(0.375)
    phases.finish("part")
    phases.step("all", 1)
    assert phases.now() == ("all", 0.5)
    phases.start("part", "all", 2)  # a name may come again
    phases.step("unknown", 3)
    phases.step("part", 99)
    assert phases.now()[1] == pytest.approx(0.75)
