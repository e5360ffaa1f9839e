"""Ordinary single-frame ONNX upscalers: bare files and bundles, 1x-4x, fp32 and fp16, free and fixed sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import vapoursynth as vs

from vsflashsr import flashsr
from vsflashsr.bundle import write_manifest
from vsflashsr.models.frame.host import examine
from vsflashsr.runtimes.onnxruntime import OnnxSession

from ...support.clips import noise, planes
from ...support.tiny import write_frame_graph

core = vs.core


def reference(clip: vs.VideoNode, n: int, scale: int) -> np.ndarray:
    """What ``write_frame_graph``'s model makes of an RGBS frame: a 3x3 mean, repeated."""
    rgb = np.stack(planes(clip.get_frame(n)))
    wide = np.pad(rgb, ((0, 0), (1, 1), (1, 1)), mode="edge")
    h, w = rgb.shape[1:]
    blurred = sum(wide[:, y : y + h, x : x + w] for y in range(3) for x in range(3)) / np.float32(9)
    return np.repeat(np.repeat(blurred, scale, axis=1), scale, axis=2)


def got(clip: vs.VideoNode, n: int) -> np.ndarray:
    return np.stack(planes(clip.get_frame(n)))


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("size", [None, (24, 32), (40, 40)])
def test_a_bare_file_upscales_every_frame(tmp_path: Path, scale: int, half: bool, size: tuple[int, int] | None) -> None:
    """Fixed sizes are tiled: smaller than the frame, and larger."""
    path = write_frame_graph(tmp_path / "modèle 1.onnx", scale, half=half, size=size)
    clip = noise(3, 45, 37, vs.RGBS)
    out = flashsr(clip, scale, model=path)
    assert (out.width, out.height, out.num_frames) == (45 * scale, 37 * scale, 3)
    assert np.abs(got(out, 2) - reference(clip, 2, scale)).max() < (2e-3 if half else 2e-6)


def test_luma_models_leave_chroma_to_the_resizer(tmp_path: Path) -> None:
    path = write_frame_graph(tmp_path / "luma.onnx", 2, channels=1)
    clip = noise(2, 32, 24, vs.YUV420P8, _Matrix=6)
    out = planes(flashsr(clip, 2, model=path).get_frame(1))
    wanted = planes(core.resize.Spline36(clip, 64, 48).get_frame(1))
    assert all((a == b).all() for a, b in zip(out[1:], wanted[1:], strict=True))
    assert (out[0] != wanted[0]).any()


@pytest.mark.parametrize("multiple", [2, 8])
def test_models_that_want_multiples_are_padded(tmp_path: Path, multiple: int) -> None:
    path = write_frame_graph(tmp_path / "m.onnx", 2, multiple=multiple)
    assert examine(OnnxSession(path)).size_multiple == multiple
    clip = noise(2, 45, 37, vs.RGBS)
    assert np.abs(got(flashsr(clip, 2, model=path), 1) - reference(clip, 1, 2)).max() < 2e-6


def test_a_1x_model_restores_and_the_resizer_enlarges(tmp_path: Path) -> None:
    path = write_frame_graph(tmp_path / "deblur.onnx", 1)
    clip = noise(1, 32, 24, vs.RGBS)
    out = flashsr(clip, 2, model=path)
    frame = core.std.BlankClip(clip, keep=True).std.ModifyFrame([clip], lambda n, f: put(f, reference(clip, n, 1)))
    assert np.abs(got(out, 0) - got(core.resize.Spline36(frame, 64, 48), 0)).max() < 2e-6


def put(f: vs.VideoFrame, array: np.ndarray) -> vs.VideoFrame:
    out = f.copy()
    for p in range(3):
        np.asarray(out[p])[...] = array[p]
    return out


def test_a_frame_bundle_has_its_own_range(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    write_frame_graph(folder / "net.onnx", 2)
    manifest = {
        "name": "range", "kind": "frame", "channels": "rgb", "value_range": [-1, 1], "max_segment": 1,
        "schedule": {"first_reads": 1, "first_emits": 1, "reads": 1, "emits": 1}, "scales": {"2": {"step": "net.onnx"}},
    }  # fmt: skip
    write_manifest(folder, manifest)
    clip = noise(1, 20, 20, vs.RGBS)
    assert np.abs(got(flashsr(clip, 2, model=folder), 0) - reference(clip, 0, 2)).max() < 2e-6
    write_manifest(folder, {**manifest, "scales": {"4": {"step": "net.onnx"}}})
    with pytest.raises(vs.Error, match="upscales by 2, its bundle says 4"):
        flashsr(clip, 4, model=folder)


def test_graphs_that_are_no_upscalers_are_refused(tmp_path: Path, tiny: Path) -> None:
    with pytest.raises(vs.Error, match="one of each"):
        flashsr(noise(1, 20, 20), 2, model=tiny / "x2.onnx")
    with pytest.raises(vs.Error, match=r"bundle's folder or an \.onnx file"):
        flashsr(noise(1, 20, 20), 2, model=tiny / "bundle.json")
    with pytest.raises(vs.Error, match=r"no bundle\.json"):
        flashsr(noise(1, 20, 20), 2, model=tmp_path)
    fixed = write_frame_graph(tmp_path / "fixed.onnx", 2, size=(32, 32))
    with pytest.raises(vs.Error, match=r"'fixed\.onnx' is fp32, got precision='fp16'"):
        flashsr(noise(1, 32, 32), 2, model=fixed, precision="fp16")
    with pytest.raises(vs.Error, match="takes 32x32 only"):
        flashsr(noise(1, 64, 64), 2, model=fixed, tile=48)


def test_tile_seams_do_not_show(tmp_path: Path) -> None:
    """A fixed-size model over many tiles: the joined picture is the model on the whole frame, edges of tiles included."""
    path = write_frame_graph(tmp_path / "f.onnx", 2, size=(16, 16))
    clip = noise(1, 61, 47, vs.RGBS)
    assert np.abs(got(flashsr(clip, 2, model=path, overlap=4), 0) - reference(clip, 0, 2)).max() < 2e-6


@pytest.mark.parametrize("fix", ["adain", "wavelet"])
def test_colour_fix_brings_colours_back(tmp_path: Path, fix: str) -> None:
    """A model that shifts a colour by a tenth is put right; without the fix it isn't."""
    path = write_frame_graph(tmp_path / "tinted.onnx", 2)
    model = onnx.load(path)
    model.graph.node[-1].output[0] = "neutral"
    model.graph.node.append(onnx.helper.make_node("Add", ["neutral", "tint"], ["output"]))
    tint = np.array([0.1, 0, -0.1], np.float32).reshape(1, 3, 1, 1)
    model.graph.initializer.append(onnx.numpy_helper.from_array(tint, "tint"))
    onnx.save(model, path)
    clip = noise(1, 64, 64, vs.RGBS)
    wanted = got(clip, 0).mean(axis=(1, 2))
    shifted, fixed = (got(flashsr(clip, 2, model=path, color_fix=f), 0).mean(axis=(1, 2)) for f in ("none", fix))
    assert np.abs(shifted - wanted).max() > 0.09
    assert np.abs(fixed - wanted).max() < 0.005
