"""Low-resolution versions of a clip, luma alone or with 4:2:0 chroma: clean resampling, or blur, noise and a real codec pass.

Everything is drawn from a `numpy.random.Generator`, so that a clip, a seed and a variant always give the same bytes
(with the same zimg and codec builds).
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, Literal, cast

import av
import numpy as np
import numpy.typing as npt
import vapoursynth as vs

Luma = npt.NDArray[np.uint8]
"""A clip's luma, or another plane of it, (frames, height, width), 8-bit limited range."""

type Planes = tuple[Luma, ...]
"""Luma alone, or with U and V of half its size."""

KERNELS: dict[str, tuple[str, dict[str, float]]] = {
    "bicubic": ("Bicubic", {"filter_param_a": 0.0, "filter_param_b": 0.5}),
    "mitchell": ("Bicubic", {"filter_param_a": 1 / 3, "filter_param_b": 1 / 3}),
    "sharp": ("Bicubic", {"filter_param_a": 0.0, "filter_param_b": 0.75}),
    "lanczos": ("Lanczos", {"filter_param_a": 3.0}),
    "spline36": ("Spline36", {}),
    "bilinear": ("Bilinear", {}),
}
"""Name: zimg's resampler and its parameters."""

VARIANTS = 8
"""Versions kept of each clip: 0 is plain bicubic, 1 another clean kernel, 2 to 5 H.264, MPEG-2 or noise alone, 6 VP9, 7 was
interlaced once."""

WEIGHTS = (0.3, 0.2, 0.1, 0.1, 0.1, 0.1, 0.06, 0.04)
"""How often a variant is drawn: half of the training pairs are clean."""

CHROMA_NOISE = 0.6
"""Noise of chroma, of that of luma."""

Codec = Literal["none", "h264", "mpeg2", "vp9"]


@dataclass(frozen=True)
class Degradation:
    """How a low-resolution clip is made."""

    kernel: str
    """Resampler, a key of KERNELS."""
    blur: float = 0.0
    """Standard deviation of a Gaussian blur before it, in pixels of the source."""
    noise: float = 0.0
    """Standard deviation of Gaussian noise after it, of 255."""
    codec: Codec = "none"
    """What it is coded with."""
    quality: int = 0
    """crf of H.264 and VP9, quantiser of MPEG-2."""
    preset: str = "medium"
    """x264's preset."""
    interlaced: bool = False
    """Every other line is of half a frame later, and was made up where that didn't fit."""


def draw(variant: int, scale: int, rng: np.random.Generator) -> Degradation:
    """The degradation of a clip's version `variant`."""
    if variant == 0:
        return Degradation("bicubic")
    kernel = str(rng.choice(list(KERNELS)))
    if variant == 1:
        return Degradation(kernel)
    blur = float(rng.uniform(0.1, 0.5)) * scale if rng.random() < 0.7 else 0.0
    noise = float(rng.uniform(0.3, 4.0)) if rng.random() < 0.75 else 0.0
    codec: Codec
    if variant == 6:
        return Degradation(kernel, blur, noise, "vp9", int(rng.integers(24, 52)))
    if variant == 7:
        return Degradation(kernel, blur, noise / 2, "mpeg2", int(rng.integers(2, 8)), interlaced=True)
    roll = rng.random()
    if roll < 0.65:
        codec, quality = "h264", int(rng.integers(17, 33))
    elif roll < 0.9:
        codec, quality = "mpeg2", int(rng.integers(2, 11))
    else:
        codec, quality = "none", 0
    return Degradation(kernel, blur, noise, codec, quality, str(rng.choice(["veryfast", "medium"])))


