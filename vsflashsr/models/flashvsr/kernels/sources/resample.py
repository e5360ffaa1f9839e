"""The pre-upscale (`models/flashvsr/resample.py`) and the padding to whole windows, one axis at a time.

`exact` says of each frame whether it is on the 8-bit grid. Such a frame is resized in integers, to the bit as Pillow does it;
between the two passes it is held as levels 0..255 in float32. `exact` lies in device memory: a captured graph serves both.
"""

# Triton is untyped, and reads annotations its own way.
# mypy: disable-error-code="import-untyped, no-untyped-def, no-untyped-call, untyped-decorator"

import triton
import triton.language as tl


@triton.jit
def _limited(value):
    """Between 0 and 1, as 8-bit pixels are after each axis; a NaN stays one."""
    value = tl.maximum(value, 0.0, propagate_nan=tl.PropagateNan.ALL)
    return tl.minimum(value, 1.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def resize_columns(
    source,
    exact,
    starts,
    weights,
    whole_weights,
    out,
    height,
    width,
    target,
    taps,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """source (planes, height, width) in 0..1, three planes a frame -> out (planes, height, target).

    exact (planes / 3,) int32; starts (target,) int32: first column of each output; weights (target, taps) float32 and
    whole_weights, the same in units of 2^-22, int32, zero where a column doesn't exist.
    Grid: (cdiv(target, BLOCK_X), cdiv(height, BLOCK_Y), planes).
    """
    plane = tl.program_id(2)
    x = tl.program_id(0) * BLOCK_X + tl.arange(0, BLOCK_X)
    y = tl.program_id(1) * BLOCK_Y + tl.arange(0, BLOCK_Y)
    known = (y < height)[:, None] & (x < target)[None, :]
    start = tl.load(starts + x, mask=x < target, other=0)
    line = source + (plane * height + y).to(tl.int64)[:, None] * width
    if tl.load(exact + plane // 3) != 0:
        sums = tl.full((BLOCK_Y, BLOCK_X), 1 << 21, tl.int32)
        for tap in range(0, taps):
            column = tl.minimum(start + tap, width - 1)
            level = (tl.load(line + column[None, :], mask=known, other=0.0) * 255.0 + 0.5).to(tl.int32)
            sums += level * tl.load(whole_weights + x * taps + tap, mask=x < target, other=0)[None, :]
        made = tl.minimum(tl.maximum(sums >> 22, 0), 255).to(tl.float32)
    else:
        made = tl.zeros((BLOCK_Y, BLOCK_X), tl.float32)
        for tap in range(0, taps):
            column = tl.minimum(start + tap, width - 1)
            value = tl.load(line + column[None, :], mask=known, other=0.0)
            made += value * tl.load(weights + x * taps + tap, mask=x < target, other=0.0)[None, :]
        made = _limited(made)
    tl.store(out + (plane * height + y).to(tl.int64)[:, None] * target + x[None, :], made, mask=known)


@triton.jit
def _inside(at, size, reflect):
    """Where beyond the last row or column a padded frame takes its pixels from, as `numpy.pad` does."""
    period = tl.maximum(2 * (size - 1), 1)
    turned = at % period
    mirrored = tl.where(turned < size, turned, period - turned)
    return tl.where(reflect != 0, mirrored, tl.minimum(at, size - 1))


@triton.jit
def resize_rows(
    source,
    exact,
    starts,
    weights,
    whole_weights,
    out,
    height,
    target,
    width,
    padded_height,
    padded_width,
    taps,
    reflect,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """source (planes, height, width) of `resize_columns` -> out (planes, padded_height, padded_width) in -1..1.

    Rows beyond `target` and columns beyond `width` are mirrored (`reflect`) or repeated. Tables as for columns, (target, taps).
    Grid: (cdiv(padded_width, BLOCK_X), cdiv(padded_height, BLOCK_Y), planes).
    """
    plane = tl.program_id(2)
    x = tl.program_id(0) * BLOCK_X + tl.arange(0, BLOCK_X)
    y = tl.program_id(1) * BLOCK_Y + tl.arange(0, BLOCK_Y)
    known = (y < padded_height)[:, None] & (x < padded_width)[None, :]
    from_x = _inside(x, width, reflect)
    from_y = _inside(y, target, reflect)
    start = tl.load(starts + from_y)
    pixels = source + plane.to(tl.int64) * height * width + from_x[None, :]
    if tl.load(exact + plane // 3) != 0:
        sums = tl.full((BLOCK_Y, BLOCK_X), 1 << 21, tl.int32)
        for tap in range(0, taps):
            row = tl.minimum(start + tap, height - 1)
            level = tl.load(pixels + row[:, None] * width).to(tl.int32)
            sums += level * tl.load(whole_weights + from_y * taps + tap)[:, None]
        made = tl.div_rn(tl.minimum(tl.maximum(sums >> 22, 0), 255).to(tl.float32), 255.0)
    else:
        made = tl.zeros((BLOCK_Y, BLOCK_X), tl.float32)
        for tap in range(0, taps):
            row = tl.minimum(start + tap, height - 1)
            made += tl.load(pixels + row[:, None] * width) * tl.load(weights + from_y * taps + tap)[:, None]
        made = _limited(made)
    at = out + (plane * padded_height + y).to(tl.int64)[:, None] * padded_width + x[None, :]
    tl.store(at, made * 2.0 - 1.0, mask=known)
