"""The filter's contract inside one process: count, size, format, properties, colours, refusals."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import vapoursynth as vs

from vsflashsr import flashsr
from vsflashsr.gpu import probe

from .support.clips import FORMATS, digest, noise, planes
from .support.tiny import write_frame_graph, write_tiny_bundle

core = vs.core

ODD_SIZES = [(7, 5), (17, 9), (1, 3), (23, 31)]


@pytest.fixture(scope="session")
def tiny_rgb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "rgb", channels="rgb")


def size_for(video_format: vs.VideoFormat, width: int, height: int) -> tuple[int, int]:
    """The next odd-ish size that the format can hold."""
    return width << video_format.subsampling_w, height << video_format.subsampling_h


def check_contract(model: Path, length: int, video_format: int, width: int, height: int) -> None:
    """Same count, exact size, same format, equal properties, in order."""
    w, h = size_for(core.get_video_format(video_format), width, height)
    clip = noise(length, w, h, video_format)
    out = flashsr(clip, 2, model=model)
    # Noise names no matrix, and what was assumed is written.
    assumed = {"_Matrix": 6} if out.format.color_family == vs.YUV else {}
    assert (out.num_frames, out.width, out.height, out.format.id) == (length, 2 * w, 2 * h, video_format)
    numbers = []
    for n, f in enumerate(out.frames()):
        assert (f.width, f.height) == (2 * w, 2 * h)
        assert dict(f.props) == {**clip.get_frame(n).props, **assumed}
        numbers.append(f.props["Number"])
    assert numbers == list(range(length))


# 1 → 1 cares for no length above 2; 25 → 21 and 8 → 8 for those around a step's beginning and end.
LENGTHS = [("tiny", n) for n in (1, 2, 3, 7, 40)] + [("tiny_25_21", n) for n in range(1, 41)]


@pytest.mark.parametrize(("which", "length"), LENGTHS)
def test_every_length_comes_out_whole(length: int, which: str, request: pytest.FixtureRequest) -> None:
    """Every length, with formats and odd sizes in turn; the long test has every combination."""
    model = request.getfixturevalue(which)
    check_contract(model, length, FORMATS[length % len(FORMATS)], *ODD_SIZES[length % len(ODD_SIZES)])


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("video_format", FORMATS)
@pytest.mark.parametrize("which", ["tiny", "tiny_25_21", "tiny_rgb"])
def test_every_length_size_and_format(video_format: int, which: str, request: pytest.FixtureRequest) -> None:
    for length in range(1, 41):
        for width, height in ODD_SIZES:
            check_contract(request.getfixturevalue(which), length, video_format, width, height)


@pytest.mark.parametrize(
    ("channels", "video_format"),
    [(("tiny", "tiny_rgb")[n % 2], video_format) for n, video_format in enumerate(FORMATS)],
)
def test_formats_sizes_and_properties_stay(video_format: int, channels: str, request: pytest.FixtureRequest) -> None:
    props: dict[str, Any] = {"_SARNum": 8, "_SARDen": 9, "_FieldBased": 0, "_Primaries": 6, "_Transfer": 6, "_Range": 0}
    fmt = core.get_video_format(video_format)
    props |= {"_Matrix": 0, "_Range": 1} if fmt.color_family == vs.RGB else {"_Matrix": 6, "_ChromaLocation": 2}
    for width, height in ((7, 5), (16, 9), (1, 1)):
        w, h = size_for(fmt, width, height)
        clip = noise(3, w, h, video_format, **props)
        out = flashsr(clip, 2, model=request.getfixturevalue(channels))
        assert (out.format.id, out.width, out.height, out.num_frames) == (video_format, 2 * w, 2 * h, 3)
        for n, f in enumerate(out.frames()):
            assert dict(f.props) == dict(clip.get_frame(n).props)
            assert (f.width, f.height) == (2 * w, 2 * h)


@pytest.mark.parametrize("channels", ["tiny", "tiny_rgb"])
def test_absent_properties_stay_absent_but_the_matrix(channels: str, request: pytest.FixtureRequest) -> None:
    clip = noise(2, 16, 12)
    out = flashsr(clip, 2, model=request.getfixturevalue(channels))
    assert dict(out.get_frame(1).props) == {**clip.get_frame(1).props, "_Matrix": 6}


@pytest.mark.parametrize("channels", ["tiny", "tiny_rgb"])
@pytest.mark.parametrize("matrix", [None, 1, 5, 6, 9])
@pytest.mark.parametrize("value_range", [0, 1])
@pytest.mark.parametrize("video_format", [vs.YUV420P8, vs.YUV444P10, vs.GRAY8, vs.RGB24])
def test_flat_colours_stay(
    channels: str, matrix: int | None, value_range: int, video_format: int, request: pytest.FixtureRequest
) -> None:
    """Every plane of a flat clip keeps its value within 1/255, whatever matrix and range."""
    fmt = core.get_video_format(video_format)
    unit = 1 << (fmt.bits_per_sample - 8)
    colour = [100 * unit, 120 * unit, 140 * unit][: fmt.num_planes]
    clip = core.std.BlankClip(width=20, height=12, format=video_format, length=3, color=colour)
    clip = clip.std.SetFrameProps(_Range=value_range)
    if matrix is not None and fmt.color_family != vs.RGB:
        clip = clip.std.SetFrameProps(_Matrix=matrix)
    for scale in (2, 3.0, 4):
        f = flashsr(clip, scale, model=request.getfixturevalue(channels)).get_frame(2)
        for plane, value in zip(planes(f), colour, strict=True):
            assert np.abs(plane.astype(int) - value).max() <= unit, (plane.min(), plane.max(), value)


@pytest.mark.parametrize(("matrix", "level"), [(1, 16), (6, 60), (9, 128), (1, 235)])
def test_the_builtin_model_keeps_flat_greys(matrix: int, level: int) -> None:
    """In every frame from the first on, up to the borders, in limited-range YUV, at odd sizes too."""
    clip = core.std.BlankClip(width=38, height=26, format=vs.YUV420P8, length=4, color=[level, 128, 128])
    clip = clip.std.SetFrameProps(_Matrix=matrix, _Range=0)
    for scale in (2, 4):
        for f in flashsr(clip, scale).frames():
            for plane, value in zip(planes(f), (level, 128, 128), strict=True):
                assert np.abs(plane.astype(int) - value).max() <= 1


@pytest.mark.parametrize(("width", "height"), [(1, 1), (3, 2), (7, 19), (33, 8)])
def test_the_builtin_model_takes_any_size(width: int, height: int) -> None:
    clip = noise(3, width, height, vs.GRAY16)
    for scale in (2, 3, 4):
        f = flashsr(clip, scale).get_frame(2)
        assert (f.width, f.height) == (width * scale, height * scale)


def test_matrix_may_change_within_a_clip(tiny_rgb: Path) -> None:
    """Each frame goes to RGB and back by its own matrix: a flat colour stays in both halves."""
    flat = core.std.BlankClip(width=16, height=16, format=vs.YUV444P8, length=4, color=[90, 60, 200])
    clip = flat[:2].std.SetFrameProps(_Matrix=1) + flat[2:].std.SetFrameProps(_Matrix=9)
    for f in flashsr(clip, 2, model=tiny_rgb).frames():
        for plane, value in zip(planes(f), (90, 60, 200), strict=True):
            assert np.abs(plane.astype(int) - value).max() <= 1


@pytest.mark.parametrize("location", [0, 1, 2])
@pytest.mark.parametrize("channels", ["tiny", "tiny_rgb"])
def test_chroma_stays_where_it_is(location: int, channels: str, request: pytest.FixtureRequest) -> None:
    """A chroma ramp keeps its position for left, centre and top-left siting."""
    clip = core.std.BlankClip(width=64, height=64, format=vs.YUV420P8, length=1, color=[128, 128, 128])

    def ramp(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
        out = f.copy()
        np.asarray(out[1])[...] = (64 + np.arange(32) * 4).astype(np.uint8)[None, :]
        np.asarray(out[2])[...] = (64 + np.arange(32) * 4).astype(np.uint8)[:, None]
        return out

    clip = clip.std.ModifyFrame(clip, ramp).std.SetFrameProps(_Matrix=6, _ChromaLocation=location, _Range=0)
    got = planes(flashsr(clip, 2, model=request.getfixturevalue(channels)).get_frame(0))
    wanted = planes(core.resize.Spline36(clip, 128, 128).get_frame(0))
    for a, b in zip(got[1:], wanted[1:], strict=True):
        inner = np.s_[8:-8, 8:-8]
        assert np.abs(a[inner].astype(int) - b[inner].astype(int)).mean() < 0.7


@pytest.mark.parametrize(
    ("scale", "size"), [(1.5, (150, 90)), (2.7, (270, 162)), (3, (300, 180)), (1.01, (102, 60)), (4, (400, 240))]
)
def test_any_scale(tiny: Path, scale: float, size: tuple[int, int]) -> None:
    clip = noise(1, 100, 60)
    out = flashsr(clip, scale, model=tiny)
    assert (out.width, out.height) == size
    assert out.get_frame(0).width == size[0]


def test_strength_0_is_plain_lanczos_and_between_is_between(tiny: Path) -> None:
    clip = noise(3, 32, 24, _Matrix=6)
    plain = core.resize.Lanczos(clip, 64, 48)
    assert digest(flashsr(clip, 2, model=tiny, strength=0).get_frame(1)) == digest(plain.get_frame(1))
    full, half = (planes(flashsr(clip, 2, model=tiny, strength=s).get_frame(1))[0].astype(float) for s in (1, 0.5))
    middle = (full + planes(plain.get_frame(1))[0]) / 2
    assert np.abs(half - middle).max() <= 1
    assert dict(flashsr(clip, 2, model=tiny, strength=0).get_frame(1).props) == dict(clip.get_frame(1).props)


@pytest.mark.parametrize("source", [vs.YUV420P8, vs.RGB24, vs.GRAY8])
@pytest.mark.parametrize("target", [vs.YUV420P10, vs.YUV444P16, vs.RGB48, vs.RGBS, vs.GRAY16])
@pytest.mark.parametrize("channels", ["tiny", "tiny_rgb"])
def test_output_format(source: int, target: int, channels: str, request: pytest.FixtureRequest) -> None:
    """``format=`` gives the colours that resize gives, with properties that say so."""
    matrix = {} if source == vs.RGB24 else {"_Matrix": 6}
    clip = core.std.BlankClip(
        width=16, height=16, format=source, length=2, color=[100, 110, 150][: 1 if source == vs.GRAY8 else 3]
    )
    clip = clip.std.SetFrameProps(**matrix, Number=3)
    out = flashsr(clip, 2, model=request.getfixturevalue(channels), format=target)
    same = core.get_video_format(source).color_family == core.get_video_format(target).color_family
    to_rgb = core.get_video_format(target).color_family == vs.RGB
    made = {"matrix": 1} if source == vs.RGB24 and not to_rgb else {}
    made |= {"matrix_in": 6} if source == vs.YUV420P8 and to_rgb else {}
    wanted = core.resize.Spline36(clip, 32, 32, format=target, **made)
    assert out.format.id == target
    f, g = out.get_frame(1), wanted.get_frame(1)
    for a, b in zip(planes(f), planes(g), strict=True):
        white = 1.0 if f.format.sample_type == vs.FLOAT else (1 << f.format.bits_per_sample) - 1
        assert np.abs(a.astype(float) - b.astype(float)).max() <= white / 255
    assert f.props["Number"] == 3
    if not same:
        assert f.props["_Matrix"] == g.props["_Matrix"] and f.props["_Range"] == g.props["_Range"]


def test_nothing_is_rendered_while_the_script_runs(tmp_path: Path) -> None:
    """NaN weights are met when a frame is asked for, and not before; the error names the frame."""
    bad = write_tiny_bundle(tmp_path / "nan", gain=float("nan"))
    out = flashsr(noise(5, 16, 16), 2, model=bad)
    with pytest.raises(vs.Error, match=r"flashsr: .*not finite.*frame 3"):
        out.get_frame(3)


def test_a_source_that_raises_is_heard_and_does_not_spoil_later_frames(tiny: Path) -> None:
    clip = noise(30, 16, 16)
    wanted = [digest(f) for f in flashsr(clip, 2, model=tiny).frames()]
    broken = {12}

    def maybe(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
        if n in broken:
            raise RuntimeError("disc error")
        return f

    out = flashsr(clip.std.ModifyFrame(clip, maybe), 2, model=tiny)
    assert digest(out.get_frame(11)) == wanted[11]
    with pytest.raises(vs.Error, match="disc error"):
        out.get_frame(12)
    broken.clear()
    assert [digest(out.get_frame(n)) for n in (20, 12, 3)] == [wanted[n] for n in (20, 12, 3)]


def test_scene_changes_reset_the_state(tiny: Path) -> None:
    """Nothing of the first shot is in the second: it is what it would be alone, by detector and by marks."""
    first, second = noise(20, 32, 32, cuts=(0,)), noise(20, 32, 32, cuts=(0, 0))
    alone = [digest(f) for f in flashsr(second, 2, model=tiny, max_segment=100).frames()]
    joined = flashsr(first + second, 2, model=tiny, max_segment=100)
    assert [digest(joined.get_frame(20 + n)) for n in range(20)] == alone
    bled = flashsr(first + second, 2, model=tiny, max_segment=100, scene_change=False)
    assert digest(bled.get_frame(20)) != alone[0]
    steady = noise(40, 32, 32)
    marked = steady[:15] + steady[15:16].std.SetFrameProps(_SceneChangePrev=1) + steady[16:]
    ended = steady[:14] + steady[14:15].std.SetFrameProps(_SceneChangeNext=1) + steady[15:]
    shot = digest(flashsr(steady[15:], 2, model=tiny, max_segment=100, scene_change=False).get_frame(3))
    for clip in (marked, ended):
        got = digest(flashsr(clip, 2, model=tiny, max_segment=100).get_frame(18))
        assert got == digest(flashsr(clip[15:], 2, model=tiny, max_segment=100).get_frame(3)) == shot


def test_preroll_warms_the_state_at_a_grid_line(tiny: Path) -> None:
    clip = noise(60, 16, 16)
    whole = planes(flashsr(clip, 2, model=tiny, scene_change=False, max_segment=1000).get_frame(40))[0].astype(int)
    cold = planes(flashsr(clip, 2, model=tiny, scene_change=False, max_segment=40, preroll=0).get_frame(40))[0]
    warm = planes(flashsr(clip, 2, model=tiny, scene_change=False, max_segment=40, preroll=30).get_frame(40))[0]
    assert np.abs(warm - whole).max() <= 2 < np.abs(cold - whole).max()


def test_tiles_give_the_same_picture_for_a_local_model(tiny: Path) -> None:
    clip = noise(6, 50, 40)
    whole = flashsr(clip, 2, model=tiny).get_frame(5)
    tiled = flashsr(clip, 2, model=tiny, tile=(24, 16), overlap=4).get_frame(5)
    assert all(np.abs(a.astype(int) - b).max() <= 1 for a, b in zip(planes(whole), planes(tiled), strict=True))


REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"scale": 0.9}, "scale is at least 1 and at most 4, got 0.9"),
    ({"scale": 1}, "enlarges by 2 or 4, got scale=1; give a larger scale, or a model that restores"),
    ({"scale": 4.5}, "got 4.5"),
    ({"scale": -2}, "got -2"),
    ({"scale": float("nan")}, "scale is a number"),
    ({"scale": "2"}, "scale is a number"),
    ({"strength": 1.5}, "strength is from 0 to 1"),
    ({"backend": "cuda"}, "backend is one of"),
    ({"precision": "int8"}, "precision is one of"),
    ({"precision": "fp16"}, "is fp32, got precision='fp16'"),
    ({"color_fix": "magic"}, "color_fix is one of"),
    ({"tile": 4}, "tile is a side"),
    ({"tile": "half"}, "tile is a side"),
    ({"overlap": 8}, "without tile"),
    ({"tile": 16, "overlap": 8}, "less than half a tile"),
    ({"max_segment": 0}, "max_segment is a whole number from 1"),
    ({"preroll": -1}, "preroll is a whole number from 0"),
    ({"threads": 0}, "threads is a whole number from 1"),
    ({"scene_change": "no"}, "scene_change is True or False"),
    ({"device_id": -1}, "device_id is a whole number from 0"),
    ({"seed": 1.5}, "seed is a whole number"),
    ({"model": "no such model"}, "there is no model 'no such model'"),
    ({"model_options": {"sparse_ratio": 2}}, "has no options"),
    ({"format": 12345}, "format is a video format"),
    ({"format": vs.GRAY32}, "format has 8-16 bit"),
]


@pytest.mark.parametrize(("arguments", "says"), REFUSALS)
def test_bad_arguments_are_refused_at_once(tiny: Path, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(vs.Error, match=f"flashsr: .*{says}"):
        flashsr(noise(2, 32, 32), **{"model": tiny, "scale": 2, **arguments})


def test_unknown_arguments_are_refused(tiny: Path) -> None:
    with pytest.raises(TypeError, match="colour_fix"):
        flashsr(noise(2, 32, 32), 2, model=tiny, colour_fix="adain")  # type: ignore[call-arg]


@pytest.mark.parametrize(("lines", "guess"), [(480, 6), (576, 5), (578, 1)])
@pytest.mark.parametrize("said", [{}, {"_Matrix": 0}, {"_Matrix": 2}])
def test_an_untagged_clip_leaves_with_the_matrix_it_was_taken_for(
    tiny: Path, lines: int, guess: int, said: dict[str, int]
) -> None:
    clip = noise(1, 32, lines)
    clip = clip.std.SetFrameProps(**said) if said else clip
    for strength in (0, 1):
        out = flashsr(clip, 2, model=tiny, strength=strength)
        assert out.get_frame(0).props["_Matrix"] == guess


def test_a_tagged_clip_keeps_its_matrix_unless_one_is_given(tiny: Path) -> None:
    clip = noise(2, 32, 32, _Matrix=9) + noise(2, 32, 32)
    assert [f.props["_Matrix"] for f in flashsr(clip, 2, model=tiny).frames()] == [9, 9, 6, 6]
    for matrix in (1, "BT709"):
        assert [f.props["_Matrix"] for f in flashsr(clip, 2, model=tiny, matrix=matrix).frames()] == [1] * 4


@pytest.mark.parametrize("fields", [1, 2])
def test_field_based_clips_are_refused_at_once(tiny: Path, fields: int) -> None:
    with pytest.raises(vs.Error, match=f"field-based, got _FieldBased={fields}; deinterlace .*bwdif.*SetFieldBased"):
        flashsr(noise(2, 32, 32, _FieldBased=fields), 2, model=tiny)


def test_field_based_frames_further_on_are_refused_when_met(tiny: Path) -> None:
    clip = noise(4, 32, 32) + noise(4, 32, 32).std.SetFrameProps(_FieldBased=2)
    out = flashsr(clip, 2, model=tiny)
    out.get_frame(2)
    with pytest.raises(vs.Error, match=r"frame \d is field-based"):
        out.get_frame(6)


def test_variable_clips_are_refused(tiny: Path) -> None:
    a, b = noise(2, 32, 32), noise(2, 48, 32)
    with pytest.raises(vs.Error, match="size variable"):
        flashsr(core.std.Splice([a, b], mismatch=True), 2, model=tiny)
    with pytest.raises(vs.Error, match="format variable"):
        flashsr(core.std.Splice([a, noise(2, 32, 32, vs.YUV444P8)], mismatch=True), 2, model=tiny)
    with pytest.raises(vs.Error, match="8 to 16 bits"):
        flashsr(core.std.BlankClip(format=vs.GRAY32, width=32, height=32, length=2), 2, model=tiny)


def test_tensorrt_without_a_gpu_is_one_clear_error(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vsflashsr.gpu.probe.device_count", lambda: 0)
    for backend in ("tensorrt", "tensorrt_rtx", "torch"):
        with pytest.raises(vs.Error, match="needs an NVIDIA GPU"):
            flashsr(noise(2, 32, 32), 2, model=tiny, backend=backend)


def test_the_probe_counts_devices_without_raising() -> None:
    assert probe.device_count() >= 0


@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_damaged_onnx_files_are_refused_at_once(tmp_path: Path, damage: str) -> None:
    path = write_frame_graph(tmp_path / "up ä.onnx", 2)
    content = {"truncated": path.read_bytes()[:100], "empty": b"", "text": b"not a model"}[damage]
    path.write_bytes(content)
    with pytest.raises(vs.Error, match=r"flashsr: .*up ä"):
        flashsr(noise(2, 32, 32), 2, model=path)


def test_a_state_of_the_wrong_shape_is_refused_at_once(tiny: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "b"))
    manifest = folder / "bundle.json"
    text = manifest.read_text(encoding="utf-8")
    manifest.write_text(text.replace('"h",\n', '"h",\n     "h",\n', 1), encoding="utf-8")
    assert manifest.read_text(encoding="utf-8") != text
    with pytest.raises(vs.Error, match=r"state 'mean' is .* in bundle\.json"):
        flashsr(noise(2, 32, 32), 2, model=folder)


def test_a_state_of_the_wrong_size_is_refused_at_once(tiny: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "b"))
    manifest = folder / "bundle.json"
    manifest.write_text(manifest.read_text(encoding="utf-8").replace('"w"', '"w/2"'), encoding="utf-8")
    with pytest.raises(vs.Error, match=r"flashsr: .*takes 'state\.mean' of shape \[1, 1, 'h', 'w'\], bundle\.json implies"):
        flashsr(noise(2, 32, 32), 2, model=folder)
