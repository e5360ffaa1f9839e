"""The attention's kernels in Triton's interpreter, against the NumPy reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from vsflashsr.models.flashvsr.host.attention import AttentionPlan, attend_window, sparse_attention
from vsflashsr.models.flashvsr.kernels.launches import (
    Attention,
    AttentionAddresses,
    attend,
    attention,
    attention_scratch,
)
from vsflashsr.models.flashvsr.kernels.tables import rotary_tables
from vsflashsr.models.flashvsr.rope import slice_tables
from vsflashsr.models.flashvsr.windows import WINDOW_TOKENS, Grid, local_mask, window_order

from ...support.triton_host import bf16_bits, bf16_values, interpreted, kept_by, placed, run_launch, run_launches, unset

pytest.importorskip("triton", reason="the kernels are Triton's")

type Array = npt.NDArray[Any]

STORED: dict[str, Any] = {"fp16": np.float16, "bf16": np.uint16, "fp32": np.float32}


def stored(array: Array, dtype: str) -> Array:
    """As the device holds it; bf16 as its bits."""
    return placed(bf16_bits(array) if dtype == "bf16" else array.astype(STORED[dtype]))


def loaded(array: Array) -> npt.NDArray[np.float32]:
    """What the device's array means."""
    return bf16_values(array) if array.dtype == np.uint16 else array.astype(np.float32)


class Layer:
    """One layer's rings on the "device", and the same in the reference's own form: unturned slices, oldest first."""

    def __init__(self, grid: Grid, heads: int, head_dim: int, dtype: str, slots: int, seed: int = 0) -> None:
        self.grid, self.heads, self.head_dim, self.dtype = grid, heads, head_dim, dtype
        self.dim = heads * head_dim
        self.random = np.random.default_rng(seed)
        shape = (slots * grid.slice_tokens, self.dim)
        self.keys, self.values = unset(shape, STORED[dtype]), unset(shape, STORED[dtype])
        self.key_means = unset((slots * grid.blocks, heads, head_dim))
        self.slots: list[tuple[Array, Array] | None] = [None] * slots
        self.age: dict[int, int] = {}
        self.latents = 0

    def tokens(self, slices: int, spread: float) -> Array:
        """Random, rounded to the type; `spread` makes windows differ in strength."""
        windows = slices * self.grid.blocks
        # Some windows stand out, so that their rows keep much and leave others nothing.
        strength = 2 ** self.random.uniform(-spread, spread / 4, (windows, 1, 1))
        common = self.random.standard_normal((windows, 1, self.dim)) * strength
        own = self.random.standard_normal((windows, WINDOW_TOKENS, self.dim)) * 0.5
        return stored((common + own).reshape(-1, self.dim), self.dtype)

    def step(
        self, slices: int, slot: int, seen: int, budget: int, local_range: int = 11
    ) -> tuple[Array, Array, Array, Array]:
        """(out, mask) of the kernels, (out, mask) of the reference; masks (heads, nq, nk) with the keys oldest first."""
        q, k, v = self.tokens(slices, 4), self.tokens(slices, 4), self.tokens(slices, 0)
        size = self.grid.slice_tokens
        self.values[slot * size : (slot + slices) * size] = v
        order = [n for n in range(seen) if not slot <= n < slot + slices]
        order.sort(key=lambda n: self.age[n])
        order += range(slot, slot + slices)
        shape = Attention(
            self.grid, self.heads, self.head_dim, self.dtype, slices, seen, local_range=local_range, budget=budget
        )
        scratch = unset((attention_scratch(shape).size_bytes,), np.uint8)
        cosine, sine = map(placed, rotary_tables(self.grid, self.head_dim, slices, self.latents))
        out = unset(q.shape, q.dtype)
        at = AttentionAddresses(
            *(array.ctypes.data for array in (q, k, self.keys, self.values, self.key_means, cosine, sine, out, scratch))
        )
        run_launches(attention(shape, at, slot))
        for n in range(slices):
            rows = slice(n * size, (n + 1) * size)
            self.slots[slot + n] = loaded(k[rows]), loaded(v[rows])
            self.age[slot + n] = self.latents + 2 * n
        self.latents += 2 * slices
        plan = AttentionPlan(self.grid, self.heads, self.head_dim, budget, local_mask(self.grid, local_range))
        filled = [self.slots[n] for n in order]
        wanted, kept = sparse_attention(
            loaded(q), [part[0] for part in filled if part], [part[1] for part in filled if part], plan
        )
        mask = kept_by(shape, scratch).reshape(self.heads, shape.queries, seen, self.grid.blocks)
        return loaded(out), mask[:, :, order].reshape(kept.shape), wanted, kept


def test_rotary_tables_are_the_reference_s_taken_apart() -> None:
    grid, head_dim = Grid(2, 3), 32
    for tables, wanted in zip(rotary_tables(grid, head_dim, 2, 6), slice_tables(grid, head_dim, 8), strict=True):
        time, rows, cols = np.split(tables, [4 * 6, 4 * 6 + 16 * 5])
        token = np.unravel_index(window_order(grid, 1), (2, 16, 24))
        parts = time.reshape(4, 6)[2 + token[0]], rows.reshape(16, 5)[token[1]], cols.reshape(24, 5)[token[2]]
        np.testing.assert_array_equal(np.concatenate(parts, axis=1), wanted)


