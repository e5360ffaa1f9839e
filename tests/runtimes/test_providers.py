"""Backends of other vendors: which device is taken, what is said where there is none, and the filter's contract on each.

The contract runs where a provider finds a device: OpenVINO's CPU part anywhere it is installed, WebGPU on a GPU or on software
Vulkan (scripts/setup_lavapipe.sh).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from vsflashsr.arguments import Arguments
from vsflashsr.errors import FlashsrError
from vsflashsr.models.opening import open_model, read_kind
from vsflashsr.runtimes import providers
from vsflashsr.runtimes.backend import open_backend
from vsflashsr.runtimes.graph import GraphCall, Shapes
from vsflashsr.runtimes.torch import open_torch

from ..support.lavapipe import lavapipe_environment
from ..support.pipe import ROOT
from ..support.tiny import write_frame_graph

WEBGPU = next(provider for provider in providers.PROVIDERS if provider.backend == "webgpu")


def device(kind: Any, name: str, ep: str = WEBGPU.name) -> Any:
    hardware = SimpleNamespace(type=kind, vendor="Maker", metadata={"Description": name})
    return SimpleNamespace(ep_name=ep, device=hardware)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which the provider's library finds a CPU and two GPUs; nothing can be run on them."""
    kinds = ort.OrtHardwareDeviceType
    found = [device(kinds.CPU, "Software"), device(kinds.GPU, "Radeon RX"), device(kinds.GPU, "Arc B580")]
    monkeypatch.setattr(providers, "_library", lambda *_: None)
    monkeypatch.setattr(ort, "get_ep_devices", lambda: [*found, device(kinds.CPU, "x", "Other")])
    monkeypatch.setattr(providers, "find_spec", lambda _: object())


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(("wanted", "where"), [(0, "Radeon RX"), (1, "Arc B580"), ("arc", "Arc B580"), (2, "Software")])
def test_devices_are_taken_by_number_gpus_first_or_by_name(wanted: int | str, where: str) -> None:
    opened = open_backend(Arguments(backend="webgpu", device_id=wanted), lambda _: None)
    assert opened.where == f"{where} (WebGpuExecutionProvider)"


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("wanted", [3, "geforce"])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(wanted: int | str) -> None:
    with pytest.raises(FlashsrError, match=r"no such device for 'webgpu'.*0: Radeon RX, 1: Arc B580, 2: Software"):
        open_backend(Arguments(backend="webgpu", device_id=wanted), lambda _: None)


@pytest.mark.usefixtures("two_gpus")
def test_auto_takes_a_real_gpu_before_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vsflashsr.gpu.probe.device_count", lambda: 0)
    said: list[str] = []
    assert open_backend(Arguments(), said.append).name == "webgpu"
    assert "runs on Radeon RX (WebGpuExecutionProvider) in webgpu" in said[0]


def test_auto_leaves_software_devices_alone(monkeypatch: pytest.MonkeyPatch, two_gpus: None) -> None:
    software = [device(ort.OrtHardwareDeviceType.CPU, "Software")]
    monkeypatch.setattr(ort, "get_ep_devices", lambda: software)
    said: list[str] = []
    assert open_backend(Arguments(), said.append).name == "onnxruntime"
    assert "webgpu finds no GPU" in said[0]


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_webgpu", None)
    monkeypatch.setattr(providers, "_registered", {})
    with pytest.raises(FlashsrError, match=r"'webgpu' can't be used, got no package .*; pip install 'vsflashsr\[webgpu\]'"):
        open_backend(Arguments(backend="webgpu"), lambda _: None)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(FlashsrError, match=r"'openvino' needs OpenVINO.*; pip install 'vsflashsr\[openvino\]'"):
        open_backend(Arguments(backend="openvino"), lambda _: None)


def test_a_library_that_does_not_load_is_one_sentence_every_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"no library")
    module = SimpleNamespace(get_library_path=lambda: str(broken))
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_webgpu", module)
    monkeypatch.setattr(providers, "_registered", {})
    for _ in range(2):
        with pytest.raises(FlashsrError, match=r"'webgpu' can't be used, got .*") as refused:
            open_backend(Arguments(backend="webgpu"), lambda _: None)
        assert "\n" not in str(refused.value)


def test_no_device_is_said(monkeypatch: pytest.MonkeyPatch, two_gpus: None) -> None:
    monkeypatch.setattr(ort, "get_ep_devices", list)
    with pytest.raises(FlashsrError, match=r"finds no device.*; install the GPU's driver, or use backend='auto'"):
        open_backend(Arguments(backend="webgpu"), lambda _: None)


def test_models_with_kernels_of_ours_are_not_for_plain_backends(monkeypatch: pytest.MonkeyPatch, two_gpus: None) -> None:
    with pytest.raises(FlashsrError, match=r"'webgpu' doesn't run models of this kind.*; use one of .*'tensorrt'"):
        open_backend(Arguments(backend="webgpu"), lambda _: None, plain=False)
    monkeypatch.setattr("vsflashsr.gpu.probe.device_count", lambda: 0)
    assert open_backend(Arguments(), lambda _: None, plain=False).name == "onnxruntime"


def test_only_one_backend_knows_names_of_devices() -> None:
    with pytest.raises(FlashsrError, match=r"'torch' takes a device's number, got device_id='arc'; give e.g. 0"):
        open_torch(Arguments(backend="torch", device_id="arc"))


