"""FlashVSR's selection of windows and block-sparse attention in NumPy, against their definitions."""

from __future__ import annotations

from typing import Any

import numpy as np

from vsflashsr.models.flashvsr.host.attention import AttentionPlan, attend_blocks, kept_pairs, sparse_attention
from vsflashsr.models.flashvsr.windows import Grid, local_mask

HEADS, HEAD_DIM = 2, 8


def plan(grid: Grid, budget: int, reach: int = 11) -> AttentionPlan:
    return AttentionPlan(grid, HEADS, HEAD_DIM, budget, local_mask(grid, reach))


def tokens(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, HEADS, HEAD_DIM)).astype(np.float32)


def test_a_budget_is_shared_by_the_queries_of_a_slice() -> None:
    grid = Grid(2, 3)
    queries, keys = tokens(18, 1).transpose(1, 0, 2) * 3, tokens(24, 2).transpose(1, 0, 2) * 3
    queries[:, 0] = 0  # sees all alike, so that none stands out
    kept = kept_pairs(queries, keys, plan(grid, 7))
    per_slice = kept.reshape(HEADS, 3, 6 * 24).sum(axis=-1)
    assert (per_slice == 7).all()
    assert not kept[:, 0].any() and kept.sum(axis=-1).max() > 1, "one row takes what another leaves"


def test_ties_at_the_threshold_are_all_dropped() -> None:
    grid = Grid(1, 4)
    keys = np.zeros((1, 4, HEAD_DIM), np.float32)
    keys[0, 0] = 1
    queries = np.ones((1, 4, HEAD_DIM), np.float32)
    # Each row holds one large probability and three equal ones; four are strictly above the fifth, not five.
    kept = kept_pairs(queries, keys, AttentionPlan(grid, 1, HEAD_DIM, 4, local_mask(grid, 11)))
    assert kept.sum() == 4 and kept[0, :, 0].all()
    kept = kept_pairs(queries, keys, AttentionPlan(grid, 1, HEAD_DIM, 9, local_mask(grid, 11)))
    assert kept.sum() == 4, "the tenth value is tied with the fifth"
    assert not kept_pairs(queries * 0, keys, AttentionPlan(grid, 1, HEAD_DIM, 9, local_mask(grid, 11))).any()


def test_hidden_windows_are_dropped_where_the_budget_exceeds_what_there_is() -> None:
    grid = Grid(1, 4)
    sparse = plan(grid, 1000, reach=3)
    kept = kept_pairs(tokens(4, 3).transpose(1, 0, 2), tokens(8, 4).transpose(1, 0, 2), sparse)
    assert (kept == np.tile(sparse.visible, (1, 2))[None]).all()


def test_attention_over_blocks_equals_masked_dense_attention() -> None:
    q, k, v = tokens(256, 5), tokens(512, 6), tokens(512, 7)
    kept = np.random.default_rng(8).random((HEADS, 2, 4)) < 0.5
    kept[0, 0], kept[1, 1, 0] = False, True
    out = attend_blocks(q, k, v, kept)
    for head in range(HEADS):
        mask = kept[head].repeat(128, axis=0).repeat(128, axis=1)
        scores = np.where(mask, q[:, head].astype(np.float64) @ k[:, head].T / np.sqrt(HEAD_DIM), -np.inf)
        weights = np.exp(scores - np.maximum(scores.max(axis=1, keepdims=True), -1e300))
        total = weights.sum(axis=1, keepdims=True)
        expected = np.divide(weights @ v[:, head], total, out=np.zeros((256, HEAD_DIM)), where=total > 0)
        np.testing.assert_allclose(out[:, head], expected, atol=1e-5)
    assert (out[:128, 0] == 0).all(), "a row without keys is exactly 0, not the mean of the values"


def test_half_precision_caches_are_read() -> None:
    grid = Grid(1, 1)
    heads = AttentionPlan(grid, 1, 24, 3, local_mask(grid, 11))
    parts = [np.random.default_rng(n).standard_normal((128, 24)).astype(np.float32) for n in range(4)]
    full, mask = sparse_attention(parts[0], parts[1:3], parts[2:4], heads)
    halves: Any = [part.astype(np.float16) for part in parts]
    half, half_mask = sparse_attention(halves[0], halves[1:3], halves[2:4], heads)
    assert half.dtype == np.float32 and (mask == half_mask).all()
    np.testing.assert_allclose(half, full, atol=1e-2)
