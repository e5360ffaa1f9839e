"""The pre-upscale: bilinear with half-pixel centres and no antialiasing, which is what the model was trained behind."""

from __future__ import annotations

import numpy as np

from ...geometry import Array


def bilinear(frames: Array, height: int, width: int) -> Array:
    """(..., h, w) float32 → (..., height, width); edges repeat beyond themselves."""
    return _along(_along(frames, height, -2), width, -1)


def _along(frames: Array, target: int, axis: int) -> Array:
    size = frames.shape[axis]
    if size == target:
        return frames
    at = np.maximum((np.arange(target) + 0.5) * (size / target) - 0.5, 0)
    low = np.minimum(at.astype(np.intp), size - 1)
    high = np.minimum(low + 1, size - 1)
    weight = (at - low).astype(np.float32)
    if axis == -2:
        weight = weight[:, None]
    out: Array = frames.take(low, axis) * (1 - weight) + frames.take(high, axis) * weight
    return out
