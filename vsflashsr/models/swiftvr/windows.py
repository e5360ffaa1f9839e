"""Which tokens attend to which: shifted windows without a mask, each token's result taken from one of them (spec 4.3, 4.4)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

WINDOW = 16
"""Tokens of a window's side; 512 pixels."""

type Ints = NDArray[np.int64]
type Floats = NDArray[np.float32]


def starts(size: int, window: int, *, shifted: bool) -> tuple[int, ...]:
    """Where windows begin along an axis of ``size`` tokens."""
    if size <= window:
        return (0,) if size else ()
    offset = window // 2 if shifted else 0
    count = -(-size // window) + 2
    found = sorted({min(max(window * k - offset, 0), size - window) for k in range(count)})
    if len(found) <= 2:
        return tuple(found)
    # A window that its neighbours cover between them is dropped; all at once, so two in a row may go.
    inner = (at for before, at, after in zip(found, found[1:], found[2:], strict=False) if after > before + window)
    return (found[0], *inner, found[-1])


@dataclass(frozen=True, slots=True)
class Windows:
    """The windows of one kind of layer over one grid."""

    gather: Ints
    """(windows, tokens of a window): which tokens each window holds, frame by frame."""
    owner: Ints
    """(tokens,): where each token's result lies in the list of all windows' tokens."""


@lru_cache(maxsize=16)
def windows(frames: int, rows: int, cols: int, side: tuple[int, int], *, shifted: bool) -> Windows:
    """Windows of ``side`` = (rows, columns) tokens over all ``frames``.

    A token in several windows is taken from the first in layers that aren't shifted, from the last in those that are.
    """
    corners = [
        (row, col) for row in starts(rows, side[0], shifted=shifted) for col in starts(cols, side[1], shifted=shifted)
    ]
    height, width = min(side[0], rows), min(side[1], cols)
    frame, row, col = np.meshgrid(np.arange(frames), np.arange(height), np.arange(width), indexing="ij")
    offsets = ((frame * rows + row) * cols + col).ravel()
    gather = np.stack([offsets + top * cols + left for top, left in corners]).astype(np.int64)
    owner = np.full(frames * rows * cols, -1, np.int64)
    order = range(len(corners)) if shifted else reversed(range(len(corners)))
    for index in order:
        # Whoever writes last owns the token.
        owner[gather[index]] = index * offsets.size + np.arange(offsets.size)
    gather.flags.writeable = owner.flags.writeable = False
    return Windows(gather, owner)


@lru_cache(maxsize=8)
def rotary(frames: int, rows: int, cols: int, head_dim: int) -> tuple[Floats, Floats]:
    """Cosines and sines, (tokens, head_dim / 2), by which pairs of neighbouring channels are turned.

    Positions are the grid's, the frame's counted from 0 in every call: only differences matter, and a step then is the same
    wherever in the clip it lies.
    """
    at = np.meshgrid(np.arange(frames), np.arange(rows), np.arange(cols), indexing="ij")
    turned = angles(np.stack([axis.ravel() for axis in at], 1), head_dim)
    cosines, sines = np.cos(turned).astype(np.float32), np.sin(turned).astype(np.float32)
    cosines.flags.writeable = sines.flags.writeable = False
    return cosines, sines


def angles(positions: Ints, head_dim: int) -> NDArray[np.float64]:
    """(n, 3) frames, rows and columns → (n, head_dim / 2): a third of the channels for rows, one for columns, the rest
    for time."""
    spatial = 2 * (head_dim // 6)
    parts = [
        positions[:, axis : axis + 1] * 10000.0 ** (-np.arange(0, channels, 2) / channels)
        for axis, channels in enumerate((head_dim - 2 * spatial, spatial, spatial))
    ]
    return np.concatenate(parts, 1)
