"""A RealViformer of toy width through the filter: streaming, order, cuts, splits, sizes."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the toy bundle is made by the exporter, which needs the extra 'export'")

import vapoursynth as vs

from vsflashsr import flashsr
from vsflashsr.arguments import Arguments
from vsflashsr.models.opening import read_kind
from vsflashsr.runtimes.onnxruntime import CpuBackend, OnnxSession

from ...support.clips import read, rgb_clip
from ...support.flashvsr_small import frames
from ...support.pipe import y4m
from ...support.realviformer_small import small_bundle

CUT, LENGTH = 5, 12


def render(count: int, **arguments: Any) -> vs.VideoNode:
    return flashsr(rgb_clip(frames(count, 36, 40), cuts=(CUT,)), **{"scale": 4, "model": small_bundle(), **arguments})


@cache
def rendered() -> dict[int, np.ndarray]:
    return read(render(LENGTH))


def test_streaming_through_the_filter_equals_the_whole_shot_byte_for_byte() -> None:
    session = OnnxSession(small_bundle() / "x4.onnx")
    for n, frame in enumerate(frames(LENGTH, 36, 40)):
        if n in (0, CUT):
            state = {"state.feat": np.zeros((1, 12, 36, 40), np.float32), "state.prev": np.zeros((1, 3, 36, 40), np.float32)}
        made = {k: v.numpy() for k, v in session.run({"frames": frame[None], **state}).items()}
        state = {"state.feat": made["next.feat"], "state.prev": made["next.prev"]}
        assert made["out"][0].tobytes() == rendered()[n].tobytes()


def test_the_order_of_requests_changes_nothing() -> None:
    order = list(range(LENGTH))
    random.Random(1).shuffle(order)
    mixed = read(render(LENGTH), order)
    assert all(mixed[n].tobytes() == rendered()[n].tobytes() for n in order)


def test_state_reaches_over_frames_but_not_over_a_cut() -> None:
    alone = read(flashsr(rgb_clip(frames(LENGTH, 36, 40)[CUT:]), scale=4, model=small_bundle()), [0, 5])
    assert all(alone[n].tobytes() == rendered()[CUT + n].tobytes() for n in alone)
    without_past = read(flashsr(rgb_clip(frames(LENGTH, 36, 40)[3:]), scale=4, model=small_bundle()), [0])
    assert np.abs(without_past[0] - rendered()[3]).max() > 1e-3


@pytest.mark.parametrize(("width", "height"), [(37, 33), (5, 3), (48, 70)])
def test_any_size_comes_out_four_times_as_large(width: int, height: int) -> None:
    out = read(flashsr(rgb_clip(frames(2, height, width)), scale=4, model=small_bundle()))
    assert all(f.shape == (3, 4 * height, 4 * width) and np.isfinite(f).all() for f in out.values())


@pytest.mark.long
def test_tiles_and_half_precision_give_nearly_the_same_picture() -> None:
    half = read(render(3, model=small_bundle("fp16")), [2])[2]
    assert np.sqrt(np.mean((half - rendered()[2]) ** 2)) < 5e-3
    tiled = read(render(3, tile=32, overlap=8), [2])[2]
    # Not equal: attention sums over what it sees.
    assert 0 < np.sqrt(np.mean((tiled - rendered()[2]) ** 2)) < 0.1


@pytest.mark.long
def test_a_split_encode_equals_a_linear_one(tmp_path: Path) -> None:
    """Ranges rendered by processes of their own, with a grid line and a cut among them."""
    script = tmp_path / "split ü.vpy"
    script.write_text(
        f"""
import vapoursynth as vs
from tests.support.clips import noise
from vsflashsr import flashsr
clip = noise(30, 36, 36, cuts=(7,))
flashsr(clip, scale=4, model={str(small_bundle())!r}, max_segment=12, preroll=4).set_output()
""",
        encoding="utf-8",
    )
    linear = y4m(script)
    parts = [y4m(script, "-s", str(start), "-e", str(end)).frames for start, end in ((0, 13), (14, 29))]
    assert [frame for part in parts for frame in part] == linear.frames


@pytest.mark.long
def test_five_hundred_steps_take_no_more_memory_than_fifty() -> None:
    psutil = pytest.importorskip("psutil")
    model = read_kind(Arguments(model=small_bundle(), scale=4)).load(CpuBackend(1), (20, 24), tiles=None).model
    picture = frames(1, 20, 24)[0]
    state, used = None, []
    for step in range(500):
        _, state = model.step([picture], [step], state)
        used.append(psutil.Process().memory_info().rss)
    assert used[-1] - used[50] < 8 << 20
