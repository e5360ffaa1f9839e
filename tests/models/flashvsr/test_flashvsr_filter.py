"""A FlashVSR bundle of toy width through the filter: streaming, sizes, options, splits."""

from __future__ import annotations

import json
import random
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the toy bundle is made by the exporter, which needs the extra 'export'")

import onnx
import vapoursynth as vs

from vsflashsr import flashsr
from vsflashsr.colour_fix import adain, wavelet
from vsflashsr.files import sha256_of
from vsflashsr.resample import resize

from ...support.clips import read, rgb_clip
from ...support.flashvsr_small import frames, small_bundle
from ...support.models import host_flashvsr
from ...support.pipe import y4m

Video = list[np.ndarray]


def render(video: Video, **arguments: Any) -> vs.VideoNode:
    return flashsr(rgb_clip(video), **{"scale": 2, "model": small_bundle(), **arguments})


@cache
def rendered(count: int) -> dict[int, np.ndarray]:
    return read(render(frames(count, 34, 40)))


def whole_clip(video: Video, **options: Any) -> Video:
    """All steps of one run, without the filter."""
    model = host_flashvsr(small_bundle(), 2, **options)
    padded = [*video, *[video[-1]] * 32]
    made: Video = []
    state = None
    start, count = 0, 25
    while len(made) < len(video):
        numbers = range(start, start + count)
        out, state = model.step([padded[n] for n in numbers], numbers, state)
        made += out
        start, count = start + count, 8
    return made[: len(video)]


def test_streaming_through_the_filter_equals_the_whole_clip_byte_for_byte() -> None:
    video = frames(50, 34, 40)
    for n, expected in enumerate(whole_clip(video)):
        assert expected.tobytes() == rendered(50)[n].tobytes()


def test_the_order_of_requests_changes_nothing() -> None:
    order = list(range(50))
    random.Random(1).shuffle(order)
    mixed = read(render(frames(50, 34, 40)), order)
    assert all(mixed[n].tobytes() == rendered(50)[n].tobytes() for n in order)


@pytest.mark.parametrize("length", [1, 20, 21, 22, 25, 26, 30])
def test_no_frame_is_lost(length: int) -> None:
    """Step 0 emits 21 frames, later ones 8; shorter clips are padded by their last frame."""
    out = read(render(frames(50, 34, 40)[:length]))
    assert len(out) == length
    assert all(np.isfinite(frame).all() and frame.shape == (3, 68, 80) for frame in out.values())
    if length >= 25:
        # Nothing that frames 0..20 depend on is missing.
        assert all(out[n].tobytes() == rendered(50)[n].tobytes() for n in range(21))


@pytest.mark.parametrize(
    ("width", "height", "scale"),
    [(64, 64, 2), (33, 65, 2), (43, 30, 3), (1, 1, 4), (90, 7, 2)],
)
def test_any_size_is_padded_and_cropped_back_exactly(width: int, height: int, scale: int) -> None:
    video = frames(3, height, width)
    for padding in ("reflect", "replicate"):
        out = read(render(video, scale=scale, model_options={"padding": padding}))
        assert all(frame.shape == (3, scale * height, scale * width) for frame in out.values())


def test_the_colour_fix_gives_the_picture_its_own_mean_not_that_of_the_padding() -> None:
    video = frames(3, 34, 40)
    fixed = read(render(video))
    for n, frame in fixed.items():
        wanted = resize(video[n], 68, 80)
        np.testing.assert_allclose(frame.mean(axis=(1, 2)), wanted.mean(axis=(1, 2)), atol=0.02)
        # Less exact, because what leaves 0..1 is clamped.
        np.testing.assert_allclose(frame.std(axis=(1, 2)), wanted.std(axis=(1, 2)), atol=0.04)


@pytest.mark.parametrize("fix", ["adain", "wavelet"])
def test_tiles_are_corrected_as_one_picture(fix: str) -> None:
    """Not tile by tile, which would give each tile a tint of its own."""
    video = frames(2, 34, 72)
    for frame in video:
        frame[:, :, 36:] *= 0.5
    plain, fixed = (read(render(video, tile=40, overlap=8, color_fix=f), [1])[1] for f in ("none", fix))
    correct = {"adain": adain, "wavelet": wavelet}[fix]
    wanted = (correct(plain * 2 - 1, resize(video[1], 68, 144) * 2 - 1) + 1) / 2
    np.testing.assert_allclose(fixed, wanted, atol=1e-5)


