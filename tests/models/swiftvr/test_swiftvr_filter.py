"""A SwiftVR bundle of toy width through the filter: streaming, order, cuts, grid lines without a seam, sizes, options."""

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
from vsflashsr.models.swiftvr.host import HostExecutor, SwiftVRModel
from vsflashsr.models.swiftvr.step import StepState
from vsflashsr.models.swiftvr.windows import rotary, windows
from vsflashsr.runtimes.onnxruntime import CpuBackend

from ...support.clips import read, rgb_clip
from ...support.flashvsr_small import frames
from ...support.pipe import y4m
from ...support.swiftvr_small import small_bundle

HEIGHT, WIDTH, LENGTH, CUT = 34, 40, 40, 14
CHUNK = 8


def render(count: int = LENGTH, cuts: tuple[int, ...] = (CUT,), **arguments: Any) -> vs.VideoNode:
    given = {"scale": 2, "model": small_bundle(), "model_options": {"clip_len": CHUNK}, **arguments}
    return flashsr(rgb_clip(frames(count, HEIGHT, WIDTH), cuts=cuts), **given)


@cache
def rendered() -> dict[int, np.ndarray]:
    return read(render())


def opened(clip_len: int, **arguments: Any) -> SwiftVRModel:
    wanted = Arguments(model=small_bundle(), scale=2, model_options={"clip_len": clip_len}, **arguments)
    model = read_kind(wanted).load(CpuBackend(1), (HEIGHT, WIDTH), tiles=None).model
    assert isinstance(model, SwiftVRModel)
    return model


