"""SwiftVR's step on the mock device: the frames of the CPU to the bit, from engines and from torch modules; memory as stated."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the toy bundle is made by the exporter, which needs the extra 'export'")
pytest.importorskip("filelock", reason="needs the extra 'rtx'")

import vapoursynth as vs

from vsflashsr import flashsr
from vsflashsr.arguments import Arguments
from vsflashsr.bundle import load_bundle
from vsflashsr.gpu import budget
from vsflashsr.model import Frame, fetched
from vsflashsr.models.opening import read_kind
from vsflashsr.models.swiftvr.device.memory import state_bytes, step_shape
from vsflashsr.models.swiftvr.network.graphs import torch_graph
from vsflashsr.models.swiftvr.options import Options
from vsflashsr.models.swiftvr.section import read_section
from vsflashsr.runtimes.onnxruntime import CpuBackend

from ...support.clips import digest, rgb_clip
from ...support.flashvsr_small import frames
from ...support.mock_cuda import mock_device
from ...support.swiftvr_small import small_bundle
from ...support.torch_device import OnMock
from ...test_filter_device import gpu

LOW = (34, 40)
"""Height and width: x2 is 68x80, padded to 96x96: nine tokens in windows of 2x2, and something to crop."""


def numbers(clip_len: int, steps: int) -> list[range]:
    """Which frames each step of a run reads."""
    first = clip_len + 4
    return [range(first), *(range(first + n * clip_len, first + (n + 1) * clip_len) for n in range(steps - 1))]


@pytest.mark.parametrize(("clip_len", "seed"), [(8, 1), pytest.param(4, 2, marks=pytest.mark.long)])
def test_engines_on_the_device_give_the_frames_of_the_cpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, clip_len: int, seed: int
) -> None:
    """To the bit, across a cut and back: steps are captured, memory is used again, weights are shared by layers."""
    clip = rgb_clip(frames(44, *LOW), cuts=(13,))
    given: dict[str, Any] = {"model": small_bundle(), "model_options": {"clip_len": clip_len}}
    cpu = flashsr(clip, 2, backend="onnxruntime", threads=1, **given)
    order = [0, 43, 12, 13, 30, 5]
    wanted = {n: digest(cpu.get_frame(n)) for n in order}
    with gpu(monkeypatch, tmp_path, seed) as card:
        out = card(clip, **given)
        taken = card.mock.used_bytes
        assert {n: digest(out.get_frame(n)) for n in order} == wanted
        # Another shot's run may be held beside: nothing else is taken once the filter is there.
        section = read_section("test", load_bundle(small_bundle()).section)
        shape = step_shape(section, Options(clip_len), dtype="fp32", low=LOW, scale=2)
        assert (card.mock.used_bytes - taken) % sum(state_bytes(shape).values()) == 0
        del out


def test_torch_modules_on_the_device_give_the_frames_of_the_cpu() -> None:
    arguments = Arguments(model=small_bundle(), scale=2, model_options={"clip_len": 4})
    kind = read_kind(arguments)
    video = frames(16, *LOW)
    host = kind.load(CpuBackend(1), LOW, tiles=None).model
    with mock_device(seed=3, total_bytes=1 << 30) as (device, mock):
        opened = kind.load(OnMock(device, mock), LOW, tiles=None)
        own, other = None, None
        made: list[Frame] = []
        wanted: list[Frame] = []
        for reads in numbers(4, 3):
            out, own = opened.model.step([video[n] for n in reads], reads, own)
            made += out
            out, other = host.step([video[n] for n in reads], reads, other)
            wanted += out
        for a, b in zip(made, wanted, strict=True):
            np.testing.assert_allclose(fetched(a), fetched(b), atol=5e-5)
        del own, opened


@pytest.mark.parametrize("precision", ["fp32", pytest.param("fp16", marks=pytest.mark.long)])
def test_modules_have_the_inputs_of_the_graphs(precision: str) -> None:
    bundle = load_bundle(small_bundle(precision))
    section = read_section("test", bundle.section)
    kind = read_kind(Arguments(model=bundle.folder, scale=2))
    graphs = CpuBackend(1).load(kind.graphs(LOW))
    parts = ["upscale", "encoder", "first", "attention", "middle", "middle", "last", "decoder"]
    for part, graph in zip(parts, graphs, strict=True):
        module = torch_graph(bundle, section, part, 0, "cpu")
        assert {n: t.dtype for n, t in module.inputs.items()} == {n: t.dtype for n, t in graph.inputs.items()}, part
        assert {n: t.dtype for n, t in module.outputs.items()} == {n: t.dtype for n, t in graph.outputs.items()}, part


def test_what_does_not_fit_is_refused_with_numbers_and_auto_tiles_fit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(budget, "RESERVE_BYTES", 0)
    clip = rgb_clip(frames(6, 96, 128))
    given: dict[str, Any] = {"model": small_bundle(), "model_options": {"clip_len": 4}}
    with gpu(monkeypatch, tmp_path, total_bytes=14 << 20) as card:
        with pytest.raises(
            vs.Error, match=r"needs \d+ MiB \(.*state.*frames.*\) of GPU memory, got .*; use tile=.*clip_len"
        ):
            card(clip, **given)
        out = card(clip, tile="auto", **given)
        with out.get_frame(5) as frame:
            assert np.isfinite(np.asarray(frame[0])).all()
        assert card.mock.peak_bytes <= 14 << 20
        del out
        gc.collect()