@cache
def second_step(**options: Any) -> np.ndarray:
    """A frame of two windows that the second step makes."""
    return read(render(frames(30, 34, 72), model_options=options), [29])[29]


OPTIONS = [
    {"color_fix": "none"},
    {"color_fix": "wavelet"},
    {"seed": 1},
    {"sparse_ratio": 0.05},
    {"local_range": 1},
    {"kv_ratio": 2},
    {"padding": "replicate"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_option_does_something(options: dict[str, Any]) -> None:
    # The second step is the first that looks back.
    assert not np.array_equal(second_step(), second_step(**options))


def test_the_filters_own_arguments_reach_the_model() -> None:
    video = frames(3, 34, 40)
    for argument in ({"seed": 7}, {"color_fix": "wavelet"}):
        by_argument, by_option = read(render(video, **argument)), read(render(video, model_options=argument))
        assert all(by_argument[n].tobytes() == by_option[n].tobytes() for n in by_option)


def test_both_forms_of_weights_give_the_same_picture() -> None:
    constant = read(render(frames(50, 34, 40), model_options={"piece_weights": "constant"}), [0, 25])
    assert all(np.abs(constant[n] - rendered(50)[n]).max() < 1e-4 for n in (0, 25))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sparse": 1}, "no option 'sparse'"),
        ({"sparse_ratio": 0}, "sparse_ratio is a number above 0"),
        ({"sparse_ratio": float("nan")}, "sparse_ratio is a number above 0"),
        ({"local_range": 2.5}, "local_range is a whole number"),
        ({"kv_ratio": 0.5}, "kv_ratio is a number from 1"),
        ({"color_fix": "histogram"}, "color_fix is one of none, adain, wavelet"),
        ({"padding": "zero"}, "padding is one of reflect, replicate"),
        ({"seed": "a"}, "seed is a whole number"),
    ],
)
def test_bad_options_are_refused_when_the_script_runs(options: dict[str, Any], says: str) -> None:
    with pytest.raises(vs.Error, match=f"flashsr: .*{says}"):
        render(frames(1, 16, 16), model_options=options)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("middle.onnx", "should make x_out, q, k, v, got x_out, k, q, v; export"),
        ("decoder.onnx", "should make frames, next0, .* got frames, next1, next0, "),
    ],
)
def test_a_graph_that_makes_something_else_is_refused_when_the_script_runs(name: str, says: str, tmp_path: Path) -> None:
    """Of what is read by place, the shapes may be the same."""
    folder = Path(shutil.copytree(small_bundle(), tmp_path / "bündel"))
    model = onnx.load(folder / name)
    model.graph.output.insert(1, model.graph.output.pop(2))
    onnx.save(model, folder / name)
    manifest = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    manifest["files"][name] = sha256_of(folder / name)
    (folder / "bundle.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(vs.Error, match=f"flashsr: .*{name}' {says}"):
        render(frames(1, 16, 16), model=folder)


def test_a_split_encode_equals_a_linear_one(tmp_path: Path) -> None:
    """Ranges rendered by processes of their own, with a grid line and a cut among them."""
    script = tmp_path / "split.vpy"
    script.write_text(
        f"""
import vapoursynth as vs
from tests.support.clips import noise
from vsflashsr import flashsr
clip = noise(60, 32, 32, cuts=(13,))
flashsr(clip, scale=2, model={str(small_bundle())!r}, max_segment=40, preroll=8).set_output()
""",
        encoding="utf-8",
    )
    linear = y4m(script)
    parts = [y4m(script, "-s", str(start), "-e", str(end)).frames for start, end in ((0, 18), (19, 59))]
    assert [frame for part in parts for frame in part] == linear.frames


@pytest.mark.long
def test_the_full_variant_renders_too() -> None:
    out = read(render(frames(22, 34, 40), model=small_bundle("full")), [0, 20, 21])
    assert all(np.isfinite(frame).all() and frame.shape == (3, 68, 80) for frame in out.values())
