"""Which windows are kept: the kernels from means to lists in Triton's interpreter, against the NumPy reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from vsflashsr.models.flashvsr.host.attention import AttentionPlan, kept_pairs
from vsflashsr.models.flashvsr.kernels.launches import Attention, attention_scratch, launch_of, select
from vsflashsr.models.flashvsr.kernels.table import TALLY_VALUES
from vsflashsr.models.flashvsr.windows import Grid, local_mask, pair_budget, topk_ratio

from ...support.triton_host import interpreted, kept_by, placed, run_launch, run_launches, unset

pytest.importorskip("triton", reason="the kernels are Triton's")

type Array = npt.NDArray[Any]

HEADS, HEAD_DIM = 2, 32


def selected(shape: Attention, q_means: Array, k_means: Array) -> npt.NDArray[np.bool_]:
    """(heads, nq, nk) by the kernels, of means (windows, heads, head_dim)."""
    scratch = unset((attention_scratch(shape).size_bytes,), np.uint8)
    q, k = placed(q_means), placed(k_means)
    run_launches(select(shape, q.ctypes.data, k.ctypes.data, scratch.ctypes.data))
    return kept_by(shape, scratch)


def wanted(shape: Attention, q_means: Array, k_means: Array) -> npt.NDArray[np.bool_]:
    """The same by the reference."""
    visible = local_mask(shape.grid, shape.local_range)
    plan = AttentionPlan(shape.grid, shape.heads, shape.head_dim, shape.budget, visible)
    return kept_pairs(q_means.transpose(1, 0, 2), k_means.transpose(1, 0, 2), plan)


def shape_of(grid: Grid, q: int, k: int, budget: int, reach: int = 11) -> Attention:
    return Attention(grid, HEADS, HEAD_DIM, "fp32", q, k, local_range=reach, budget=budget)


def means(windows: int, seed: int, strength: float = 1.0) -> Array:
    return np.random.default_rng(seed).standard_normal((windows, HEADS, HEAD_DIM)).astype(np.float32) * strength


def clear(shape: Attention, q_means: Array, k_means: Array) -> bool:
    """Whether rounding can't decide: with one pair more or less in the budget, none is as good as tied with the threshold."""
    for factor in (1 + 1e-5, 1 - 1e-5):
        if (wanted(shape, q_means * np.float32(factor), k_means) != wanted(shape, q_means, k_means)).any():
            return False
    return True


@interpreted
def check_drawn(rows: int, cols: int, q: int, k: int, budget: int, reach: int, strength: float, seed: int) -> bool:
    """False where rounding decides."""
    shape = shape_of(Grid(rows, cols), q, k, budget, reach)
    q_means, k_means = means(shape.queries, seed, strength), means(shape.keys, seed + 1)
    if not clear(shape, q_means, k_means):
        return False
    np.testing.assert_array_equal(selected(shape, q_means, k_means), wanted(shape, q_means, k_means))
    return True


@pytest.mark.parametrize(
    "case",
    [
        pytest.param((2, 3, 3, 3, 20, 3, 1.0, 1), id="a threshold for each query slice"),
        pytest.param((1, 4, 1, 4, 9, 4, 3.0, 2), id="an even range, rows that keep nothing"),
        pytest.param((3, 2, 1, 2, 1000, 11, 0.1, 3), id="all but the least probable pair"),
    ],
)
def test_the_windows_of_the_reference_are_kept(case: tuple[Any, ...]) -> None:
    assert check_drawn(*case), "rounding decides: take another seed"


@pytest.mark.long
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(
    st.integers(1, 3),
    st.integers(1, 4),
    st.sampled_from([(1, 1), (1, 4), (3, 3), (3, 5)]),
    st.integers(0, 300),
    st.integers(1, 9),
    st.sampled_from([0.1, 1.0, 3.0]),
    st.integers(0, 1000),
)
def test_any_windows_of_the_reference_are_kept(
    rows: int, cols: int, slices: tuple[int, int], budget: int, reach: int, strength: float, seed: int
) -> None:
    """Any grid, local range, budget from nothing to all, first steps and rings that fill."""
    assume(check_drawn(rows, cols, *slices, budget, reach, strength, seed))


