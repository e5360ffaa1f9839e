"""Carries planes of frames between layouts and types, looks for values that aren't finite, and shrinks frames to thumbnails."""

# Triton is untyped, and reads annotations its own way.
# mypy: disable-error-code="import-untyped, no-untyped-def, no-untyped-call, untyped-decorator"

import triton
import triton.language as tl


@triton.jit
def _flag(value, flag):
    """flag becomes 1 where a value isn't finite."""
    finite = (tl.abs(value) <= 3.4028234663852886e38).to(tl.int32)  # the largest; no comparison with NaN holds
    if tl.min(tl.min(finite, 1), 0) == 0:
        tl.store(flag, 1)


@triton.jit
def move(
    source,
    out,
    flag,
    height,
    width,
    rows,
    columns,
    source_stride,
    out_stride,
    gain,
    lift,
    CHECK: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """source (height, width), out (rows, columns): out = source * gain + lift, the last row and column repeated.

    Strides count values. CHECK: see _flag.
    Grid: (cdiv(columns, BLOCK_X), cdiv(rows, BLOCK_Y)).
    """
    row = tl.program_id(1) * BLOCK_Y + tl.arange(0, BLOCK_Y)
    column = tl.program_id(0) * BLOCK_X + tl.arange(0, BLOCK_X)
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    above = tl.minimum(row, height - 1).to(tl.int64)[:, None] * source_stride
    value = tl.load(source + above + tl.minimum(column, width - 1)[None, :], mask=inside, other=0).to(tl.float32)
    if CHECK:
        _flag(value, flag)
    value = value * gain + lift
    place = out + row.to(tl.int64)[:, None] * out_stride + column[None, :]
    tl.store(place, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def finite(source, flag, height, width, stride, BLOCK_Y: tl.constexpr, BLOCK_X: tl.constexpr):
    """flag becomes 1 where a value of source (height, width) isn't finite.

    Grid: (cdiv(width, BLOCK_X), cdiv(height, BLOCK_Y)).
    """
    row = tl.program_id(1) * BLOCK_Y + tl.arange(0, BLOCK_Y)
    column = tl.program_id(0) * BLOCK_X + tl.arange(0, BLOCK_X)
    inside = (row < height)[:, None] & (column < width)[None, :]
    value = tl.load(source + row.to(tl.int64)[:, None] * stride + column[None, :], mask=inside, other=0).to(tl.float32)
    _flag(value, flag)


@triton.jit
def block_means(
    first,
    second,
    third,
    out,
    rows,
    columns,
    stride,
    CHANNELS: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """out (blocks down, blocks across): the means of blocks of rows x columns pixels, over CHANNELS planes.

    Grid: (blocks across, blocks down).
    """
    total = tl.zeros((BLOCK_Y, BLOCK_X), tl.float32)
    top = tl.program_id(1) * rows
    left = tl.program_id(0) * columns
    for y in range(0, rows, BLOCK_Y):
        for x in range(0, columns, BLOCK_X):
            row = y + tl.arange(0, BLOCK_Y)
            column = x + tl.arange(0, BLOCK_X)
            inside = (row < rows)[:, None] & (column < columns)[None, :]
            place = (top + row).to(tl.int64)[:, None] * stride + (left + column)[None, :]
            total += tl.load(first + place, mask=inside, other=0).to(tl.float32)
            if CHANNELS == 3:
                total += tl.load(second + place, mask=inside, other=0).to(tl.float32)
                total += tl.load(third + place, mask=inside, other=0).to(tl.float32)
    mean = tl.sum(tl.sum(total, 1), 0) / (rows * columns * CHANNELS).to(tl.float32)
    tl.store(out + tl.program_id(1) * tl.num_programs(0) + tl.program_id(0), mean)
