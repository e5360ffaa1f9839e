"""Block-sparse attention in NumPy: which pairs of windows are kept, and softmax attention over them (spec 3.5, 3.6)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..rope import rotate, slice_positions, slice_tables
from ..windows import WINDOW_TOKENS, BoolArray, Grid

Array = npt.NDArray[np.float32]
WindowAttention = Callable[[Array, Array, Array], Array]


@dataclass(frozen=True)
class AttentionPlan:
    """What a layer's self-attention is told besides q, k and v; the same for all layers of a step."""

    grid: Grid
    heads: int
    head_dim: int
    budget: int
    """Pairs of windows each head keeps per query slice (`windows.pair_budget`)."""
    visible: BoolArray
    """(S, S) local mask, the same between any two slices."""


def rotated(tokens: Array, plan: AttentionPlan, positions: Sequence[int]) -> Array:
    """(tokens, dim) of `len(positions)` slices → (tokens, heads, head_dim), rotated."""
    heads = tokens.astype(np.float32, copy=False).reshape(-1, plan.heads, plan.head_dim)
    size = plan.grid.slice_tokens
    parts = [
        rotate(heads[n * size : (n + 1) * size], *slice_tables(plan.grid, plan.head_dim, position))
        for n, position in enumerate(positions)
    ]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def pooled(tokens: Array) -> Array:
    """Mean of each window: (tokens, heads, head_dim) → (heads, windows, head_dim)."""
    _, heads, head_dim = tokens.shape
    mean: Array = tokens.reshape(-1, WINDOW_TOKENS, heads, head_dim).mean(axis=1, dtype=np.float32)
    return mean.transpose(1, 0, 2)


def kept_pairs(queries: Array, keys: Array, plan: AttentionPlan) -> BoolArray:
    """Which key windows each query window keeps: pooled (heads, nq, d) and (heads, nk, d) → (heads, nq, nk).

    One budget is shared by all query windows of a slice: a head keeps the probabilities strictly above the (budget + 1)-th
    largest of the slice, so ties at the threshold are dropped and a row may keep nothing.
    """
    heads, query_count, _ = queries.shape
    flat = softmax(scores(queries, keys, plan.visible)).reshape(heads, query_count // plan.grid.blocks, -1)
    limits = thresholds(flat, 1 + min(flat.shape[-1] - 1, plan.budget))
    return (flat > limits[..., None]).reshape(heads, query_count, -1)


def scores(queries: Array, keys: Array, visible: BoolArray) -> Array:
    """q k' / sqrt(d) of pooled windows, -inf where the mask (S, S) between two slices lets nothing be seen."""
    heads, query_count, head_dim = queries.shape
    size = len(visible)
    found = queries @ keys.transpose(0, 2, 1) / np.float32(np.sqrt(head_dim))
    found = found.reshape(heads, query_count // size, size, -1, size)
    seen: Array = np.where(visible[None, None, :, None, :], found, np.float32(-np.inf))
    return seen.reshape(heads, query_count, -1)


def softmax(rows: Array) -> Array:
    """Of each row."""
    out: Array = np.exp(rows - rows.max(axis=-1, keepdims=True))
    out /= out.sum(axis=-1, keepdims=True)
    return out


def thresholds(rows: Array, rank: int) -> Array:
    """The `rank`-th largest of each row."""
    at = rows.shape[-1] - rank
    out: Array = np.partition(rows, at, axis=-1)[..., at]
    return out


def attend_window(q: Array, k: Array, v: Array) -> Array:
    """softmax(q k') v of one window's queries, already scaled, (128, d), and its keys and values (n, d)."""
    scores = q @ k.T
    np.exp(scores - scores.max(axis=1, keepdims=True), out=scores)
    out: Array = scores @ v / scores.sum(axis=1, keepdims=True)
    return out


def attend_blocks(q: Array, k: Array, v: Array, kept: BoolArray, window: WindowAttention = attend_window) -> Array:
    """softmax(q k' / sqrt(d)) v over the kept pairs; all (tokens, heads, head_dim), a window at a time by `window`.

    A query window that keeps nothing gives exactly 0.
    """
    tokens, heads, head_dim = q.shape
    scale = np.float32(1.0 / np.sqrt(head_dim))
    out = np.zeros((tokens, heads, head_dim), np.float32)
    for head in range(heads):
        queries = np.ascontiguousarray(q[:, head]).reshape(-1, WINDOW_TOKENS, head_dim) * scale
        keys = np.ascontiguousarray(k[:, head]).reshape(-1, WINDOW_TOKENS, head_dim)
        values = np.ascontiguousarray(v[:, head]).reshape(-1, WINDOW_TOKENS, head_dim)
        for row in range(len(queries)):
            blocks = np.flatnonzero(kept[head, row])
            if blocks.size == 0:
                continue
            seen = (part[blocks].reshape(-1, head_dim) for part in (keys, values))
            out[row * WINDOW_TOKENS : (row + 1) * WINDOW_TOKENS, head] = window(queries[row], *seen)
    return out


def sparse_attention(
    q: Array,
    keys: Sequence[Array],
    values: Sequence[Array],
    plan: AttentionPlan,
    window: WindowAttention = attend_window,
) -> tuple[Array, BoolArray]:
    """One layer's self-attention.

    q is (tokens of the newest slices, dim); keys (after RMSNorm, not rotated) and values are one (slice tokens, dim) per slice,
    oldest first, the step's own slices last. Returns (tokens, dim) and the mask (heads, nq, nk).
    """
    positions = slice_positions(len(keys))
    queries = rotated(q, plan, positions[-(len(q) // plan.grid.slice_tokens) :])
    rotated_keys = np.concatenate([rotated(key, plan, [at]) for key, at in zip(keys, positions, strict=True)])
    stacked = np.concatenate([value.astype(np.float32, copy=False) for value in values])
    kept = kept_pairs(pooled(queries), pooled(rotated_keys), plan)
    out = attend_blocks(queries, rotated_keys, stacked.reshape(rotated_keys.shape), kept, window)
    return out.reshape(len(q), -1), kept
