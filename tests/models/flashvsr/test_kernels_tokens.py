"""The kernels between the products of a token piece, interpreted, against what the network's own layers are."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from vsflashsr.models.flashvsr.kernels import token_launches
from vsflashsr.models.flashvsr.kernels.launches import Attention, AttentionAddresses, HeadNorms, rms_scales, rotate
from vsflashsr.models.flashvsr.kernels.tables import rotary_tables
from vsflashsr.models.flashvsr.kernels.token_launches import NormWeights, Prompt, Tokens
from vsflashsr.models.flashvsr.windows import Grid

from ...support.triton_host import interpreted, placed, run_launch, run_launches, unset
from .test_kernels_attention import loaded, stored

pytest.importorskip("triton", reason="the kernels are Triton's")

type Array = npt.NDArray[Any]

STEP = {"fp32": 2e-6, "fp16": 1e-3, "bf16": 8e-3}
"""Of numbers near 1: float32's sums, and half a unit in the last place of what is stored."""
TYPES = ["fp32", "bf16", pytest.param("fp16", marks=pytest.mark.long)]
EPS = 1e-6


def address(array: Array) -> int:
    return int(array.ctypes.data)


def drawn(*shape: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def close(made: Array, wanted: Array, dtype: str) -> None:
    np.testing.assert_allclose(made, wanted, rtol=STEP[dtype], atol=STEP[dtype])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("form", ["gated", "added", "embedded", "in place"])
@interpreted
def test_residual_gate_and_norm_are_one_pass(dtype: str, form: str) -> None:
    """Rows that don't fill a block of rows, a dim that doesn't fill the lanes."""
    rows, dim = 6, 48
    x = stored(drawn(rows, dim) * 3, dtype) if form == "embedded" else placed(drawn(rows, dim) * 3)
    y = stored(drawn(rows, dim, seed=1), dtype)
    gate, weight, bias = (placed(drawn(dim, seed=seed)) for seed in (2, 3, 4))
    total = loaded(x) + (1 if form in ("added", "embedded") else gate) * loaded(y)
    wide = total.astype(np.float64)
    away = wide - wide.mean(1, keepdims=True)
    wanted = away / np.sqrt(np.square(away).mean(1, keepdims=True) + EPS) * weight + bias
    x_out, out = x if form == "in place" else unset((rows + 1, dim)), unset((rows + 1, dim), y.dtype)
    untouched = out[rows:].copy()
    tokens, norm = Tokens(rows, dim, dtype), NormWeights(address(weight), address(bias))
    places = address(x), address(y), address(x_out), address(out)
    if form == "embedded":
        run_launch(token_launches.embed_norm(tokens, *places, norm))
    else:
        run_launch(token_launches.residual_norm(tokens, *places, norm, None if form == "added" else address(gate)))
    np.testing.assert_allclose(x_out[:rows], total, rtol=1e-6, atol=1e-6)
    close(loaded(out[:rows]), wanted, dtype)
    np.testing.assert_array_equal(out[rows:], untouched)


@pytest.mark.parametrize("dtype", TYPES)
@interpreted
def test_q_and_k_are_normed_where_they_are_turned(dtype: str) -> None:
    """The same to the bit as a norm that leaves its result in the model's type, and then a turn without one."""
    grid, heads, dim = Grid(1, 2), 2, 32
    shape = Attention(grid, heads, dim, dtype, 1, 2, local_range=3, budget=4)
    tokens, width = grid.slice_tokens, heads * dim
    q, k = (stored(drawn(tokens, width, seed=seed) * (seed + 1), dtype) for seed in (0, 1))
    weights = [placed(drawn(width, seed=seed)) for seed in (2, 3)]
    scales = unset((2, tokens))
    run_launch(rms_scales(dtype, (address(q), address(k)), address(scales), tokens, width))
    for part, scale in zip((q, k), scales, strict=True):
        np.testing.assert_allclose(scale, 1 / np.sqrt(np.square(loaded(part).astype(np.float64)).mean(1) + EPS), rtol=1e-6)
    cosine, sine = map(placed, rotary_tables(grid, dim, 1, 4))

    def turned(q: Array, k: Array, norms: HeadNorms | None) -> list[Array]:
        keys, means = unset((2 * tokens, width), q.dtype), unset((2 * grid.blocks, heads, dim))
        q_out, q_means = unset(q.shape, q.dtype), unset((grid.blocks, heads, dim))
        scratch = unset((1 << 20,), np.uint8)
        places = map(address, (q, k, keys, keys, means, cosine, sine, q_out, scratch))
        at = AttentionAddresses(*places, norms=norms)
        run_launches(rotate(shape, at, 1, address(q_out), address(q_means)))
        return [q_out, keys[tokens:], q_means, means[grid.blocks :]]

    normed = [
        stored(loaded(part) * scale[:, None] * weight, dtype)
        for part, scale, weight in zip((q, k), scales, weights, strict=True)
    ]
    wanted = turned(normed[0], normed[1], None)
    made = turned(q, k, HeadNorms(*map(address, weights)))
    for part, other in zip(made, wanted, strict=True):
        np.testing.assert_array_equal(part, other)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("length", [5, 128, 200])
@interpreted
def test_cross_attention_norms_its_queries_and_ends_with_the_prompt(dtype: str, length: int) -> None:
    rows, heads, dim = 128, 2, 32
    width, padded = heads * dim, -(-length // 128) * 128
    q = stored(drawn(rows, width), dtype)
    weight = placed(drawn(width, seed=1))
    keys, values = (stored(drawn(heads, padded, dim, seed=seed), dtype) for seed in (2, 3))
    scales, out = unset((rows,)), unset(q.shape, q.dtype)
    tokens = Tokens(rows, width, dtype)
    prompt = Prompt(address(weight), address(keys), address(values), length, padded, heads)
    run_launch(rms_scales(dtype, (address(q),), address(scales), rows, width))
    run_launch(token_launches.cross_attend(tokens, prompt, address(q), address(scales), address(out)))
    wide = loaded(q).astype(np.float64)
    normed = wide / np.sqrt(np.square(wide).mean(1, keepdims=True) + EPS) * weight
    queries = normed.reshape(rows, heads, dim).transpose(1, 0, 2)
    seen = loaded(keys)[:, :length].astype(np.float64)
    weights = np.exp(queries @ seen.transpose(0, 2, 1) / np.sqrt(dim))
    weights /= weights.sum(-1, keepdims=True)
    wanted = (weights @ loaded(values)[:, :length]).transpose(1, 0, 2).reshape(rows, width)
    close(loaded(out), wanted, dtype)


def test_a_prompt_that_is_not_padded_is_refused() -> None:
    for length, padded in ((5, 64), (0, 128), (129, 128)):
        with pytest.raises(ValueError, match="isn't padded"):
            token_launches.cross_attend(Tokens(128, 64, "fp16"), Prompt(16, 16, 16, length, padded, 2), 16, 16, 16)
