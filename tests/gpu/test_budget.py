"""Device memory as it is stated, and the tiles that are tried where it doesn't suffice."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vsflashsr.geometry import tile_sizes, tiling
from vsflashsr.gpu.budget import RESERVE_BYTES, MemoryPlan, MemoryRefusedError, amount

GIB, MIB = 1 << 30, 1 << 20
PLAN = MemoryPlan({"weights": 3 * GIB, "KV cache": 4 * GIB, "frames": 100 * MIB, "tables": 20})


def test_a_plan_is_refused_with_its_numbers_and_the_remedy() -> None:
    needed = PLAN.total_bytes + RESERVE_BYTES
    PLAN.require(needed, "buy more")
    with pytest.raises(MemoryRefusedError) as refused:
        PLAN.require(needed - 1, "buy more")
    assert str(refused.value) == (
        "the model needs 7.10 GiB (weights 3.00 GiB, KV cache 4.00 GiB, frames 100 MiB) of GPU memory, got 7.35 GiB free; "
        "buy more"
    )


def test_what_is_taken_already_need_not_be_free() -> None:
    PLAN.require(PLAN.total_bytes - 3 * GIB + RESERVE_BYTES, "", taken_bytes=3 * GIB)
    with pytest.raises(MemoryRefusedError, match=r"got 4.35 GiB free beside 3.00 GiB taken by it"):
        PLAN.require(PLAN.total_bytes - 3 * GIB + RESERVE_BYTES - 1, "", taken_bytes=3 * GIB)


@pytest.mark.parametrize(("size", "text"), [(0, "0 MiB"), (MIB, "1 MiB"), (GIB - MIB, "1023 MiB"), (GIB, "1.00 GiB")])
def test_amounts(size: int, text: str) -> None:
    assert amount(size) == text


@settings(deadline=None)
@given(st.integers(8, 4000), st.integers(8, 3000), st.sampled_from([1, 8, 32, 64]), st.integers(0, 32))
def test_tiles_get_smaller_and_always_cover_the_frame(width: int, height: int, multiple: int, overlap: int) -> None:
    found = tile_sizes(width, height, multiple, overlap)
    areas = [w * h for w, h in found]
    assert areas == sorted(areas, reverse=True) and len(set(areas)) == len(areas)
    for w, h in found:
        assert w % multiple == h % multiple == 0 and min(w, h) >= max(64, 4 * overlap)
        plan = tiling(width, height, w, h, overlap)
        assert max(t.x + t.width for t in plan.tiles) >= width
        assert max(t.y + t.height for t in plan.tiles) >= height


def test_tiles_of_a_film() -> None:
    """1920x1080 at x4: columns and rows in turn, multiples of 32 (128 in the output)."""
    assert tile_sizes(1920, 1080, 32, 16)[:4] == [(992, 1088), (992, 576), (672, 576), (512, 576)]
