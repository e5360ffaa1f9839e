"""Which pairs of windows are kept (spec 3.5, steps 2 to 5): scores, softmax, exact threshold, lists.

Everything here is float32 and deterministic: counting in shared memory is done with integers, whose order doesn't matter.
"""

# Triton is untyped, and reads annotations its own way.
# mypy: disable-error-code="import-untyped, no-untyped-def, no-untyped-call, untyped-decorator, attr-defined"

import triton
import triton.language as tl


@triton.jit
def scores(
    q_mean,
    k_mean,
    out,
    heads,
    queries,
    keys,
    rows,
    cols,
    local_range,
    tallies,
    slices,
    SCALE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """q_mean (queries, heads, HEAD_DIM), k_mean (keys, heads, HEAD_DIM) -> out (heads, queries, keys), -inf where hidden.

    Which window sees which depends on places in the slice alone. Clears tallies (3, heads, slices, 1024) int32 for `tally`.
    Grid: (cdiv(queries, BLOCK_Q), cdiv(keys, BLOCK_K), heads).
    """
    # A matrix product in exact float32 holds its operands in registers: a few channels at a time.
    CHANNELS: tl.constexpr = 16
    head = tl.program_id(2)
    query = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    key = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    channel = tl.arange(0, CHANNELS)
    q_at = q_mean + (query[:, None] * heads + head) * HEAD_DIM + channel[None, :]
    k_at = k_mean + (key[None, :] * heads + head) * HEAD_DIM + channel[:, None]
    product = tl.zeros((BLOCK_Q, BLOCK_K), tl.float32)
    for start in range(0, HEAD_DIM, CHANNELS):
        q = tl.load(q_at + start, mask=(query < queries)[:, None], other=0.0)
        k = tl.load(k_at + start, mask=(key < keys)[None, :], other=0.0)
        product = tl.dot(q, k, product, input_precision="ieee")
    q_place = query % (rows * cols)
    k_place = key % (rows * cols)
    down = (k_place // cols)[None, :] - (q_place // cols)[:, None] + local_range // 2
    right = (k_place % cols)[None, :] - (q_place % cols)[:, None] + local_range // 2
    visible = (down >= 0) & (down < local_range) & (right >= 0) & (right < local_range)
    at = out + (head * queries + query).to(tl.int64)[:, None] * keys + key[None, :]
    program = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
    mine = tallies + head * slices * 3072 + tl.arange(0, 1024)
    for start in range(program * 1024, slices * 3072, tl.num_programs(0) * tl.num_programs(1) * 1024):
        tl.store(mine + start, tl.zeros((1024,), tl.int32))
    tl.store(
        at,
        tl.where(visible, product * SCALE, float("-inf")),
        mask=(query < queries)[:, None] & (key < keys)[None, :],
    )


@triton.jit
def softmax(values, keys, BLOCK: tl.constexpr):
    """values (rows, keys) -> softmax of each row, in place. Grid: (rows,)."""
    row = values + tl.program_id(0).to(tl.int64) * keys
    lane = tl.arange(0, BLOCK)
    highest = tl.full((BLOCK,), float("-inf"), tl.float32)
    for start in range(0, keys, BLOCK):
        highest = tl.maximum(highest, tl.load(row + start + lane, mask=start + lane < keys, other=float("-inf")))
    top = tl.max(highest, axis=0)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, keys, BLOCK):
        total += tl.exp(tl.load(row + start + lane, mask=start + lane < keys, other=float("-inf")) - top)
    whole = tl.sum(total, axis=0)
    for start in range(0, keys, BLOCK):
        value = tl.load(row + start + lane, mask=start + lane < keys, other=float("-inf"))
        tl.store(row + start + lane, tl.exp(value - top) / whole, mask=start + lane < keys)


@triton.jit
def _resolved(tallies, groups, group, rank, DIGITS: tl.constexpr):
    """The first digits of the rank-th largest value of a group, as one number, and its rank among those that share them."""
    level = tl.arange(0, 1024)
    found = 0
    wanted = rank
    for digit in tl.static_range(DIGITS):
        counted = tl.load(tallies + (digit * groups + group) * 1024 + level)
        reached = tl.cumsum(counted, axis=0, reverse=True)
        chosen = tl.sum((reached >= wanted).to(tl.int32), axis=0) - 1
        wanted = wanted - tl.sum(tl.where(level > chosen, counted, 0), axis=0)
        found = (found << 10) | chosen
    return found, wanted


@triton.jit
def tally(values, tallies, count, rank, groups, DIGIT: tl.constexpr, BLOCK: tl.constexpr):
    """How often each value of a digit occurs among the values (groups, count) that share the digits before with the rank-th
    largest of their group: added to tallies (3, groups, 1024) int32.

    Values are from 0 to 1: floats in the order of their bits, of which the highest two are 0, so three digits of ten bits tell
    them apart. Sums of integers: whichever program comes first. Grid: (cdiv(count, BLOCK), groups).
    """
    group = tl.program_id(1)
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    first = values + group.to(tl.int64) * count
    bits = tl.load(first + place, mask=place < count, other=0.0).to(tl.int32, bitcast=True)
    found, _ = _resolved(tallies, groups, group, rank, DIGIT)
    top = bits >> (20 - 10 * DIGIT)
    counted = tl.histogram(top & 1023, 1024, mask=(place < count) & (top >> 10 == found))
    into = tallies + (DIGIT * groups + group) * 1024 + tl.arange(0, 1024)
    tl.atomic_add(into, counted, mask=counted > 0, sem="relaxed")


@triton.jit
def kept_lists(
    values,
    tallies,
    lists,
    counts,
    queries,
    keys,
    slice_windows,
    rank,
    BLOCK: tl.constexpr,
):
    """values (heads, queries, keys) -> for each row the keys strictly above the rank-th largest of its head and slice, exactly.

    tallies: of all three digits, (3, heads * queries / slice_windows, 1024).

    lists (heads, queries, keys) int32: ascending, as many as counts (heads, queries) says, the rest untouched.
    Grid: (queries, heads).
    """
    query = tl.program_id(0)
    head = tl.program_id(1)
    slices = queries // slice_windows
    found, _ = _resolved(tallies, tl.num_programs(1) * slices, head * slices + query // slice_windows, rank, 3)
    limit = found.to(tl.float32, bitcast=True)
    row = head * queries + query
    first = row.to(tl.int64) * keys
    lane = tl.arange(0, BLOCK)
    written = 0
    for start in range(0, keys, BLOCK):
        key = start + lane
        kept = (tl.load(values + first + key, mask=key < keys, other=0.0) > limit) & (key < keys)
        one = kept.to(tl.int32)
        tl.store(lists + first + written + tl.cumsum(one, axis=0) - 1, key, mask=kept)
        written += tl.sum(one, axis=0)
    tl.store(counts + row, written)


@triton.jit
def longest_first(counts, order, queries, BLOCK: tl.constexpr):
    """counts (heads, queries) -> order (heads, queries): a head's rows, those that keep most first, so that no long one is
    begun last. Equal ones stay in order. Grid: (cdiv(queries, BLOCK), heads)."""
    first = tl.program_id(1) * queries
    mine = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    own = tl.load(counts + first + mine, mask=mine < queries, other=-1)
    rank = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, queries, BLOCK):
        other = start + tl.arange(0, BLOCK)
        theirs = tl.load(counts + first + other, mask=other < queries, other=-1)
        longer = theirs[None, :] > own[:, None]
        same_before = (theirs[None, :] == own[:, None]) & (other[None, :] < mine[:, None])
        rank += tl.sum((longer | same_before).to(tl.int32), axis=1)
    tl.store(order + first + rank, mine, mask=mine < queries)
