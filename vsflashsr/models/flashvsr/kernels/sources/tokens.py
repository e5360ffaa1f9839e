"""What lies between the matrix products of a token piece: residual, gate and norm in one pass, cross-attention in another.

A row is a token. Rows are `dim` values, at most LANES of them.
"""

# Triton is untyped, and reads annotations its own way.
# mypy: disable-error-code="import-untyped, no-untyped-def, no-untyped-call, untyped-decorator, attr-defined"

import triton
import triton.language as tl


@triton.jit
def residual_norm(
    x,
    y,
    weight,
    bias,
    x_out,
    out,
    rows,
    dim,
    gate,
    EPS: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
):
    """x_out = x + gate * y in float32, out = LayerNorm(x_out) * weight + bias in out's type. x_out may be x.

    x, y, x_out, out (rows, dim); gate (None: 1), weight, bias (dim,) float32. Grid: (cdiv(rows, ROWS),).
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    lane = tl.arange(0, LANES)
    inside = lane < dim
    known = (row < rows)[:, None] & inside[None, :]
    at = row.to(tl.int64)[:, None] * dim + lane[None, :]
    added = tl.load(y + at, mask=known, other=0.0).to(tl.float32)
    if gate is not None:
        added = added * tl.load(gate + lane, mask=inside, other=0.0)[None, :]
    value = tl.load(x + at, mask=known, other=0.0).to(tl.float32) + added
    tl.store(x_out + at, value, mask=known)
    mean = tl.sum(value, axis=1) / dim
    away = tl.where(known, value - mean[:, None], 0.0)
    scale = tl.rsqrt(tl.sum(away * away, axis=1) / dim + EPS)
    scaled = away * scale[:, None] * tl.load(weight + lane, mask=inside, other=0.0)[None, :]
    made = scaled + tl.load(bias + lane, mask=inside, other=0.0)[None, :]
    tl.store(out + at, made.to(out.dtype.element_ty), mask=known)


@triton.jit
def rms_scales(first, second, out, rows, dim, EPS: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr):
    """out (1 or 2, rows) float32: what the RMS norm multiplies each row of first, and of second, (rows, dim), with.

    Grid: (cdiv(rows, ROWS), 1 or 2).
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    lane = tl.arange(0, LANES)
    known = (row < rows)[:, None] & (lane < dim)[None, :]
    at = row.to(tl.int64)[:, None] * dim + lane[None, :]
    source = first
    if tl.program_id(1) == 1:
        source = second
    value = tl.load(source + at, mask=known, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(value * value, axis=1) / dim + EPS)
    tl.store(out + tl.program_id(1) * rows + row, scale, mask=row < rows)


@triton.jit
def cross_attend(
    q,
    scales,
    weight,
    k,
    v,
    out,
    heads,
    length,
    padded,
    SCALE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """128 queries of one head: softmax(norm(q) k' / sqrt(d)) v over a prompt of `length` tokens.

    q, out (rows, heads * HEAD_DIM), q before its norm, which is scales (rows,) and weight (heads * HEAD_DIM,), float32; k, v
    (heads, padded, HEAD_DIM), finite beyond `length`, padded a multiple of BLOCK_N. SCALE is log2(e) / sqrt(d).
    Grid: (rows / 128, heads).
    """
    head = tl.program_id(1)
    row = tl.program_id(0) * 128 + tl.arange(0, 128)
    channel = tl.arange(0, HEAD_DIM)
    at = row.to(tl.int64)[:, None] * (heads * HEAD_DIM) + head * HEAD_DIM + channel[None, :]
    normed = tl.load(q + at).to(tl.float32) * tl.load(scales + row)[:, None]
    normed = normed * tl.load(weight + head * HEAD_DIM + channel)[None, :]
    queries_tile = normed.to(q.dtype.element_ty)
    inside = (head * padded + tl.arange(0, BLOCK_N)[:, None]) * HEAD_DIM + channel[None, :]
    highest = tl.full((128,), float("-inf"), tl.float32)
    total = tl.zeros((128,), tl.float32)
    sums = tl.zeros((128, HEAD_DIM), tl.float32)
    for start in range(0, padded, BLOCK_N):
        keys_tile = tl.load(k + inside + start * HEAD_DIM)
        products = tl.dot(queries_tile, tl.trans(keys_tile), input_precision=PRECISION) * SCALE
        products = tl.where((start + tl.arange(0, BLOCK_N) < length)[None, :], products, float("-inf"))
        higher = tl.maximum(highest, tl.max(products, axis=1))
        weights = tl.exp2(products - higher[:, None])
        faded = tl.exp2(highest - higher)
        total = total * faded + tl.sum(weights, axis=1)
        values_tile = tl.load(v + inside + start * HEAD_DIM)
        sums = tl.dot(weights.to(v.dtype.element_ty), values_tile, sums * faded[:, None], input_precision=PRECISION)
        highest = higher
    tl.store(out + at, (sums / total[:, None]).to(out.dtype.element_ty))