def node_of(planes: Planes) -> vs.VideoNode:
    """The clip in VapourSynth, GRAY8 or YUV420P8."""
    count, height, width = planes[0].shape
    video_format = vs.GRAY8 if len(planes) == 1 else vs.YUV420P8
    blank = vs.core.std.BlankClip(width=width, height=height, format=video_format, length=count, keep=True)

    def put(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
        out = f.copy()
        for p, plane in enumerate(planes):
            np.copyto(np.asarray(out[p]), plane[n])
        return out

    return blank.std.ModifyFrame(blank, put)


def resample(planes: Planes, scale: int, kernel: str, blur: float = 0.0) -> Planes:
    """`planes` made `scale` times smaller by zimg, blurred before by a Gaussian of `blur` source pixels."""
    node = node_of(planes)
    target = node.format
    if blur > 0:
        radius = max(1, min(12, int(np.ceil(3 * blur))))
        taps = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * blur * blur))
        matrix = [round(v) for v in (taps / taps.max() * 1000).tolist()]
        deep = target.replace(bits_per_sample=16)
        node = node.resize.Point(format=deep.id).std.Convolution(matrix=matrix, mode="hv")
    name, parameters = KERNELS[kernel]
    node = getattr(node.resize, name)(node.width // scale, node.height // scale, format=target.id, **parameters)
    frames = [[np.array(frame[p]) for p in range(len(planes))] for frame in node.frames(close=True)]
    return tuple(np.stack(plane) for plane in zip(*frames, strict=True))


def deinterlaced(luma: Luma) -> Luma:
    """What a deinterlacer makes of `luma` whose odd lines were taken half a frame later than the even ones.

    Where an odd line lies between its neighbours (within 6 levels) it stays, combed; elsewhere it is their mean.
    """
    later = np.concatenate([luma[1:], luma[-1:]])
    lines = (luma[:, 1::2].astype(np.int16) + later[:, 1::2] + 1) // 2
    even = luma[:, ::2].astype(np.int16)
    below = np.concatenate([even[:, 1:], even[:, -1:]], 1)[:, : lines.shape[1]]
    above = even[:, : lines.shape[1]]
    fits = (lines >= np.minimum(above, below) - 6) & (lines <= np.maximum(above, below) + 6)
    out = luma.copy()
    out[:, 1::2] = np.where(fits, lines, (above + below + 1) // 2)
    return out


def code(planes: Planes, codec: Literal["h264", "mpeg2", "vp9"], quality: int, preset: str) -> Planes:
    """`planes` after a pass through a real encoder and decoder (luma alone: with grey chroma; even sizes only)."""
    count, height, width = planes[0].shape
    name, options = {
        "h264": ("libx264", {"crf": str(quality), "preset": preset}),
        "mpeg2": ("mpeg2video", {"qmin": str(quality), "qmax": str(quality), "bf": "2", "g": "15"}),
        "vp9": ("libvpx-vp9", {"crf": str(quality), "b": "0", "deadline": "realtime", "cpu-used": "8"}),
    }[codec]
    grey = np.full((count, height // 2, width // 2), 128, np.uint8)
    whole = planes if len(planes) == 3 else (planes[0], grey, grey)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as container:
        stream: Any = container.add_stream(name, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        for picture in zip(*whole, strict=True):
            packed = np.concatenate([plane.ravel() for plane in picture]).reshape(-1, width)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(packed, format="yuv420p")))
        container.mux(stream.encode(None))
    buffer.seek(0)
    with av.open(buffer, "r") as decoder:
        out = [split(cast(Luma, frame.to_ndarray()), height, width) for frame in decoder.decode(video=0)]
    if len(out) != count:
        raise RuntimeError(f"{codec} gave back {len(out)} of {count} frames; use another build of PyAV")
    return tuple(np.stack(plane) for plane in zip(*out, strict=True))[: len(planes)]


def split(packed: Luma, height: int, width: int) -> tuple[Luma, ...]:
    """PyAV's array of a yuv420p frame as its planes. Even sizes only."""
    luma, quarter = height * width, height * width // 4
    flat = packed.ravel()
    chroma = (flat[at : at + quarter].reshape(height // 2, width // 2) for at in (luma, luma + quarter))
    return flat[:luma].reshape(height, width), *chroma


def degrade(planes: Planes, scale: int, how: Degradation, rng: np.random.Generator) -> Planes:
    """The low-resolution version of `planes`: each 1/scale as high and wide."""
    low = resample(planes, scale, how.kernel, how.blur)
    if how.noise > 0:
        low = tuple(_noisy(plane, how.noise * (CHROMA_NOISE if p else 1), rng) for p, plane in enumerate(low))
    if how.interlaced:
        low = (deinterlaced(low[0]), *low[1:])
    if how.codec != "none":
        low = code(low, how.codec, how.quality, how.preset)
    return low


def _noisy(plane: Luma, noise: float, rng: np.random.Generator) -> Luma:
    return np.clip(np.rint(plane + rng.normal(0, noise, plane.shape)), 1, 254).astype(np.uint8)