def test_streaming_through_the_filter_equals_the_whole_shot_byte_for_byte() -> None:
    """A shot's run begins on a multiple of the chunk, with copies of its first frame before it."""
    video = frames(LENGTH, HEIGHT, WIDTH)
    model = opened(CHUNK)
    for start, end in ((0, CUT), (CUT, LENGTH)):
        run = start - start % CHUNK
        made: list[np.ndarray] = []
        state: StepState | None = None
        while len(made) < end - run:
            step = model.spec.schedule.step(0 if state is None else (len(made) - CHUNK - 1) // CHUNK + 1)
            numbers = [run + k for k in step.reads]
            out, state = model.step([video[min(max(n, start), end - 1)] for n in numbers], numbers, state)
            made += out
        for n in range(start, end):
            assert made[n - run].tobytes() == rendered()[n].tobytes(), n


def test_the_order_of_requests_changes_nothing() -> None:
    order = list(range(LENGTH))
    random.Random(1).shuffle(order)
    mixed = read(render(), order)
    assert all(mixed[n].tobytes() == rendered()[n].tobytes() for n in order)


@pytest.mark.parametrize("cut", [0, 7])
def test_a_grid_line_shows_no_seam_to_the_bit(cut: int) -> None:
    """Also in a shot that begins anywhere: its run and the grid's have the same chunks."""
    cuts = (cut,) if cut else ()
    options = {"model_options": {"clip_len": 4}}
    order = [63, 64, 65, 80, 87]
    seamless = read(render(88, cuts, max_segment=10_000, **options), order)
    grid = read(render(88, cuts, max_segment=64, **options), order)
    assert all(seamless[n].tobytes() == grid[n].tobytes() for n in order)
    short = read(render(88, cuts, max_segment=64, preroll=20, **options), [64])
    assert short[64].tobytes() != seamless[64].tobytes()


def test_nothing_crosses_a_cut() -> None:
    other = frames(LENGTH, HEIGHT, WIDTH)
    for n in range(CUT):
        other[n] = 1 - other[n]
    changed = read(
        flashsr(rgb_clip(other, cuts=(CUT,)), scale=2, model=small_bundle(), model_options={"clip_len": CHUNK}),
        [0, CUT, CUT + 1, LENGTH - 1],
    )
    assert changed[0].tobytes() != rendered()[0].tobytes()
    assert all(changed[n].tobytes() == rendered()[n].tobytes() for n in (CUT, CUT + 1, LENGTH - 1))


@pytest.mark.parametrize("length", [1, 4, 9, 10, 13])
def test_no_frame_is_lost(length: int) -> None:
    out = read(render(length, ()))
    assert len(out) == length
    assert all(np.isfinite(f).all() and f.shape == (3, 2 * HEIGHT, 2 * WIDTH) for f in out.values())


@pytest.mark.parametrize(("width", "height", "scale"), [(33, 65, 1), (43, 30, 3), (1, 1, 4), (90, 7, 2)])
def test_any_size_is_padded_and_cropped_back_exactly(width: int, height: int, scale: int) -> None:
    clip = rgb_clip(frames(2, height, width))
    out = read(flashsr(clip, scale=scale, model=small_bundle(), model_options={"clip_len": 4}))
    assert all(frame.shape == (3, scale * height, scale * width) for frame in out.values())


def test_tiles_a_colour_fix_and_half_precision() -> None:
    plain = rendered()[3]
    half, tiled, fixed = (
        read(render(LENGTH, **arguments), [3])[3]
        for arguments in ({"model": small_bundle("fp16")}, {"tile": 32, "overlap": 8}, {"color_fix": "wavelet"})
    )
    assert 0 < np.sqrt(np.mean((half - plain) ** 2)) < 0.02
    assert np.sqrt(np.mean((tiled - plain) ** 2)) > 0
    # The weights are random, and the picture with them; what the fix keeps is the input's own brightness.
    wanted = np.mean(frames(LENGTH, HEIGHT, WIDTH)[3])
    assert abs(np.mean(fixed) - wanted) < 0.05 < abs(np.mean(plain) - wanted)


def test_windows_one_at_a_time_are_all_together(monkeypatch: pytest.MonkeyPatch) -> None:
    executor = opened(CHUNK)._executor
    assert isinstance(executor, HostExecutor)
    random_ = np.random.default_rng(0)
    q, k, v = random_.standard_normal((3, 2 * 3 * 5, 48)).astype(np.float32)
    cos, sin = rotary(2, 3, 5, executor.head_dim)
    over = windows(2, 3, 5, executor.window, shifted=True)
    together = executor.attend(q, k, v, cos, sin, over)
    monkeypatch.setattr("vsflashsr.models.swiftvr.host._SCORES", 0)
    np.testing.assert_allclose(executor.attend(q, k, v, cos, sin, over), together, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"model_options": {"clip_len": 6}}, "clip_len is one of 4, 8, 12, 16, 20, 24, got 6"),
        ({"model_options": {"seed": 1}}, "SwiftVR has the option clip_len"),
        ({"precision": "bf16"}, "is fp32, got precision='bf16'"),
    ],
)
def test_bad_options_are_refused_when_the_script_runs(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(vs.Error, match=f"flashsr: .*{says}"):
        render(2, (), **arguments)


@pytest.mark.long
def test_a_split_encode_equals_a_linear_one(tmp_path: Path) -> None:
    """Ranges rendered by processes of their own, with a grid line and a cut among them."""
    script = tmp_path / "split ü.vpy"
    script.write_text(
        f"""
import vapoursynth as vs
from tests.support.clips import noise
from vsflashsr import flashsr
clip = noise(60, 32, 32, cuts=(13,))
flashsr(clip, scale=2, model={str(small_bundle())!r}, model_options=dict(clip_len=4), max_segment=40, preroll=8).set_output()
""",
        encoding="utf-8",
    )
    linear = y4m(script)
    parts = [y4m(script, "-s", str(start), "-e", str(end)).frames for start, end in ((0, 18), (19, 59))]
    assert [frame for part in parts for frame in part] == linear.frames


@pytest.mark.long
def test_five_hundred_steps_take_no_more_memory_than_fifty() -> None:
    psutil = pytest.importorskip("psutil")
    model = opened(4)
    picture = frames(1, 32, 32)[0]
    state: StepState | None = None
    used: list[int] = []
    for step in range(500):
        reads = model.spec.schedule.step(min(step, 1)).reads
        _, state = model.step([picture] * len(reads), range(len(reads)), state)
        used.append(psutil.Process().memory_info().rss)
    assert used[-1] - used[50] < 8 << 20


def test_a_clip_that_is_enlarged_a_little_is_made_at_twice_its_size() -> None:
    """Not restored as it is and enlarged afterwards, though 1 is nearer to 1.2 than 2."""
    assert read_kind(Arguments(model=small_bundle(), scale=1.2)).bundle.scales.keys() == {1, 2, 3, 4}
    scales = [read_kind(Arguments(model=small_bundle(), scale=scale)).graphs((32, 32))[0].shapes[0] for scale in (1, 1.2)]
    assert [shapes.outputs["upscaled"] for shapes in scales] == [(4, 3, 32, 32), (4, 3, 64, 64)]