@interpreted
@pytest.mark.parametrize(
    ("rows", "cols", "q", "k"),
    [
        (6, 10, 1, 4),
        (5, 6, 1, 4),
        *(pytest.param(*size, marks=pytest.mark.long) for size in ((6, 11, 3, 3), (9, 16, 1, 4))),
    ],
)
def test_sizes_as_published(rows: int, cols: int, q: int, k: int) -> None:
    """1280x768, 1408x768 and 2048x1152 at the published budget; 768x640, where it exceeds what there is."""
    grid = Grid(rows, cols)
    budget = pair_budget(topk_ratio(2.0, grid), grid)
    shape = Attention(grid, 1, HEAD_DIM, "fp32", q, k, local_range=9, budget=budget)
    drawn = ((means(shape.queries, seed, 2.0)[:, :1], means(shape.keys, seed + 1)[:, :1]) for seed in range(5, 100, 2))
    q_means, k_means = next(pair for pair in drawn if clear(shape, *pair))
    kept = selected(shape, q_means, k_means)
    np.testing.assert_array_equal(kept, wanted(shape, q_means, k_means))
    visible = local_mask(grid, 9).sum() * k
    assert (kept.reshape(q, -1).sum(axis=-1) == min(budget, visible)).all()


@interpreted
def test_ties_at_the_threshold_are_all_dropped() -> None:
    """The cases of the reference's own test: one large probability and three equal ones in each of four rows."""
    keys = np.zeros((4, HEADS, HEAD_DIM), np.float32)
    keys[0] = 1
    queries = np.ones((4, HEADS, HEAD_DIM), np.float32)
    for budget in (4, 9):
        kept = selected(shape_of(Grid(1, 4), 1, 1, budget), queries, keys)
        assert kept.sum() == HEADS * 4 and kept[:, :, 0].all(), budget
    assert not selected(shape_of(Grid(1, 4), 1, 1, 9), queries * 0, keys).any(), "all are tied"
    assert not selected(shape_of(Grid(1, 4), 1, 1, 0), queries, keys).any(), "none is above the largest"


@interpreted
@pytest.mark.parametrize("reach", [1, 2, 3, 4])
def test_hidden_windows_are_dropped_where_the_budget_exceeds_what_there_is(reach: int) -> None:
    """Ranges are cut off at the borders; even ones reach further up and left."""
    shape = shape_of(Grid(4, 3), 1, 2, 1000, reach)
    kept = selected(shape, means(12, 3), means(24, 4))
    np.testing.assert_array_equal(kept, np.broadcast_to(np.tile(local_mask(shape.grid, reach), (1, 2)), kept.shape))


@interpreted
@pytest.mark.parametrize("count", [1, 300, 5000, pytest.param(100000, marks=pytest.mark.long)])
def test_the_threshold_is_exact(count: int) -> None:
    """To the bit, of values with ties, zeros, and neighbours that differ in the last one."""
    random = np.random.default_rng(count)
    values = np.abs(random.standard_normal((2, count))).astype(np.float32) * np.float32(1e-3)
    values[0, random.random(count) < 0.3] = 0
    values[0, random.random(count) < 0.2] = values[0, 0]
    near = np.float32(0.7).view(np.int32) + random.integers(0, 3, count)
    values[1, count // 2 :] = near.astype(np.int32).view(np.float32)[count // 2 :]
    values[1] = np.minimum(values[1], 1)
    values = placed(values)
    ordered = -np.sort(-values, axis=1)
    for rank in sorted({1, 2, count // 3 + 1, count // 2 + 1, count} & set(range(1, count + 1))):
        tallies, lists, counts = placed(np.zeros((3, 2, 1024), np.int32)), unset((2, count), np.int32), unset((2,), np.int32)
        at = [array.ctypes.data for array in (values, tallies, lists, counts)]
        for digit in range(3):
            run_launch(launch_of(f"tally.{digit}", (-(-count // TALLY_VALUES), 2, 1), *at[:2], count, rank, 2))
        run_launch(launch_of("kept_lists", (1, 2, 1), *at, 1, count, 1, rank))
        for row, listed, kept, limit in zip(values, lists, counts, ordered[:, rank - 1], strict=True):
            np.testing.assert_array_equal(listed[:kept], np.flatnonzero(row > limit))


@pytest.mark.parametrize(
    "wrong", [{"dtype": "fp8"}, {"head_dim": 48}, {"query_slices": 3, "key_slices": 2}, {"grid": Grid(20000, 20000)}]
)
def test_what_no_kernel_can_do_is_refused(wrong: dict[str, Any]) -> None:
    fields: dict[str, Any] = {"grid": Grid(1, 1), "heads": 1, "head_dim": 32, "dtype": "fp16"}
    fields |= {"query_slices": 1, "key_slices": 2, "local_range": 11, "budget": 1}
    Attention(**fields)
    with pytest.raises(ValueError, match=r"no kernels|among|too many"):
        Attention(**fields | wrong)


def test_addresses_that_kernels_would_misread_are_refused() -> None:
    """They were compiled for addresses at multiples of 16."""
    shape = shape_of(Grid(1, 1), 1, 1, 1)
    assert select(shape, 512, 512, 512)
    for wrong in (520, 0, -512):
        with pytest.raises(ValueError, match="multiple of 16"):
            select(shape, wrong, 512, 512)
