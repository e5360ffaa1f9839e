"""Engines on a GPU, which here is a mock: what is asked of TensorRT, in which order, and what is said when it refuses."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("filelock", reason="needs the extra 'rtx'")

from vsflashsr.errors import FlashsrError
from vsflashsr.gpu import probe
from vsflashsr.gpu.device import Device
from vsflashsr.runtimes import tensorrt as runtime_module
from vsflashsr.runtimes.engines.key import EngineRequest, ModuleName, ShapeRange
from vsflashsr.runtimes.engines.store import EngineStore
from vsflashsr.runtimes.graph import DeviceGraph
from vsflashsr.runtimes.tensorrt import TensorRTGraph, TensorRTRuntime

from ..support import fake_tensorrt
from ..support.fake_tensorrt import FakeTensorRT
from ..support.mock_cuda import MockDriver, mock_device
from ..support.tiny import write_frame_graph

SIZES = ShapeRange((1, 3, 8, 8), (1, 3, 8, 12), (1, 3, 16, 16))


@dataclasses.dataclass(frozen=True)
class Setup:
    """A GPU, a module, a folder and a graph."""

    device: Device
    driver: MockDriver
    trt: FakeTensorRT
    store: EngineStore
    graph: Path

    def runtime(self, name: ModuleName = "tensorrt") -> TensorRTRuntime:
        return TensorRTRuntime(name, self.device, self.store)

    def request(self, runtime: TensorRTRuntime) -> EngineRequest:
        return EngineRequest(self.graph, {"input": SIZES}, runtime.target, "frame")

    def open(self, name: ModuleName = "tensorrt") -> TensorRTGraph:
        runtime = self.runtime(name)
        return runtime.open(self.request(runtime))


@pytest.fixture(params=range(3))
def setup(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Setup]:
    """In three orders in which the GPU may run what was queued."""
    with mock_device(seed=request.param) as (device, driver):
        trt = FakeTensorRT(driver)
        monkeypatch.setitem(sys.modules, "tensorrt", trt)
        monkeypatch.setattr(probe, "device_count", lambda: 1)
        store = EngineStore(tmp_path / "engines", enter_thread=device.make_current)
        yield Setup(device, driver, trt, store, write_frame_graph(tmp_path / "x2.onnx", 2))


def as_rtx(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    setup.trt.__name__, setup.trt.__version__ = "tensorrt_rtx", "1.7.1.116"
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", setup.trt)


def upscaled(setup: Setup, graph: TensorRTGraph, picture: np.ndarray, *, captured: bool = False) -> np.ndarray:
    """What the engine makes of a picture, through the device's memory."""
    device = setup.device
    call = graph.prepare({"input": picture.shape})
    made = np.zeros(call.outputs["output"], np.float32)
    host_in, host_out = device.pinned(picture.nbytes), device.pinned(made.nbytes)
    there, back, scratch = (device.alloc(size) for size in (picture.nbytes, made.nbytes, call.scratch_bytes))
    addresses = {"input": there.address, "output": back.address}
    host_in.array[: picture.nbytes] = picture.reshape(-1).view(np.uint8)
    stream = device.stream()
    stream.upload(there, host_in, picture.nbytes)
    call.enqueue(stream, addresses, scratch.address)
    if captured:
        stream.zero(back)
        with stream.capture() as capture:
            call.enqueue(stream, addresses, scratch.address)
        stream.replay(capture.graph)
    stream.download(host_out, back, made.nbytes)
    stream.synchronize()
    return host_out.array[: made.nbytes].view(np.float32).reshape(made.shape).copy()


