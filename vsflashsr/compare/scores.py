"""How near a clip is to a reference: PSNR and SSIM of luma, and SSIMULACRA2."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import vapoursynth as vs

_SIGMA = 1.5
_TAPS = 11
_C1, _C2 = 0.01**2, 0.03**2
"""SSIM's constants for a range of 1: Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment", 2004."""
MOST_PSNR = 100.0
"""What equal frames count as, in dB."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Means over frames; larger is better."""

    psnr: float
    """dB, of luma."""
    ssim: float
    """0 … 1, of luma."""
    ssimulacra2: float | None
    """Up to 100; None where the plugin vszip is missing."""


def scores(reference: vs.VideoNode, made: vs.VideoNode, frames: Iterable[int]) -> Scores:
    """Scores of ``made``, which has the size, and frame by frame the content, of ``reference``."""
    import vapoursynth as vs

    luma = [_luma(reference), _luma(made)]
    perceived = _ssimulacra2(reference, made) if hasattr(vs.core, "vszip") else None
    rows: list[tuple[float, float, float]] = []
    for n in frames:
        with luma[0].get_frame(n) as a, luma[1].get_frame(n) as b:
            one, other = np.asarray(a[0]), np.asarray(b[0])
            rows.append((psnr(one, other), ssim(one, other), _prop(perceived, n)))
    means = np.mean(rows, axis=0)
    return Scores(float(means[0]), float(means[1]), None if perceived is None else float(means[2]))


def psnr(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Peak signal-to-noise ratio of pictures of range 1, in dB."""
    error = float(np.mean(np.square(a.astype(np.float64) - b)))
    return MOST_PSNR if error == 0 else min(MOST_PSNR, -10 * math.log10(error))


def ssim(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Structural similarity of pictures of range 1: 11 x 11 Gaussian window, mean over all places where it fits."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    mx, my = _blurred(x), _blurred(y)
    xx, yy, xy = _blurred(x * x) - mx * mx, _blurred(y * y) - my * my, _blurred(x * y) - mx * my
    values = ((2 * mx * my + _C1) * (2 * xy + _C2)) / ((mx * mx + my * my + _C1) * (xx + yy + _C2))
    return float(values.mean())


def _blurred(plane: NDArray[np.float64]) -> NDArray[np.float64]:
    """By the window, where it fits; where the picture is smaller, by as much of it as fits."""
    for axis in (0, 1):
        taps = min(_TAPS, plane.shape[axis])
        weights = np.exp(-((np.arange(taps) - (taps - 1) / 2) ** 2) / (2 * _SIGMA**2))
        weights /= weights.sum()
        length = plane.shape[axis] - taps + 1
        slices = [plane[i : i + length] if axis == 0 else plane[:, i : i + length] for i in range(taps)]
        plane = np.sum([w * s for w, s in zip(weights, slices, strict=True)], axis=0)
    return plane


def _luma(clip: vs.VideoNode) -> vs.VideoNode:
    """From black to white as 0 to 1."""
    import vapoursynth as vs

    if clip.format.color_family == vs.RGB:
        clip = clip.resize.Point(format=vs.YUV444PS, matrix=1)
    return vs.core.std.ShufflePlanes(clip, 0, vs.GRAY).resize.Point(format=vs.GRAYS)


def _ssimulacra2(reference: vs.VideoNode, made: vs.VideoNode) -> vs.VideoNode:
    import vapoursynth as vs

    from .pictures import to_rgb

    return vs.core.vszip.SSIMULACRA2(to_rgb(reference, vs.RGBS), to_rgb(made, vs.RGBS))


def _prop(clip: vs.VideoNode | None, n: int) -> float:
    if clip is None:
        return math.nan
    with clip.get_frame(n) as frame:
        return float(next(value for name, value in frame.props.items() if "SSIMULACRA2" in name.upper()))
