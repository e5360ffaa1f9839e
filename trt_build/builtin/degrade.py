"""Low-resolution versions of a clip's luma: clean resampling, or blur, noise and a real codec pass.

Everything is drawn from a `numpy.random.Generator`, so that a clip, a seed and a variant always give the same bytes
(with the same zimg and codec builds).
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, Literal

import av
import numpy as np
import numpy.typing as npt
import vapoursynth as vs

Luma = npt.NDArray[np.uint8]
"""A clip's luma, (frames, height, width), 8-bit limited range."""

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


def _node(luma: Luma) -> vs.VideoNode:
    count, height, width = luma.shape
    blank = vs.core.std.BlankClip(width=width, height=height, format=vs.GRAY8, length=count, keep=True)

    def put(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
        out = f.copy()
        np.copyto(np.asarray(out[0]), luma[n])
        return out

    return blank.std.ModifyFrame(blank, put)


def resample(luma: Luma, scale: int, kernel: str, blur: float = 0.0) -> Luma:
    """`luma` made `scale` times smaller by zimg, blurred before by a Gaussian of `blur` source pixels."""
    node = _node(luma)
    if blur > 0:
        radius = max(1, min(12, int(np.ceil(3 * blur))))
        taps = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * blur * blur))
        matrix = [round(v) for v in (taps / taps.max() * 1000).tolist()]
        node = node.resize.Point(format=vs.GRAY16).std.Convolution(matrix=matrix, mode="hv")
    name, parameters = KERNELS[kernel]
    node = getattr(node.resize, name)(node.width // scale, node.height // scale, format=vs.GRAY8, **parameters)
    return np.stack([np.array(frame[0]) for frame in node.frames(close=True)])


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


def code(luma: Luma, codec: Literal["h264", "mpeg2", "vp9"], quality: int, preset: str) -> Luma:
    """`luma` after a pass through a real encoder and decoder (grey chroma, even sizes only)."""
    count, height, width = luma.shape
    name, options = {
        "h264": ("libx264", {"crf": str(quality), "preset": preset}),
        "mpeg2": ("mpeg2video", {"qmin": str(quality), "qmax": str(quality), "bf": "2", "g": "15"}),
        "vp9": ("libvpx-vp9", {"crf": str(quality), "b": "0", "deadline": "realtime", "cpu-used": "8"}),
    }[codec]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as container:
        stream: Any = container.add_stream(name, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        grey = np.full((height // 2, width), 128, np.uint8)
        for picture in luma:
            frame = av.VideoFrame.from_ndarray(np.concatenate([picture, grey]), format="yuv420p")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    buffer.seek(0)
    with av.open(buffer, "r") as decoder:
        out = [frame.to_ndarray()[:height] for frame in decoder.decode(video=0)]
    if len(out) != count:
        raise RuntimeError(f"{codec} gave back {len(out)} of {count} frames; use another build of PyAV")
    return np.stack(out)


def degrade(luma: Luma, scale: int, how: Degradation, rng: np.random.Generator) -> Luma:
    """The low-resolution version of `luma`, (frames, height / scale, width / scale)."""
    low = resample(luma, scale, how.kernel, how.blur)
    if how.noise > 0:
        low = np.clip(np.rint(low + rng.normal(0, how.noise, low.shape)), 1, 254).astype(np.uint8)
    if how.interlaced:
        low = deinterlaced(low)
    if how.codec != "none":
        low = code(low, how.codec, how.quality, how.preset)
    return low
