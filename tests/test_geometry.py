"""Padding, tiles and blending put every pixel where it was."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vsflashsr.errors import FlashsrError
from vsflashsr.geometry import Array, blend, cut, pad, padded, tiling


def enlarge(frame: Array, scale: int) -> Array:
    return np.repeat(np.repeat(frame, scale, axis=1), scale, axis=2)


@given(st.integers(1, 500), st.integers(1, 128))
def test_padded_is_the_next_multiple(size: int, multiple: int) -> None:
    got = padded(size, multiple)
    assert got % multiple == 0 and size <= got < size + multiple


def test_pad_repeats_the_edge() -> None:
    frame = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    assert pad(frame, 5, 3)[0].tolist() == [[0, 1, 2, 2, 2], [3, 4, 5, 5, 5], [3, 4, 5, 5, 5]]


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.integers(8, 64),
    st.integers(8, 64),
    st.integers(0, 8),
    st.sampled_from([1, 2, 3]),
)
def test_tiles_cover_and_blend_back_to_the_picture(
    width: int, height: int, tile_width: int, tile_height: int, overlap: int, scale: int
) -> None:
    overlap = min(overlap, (min(tile_width, tile_height) - 1) // 2)
    plan = tiling(width, height, tile_width, tile_height, overlap)
    frame = np.random.default_rng(width * 100 + height).random((2, height, width), np.float32)
    parts = [cut(frame, t) for t in plan.tiles]
    assert all(p.shape == (2, tile_height, tile_width) for p in parts)
    out = blend([enlarge(p, scale) for p in parts], plan, scale)
    assert out.shape == (2, height * scale, width * scale)
    assert np.abs(out - enlarge(frame, scale)).max() < 1e-5


def test_blending_leaves_no_seam_between_tiles_that_differ() -> None:
    """Two tiles off by a constant meet in a ramp: no step is larger than the difference over half the overlap."""
    plan = tiling(100, 48, 60, 48, 20)
    parts = [np.full((1, 48, 60), float(i), np.float32) for i in range(2)]
    row = blend(parts, plan, 1)[0, 8]
    assert row[0] == 0 and row[-1] == 1
    assert np.diff(row).min() >= 0 and np.diff(row).max() <= 1 / 10 + 1e-6


@pytest.mark.parametrize("overlap", [-1, 32, 40])
def test_impossible_overlaps_are_refused(overlap: int) -> None:
    with pytest.raises(FlashsrError, match="overlap"):
        tiling(200, 200, 64, 64, overlap)
