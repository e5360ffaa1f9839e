"""`flashsr` on a GPU that is a mock: the whole way from arguments to frames, through engines, streams and memory."""

from __future__ import annotations

import gc
import hashlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import vapoursynth as vs

pytest.importorskip("filelock", reason="needs the extra 'rtx'")

from vsflashsr import flashsr, node
from vsflashsr import frames as frames_module
from vsflashsr.gpu import budget, driver, probe
from vsflashsr.gpu import device as device_module
from vsflashsr.models.flashvsr import kind
from vsflashsr.models.recurrent import device as recurrent_device

from .support.clips import digest, noise, planes
from .support.fake_tensorrt import FakeTensorRT
from .support.host_kernels import HostKernels
from .support.mock_cuda import MockDriver
from .support.tiny import write_frame_graph

core = vs.core


class Gpu:
    """The mock, and where its engines are kept."""

    def __init__(self, mock: MockDriver, engines: Path) -> None:
        self.mock, self.engines = mock, engines

    def __call__(self, clip: vs.VideoNode, scale: float = 2, **arguments: Any) -> vs.VideoNode:
        return flashsr(clip, scale, engine_dir=self.engines, **{"backend": "tensorrt", **arguments})


@contextmanager
def gpu(
    monkeypatch: pytest.MonkeyPatch, folder: Path, seed: int = 0, total_bytes: int = 1 << 30
) -> Iterator[Gpu]:
    """A GPU with TensorRT. At the end everything that was taken of it must have been given back."""
    mock = MockDriver(seed=seed, total_bytes=total_bytes)
    with driver.use(mock), monkeypatch.context() as patch:
        patch.setitem(sys.modules, "tensorrt", FakeTensorRT(mock))
        patch.setattr(probe, "device_count", lambda: 1)
        patch.setattr(kind, "KernelLibrary", lambda device, kernels: HostKernels(mock))
        yield Gpu(mock, folder / "engines ü")
        gc.collect()
        mock.assert_clean()


def frames(clip: vs.VideoNode, order: list[int]) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    for n in order:
        with clip.get_frame(n) as f:
            found[n] = digest(f)
    return found


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.long) for seed in (2, 3, 4))])
def test_any_order_gives_the_frames_of_the_cpu(
    tiny: Path, tiny_25_21: Path, tiny_chroma: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, seed: int
) -> None:
    for model, length, cut in ((tiny, 70, 31), (tiny_25_21, 70, 31), (tiny_chroma, 40, 11), ("builtin", 24, 9)):
        clip, segment = noise(length, 32, 24, vs.YUV420P8, cuts=(cut,)), length // 2 + 5
        order = list(range(length))
        shuffled = [int(n) for n in np.random.default_rng(seed).permutation(length)]
        wanted = frames(flashsr(clip, 2, model=model, backend="onnxruntime", max_segment=segment, threads=1), order)
        with gpu(monkeypatch, tmp_path, seed) as card:
            for run in (order, order[::-1], shuffled):
                out = card(clip, model=model, max_segment=segment)
                assert frames(out, run) == wanted
                del out
                gc.collect()


def test_two_filters_and_two_readers_share_a_gpu(tiny: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clip = noise(60, 32, 24, vs.RGBS)
    wanted = frames(flashsr(clip, 2, model=tiny, backend="onnxruntime"), list(range(60)))
    with gpu(monkeypatch, tmp_path) as card:
        one, two = card(clip, model=tiny), card(clip, model=tiny)
        for n in range(30):
            assert digest(one.get_frame(n)) == wanted[n]
            assert digest(two.get_frame(n + 30)) == wanted[n + 30]
            assert digest(one.get_frame(n + 30)) == wanted[n + 30]
        del one, two


@pytest.mark.parametrize("half", [False, True])
def test_single_frame_graphs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, half: bool) -> None:
    path = write_frame_graph(tmp_path / "x2.onnx", 2, half=half)
    clip = noise(6, 45, 37, vs.RGBS)
    wanted = flashsr(clip, 2, model=path, backend="onnxruntime")
    with gpu(monkeypatch, tmp_path) as card:
        for out in (card(clip, model=path), card(clip, model=path, tile=24, overlap=4)):
            for n in range(6):
                pairs = zip(planes(out.get_frame(n)), planes(wanted.get_frame(n)), strict=True)
                assert np.max([np.abs(a - b).max() for a, b in pairs]) < (2e-3 if half else 2e-6)
        del out


