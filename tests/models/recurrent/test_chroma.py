"""Chroma that a bundle's graph predicts: what it is handed, where what it makes goes, and when it isn't asked."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import vapoursynth as vs

from vsflashsr import chroma, flashsr
from vsflashsr.arguments import Arguments
from vsflashsr.bundle import write_manifest
from vsflashsr.models.opening import graphs_ahead

from ...support.clips import FORMATS, digest, noise, planes
from ...support.tiny import write_chroma_graph, write_frame_graph, write_tiny_bundle

core = vs.core
YUV = [f for f in FORMATS if core.get_video_format(f).color_family == vs.YUV]
OTHERS = [f for f in FORMATS if f not in YUV]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("chroma") / "b", chroma=True, gain=0.0)


def resized(clip: vs.VideoNode, model: Path, scale: float = 2, **more: Any) -> vs.VideoNode:
    return flashsr(clip, scale, model=model, model_options={"chroma": False}, **more)


def ramp(axis: int, video_format: int, location: int, size: int = 48) -> vs.VideoNode:
    """Luma says where it is, 0..1 from edge to edge along an axis."""
    blank = core.std.BlankClip(width=size, height=size, format=video_format, length=1, keep=True)
    blank = blank.std.SetFrameProps(_Matrix=1, _ChromaLocation=location)

    def fill(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
        out = f.copy()
        place = (np.arange(size, dtype=np.float32) + 0.5) / size
        np.copyto(np.asarray(out[0]), place[None, :] if axis else place[:, None])
        return out

    return blank.std.ModifyFrame(blank, fill)


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize(
    ("location", "across", "down"), [(0, 0.5, 1), (1, 1, 1), (2, 0.5, 0.5), (3, 1, 0.5), (4, 0.5, 1.5), (5, 1, 1.5)]
)
def test_luma_is_taken_from_where_chroma_lies(
    location: int, across: float, down: float, scale: int, bundle: Path
) -> None:
    """`across` and `down`: of the first sample of chroma, in pixels of the result from its edges."""
    for axis, offset in ((1, across), (0, down)):
        out = planes(flashsr(ramp(axis, vs.YUV420PS, location), scale, model=bundle).get_frame(0))[1]
        size = 48 * scale
        wanted = (2 * np.arange(size // 2) + offset) / size
        inner = slice(size // 8, -size // 8)
        got = out[inner, inner].mean(1 - axis)
        # The tiny model repeats pixels, so that only the mean is that of a ramp.
        assert abs((got - wanted[inner]).mean()) < 0.02 / 48, (location, axis)


@pytest.mark.parametrize("video_format", YUV)
def test_everything_else_is_as_if_it_were_resized(video_format: int, bundle: Path) -> None:
    """Luma, V (which the graph hands on), format, size and properties; U is what the graph makes."""
    clip = noise(3, 16, 24, video_format, _Matrix=1, _SARNum=4)
    made, plain = flashsr(clip, 2, model=bundle), resized(clip, bundle)
    for a, b in zip(made.frames(), plain.frames(), strict=True):
        (y, u, v), (y0, u0, v0) = planes(a), planes(b)
        # Of 16 bits, zimg's sums in integers and in floats differ by 2.
        one = {vs.INTEGER: 1 if a.format.bits_per_sample < 16 else 4, vs.FLOAT: 2e-3}[a.format.sample_type]
        assert np.array_equal(y, y0)
        assert np.abs(v.astype(float) - v0).max() <= one
        assert np.abs(u.astype(float) - u0).mean() > 8 * one
        assert dict(a.props) == dict(b.props)
        assert (a.format.id, a.width, a.height) == (video_format, 32, 48)


@pytest.mark.parametrize("video_format", OTHERS)
def test_gray_and_rgb_clips_have_none_to_predict(video_format: int, bundle: Path) -> None:
    clip = noise(2, 16, 24, video_format)
    made, plain = flashsr(clip, 2, model=bundle), resized(clip, bundle)
    assert all(digest(a) == digest(b) for a, b in zip(made.frames(), plain.frames(), strict=True))


@pytest.mark.parametrize("target", [vs.YUV444P10, vs.YUV420P16, vs.RGB24, vs.GRAY16])
@pytest.mark.parametrize("scale", [2, 3, 1.5])
def test_any_size_and_format_can_be_asked_for(target: int, scale: float, bundle: Path) -> None:
    clip = noise(2, 16, 24, vs.YUV420P8, _Matrix=1)
    made = flashsr(clip, scale, model=bundle, format=target)
    plain = resized(clip, bundle, scale, format=target)
    assert (made.format.id, made.width, made.height) == (plain.format.id, plain.width, plain.height)
    for a, b in zip(made.frames(), plain.frames(), strict=True):
        first, wanted = planes(a), planes(b)
        if a.format.color_family == vs.RGB:
            assert not np.array_equal(first[2], wanted[2])  # blue is of U
            assert np.abs(first[0].astype(float) - wanted[0]).mean() <= 0.3  # red isn't
        else:
            assert np.abs(first[0].astype(float) - wanted[0]).max() <= 1


def test_frames_are_the_same_in_any_order_and_in_tiles_that_overlap(bundle: Path) -> None:
    clip = noise(12, 40, 32, vs.YUV420P8, _Matrix=1, cuts=(5,))
    linear = [digest(f) for f in flashsr(clip, 2, model=bundle).frames()]
    again = flashsr(clip, 2, model=bundle)
    for n in (11, 3, 7, 0, 4, 5, 10, 1):
        assert digest(again.get_frame(n)) == linear[n]
    tiled = flashsr(clip, 2, model=bundle, tile=24, overlap=8)
    assert np.array_equal(planes(tiled.get_frame(3))[2], planes(again.get_frame(3))[2])


@pytest.mark.parametrize(
    ("video_format", "size"), [(vs.YUV420P8, (24, 32)), (vs.YUV422P8, (48, 32)), (vs.YUV440P8, (24, 64)), (vs.YUV444P8, (48, 64))]
)
def test_the_network_works_on_the_grid_of_chroma(video_format: int, size: tuple[int, int]) -> None:
    clip = noise(1, 32, 24, video_format, _Matrix=1)
    reads = chroma.to_network(core.std.BlankClip(width=64, height=48, format=vs.GRAYS, length=1), clip)
    assert chroma.size_of(clip, 2) == (reads.height, reads.width) == size


def test_strength_goes_from_lanczos_to_what_was_predicted(bundle: Path) -> None:
    clip = noise(1, 16, 24, vs.YUV420P16, _Matrix=1)
    ends = [planes(flashsr(clip, 2, model=bundle, strength=s).get_frame(0))[1].astype(float) for s in (0, 0.5, 1)]
    assert np.abs(ends[1] - (ends[0] + ends[2]) / 2).max() <= 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"chroma": 1}, "model_options: chroma is True or False, got 1"),
        ({"chroma": "no"}, "model_options: chroma is True or False, got 'no'"),
        ({"chrome": True}, "has the option chroma, but no option 'chrome'"),
    ],
)
def test_options_that_are_none_are_refused(options: dict[str, Any], said: str, bundle: Path) -> None:
    with pytest.raises(vs.Error, match=said.replace("(", r"\\(")):
        flashsr(noise(1, 16, 16), 2, model=bundle, model_options=options)


def test_a_graph_that_does_something_else_is_refused_when_the_script_runs(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(bundle, folder)
    write_chroma_graph(folder / "chroma.onnx", planes=1)
    rewrite(folder)
    with pytest.raises(vs.Error, match=r"takes 'frames' of shape \[1, 1, 'h', 'w'\]"):
        flashsr(noise(1, 16, 16), 2, model=folder)
    write_frame_graph(folder / "chroma.onnx", 1)
    rewrite(folder)
    with pytest.raises(vs.Error, match=r"reads \['input'\] and makes \['output'\], expected 'frames' and 'out'"):
        flashsr(noise(1, 16, 16), 2, model=folder)


def test_a_bundle_names_its_graph_with_a_hash(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "unlisted"
    shutil.copytree(bundle, folder)
    text = (folder / "bundle.json").read_text(encoding="utf-8")
    (folder / "bundle.json").write_text(
        text.replace('"chroma": "chroma.onnx"', '"chroma": "../chroma.onnx"'), encoding="utf-8"
    )
    with pytest.raises(vs.Error, match="has no sha256"):
        flashsr(noise(1, 16, 16), 2, model=folder)


def test_engines_are_built_ahead_for_chroma_too(bundle: Path) -> None:
    calls = graphs_ahead(Arguments(model=bundle, scale=2), [(64, 96)])
    assert [call.shapes[0].inputs["frames"] for call in calls] == [(1, 1, 64, 96), (1, 3, 64, 96)]
    assert len(graphs_ahead(Arguments(model=bundle, scale=2, model_options={"chroma": False}), [(64, 96)])) == 1


def rewrite(folder: Path) -> None:
    """Give the folder's files their hashes again."""
    import json

    manifest = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    write_manifest(folder, {key: value for key, value in manifest.items() if key not in ("format", "files")})