class _CpuProvider(providers.ProviderBackend):
    """The provider's session with ONNX Runtime's own CPU in its place: bindings, results and failures are real."""

    def _loaded(self, call: GraphCall) -> providers.ProviderSession:
        return providers.ProviderSession(call.path, CPU, None, "a device", 1)


CPU = providers.Provider("webgpu", "CPUExecutionProvider", None, "cpu")


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> _CpuProvider:
    monkeypatch.setitem(providers._traffic, CPU.name, providers._Traffic())
    return _CpuProvider(CPU, None, 1)


def frame_call(path: Path) -> GraphCall:
    return GraphCall(path, "f", (Shapes({"input": (1, 1, 8, 8)}, {}),))


def test_a_device_lost_between_frames_ends_in_one_sentence(on_cpu: _CpuProvider, tmp_path: Path) -> None:
    (graph,) = on_cpu.load([frame_call(write_frame_graph(tmp_path / "f.onnx", 2, channels=1))])
    array = np.full((1, 1, 8, 8), 0.5, np.float32)
    assert graph.run({"input": array})["output"].numpy().shape == (1, 1, 16, 16)

    class Lost:
        def __getattr__(self, _: str) -> Callable[..., Any]:
            def fail(*_: Any, **__: Any) -> Any:
                raise RuntimeError("Device is lost.\nstack")

            return fail

    graph._session = Lost()
    with pytest.raises(FlashsrError, match=r"failed on a device \(Device is lost\.\); try smaller tiles .*backend='onnxruntime'"):
        graph.run({"input": array})


def test_results_are_fetched_by_whoever_takes_them_and_memory_goes_back_between_calls(
    on_cpu: _CpuProvider, tmp_path: Path
) -> None:
    arguments = Arguments(model=write_frame_graph(tmp_path / "f.onnx", 2, channels=1), scale=2)
    model = open_model(read_kind(arguments), arguments, (8, 8), on_cpu).model
    assert model.spec.in_flight == 1
    frames = [np.full((1, 8, 8), value, np.float32) for value in (0.25, 0.75)]
    pending = [model.step([frame], [n], None)[0][0] for n, frame in enumerate(frames)]
    assert [frame.nbytes for frame in pending] == [16 * 16 * 4] * 2
    assert not any(isinstance(frame, np.ndarray) for frame in pending)
    later: Any = pending
    for frame, value in zip(later, (0.25, 0.75), strict=True):
        assert np.allclose(frame.array(), value) and frame.array() is frame.array()
    released = providers._traffic[CPU.name].released
    assert len(released) == 2
    kept = model.step([frames[0]], [2], None)
    assert len(released) == 0 and kept


def found(name: str, model: str | Path, scale: int, environment: dict[str, str] | None = None) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.support.provider_contract", name, str(model), str(scale)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not [line for line in done.stderr.splitlines() if "maxDynamic" in line or "onnxruntime:" in line]
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def assert_contract(result: dict[str, Any]) -> None:
    assert result["largest"] <= 1 and result["tiled"] <= 1
    assert all(result[key] for key in ("shuffled", "reversed", "split", "again", "lengths"))
    assert "finite" in result["nan"]


MODELS = [
    "tiny",
    pytest.param("frame", marks=pytest.mark.long),
    pytest.param("builtin", marks=pytest.mark.long),
    pytest.param("builtin-hq", marks=pytest.mark.long),
]


def path_of(model: str, tiny: Path, folder: Path) -> str | Path:
    match model:
        case "tiny":
            return tiny
        case "frame":
            return write_frame_graph(folder / "frame ü.onnx", 2, multiple=2)
    return model


@pytest.mark.skipif(find_spec("openvino") is None, reason="needs the extra openvino")
@pytest.mark.parametrize("model", MODELS)
def test_openvino_keeps_the_contract(model: str, tiny: Path, tmp_path: Path) -> None:
    assert_contract(found("openvino", path_of(model, tiny, tmp_path), 2))


@pytest.mark.skipif(find_spec("onnxruntime_ep_webgpu") is None, reason="needs the extra webgpu")
@pytest.mark.parametrize("model", MODELS)
def test_webgpu_keeps_the_contract_on_software_vulkan(model: str, tiny: Path, tmp_path: Path) -> None:
    assert_contract(found("webgpu", path_of(model, tiny, tmp_path), 2, lavapipe_environment()))


@pytest.mark.long
@pytest.mark.skipif(find_spec("onnxruntime_ep_webgpu") is None, reason="needs the extra webgpu")
@pytest.mark.parametrize("name", ["builtin", "builtin-hq"])
@pytest.mark.parametrize("scale", [2, 4])
def test_webgpu_leaves_nothing_but_shape_arithmetic_to_the_cpu(name: str, scale: int) -> None:
    code = (
        "from vsflashsr.runtimes import providers as p\n"
        "from vsflashsr.models.locate import locate\n"
        "d = p.devices(p.PROVIDERS[0])[0]\n"
        f"s = p.ProviderSession(locate({name!r}) / 'x{scale}.onnx', p.PROVIDERS[0], d, 'x', 1)\n"
        "print(*sorted(s.left_to_cpu))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=lavapipe_environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) <= {"Shape", "Gather", "Cast", "Concat", "Unsqueeze", "Mul", "Add", "Range", "Reciprocal"}
