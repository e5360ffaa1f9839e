"""The colour fix (`models/flashvsr/colour_fix.py`), the crop, and the way back from -1..1 to 0..1.

Made frames and frames before are planes of padded rows: a plane begins every `plane_stride` values, a row every `row_stride`.
What is written is packed: (planes, height, width).
"""

# Triton is untyped, and reads annotations its own way.
# mypy: disable-error-code="import-untyped, no-untyped-def, no-untyped-call, untyped-decorator"

import triton
import triton.language as tl


@triton.jit
def moments(source, partial, height, width, plane_stride, row_stride, chunks, BLOCK: tl.constexpr):
    """Mean and sum of squared deviations of BLOCK pixels: partial (planes, chunks, 2). Grid: (chunks, planes).

    A chunk stays in registers, so deviations are taken from its own mean and no digits are lost.
    """
    chunk = tl.program_id(0)
    plane = tl.program_id(1)
    pixel = chunk * BLOCK + tl.arange(0, BLOCK)
    known = pixel < height * width
    at = plane.to(tl.int64) * plane_stride + pixel // width * row_stride + pixel % width
    value = tl.load(source + at, mask=known, other=0.0)
    mean = tl.sum(value, axis=0) / tl.minimum(height * width - chunk * BLOCK, BLOCK).to(tl.float32)
    away = tl.where(known, value - mean, 0.0)
    into = partial + (plane * chunks + chunk) * 2
    tl.store(into, mean)
    tl.store(into + 1, tl.sum(away * away, axis=0))


@triton.jit
def merge_moments(partial, out, count, chunks, CHUNK: tl.constexpr, BLOCK: tl.constexpr):
    """partial (planes, chunks, 2) of chunks of CHUNK pixels, `count` in all -> out (planes, 2): mean, sqrt(variance + 1e-5).

    A few hundred values, so float64 costs nothing. Grid: (planes,).
    """
    first = partial + tl.program_id(0) * chunks * 2
    lane = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float64)
    for start in range(0, chunks, BLOCK):
        chunk = start + lane
        size = tl.minimum(count - chunk * CHUNK, CHUNK).to(tl.float64)
        mean = tl.load(first + chunk * 2, mask=chunk < chunks, other=0.0).to(tl.float64)
        total += tl.where(chunk < chunks, mean * size, 0.0)
    whole = tl.sum(total, axis=0) / count.to(tl.float64)
    squares = tl.zeros((BLOCK,), tl.float64)
    for start in range(0, chunks, BLOCK):
        chunk = start + lane
        size = tl.minimum(count - chunk * CHUNK, CHUNK).to(tl.float64)
        away = tl.load(first + chunk * 2, mask=chunk < chunks, other=0.0).to(tl.float64) - whole
        own = tl.load(first + chunk * 2 + 1, mask=chunk < chunks, other=0.0).to(tl.float64)
        squares += tl.where(chunk < chunks, own + size * away * away, 0.0)
    variance = tl.sum(squares, axis=0) / count.to(tl.float64)
    into = out + tl.program_id(0) * 2
    tl.store(into, whole.to(tl.float32))
    tl.store(into + 1, tl.sqrt_rn((variance + 1e-5).to(tl.float32)))


@triton.jit
def _limited(value, lowest):
    """Between `lowest` and 1. A NaN stays one, so that it is noticed rather than shown as black."""
    value = tl.maximum(value, lowest, propagate_nan=tl.PropagateNan.ALL)
    return tl.minimum(value, 1.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _place(height, width, plane_stride, row_stride, BLOCK: tl.constexpr):
    """Of BLOCK pixels: where they are in padded planes and in packed ones, and whether they exist."""
    plane = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    padded = plane * plane_stride + pixel // width * row_stride + pixel % width
    return padded, plane * height * width + pixel, pixel < height * width


@triton.jit
def adain(made, made_moments, wanted, out, height, width, plane_stride, row_stride, BLOCK: tl.constexpr):
    """made shifted and scaled from its moments to the wanted ones, each (planes, 2), clamped, as 0..1.

    Grid: (cdiv(height * width, BLOCK), planes).
    """
    padded, packed, known = _place(height, width, plane_stride, row_stride, BLOCK)
    plane = tl.program_id(1)
    mean = tl.load(made_moments + plane * 2)
    stretch = tl.div_rn(tl.load(wanted + plane * 2 + 1), tl.load(made_moments + plane * 2 + 1))
    value = (tl.load(made + padded, mask=known, other=0.0) - mean) * stretch + tl.load(wanted + plane * 2)
    value = _limited(value, -1.0)
    tl.store(out + packed, _limited(value * 0.5 + 0.5, 0.0), mask=known)


@triton.jit
def finish(made, out, height, width, plane_stride, row_stride, BLOCK: tl.constexpr):
    """made as 0..1, no colour fix. Grid: (cdiv(height * width, BLOCK), planes)."""
    padded, packed, known = _place(height, width, plane_stride, row_stride, BLOCK)
    tl.store(out + packed, _limited(tl.load(made + padded, mask=known, other=0.0) * 0.5 + 0.5, 0.0), mask=known)


@triton.jit
def wavelet_difference(made, before, out, height, width, plane_stride, row_stride, BLOCK: tl.constexpr):
    """before - made, packed: the blurs are linear, so one chain of them serves both. Grid as `finish`."""
    padded, packed, known = _place(height, width, plane_stride, row_stride, BLOCK)
    value = tl.load(before + padded, mask=known, other=0.0) - tl.load(made + padded, mask=known, other=0.0)
    tl.store(out + packed, value, mask=known)


@triton.jit
def _line(source, left, middle, right, known):
    value = tl.load(source + left, mask=known, other=0.0) + tl.load(source + right, mask=known, other=0.0)
    return (value + 2.0 * tl.load(source + middle, mask=known, other=0.0)) * 0.25


@triton.jit
def wavelet_blur(source, out, height, width, reach, BLOCK: tl.constexpr):
    """[1 2 1] / 4 in both directions, the outer taps `reach` pixels away, edges repeated; packed. Grid as `finish`."""
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    known = pixel < height * width
    plane = tl.program_id(1).to(tl.int64) * height * width
    y, x = pixel // width, pixel % width
    left, right = tl.maximum(x - reach, 0), tl.minimum(x + reach, width - 1)
    above = source + plane + tl.maximum(y - reach, 0) * width
    below = source + plane + tl.minimum(y + reach, height - 1) * width
    sides = _line(above, left, x, right, known) + _line(below, left, x, right, known)
    middle = _line(source + plane + y * width, left, x, right, known)
    tl.store(out + plane + pixel, (sides + 2.0 * middle) * 0.25, mask=known)


@triton.jit
def wavelet_finish(made, low, out, height, width, plane_stride, row_stride, BLOCK: tl.constexpr):
    """made on the coarse colours that `low`, packed, brings it, clamped, as 0..1. Grid as `finish`."""
    padded, packed, known = _place(height, width, plane_stride, row_stride, BLOCK)
    value = tl.load(low + packed, mask=known, other=0.0) + tl.load(made + padded, mask=known, other=0.0)
    value = _limited(value, -1.0)
    tl.store(out + packed, _limited(value * 0.5 + 0.5, 0.0), mask=known)
