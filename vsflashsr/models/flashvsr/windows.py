"""Where FlashVSR's tokens lie: windows of 2 x 8 x 8, their order, what sees what, and how many pairs are kept.

A token is one latent frame by 16 x 16 pixels. A window is 2 latent frames x 8 x 8 tokens (8 video frames x 128 x 128 pixels)
and a slice is all windows of the same 2 latent frames. Everything between the projector and the decoder runs in *window
order* (slice, window row, window column, then frame, row, column inside), so that a window is 128 neighbouring rows of a
matrix and nothing has to be partitioned between layers.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from ...errors import FlashsrError

WINDOW_TOKENS = 128
SLICE_LATENTS = 2
BLOCK_PX = 128
_SIDE = 8

BoolArray = npt.NDArray[np.bool_]
IndexArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Grid:
    """Windows of one slice."""

    rows: int
    """Height of the padded frame / 128."""
    cols: int
    """Width of the padded frame / 128."""

    @property
    def blocks(self) -> int:
        """Windows of one slice."""
        return self.rows * self.cols

    @property
    def slice_tokens(self) -> int:
        """Tokens of one slice."""
        return self.blocks * WINDOW_TOKENS

    @property
    def height_px(self) -> int:
        """Height of the padded frame."""
        return self.rows * BLOCK_PX

    @property
    def width_px(self) -> int:
        """Width of the padded frame."""
        return self.cols * BLOCK_PX


@lru_cache(maxsize=8)
def window_order(grid: Grid, slices: int) -> IndexArray:
    """For each token in window order, its number in (frame, row, column) order."""
    tokens = np.arange(slices * grid.slice_tokens, dtype=np.int64)
    box = tokens.reshape(slices, SLICE_LATENTS, grid.rows, _SIDE, grid.cols, _SIDE)
    order = np.ascontiguousarray(box.transpose(0, 2, 4, 1, 3, 5)).reshape(-1)
    order.setflags(write=False)
    return order


@lru_cache(maxsize=8)
def token_order(grid: Grid, slices: int) -> IndexArray:
    """For each token in (frame, row, column) order, its number in window order: the inverse of `window_order`."""
    order = np.argsort(window_order(grid, slices), kind="stable")
    order.setflags(write=False)
    return order


@lru_cache(maxsize=8)
def local_mask(grid: Grid, local_range: int) -> BoolArray:
    """(S, S): which window may see which. A window sees `local_range` rows and columns around it, cut off at the borders."""
    rows, cols = _visible(grid.rows, local_range), _visible(grid.cols, local_range)
    mask = (rows[:, None, :, None] & cols[None, :, None, :]).reshape(grid.blocks, grid.blocks)
    mask.setflags(write=False)
    return mask


def _visible(count: int, local_range: int) -> BoolArray:
    offset = np.arange(count)[None, :] - np.arange(count)[:, None] + local_range // 2
    return (offset >= 0) & (offset < local_range)


def topk_ratio(sparse_ratio: float, grid: Grid) -> float:
    """The published ratio: `sparse_ratio` at 1280 x 768, falling with the area. The order of operations decides the last unit."""
    return sparse_ratio * 768 * 1280 / (grid.height_px * grid.width_px)


def pair_budget(ratio: float, grid: Grid) -> int:
    """Pairs (query window, key window) that each head keeps per query slice, before the number there are limits it."""
    budget = int(grid.blocks * grid.blocks * ratio) - 1
    if budget < 0:
        raise FlashsrError(
            f"sparse_ratio keeps no pair of windows at {grid.width_px}x{grid.height_px}, got a ratio of {ratio:g} there; "
            "use a larger one"
        )
    return budget