def pictures(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(1).random((1, 3, height, width), np.float32)


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt_rtx"])
@pytest.mark.parametrize("captured", [False, True])
def test_an_engine_computes_what_its_graph_says(
    setup: Setup, name: ModuleName, captured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vsflashsr.runtimes.onnxruntime import OnnxSession

    if name == "tensorrt_rtx":
        as_rtx(setup, monkeypatch)
    graph = setup.open(name)
    assert list(graph.inputs) == ["input"]
    assert (graph.inputs["input"].shape, graph.inputs["input"].dtype.name) == ((1, 3, None, None), "float32")
    assert set(graph.outputs) == {"output"}
    for size in ((8, 12), (16, 16)):
        picture = pictures(*size)
        expected = OnnxSession(setup.graph).run({"input": picture})["output"].numpy()
        assert np.array_equal(upscaled(setup, graph, picture, captured=captured), expected)


def test_calls_of_one_engine_keep_their_own_shapes_and_addresses(setup: Setup) -> None:
    graph = setup.open()
    small, large = pictures(8, 8), pictures(16, 16)
    first = upscaled(setup, graph, small)
    upscaled(setup, graph, large)
    assert np.array_equal(upscaled(setup, graph, small), first)
    assert setup.trt.loads == 1 and setup.trt.contexts == 3


def test_a_call_works_at_other_addresses_next_time(setup: Setup) -> None:
    """As with state that changes sides: addresses and scratch of the call before, which is freed, must not stick."""
    call = setup.open().prepare({"input": (1, 3, 8, 8)})
    stream = setup.device.stream()
    outs = [setup.device.alloc(4 * 3 * 16 * 16) for _ in range(2)]
    source = setup.device.alloc(4 * 3 * 64)
    scratches = [setup.device.alloc(call.scratch_bytes) for _ in range(2)]
    stream.zero(source)
    for out, scratch in zip(outs, scratches, strict=True):
        call.enqueue(stream, {"input": source.address, "output": out.address}, scratch.address)
        stream.synchronize()
        scratch.close()
    stream.synchronize()
    assert all((setup.driver.view(out.address, 3 * 16 * 16, np.float32) == 0).all() for out in outs)


def test_the_engine_is_built_once_and_then_loaded(setup: Setup) -> None:
    setup.open()
    setup.open()
    assert (setup.trt.builds, setup.trt.loads) == (1, 2)


def test_the_builder_thread_uses_the_right_gpu(setup: Setup) -> None:
    """TensorRT builds on the GPU that is current in its thread, which is not the caller's."""
    entered = []
    store = EngineStore(setup.store.folder, enter_thread=lambda: entered.append(len(setup.trt.threads)))
    dataclasses.replace(setup, store=store).open()
    assert entered == [0] and setup.trt.builds == 1


def test_an_engine_that_does_not_load_is_built_again_once(setup: Setup, caplog: pytest.LogCaptureFixture) -> None:
    setup.open()
    setup.trt.rejects = 1
    with caplog.at_level("INFO"):
        setup.open()
    assert setup.trt.builds == 2
    assert [r.message for r in caplog.records if "built anew" in r.message] == [
        "the stored engine 'frame' can't be used (the engine was made for another GPU): it is built anew"
    ]
    setup.trt.rejects = 2
    with pytest.raises(FlashsrError, match=r"built but doesn't load \(the engine was made for another GPU\); update"):
        setup.open()
    assert setup.trt.builds == 3


def test_an_engine_is_loaded_again_after_the_module_changed(setup: Setup) -> None:
    setup.open()
    setup.trt.__version__ = "10.13.0.1"
    setup.open()
    assert setup.trt.builds == 2


def test_timings_are_kept_for_the_next_build_on_this_gpu(setup: Setup) -> None:
    runtime = setup.runtime()
    runtime.open(setup.request(runtime))
    assert setup.store.read_cache("timings", runtime.target) == b"+"
    other = dataclasses.replace(setup.request(runtime), shapes={"input": ShapeRange.fixed((1, 3, 8, 7))})
    runtime.open(other)
    assert setup.store.read_cache("timings", runtime.target) == b"++"
    another_gpu = dataclasses.replace(runtime.target, gpu="another GPU")
    assert setup.store.read_cache("timings", another_gpu) == b""
    for number, unusable in enumerate((b"damaged", b"of another GPU"), 8):
        setup.store.write_cache("timings", runtime.target, unusable)
        runtime.open(dataclasses.replace(other, shapes={"input": ShapeRange.fixed((1, 3, 8, number))}))
        assert setup.store.read_cache("timings", runtime.target) == b"+"


def test_compiled_kernels_are_kept_for_the_next_start(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    as_rtx(setup, monkeypatch)
    runtime = setup.runtime("tensorrt_rtx")
    runtime.open(setup.request(runtime)).prepare({"input": (1, 3, 8, 8)})
    assert setup.store.read_cache("kernels", runtime.target) == b""
    runtime.keep_kernels()
    assert setup.store.read_cache("kernels", runtime.target) == b"kernels of this GPU"
    setup.store.write_cache("kernels", runtime.target, b"kernels of yesterday")
    again = setup.runtime("tensorrt_rtx")
    again.open(setup.request(again)).prepare({"input": (1, 3, 8, 8)})
    again.keep_kernels()
    assert setup.store.read_cache("kernels", runtime.target) == b"kernels of yesterday"
    setup.store.write_cache("kernels", runtime.target, b"rubbish")
    last = setup.runtime("tensorrt_rtx")
    last.open(setup.request(last)).prepare({"input": (1, 3, 8, 8)})
    last.keep_kernels()
    assert setup.store.read_cache("kernels", runtime.target) == b"kernels of this GPU"


def test_the_strongly_typed_flag_is_given_where_there_is_one(setup: Setup) -> None:
    setup.open()
    setup.trt.has_flag, setup.trt.__version__ = False, "11.0.0.1"
    setup.open()
    assert setup.trt.flags == [2, 0]


def test_what_tensorrt_refuses_is_told_with_its_reason(setup: Setup) -> None:
    graph = setup.open()
    with pytest.raises(FlashsrError, match=r"takes 'input' from \(1, 3, 8, 8\) to \(1, 3, 16, 16\), got \(1, 3, 32, 8\)"):
        graph.prepare({"input": (1, 3, 32, 8)})
    with pytest.raises(FlashsrError, match="reads input, got shapes for inputs"):
        graph.prepare({"inputs": (1, 3, 8, 8)})
    call = graph.prepare({"input": (1, 3, 8, 8)})
    stream = setup.device.stream()
    with pytest.raises(FlashsrError, match="no address for 'output'"):
        call.enqueue(stream, {"input": 4096}, 4096)
    buffers = [setup.device.alloc(1 << 16) for _ in range(3)]
    addresses = {"input": buffers[0].address, "output": buffers[1].address}
    with pytest.raises(FlashsrError, match=r"doesn't take the address of 'x' \(there is no tensor x\); use"):
        call.enqueue(stream, {**addresses, "x": 4096}, buffers[2].address)
    setup.trt.enqueue_error = "out of memory"
    with pytest.raises(FlashsrError, match=r"the engine 'frame' failed \(out of memory\); use"):
        call.enqueue(stream, addresses, buffers[2].address)
    setup.trt.context_error = "out of memory"
    with pytest.raises(FlashsrError, match=r"can't be run \(out of memory\); use"):
        graph.prepare({"input": (1, 3, 8, 8)})


def test_weights_and_scratch_are_stated(setup: Setup) -> None:
    opened = setup.open()
    graph: DeviceGraph = opened  # the protocol that models ask for
    assert 0 < graph.weights_bytes < opened.plan_bytes
    small, large = (graph.prepare({"input": (1, 3, side, side)}) for side in (8, 16))
    assert small.outputs == {"output": (1, 3, 16, 16)}
    assert 0 < small.scratch_bytes < large.scratch_bytes


def test_without_a_gpu_tensorrt_is_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its runtime ends the process where there is no driver."""
    monkeypatch.setattr(probe, "device_count", lambda: 0)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with mock_device() as (device, _), pytest.raises(FlashsrError, match="needs an NVIDIA GPU and its driver, none found"):
        TensorRTRuntime("tensorrt", device, EngineStore(tmp_path))


def test_a_gpu_that_tensorrt_rtx_does_not_list_is_refused_with_what_to_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "device_count", lambda: 1)
    trt = FakeTensorRT(__name__="tensorrt_rtx", __version__="1.7.1.116")
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", trt)
    with (
        mock_device(capability=(9, 0)) as (device, _),
        pytest.raises(FlashsrError, match=r"12.0, got 9.0 of .*; use backend='tensorrt' on that GPU"),
    ):
        TensorRTRuntime("tensorrt_rtx", device, EngineStore(tmp_path))


def test_importing_the_runtime_imports_no_gpu_library() -> None:
    code = (
        "import sys, vsflashsr.runtimes.tensorrt, vsflashsr.runtimes.engines.store, vsflashsr.runtimes.engines.requests\n"
        "print([m for m in ('tensorrt', 'tensorrt_rtx', 'cuda', 'torch', 'onnx', 'filelock') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_all_that_is_called_is_there_in_the_real_module(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake notes what is used of it; TensorRT-RTX 1.7 has the API of TensorRT 11, which kept it from 10.12."""
    real = pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx: pip install tensorrt-rtx")
    fake_tensorrt.USED.clear()
    upscaled(setup, setup.open("tensorrt"), pictures(8, 8))
    as_rtx(setup, monkeypatch)
    upscaled(setup, setup.open("tensorrt_rtx"), pictures(8, 8))
    assert setup.trt.builds == 2  # the fake was used, not the real one
    used = set(fake_tensorrt.USED)
    assert {"Builder", "IBuilderConfig", "OnnxParser", "Runtime", "ICudaEngine", "IExecutionContext", "IRuntimeConfig"} <= {
        api for api, _ in used
    }
    assert [f"{api}.{name}" for api, name in sorted(used) if not hasattr(getattr(real, api), name)] == []
    for enum in ("ExecutionContextAllocationStrategy", "CudaGraphStrategy", "DynamicShapesKernelSpecializationStrategy",
                 "TensorIOMode", "LayerInformationFormat"):  # fmt: skip
        assert {member.name for member in getattr(fake_tensorrt, enum)} == set(getattr(real, enum).__members__)
    for kind in runtime_module._NUMPY:
        assert hasattr(real.DataType, kind)
    assert set(real.EngineStat.__members__) >= {"TOTAL_WEIGHTS_SIZE"}  # the default of get_engine_stat
