"""Clips for tests, made on the spot, and how to look at their frames."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import vapoursynth as vs

FORMATS = [
    vs.GRAY8, vs.GRAY10, vs.GRAY16, vs.GRAYH, vs.GRAYS,
    vs.YUV420P8, vs.YUV420P10, vs.YUV422P12, vs.YUV444P16, vs.YUV410P8, vs.YUV411P8, vs.YUV440P8, vs.YUV420PH, vs.YUV444PS,
    vs.RGB24, vs.RGB30, vs.RGB48, vs.RGBH, vs.RGBS,
]  # fmt: skip


def noise(
    length: int, width: int, height: int, video_format: int = vs.YUV420P8, *, cuts: tuple[int, ...] = (), **props: int
) -> vs.VideoNode:
    """Noise that differs in every frame, on a brightness that jumps at ``cuts``; the same on every call."""
    core = vs.core
    blank = core.std.BlankClip(width=width, height=height, format=video_format, length=length, keep=True)

    def fill(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
        out = f.copy()
        random = np.random.default_rng(n)
        shot = sum(n >= c for c in cuts)
        white = 1.0 if out.format.sample_type == vs.FLOAT else float((1 << out.format.bits_per_sample) - 1)
        for p in range(out.format.num_planes):
            plane = np.asarray(out[p])
            bias = -0.5 if white == 1.0 and out.format.color_family == vs.YUV and p else 0.0
            level = 0.2 + 0.25 * (shot % 3) + bias
            plane[...] = np.asarray(random.uniform(level, level + 0.2, plane.shape) * white).astype(plane.dtype)
        for key, value in {**props, "Number": n}.items():
            out.props[key] = value
        return out

    return blank.std.ModifyFrame(blank, fill)


def planes(frame: vs.VideoFrame) -> list[np.ndarray]:
    """Copies of a frame's planes."""
    return [np.array(frame[p]) for p in range(frame.format.num_planes)]


def digest(frame: vs.VideoFrame) -> bytes:
    """All bytes of a frame."""
    return b"".join(p.tobytes() for p in planes(frame))


def rgb_clip(video: Sequence[np.ndarray], cuts: tuple[int, ...] = ()) -> vs.VideoNode:
    """An RGBS clip of (3, h, w) arrays, flagged with these cuts and no others."""
    _, height, width = video[0].shape
    blank = vs.core.std.BlankClip(width=width, height=height, length=len(video), format=vs.RGBS, keep=True)

    def fill(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
        out = f.copy()
        for plane in range(3):
            np.asarray(out[plane])[...] = video[n][plane]
        out.props["_SceneChangePrev"] = int(n in cuts)
        return out

    return blank.std.ModifyFrame(blank, fill)


def read(clip: vs.VideoNode, order: Sequence[int] | None = None) -> dict[int, np.ndarray]:
    """Frames as (planes, h, w), asked for in this order."""
    numbers = range(clip.num_frames) if order is None else order
    return {n: np.stack(planes(clip.get_frame(n))) for n in numbers}
