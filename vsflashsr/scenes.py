"""A built-in scene-cut detector: does frame n begin a shot? A function of frames n-2..n alone."""

from __future__ import annotations

import numpy as np

from .geometry import Array

WINDOW = range(-2, 1)
"""Which frames ``is_cut`` compares, counted from the one in question: that one, the one before it, and any others."""
_COLUMNS, _ROWS = 32, 18
_LEAST = 0.06
"""A cut changes the thumbnail by at least this much of full scale."""
_TIMES = 2.0
"""And by this many times what the frame before changed, so that fast motion is no cut."""


def thumbnail(frame: Array) -> Array:
    """Block means of the picture, about 32 x 18: motion of a few pixels hardly shows, a cut does."""
    _, height, width = frame.shape
    rows, columns = max(1, height // _ROWS), max(1, width // _COLUMNS)
    grey = frame[:, : height // rows * rows, : width // columns * columns].mean(axis=0, dtype=np.float32)
    blocks: Array = grey.reshape(height // rows, rows, width // columns, columns).mean(axis=(1, 3), dtype=np.float32)
    return blocks


def _change(a: Array, b: Array) -> float:
    """Mean absolute difference, once with the mean brightness taken out and halved with it: flashes and fades count less."""
    difference = b - a
    centred = difference - difference.mean()
    return float((np.abs(difference).mean() + np.abs(centred).mean()) / 2)


def is_cut(before: Array | None, previous: Array, current: Array) -> bool:
    """Do thumbnails ``previous`` and ``current`` belong to different shots?

    Args:
        before: thumbnail of the frame before ``previous``; None where there is none.
    """
    change = _change(previous, current)
    # What is usual isn't known at the clip's second frame: there a cut has to be plainer.
    usual = _LEAST if before is None else _change(before, previous)
    return change > _LEAST and change > _TIMES * usual
