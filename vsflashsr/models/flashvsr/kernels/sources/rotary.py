"""Turns queries and keys by their positions and takes the mean of each window (spec 3.3, 3.5 step 1).

One program does one window of one head, of q and of k: they lie at the same positions, so they share the tables.
"""

# Triton is untyped, and reads annotations its own way.
# mypy: disable-error-code="import-untyped, no-untyped-def, no-untyped-call, untyped-decorator"

import triton
import triton.language as tl


@triton.jit
def _turned(source, into, mean, at, cosine, sine, scales, weight, first, head, HEAD_DIM: tl.constexpr):
    """One tile of 128 tokens: stored turned, its mean (of the float32 values, before they are rounded) beside it."""
    value = tl.load(source + at).to(tl.float32)
    if scales is not None:
        own = tl.load(weight + head * HEAD_DIM + tl.arange(0, HEAD_DIM))
        normed = value * tl.load(scales + first + tl.arange(0, 128))[:, None] * own[None, :]
        # As the norm's own layer leaves it: what is selected doesn't depend on who computed the norm.
        value = normed.to(source.dtype.element_ty).to(tl.float32)
    even, odd = tl.split(value.reshape(128, HEAD_DIM // 2, 2))
    real = even * cosine - odd * sine
    imaginary = even * sine + odd * cosine
    tl.store(into + at, tl.join(real, imaginary).reshape(128, HEAD_DIM).to(into.dtype.element_ty))
    means = tl.join(tl.sum(real, axis=0), tl.sum(imaginary, axis=0)).reshape(HEAD_DIM) * (1.0 / 128)
    tl.store(mean + tl.arange(0, HEAD_DIM), means)


@triton.jit
def rotate(
    q,
    k,
    q_out,
    k_out,
    q_mean,
    k_mean,
    cosine,
    sine,
    heads,
    latents,
    rows,
    cols,
    scales,
    q_weight,
    k_weight,
    HEAD_DIM: tl.constexpr,
):
    """q, k, q_out, k_out: (tokens, heads * HEAD_DIM) in window order; q_mean, k_mean: (windows, heads, HEAD_DIM) float32.

    scales: None, where q and k are normed already; else of `rms_scales`, (2, tokens) float32, q's and k's, and q_weight and
    k_weight (heads * HEAD_DIM,) float32 of the norm.

    cosine, sine: float32, three tables one after the other: (latents, time pairs), (8 rows, side pairs), (8 cols, side pairs).
    Grid: (windows, heads).
    """
    SIDE: tl.constexpr = HEAD_DIM // 3 // 2
    TIME: tl.constexpr = HEAD_DIM // 2 - 2 * SIDE
    window = tl.program_id(0)
    head = tl.program_id(1)
    place = window % (rows * cols)
    token = tl.arange(0, 128)
    pair = tl.arange(0, HEAD_DIM // 2)
    frame_at = (window // (rows * cols) * 2 + token // 64) * TIME
    row_at = latents * TIME + (place // cols * 8 + token % 64 // 8) * SIDE - TIME
    col_at = latents * TIME + rows * 8 * SIDE + (place % cols * 8 + token % 8) * SIDE - TIME - SIDE
    turning = tl.where(
        pair[None, :] < TIME, frame_at[:, None], tl.where(pair[None, :] < TIME + SIDE, row_at[:, None], col_at[:, None])
    )
    turning += pair[None, :]
    cos = tl.load(cosine + turning)
    sin = tl.load(sine + turning)
    first = (window * 128).to(tl.int64) * heads * HEAD_DIM + head * HEAD_DIM
    at = first + token[:, None] * (heads * HEAD_DIM) + tl.arange(0, HEAD_DIM)[None, :]
    mean_at = (window * heads + head) * HEAD_DIM
    token_at = window * 128
    tokens = tl.num_programs(0) * 128
    _turned(k, k_out, k_mean + mean_at, at, cos, sin, scales, k_weight, tokens + token_at, head, HEAD_DIM)
    _turned(q, q_out, q_mean + mean_at, at, cos, sin, scales, q_weight, token_at, head, HEAD_DIM)
