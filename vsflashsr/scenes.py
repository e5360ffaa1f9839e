"""A built-in scene-cut detector: does frame n begin a shot? A function of frames n-2..n alone."""

from __future__ import annotations

import numpy as np

from .geometry import Array

WINDOW = range(-2, 1)
"""Which frames ``is_cut`` compares, counted from the one in question: that one, the one before it, and any others."""
_COLUMNS, _ROWS = 32, 18
_LEAST = 0.06
"""A plain cut changes the thumbnail by at least this much of full scale."""
_TIMES = 2.0
"""And by this many times what the frame before changed, so that fast motion is no cut."""
_UNRELATED = 0.35
"""Thumbnails that correlate by less show different things, however dark, flat or restless they are."""
_ESTRANGED = 0.5
"""So do those that correlate by less than this, and by _SUDDEN less than the two before."""
_SUDDEN = 0.3
_ALIKE = 0.9
"""What correlates by more is the same thing, brighter or darker: a flash or a fade."""
_STEP = 1 / 255
"""Blocks that differ by half of this are the same; pictures that vary by less say nothing of what they show."""


def thumbnail_blocks(height: int, width: int) -> tuple[int, int, int, int]:
    """Blocks down and across, rows and columns of each; what is left over at the right and below isn't looked at."""
    rows, columns = max(1, height // _ROWS), max(1, width // _COLUMNS)
    return height // rows, width // columns, rows, columns


def thumbnail(frame: Array) -> Array:
    """Block means of the picture, about 32 x 18: motion of a few pixels hardly shows, a cut does."""
    _, height, width = frame.shape
    down, across, rows, columns = thumbnail_blocks(height, width)
    grey = frame[:, : down * rows, : across * columns].mean(axis=0, dtype=np.float32)
    blocks: Array = grey.reshape(down, rows, across, columns).mean(axis=(1, 3), dtype=np.float32)
    return blocks


def _change(a: Array, b: Array) -> float:
    """Mean absolute difference, once with the mean brightness taken out and halved with it: flashes and fades count less."""
    difference = b - a
    centred = difference - difference.mean()
    return float((np.abs(difference).mean() + np.abs(centred).mean()) / 2)


def _is_noise(thumbnail: Array) -> bool:
    """Does it have no shapes? A mean of 3x3 leaves a third of white noise's deviation, and most of any picture's."""
    rows, columns = thumbnail.shape
    if min(rows, columns) < 3:
        return True
    windows = np.lib.stride_tricks.sliding_window_view(thumbnail, (3, 3))
    return float(windows.mean((2, 3)).std()) < 0.5 * float(thumbnail.std())


def _likeness(a: Array, b: Array) -> float:
    """Correlation of two thumbnails; 1 where they can't tell, because one is all but flat, or noise, or most of both is the same.

    Blocks that are the same don't count: black bars would make any two shots alike.
    """
    differs = np.abs(b - a) > _STEP / 2
    if differs.mean() < 0.5 or _is_noise(a) or _is_noise(b):
        return 1.0
    a, b = a[differs], b[differs]
    a, b = a - a.mean(), b - b.mean()
    spread = float(np.sqrt(np.square(a).mean() * np.square(b).mean()))
    if min(np.abs(a).mean(), np.abs(b).mean()) < _STEP:
        return 1.0
    return float((a * b).mean()) / spread


def is_cut(before: Array | None, previous: Array, current: Array) -> bool:
    """Do thumbnails ``previous`` and ``current`` belong to different shots?

    Args:
        before: thumbnail of the frame before ``previous``; None where there is none.
    """
    likeness = _likeness(previous, current)
    change = _change(previous, current)
    if before is None:
        # What is usual isn't known at the clip's second frame: there a cut has to be plainer.
        return likeness < _UNRELATED or change > _TIMES * _LEAST
    if likeness < _UNRELATED or likeness < min(_ESTRANGED, _likeness(before, previous) - _SUDDEN):
        return True
    if change > _LEAST and change > _TIMES * _change(before, previous):
        # A flat picture is like any other; then the change decides.
        return not _ALIKE < likeness < 1
    # One frame between two shots that is the mean of both.
    mixed = np.abs(previous - (before + current) / 2).mean() < 0.1 * np.abs(current - before).mean()
    return bool(mixed) and _likeness(before, current) < _UNRELATED
