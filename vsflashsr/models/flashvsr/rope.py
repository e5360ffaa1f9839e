"""Rotary positions of FlashVSR's tokens (spec 3.3), computed, not looked up: there is no last position."""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from .windows import SLICE_LATENTS, Grid, window_order

Array = npt.NDArray[np.float32]
Array64 = npt.NDArray[np.float64]


def rope_split(head_dim: int) -> tuple[int, int, int]:
    """Channels of a head that turn with time, row and column."""
    side = head_dim // 3
    time = head_dim - 2 * side
    if side % 2 or time % 2 or side == 0:
        raise ValueError(
            f"a head dimension can't be split in three even parts, got {head_dim}; 128 is the published one"
        )
    return time, side, side


def angles(positions: npt.NDArray[np.int64], part: int) -> Array64:
    """(len(positions), part / 2): position * 10000 ** (-2 j / part)."""
    frequencies = 10000.0 ** (-np.arange(0, part, 2, dtype=np.float64) / part)
    return positions.astype(np.float64)[:, None] * frequencies[None, :]


@lru_cache(maxsize=16)
def slice_tables(grid: Grid, head_dim: int, first_latent: int) -> tuple[Array, Array]:
    """Cosine and sine, each (tokens of a slice, head_dim / 2), in window order, for a slice that begins at this position.

    Rotating needs only differences of positions, so the step numbers the slices it sees from 0, oldest first.
    """
    time, row, col = rope_split(head_dim)
    token = window_order(grid, 1)
    height, width = grid.rows * 8, grid.cols * 8
    frame, rest = np.divmod(token, height * width)
    at = np.concatenate(
        [
            angles(first_latent + frame, time),
            angles(rest // width, row),
            angles(rest % width, col),
        ],
        axis=1,
    )
    tables = np.cos(at).astype(np.float32), np.sin(at).astype(np.float32)
    for table in tables:
        table.setflags(write=False)
    return tables


def slice_positions(count: int) -> list[int]:
    """Position of the first latent of each of `count` slices, oldest first."""
    return [SLICE_LATENTS * ordinal for ordinal in range(count)]


def rotate(heads: Array, cosine: Array, sine: Array) -> Array:
    """Turn (tokens, heads, head_dim): channels 2k and 2k+1 are the real and imaginary part of pair k."""
    even, odd = heads[..., 0::2], heads[..., 1::2]
    cosine, sine = cosine[:, None, :], sine[:, None, :]
    out = np.empty_like(heads)
    out[..., 0::2] = even * cosine - odd * sine
    out[..., 1::2] = even * sine + odd * cosine
    return out