@pytest.mark.parametrize("channels", [1, 3])
def test_halves_stay_halves_up_to_the_resizer_and_change_no_byte(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, channels: int
) -> None:
    """Whatever comes after the model, at its size or another."""
    path = write_frame_graph(tmp_path / "x2.onnx", 2, half=True, channels=channels)
    delivered: list[np.dtype[Any]] = []

    def to_frame(core: vs.Core, array: Any, video_format: vs.VideoFormat) -> vs.VideoFrame:
        delivered.append(array.dtype)
        assert video_format.bits_per_sample == 8 * array.itemsize
        return frames_module.to_frame(core, array, video_format)

    monkeypatch.setattr(node, "to_frame", to_frame)
    with gpu(monkeypatch, tmp_path) as card:
        for video_format in (vs.YUV420P8, vs.RGBS):
            clip = noise(3, 46, 38, video_format)
            for arguments in ({}, {"scale": 1.6}, {"strength": 0.5}, {"color_fix": "adain"}, {"tile": 24}):
                found = []
                for single in (False, True):
                    with monkeypatch.context() as patch:
                        if single:
                            patch.setattr(
                                recurrent_device, "replace", lambda spec, **new: replace(spec, **{**new, "half": False})
                            )
                        found.append(frames(card(clip, model=path, **arguments), [2, 0, 1]))
                assert found[0] == found[1], (clip.format, arguments)
    assert set(delivered) == {np.dtype(np.float16), np.dtype(np.float32)}