@interpreted
def test_a_stream_of_steps_equals_the_reference() -> None:
    """A first step of three slices, a ring that fills, then one that wraps; rows that keep much, and rows that keep nothing."""
    layer = Layer(Grid(1, 3), 2, 32, "fp32", slots=4)
    kept_by_row = []
    for slices, slot, seen, reach in ((3, 0, 3, 11), (1, 3, 4, 3), (1, 0, 4, 11)):
        out, mask, wanted, kept = layer.step(slices, slot, seen, 5, reach)
        np.testing.assert_array_equal(mask, kept)
        np.testing.assert_allclose(out, wanted, rtol=0, atol=1e-5)
        assert (mask.reshape(2, slices, -1).sum(axis=-1) == 5).all(), "the budget of each head and query slice"
        empty = ~mask.any(axis=-1)
        rows = out.reshape(-1, WINDOW_TOKENS, 2, 32).transpose(2, 0, 1, 3)
        assert (rows[empty] == 0).all() and (rows[~empty] != 0).all()
        kept_by_row += mask.sum(axis=-1).ravel().tolist()
    assert min(kept_by_row) == 0 and max(kept_by_row) > 2


@interpreted
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_half_precision_keeps_the_same_windows(dtype: str) -> None:
    """Means are of the float32 values, so the masks are those of the reference on the same inputs."""
    layer = Layer(Grid(1, 2), 1, 32, dtype, slots=4)
    for slices, slot, seen in ((3, 0, 3), (1, 3, 4)):
        out, mask, wanted, kept = layer.step(slices, slot, seen, 6)
        np.testing.assert_array_equal(mask, kept)
        noise = np.square(out - wanted).mean() / np.square(wanted).mean()
        assert noise < {"fp16": 1e-5, "bf16": 2e-4}[dtype], f"50 dB, 37 dB, {noise}"


@interpreted
def test_wide_heads_on_a_single_window() -> None:
    """Grid 1x1, and a budget that exceeds what there is: all but the least probable pair are kept."""
    layer = Layer(Grid(1, 1), 1, 128, "fp32", slots=4)
    for slices, slot, seen in ((3, 0, 3), (1, 3, 4)):
        out, mask, wanted, kept = layer.step(slices, slot, seen, 100)
        np.testing.assert_array_equal(mask, kept)
        assert mask.sum() == slices * (seen - 1)
        np.testing.assert_allclose(out, wanted, rtol=0, atol=1e-5)


@interpreted
def test_rows_are_done_in_the_order_given() -> None:
    """Longest first is for speed alone, so only an order that leaves a row out shows that it is followed."""
    shape = Attention(Grid(1, 2), 1, 32, "fp32", 1, 1, local_range=1, budget=9)
    at, scratch = attention_scratch(shape), unset((attention_scratch(shape).size_bytes,), np.uint8)
    scratch[at.counts :][:8].view(np.int32)[:] = 0
    scratch[at.order :][:8].view(np.int32)[:] = 1
    tokens, out = placed(np.ones((256, 32), np.float32)), placed(np.ones((256, 32), np.float32))
    q, address = tokens.ctypes.data, scratch.ctypes.data
    addresses = AttentionAddresses(
        q=q, k=q, keys=q, values=q, key_means=16, cosine=16, sine=16, out=out.ctypes.data, scratch=address
    )
    run_launch(attend(shape, q, addresses, address))
    assert (out[:128] == 1).all() and (out[128:] == 0).all()


@interpreted
def test_keys_are_read_in_whole_windows_or_in_parts() -> None:
    """As for GPUs of less shared memory."""
    shape = Attention(Grid(1, 1), 1, 32, "fp32", 1, 3, local_range=1, budget=9)
    random = np.random.default_rng(1)
    q, k, v = (placed(random.standard_normal((n * 128, 32)).astype(np.float32)) for n in (1, 3, 3))
    at, scratch = attention_scratch(shape), unset((attention_scratch(shape).size_bytes,), np.uint8)
    scratch[at.lists :][:12].view(np.int32)[:] = 0, 2, 1 << 30
    scratch[at.counts :][:4].view(np.int32)[:] = 2
    scratch[at.order :][:4].view(np.int32)[:] = 0
    scaled: Array = q / np.float32(32**0.5)
    wanted = attend_window(scaled, k[[*range(128), *range(256, 384)]], v[[*range(128), *range(256, 384)]])
    for part in (16, 64, 128):
        out = unset(q.shape)
        addresses = AttentionAddresses(
            q=q.ctypes.data,
            k=16,
            keys=k.ctypes.data,
            values=v.ctypes.data,
            key_means=16,
            cosine=16,
            sine=16,
            out=out.ctypes.data,
            scratch=scratch.ctypes.data,
        )
        run_launch(attend(shape, q.ctypes.data, addresses, scratch.ctypes.data), BLOCK_N=part)
        np.testing.assert_allclose(out, wanted, rtol=0, atol=2e-6)
    v[300, 5] = np.nan
    run_launch(attend(shape, q.ctypes.data, addresses, scratch.ctypes.data))
    assert np.isnan(out[:, 5]).all() and not np.isnan(out[:, :5]).any(), "what is no number is not hidden"
