"""Padding, tiling, blending and cropping of (C, h, w) arrays. Pure NumPy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import FlashsrError

type Array = NDArray[np.float32]
type Made = NDArray[np.floating[Any]]
"""What a model made: float32, or float16 where it computes no more (``ModelSpec.half``)."""
"""A frame: (C, h, w), float32, C = 1 (luma) or 3 (RGB), nominally 0..1."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A rectangle of the low-resolution frame, in pixels."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Tiling:
    """Equal tiles that cover a frame and overlap by at least ``overlap`` pixels."""

    width: int
    height: int
    tiles: tuple[Tile, ...]


def padded(size: int, multiple: int, minimum: int = 1) -> int:
    """The smallest multiple of ``multiple`` that is no less than ``size`` and ``minimum``."""
    return math.ceil(max(size, minimum) / multiple) * multiple


def pad(frame: Array, width: int, height: int) -> Array:
    """Repeat the last column and row until the frame is ``width`` x ``height``; the picture stays at the top left."""
    _, h, w = frame.shape
    if (h, w) == (height, width):
        return frame
    return np.pad(frame, ((0, 0), (0, height - h), (0, width - w)), mode="edge")


def _starts(size: int, tile: int, overlap: int) -> list[int]:
    """Positions of equal tiles over ``size`` pixels; the last one is shifted inwards instead of hanging over."""
    if tile >= size:
        return [0]
    count = math.ceil((size - overlap) / (tile - overlap))
    return [round(i * (size - tile) / (count - 1)) for i in range(count)]


def tiling(width: int, height: int, tile_width: int, tile_height: int, overlap: int) -> Tiling:
    """Cover ``width`` x ``height`` with tiles of ``tile_width`` x ``tile_height``.

    A tile may be larger than the frame: the frame is then padded to it by the caller (``pad``).
    """
    if overlap < 0 or 2 * overlap >= min(tile_width, tile_height):
        raise FlashsrError(
            f"overlap is 0 or more and less than half a tile ({tile_width}x{tile_height}), got {overlap}; "
            "use a larger tile or a smaller overlap"
        )
    tiles = tuple(
        Tile(x, y, tile_width, tile_height)
        for y in _starts(height, tile_height, overlap)
        for x in _starts(width, tile_width, overlap)
    )
    return Tiling(width, height, tiles)


_LEAST_TILE = 64
"""Pixels of a side; smaller ones are mostly overlap."""


def tile_sizes(width: int, height: int, multiple: int, overlap: int) -> list[tuple[int, int]]:
    """(width, height) of tiles to try where the whole frame doesn't fit: fewer and larger ones first.

    Every size is a multiple of ``multiple`` that covers the frame in so and so many columns and rows, down to tiles of 64
    pixels, four overlaps or two multiples; as square as the frame allows.
    """
    least = max(4 * overlap, 2 * multiple, _LEAST_TILE)

    def side(size: int, count: int) -> int:
        return padded(math.ceil((size + (count - 1) * overlap) / count), multiple)

    found: list[tuple[int, int]] = []
    columns = rows = 1
    while True:
        wide, high = side(width, columns), side(height, rows)
        if wide >= high:
            columns += 1
        else:
            rows += 1
        tile = (side(width, columns), side(height, rows))
        if min(tile) < least or tile[0] * tile[1] >= wide * high:
            return found
        found.append(tile)


def cut(frame: Array, tile: Tile) -> Array:
    """The tile's pixels as an array of its own, edge-padded where the tile is larger than the frame."""
    part = frame[:, tile.y : tile.y + tile.height, tile.x : tile.x + tile.width]
    return np.ascontiguousarray(pad(part, tile.width, tile.height))


def _ramp(shared: int) -> Array:
    """Weights from 0 to 1 over ``shared`` pixels. The outer quarter counts nothing: there a tile lacks its surroundings."""
    quarter = shared // 4
    middle = shared - 2 * quarter
    rising = (np.arange(middle, dtype=np.float32) + 0.5) / middle
    return np.concatenate([np.zeros(quarter, np.float32), rising, np.ones(quarter, np.float32)])


def _profile(start: int, size: int, starts: list[int], tile: int) -> Array:
    """Weight along one axis of the tile at ``start``: 1 inside, falling to its edges where its neighbours overlap it."""
    weight = np.ones(tile, np.float32)
    before, after = [s for s in starts if s < start], [s for s in starts if s > start]
    if before and (shared := before[-1] + tile - start) > 0:
        weight[:shared] = _ramp(shared)
    if after and (shared := start + tile - after[0]) > 0:
        weight[-shared:] = np.minimum(weight[-shared:], _ramp(shared)[::-1])
    return weight[: size - start]


@lru_cache(maxsize=8)
def _weights(plan: Tiling, scale: int) -> tuple[tuple[Array, ...], Array]:
    """Each tile's blending weight at output size, and the sum of all (to divide by)."""
    xs = sorted({t.x * scale for t in plan.tiles})
    ys = sorted({t.y * scale for t in plan.tiles})
    height, width = plan.height * scale, plan.width * scale
    total = np.zeros((height, width), np.float32)
    weights: list[Array] = []
    for t in plan.tiles:
        x, y = t.x * scale, t.y * scale
        weight = np.outer(_profile(y, height, ys, t.height * scale), _profile(x, width, xs, t.width * scale))
        total[y : y + weight.shape[0], x : x + weight.shape[1]] += weight
        weights.append(weight)
    return tuple(weights), total


def blend(parts: Sequence[Made], plan: Tiling, scale: int) -> Array:
    """Put the upscaled tiles (each ``scale`` times its tile) together, feathered where they overlap."""
    if len(parts) == 1:
        return parts[0][:, : plan.height * scale, : plan.width * scale]
    weights, total = _weights(plan, scale)
    out = np.zeros((parts[0].shape[0], *total.shape), np.float32)
    for part, t, weight in zip(parts, plan.tiles, weights, strict=True):
        rows, columns = weight.shape
        area = np.s_[:, t.y * scale : t.y * scale + rows, t.x * scale : t.x * scale + columns]
        out[area] += part[:, :rows, :columns] * weight
    out /= total
    return out
