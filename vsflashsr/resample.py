"""The pre-upscale: antialiasing bicubic (a = -0.5) as Pillow does it, which is what the model was trained behind.

Separable, any size to any size. The published tool upscales 8-bit frames with Pillow, whose arithmetic is fixed-point and
rounds after each axis: `resize_u8` repeats it to the bit. `resize` does so for frames that are 8-bit RGB, and applies the
same filter in float32 to all others, so that deeper clips lose nothing.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SUPPORT = 2.0
_FRACTION_BITS = 22
"""Pillow's coefficients are integers in units of 2^-22 where the pixels are 8-bit."""
_BLOCK = 128
"""Outputs computed by one matrix product: they need few inputs, so little is multiplied by zeros outside the band."""
_ON_GRID = 1e-3
"""How far from a whole 8-bit level a value may be and still count as one; float32 has 1e-5 there."""

Array = NDArray[np.float32]


def resize(frames: Array, height: int, width: int) -> Array:
    """(..., h, w) float32 in 0..1 -> (..., height, width), clipped to 0..1.

    Leading axes beyond the channels' are frames, each treated alone: what one is does not depend on the others.
    """
    if frames.ndim > 3:
        return np.stack([resize(frame, height, width) for frame in frames])
    if on_grid(frames):
        whole = np.rint(frames * np.float32(255)).astype(np.uint8)
        return resize_u8(whole, height, width).astype(np.float32) / np.float32(255)
    return resize_float(frames, height, width)


def resize_float(frames: Array, height: int, width: int) -> Array:
    """As `resize`, of frames that aren't 8-bit."""
    out: Array = frames
    for axis, size in ((-1, width), (-2, height)):
        if out.shape[axis] != size:
            out = _apply(out, coefficients(out.shape[axis], size).astype(np.float32), axis)
            # After each axis, as 8-bit pixels would be.
            np.clip(out, 0.0, 1.0, out=out)
    return out


def on_grid(frame: Array) -> bool:
    """Is every value of (3, h, w) a whole 8-bit level, within 0..1?"""
    levels = frame * np.float32(255)
    whole = np.rint(levels)
    return bool(np.abs(levels - whole).max() < _ON_GRID and whole.min() >= 0 and whole.max() <= 255)


def resize_u8(frames: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """(..., h, w) -> (..., height, width), the bytes Pillow's `Image.resize(..., BICUBIC)` gives each channel."""
    out = frames
    for axis, size in ((-1, width), (-2, height)):
        if out.shape[axis] != size:
            weights = coefficients(out.shape[axis], size) * (1 << _FRACTION_BITS)
            weights = np.trunc(weights + np.copysign(0.5, weights))
            # Integers below 2^53: float64 sums are exact in any order.
            sums = _apply(out.astype(np.float64), weights, axis)
            sums = np.floor((sums + (1 << (_FRACTION_BITS - 1))) / (1 << _FRACTION_BITS))
            out = np.clip(sums, 0, 255).astype(np.uint8)
    return out


@lru_cache(maxsize=16)
def coefficients(size: int, target: int) -> NDArray[np.float64]:
    """(target, size) matrix of the filter along one axis; shrinking widens the filter, so it antialiases."""
    scale = size / target
    stretch = max(scale, 1.0)
    support = _SUPPORT * stretch
    matrix = np.zeros((target, size))
    for row in range(target):
        centre = (row + 0.5) * scale
        first = max(math.trunc(centre - support + 0.5), 0)
        last = min(math.trunc(centre + support + 0.5), size)
        weights = [_cubic((column - centre + 0.5) / stretch) for column in range(first, last)]
        total = sum(weights)
        matrix[row, first:last] = [weight / total for weight in weights]
    matrix.flags.writeable = False
    return matrix


def _cubic(x: float) -> float:
    a, x = -0.5, abs(x)
    if x < 1.0:
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2.0 else 0.0


def _apply(values: NDArray[Any], matrix: NDArray[Any], axis: int) -> NDArray[Any]:
    """The product along `axis` (-1 or -2), block by block of the band."""
    target = matrix.shape[0]
    shape = list(values.shape)
    shape[axis] = target
    out = np.empty(shape, values.dtype)
    for start in range(0, target, _BLOCK):
        block = matrix[start : start + _BLOCK]
        used = np.flatnonzero(block.any(axis=0))
        low, high = int(used[0]), int(used[-1]) + 1
        block = block[:, low:high]
        if axis == -1:
            out[..., start : start + _BLOCK] = values[..., low:high] @ block.T
        else:
            out[..., start : start + _BLOCK, :] = block @ values[..., low:high, :]
    return out