def test_halves_of_another_range_than_0_to_1_are_brought_to_it(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    graph = write_frame_graph(folder / "x2.onnx", 2, half=True)
    manifest = json.loads((tiny / "bundle.json").read_text("utf-8"))
    manifest |= {
        "kind": "frame",
        "channels": "rgb",
        "precision": "fp16",
        "value_range": [-1, 1],
        "scales": {"2": {"step": graph.name}},
        "files": {graph.name: hashlib.sha256(graph.read_bytes()).hexdigest()},
    }
    (folder / "bundle.json").write_text(json.dumps(manifest), "utf-8")
    clip = noise(2, 46, 38, vs.RGBS)
    wanted = flashsr(clip, 2, model=folder, backend="onnxruntime")
    with gpu(monkeypatch, tmp_path) as card:
        pairs = zip(planes(card(clip, model=folder).get_frame(1)), planes(wanted.get_frame(1)), strict=True)
        assert np.max([np.abs(a - b).max() for a, b in pairs]) < 2e-3


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_halves_that_are_not_finite_are_seen(bad: float) -> None:
    fine = np.linspace(-65504, 65504, 60, dtype=np.float16).reshape(3, 4, 5)
    assert frames_module.is_finite(fine)
    fine[2, 1, 3] = bad
    assert not frames_module.is_finite(fine)


def test_engines_are_kept(tiny: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clip = noise(4, 32, 24, vs.RGBS)
    with gpu(monkeypatch, tmp_path) as card:
        card(clip, model=tiny)
        kept = {path: path.stat().st_ino for path in card.engines.iterdir() if path.is_file()}
        assert kept
        card(clip, model=tiny)
        assert {path: path.stat().st_ino for path in card.engines.iterdir() if path.is_file()} == kept


def test_what_does_not_fit_is_refused_with_numbers_and_auto_tiles_fit(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(budget, "RESERVE_BYTES", 0)
    clip = noise(3, 320, 200, vs.RGBS)
    with gpu(monkeypatch, tmp_path, total_bytes=5 << 20) as card:
        with pytest.raises(vs.Error, match=r"needs 6 MiB \(frames 5 MiB\) of GPU memory, got 5 MiB free; use tile="):
            card(clip, model=tiny)
        out = card(clip, model=tiny, tile="auto")
        wanted = flashsr(clip, 2, model=tiny, backend="onnxruntime")
        for n in range(3):
            pairs = zip(planes(out.get_frame(n)), planes(wanted.get_frame(n)), strict=True)
            # Tiles overlap by 16 pixels and the model sees one to each side: there is no seam.
            assert np.max([np.abs(a - b).max() for a, b in pairs]) < 1e-5
        assert card.mock.peak_bytes <= 5 << 20
        del out


def test_a_failing_gpu_names_the_frame_and_leaves_nothing(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clip = noise(20, 32, 24, vs.RGBS)
    with gpu(monkeypatch, tmp_path) as card:
        out = card(clip, model=tiny)
        out.get_frame(3)
        card.mock.fail("cuMemcpyHtoDAsync", after=0, error="CUDA_ERROR_LAUNCH_FAILED")
        with pytest.raises(vs.Error, match=r"CUDA_ERROR_LAUNCH_FAILED.*while making frame 15"):
            out.get_frame(15)
        card.mock.heal()
        wanted = flashsr(clip, 2, model=tiny, backend="onnxruntime")
        assert digest(out.get_frame(15)) == digest(wanted.get_frame(15))
        del out


def test_auto_takes_the_gpu_and_says_so(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    clip = noise(3, 32, 24, vs.RGBS)
    with gpu(monkeypatch, tmp_path) as card:
        out = card(clip, model=tiny, backend="auto")
        out.get_frame(0)
        assert card.mock.used_bytes > 0
        del out
    with gpu(monkeypatch, tmp_path) as card:
        monkeypatch.setitem(sys.modules, "tensorrt", None)
        monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
        out = card(clip, model=tiny, backend="auto")
        out.get_frame(0)
        assert card.mock.used_bytes == 0
        with pytest.raises(vs.Error, match="tensorrt can't be loaded"):
            card(clip, model=tiny)
    assert capfd.readouterr().out == ""


def test_a_gpu_number_that_is_not_there_is_refused(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with (
        gpu(monkeypatch, tmp_path) as card,
        pytest.raises(vs.Error, match="there is no GPU 3, got 1 from the driver"),
    ):
        card(noise(3, 32, 24, vs.RGBS), model=tiny, device_id=3)


@pytest.mark.long
def test_flashvsr_in_tiles_on_the_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the exporter needs the extra 'export'")
    from .models.flashvsr.test_flashvsr_device import bundle

    model = bundle("tiny", "v1.1").folder
    clip = noise(24, 60, 24, vs.RGB24)
    wanted = flashsr(clip, 4, model=model, backend="onnxruntime", threads=1)
    with gpu(monkeypatch, tmp_path) as card:
        choices: tuple[dict[str, Any], ...] = ({}, {"tile": (32, 24), "overlap": 4})
        for arguments in choices:
            cpu = flashsr(clip, 4, model=model, backend="onnxruntime", threads=1, **arguments) if arguments else wanted
            out = card(clip, 4, model=model, **arguments)
            for n in (0, 22, 23, 5):
                pairs = zip(planes(out.get_frame(n)), planes(cpu.get_frame(n)), strict=True)
                assert max(int(np.abs(a.astype(int) - b).max()) for a, b in pairs) <= 1
            del out, cpu
            gc.collect()


def test_the_device_is_closed_once_its_filter_goes(tiny: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    closed: list[int] = []
    close = device_module.Device.close

    def counted(self: device_module.Device) -> None:
        closed.append(1)
        close(self)

    monkeypatch.setattr(device_module.Device, "close", counted)
    with gpu(monkeypatch, tmp_path) as card:
        out = card(noise(9, 32, 24, vs.RGBS), model=tiny)
        half = card(noise(9, 32, 24, vs.RGBS), model=tiny, strength=0)
        half.get_frame(0)
        assert len(closed) == 1  # plain Lanczos needs no GPU
        out.get_frame(0)
        del out
        gc.collect()
        assert len(closed) == 2
