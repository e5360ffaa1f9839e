"""Flash attention over the kept windows (spec 3.6), reading keys and values where the ring cache holds them."""

# Triton is untyped, and reads annotations its own way.
# mypy: disable-error-code="import-untyped, no-untyped-def, no-untyped-call, untyped-decorator"

import triton
import triton.language as tl


@triton.jit
def attend(
    q,
    k,
    v,
    lists,
    counts,
    order,
    out,
    heads,
    queries,
    keys,
    SCALE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One window of queries of one head: softmax(q k' / sqrt(d)) v over the windows of its list; exactly 0 without any.

    q, out (queries * 128, heads * HEAD_DIM); k, v (keys * 128, heads * HEAD_DIM), keys turned; lists (heads, queries, keys),
    counts, order (heads, queries). SCALE is log2(e) / sqrt(d): the exponential is one of base 2. Grid: (heads * queries,),
    heads outermost, so that the programs that run together share one head's keys and values in the L2 cache.
    """
    STEPS: tl.constexpr = 128 // BLOCK_N
    program = tl.program_id(0)
    head = program // queries
    query = tl.load(order + program)
    row = head * queries + query
    steps = tl.load(counts + row) * STEPS
    kept = lists + row.to(tl.int64) * keys
    stride = heads * HEAD_DIM
    channel = tl.arange(0, HEAD_DIM)
    q_at = (
        (query.to(tl.int64) * 128) * stride + head * HEAD_DIM + tl.arange(0, 128)[:, None] * stride + channel[None, :]
    )
    queries_tile = tl.load(q + q_at)
    inside = tl.arange(0, BLOCK_N)[:, None] * stride + head * HEAD_DIM + channel[None, :]
    highest = tl.full((128,), float("-inf"), tl.float32)
    total = tl.zeros((128,), tl.float32)
    sums = tl.zeros((128, HEAD_DIM), tl.float32)
    window = tl.load(kept, mask=steps > 0, other=0)
    for step in range(0, steps):
        # The list is read one step ahead and carried along. Read where it is used, it would be pipelined with the keys
        # it leads to, and they would be asked for only when they are needed.
        ahead = tl.load(kept + tl.minimum(step + 1, steps - 1) // STEPS)
        at = (window * 128 + step % STEPS * BLOCK_N).to(tl.int64) * stride
        keys_tile = tl.load(k + at + inside)
        products = tl.dot(queries_tile, tl.trans(keys_tile), input_precision=PRECISION)
        higher = tl.maximum(highest, tl.max(products, axis=1) * SCALE)
        weights = tl.exp2(products * SCALE - higher[:, None])
        faded = tl.exp2(highest - higher)
        total = total * faded + tl.sum(weights, axis=1)
        values_tile = tl.load(v + at + inside)
        sums = tl.dot(weights.to(v.dtype.element_ty), values_tile, sums * faded[:, None], input_precision=PRECISION)
        highest = higher
        window = ahead
    # Not by whether the total is 0: a NaN must stay one.
    total = tl.where(steps > 0, total, 1.0)
    tl.store(out + q_at, (sums / total[:, None]).to(out.dtype.element_ty))
