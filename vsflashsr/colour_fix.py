"""Colour correction: output frames take their colours from the low-quality frames they were made of.

Both take (..., H, W) float32 in [-1, 1], each trailing plane on its own, and return it clamped to [-1, 1]. Statistics
are of the whole plane: crop padding away first, and don't call it on tiles.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_LEVELS = 5

Array = NDArray[np.float32]


def adain(hq: Array, lq: Array) -> Array:
    """`hq` shifted and scaled to the mean and standard deviation of `lq`, sqrt(population variance + 1e-5)."""
    mean, deviation = _statistics(hq)
    target_mean, target_deviation = _statistics(lq)
    out: Array = hq - mean
    out *= target_deviation / deviation
    out += target_mean
    return np.clip(out, -1.0, 1.0, out=out)


def wavelet(hq: Array, lq: Array) -> Array:
    """The details of `hq` on the coarse colours of `lq`, parted by five dilated [1 2 1] blurs.

    High frequencies are what the blurs take away level by level, so their sum is `hq` minus its last blur; and blurs
    are linear, so one chain of them over the difference is enough.
    """
    low: Array = lq - hq
    for level in range(_LEVELS):
        low = blur(blur(low, 1 << level, -1), 1 << level, -2)
    low += hq
    return np.clip(low, -1.0, 1.0, out=low)


def _statistics(planes: Array) -> tuple[Array, Array]:
    mean = planes.mean((-2, -1), dtype=np.float64, keepdims=True)
    # Deviations from the mean, not E[x^2] - mean^2, which loses digits.
    variance = np.square(planes - mean.astype(np.float32)).mean((-2, -1), dtype=np.float64, keepdims=True)
    return mean.astype(np.float32), np.sqrt(variance + 1e-5).astype(np.float32)


def blur(planes: Array, reach: int, axis: int) -> Array:
    """[1 2 1] / 4 with its outer taps `reach` pixels away; the edge pixel repeats."""
    pad = [(0, 0)] * planes.ndim
    pad[axis] = (reach, reach)
    padded = np.moveaxis(np.pad(planes, pad, mode="edge"), axis, 0)
    sides = padded[: -2 * reach] + padded[2 * reach :]
    sides += 2 * padded[reach:-reach]
    sides *= np.float32(0.25)
    return np.moveaxis(sides, 0, axis)
