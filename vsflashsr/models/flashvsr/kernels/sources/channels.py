"""Between planes of pixels and the channels-last maps that convolutions read: the projector's and the decoder's ends.

A map is (rows, columns, channels). Frames are planes (frames, 3, height, width) float32.
"""

# Triton is untyped, and reads annotations its own way.
# mypy: disable-error-code="import-untyped, no-untyped-def, no-untyped-call, untyped-decorator, attr-defined"

import triton
import triton.language as tl


@triton.jit
def pack_condition(lq, latent, out, rows, cols, BLOCK: tl.constexpr):
    """Four frames and a latent (16, rows, cols), rows and cols an eighth of the frames', squashed: 3 tanh(x / 3).

    out (rows, cols, 784): of the frames channel ((colour * 4 + frame) * 8 + dy) * 8 + dx, then the latent's. Grid:
    (cols / BLOCK, rows, 13).
    """
    group = tl.program_id(2)
    row = tl.program_id(1)
    col = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    channel = tl.arange(0, 64)
    width = cols * 8
    into = out + (row * cols + col).to(tl.int64)[:, None] * 784 + group * 64 + channel[None, :]
    known = (channel < tl.where(group < 12, 64, 16))[None, :] & (col >= 0)[:, None]
    if group < 12:
        plane = (group % 4 * 3 + group // 4).to(tl.int64) * rows * 8 * width
        inside = (row * 8 + channel // 8)[None, :] * width + col[:, None] * 8 + (channel % 8)[None, :]
        value = tl.load(lq + plane + inside)
    else:
        value = tl.load(latent + channel[None, :] * (rows * cols) + row * cols + col[:, None], mask=known, other=0.0)
    # tanh(x / 3) as 1 - 2 / (exp(2 x / 3) + 1), which no large x overflows.
    squashed = 3.0 - 6.0 / (tl.exp(value * (2.0 / 3.0)) + 1.0)
    tl.store(into, squashed.to(out.dtype.element_ty), mask=known)


@triton.jit
def unpack_frame(source, bias, out, pixels, BLOCK: tl.constexpr):
    """source (pixels, 3) and bias (3,) -> out (3, pixels) float32: twice their sum, less 1. Grid: (cdiv(pixels, BLOCK),)."""
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    colour = tl.arange(0, 4)
    known = (colour < 3)[:, None] & (pixel < pixels)[None, :]
    value = tl.load(source + pixel.to(tl.int64)[None, :] * 3 + colour[:, None], mask=known, other=0.0).to(tl.float32)
    value += tl.load(bias + colour, mask=colour < 3, other=0.0)[:, None]
    tl.store(out + colour.to(tl.int64)[:, None] * pixels + pixel[None, :], value * 2.0 - 1.0, mask=known)


@triton.jit
def pack_clip(before, clip, out, rows, cols, BLOCK: tl.constexpr):
    """Two frames before a clip and its four -> out (2, rows + 2, cols + 2, 4 * 768): frames 0 to 3, and 2 to 5, side by side.

    rows and cols are a sixteenth of the frames'; each frame's channels are (colour * 16 + dy) * 16 + dx; the border repeats
    what lies inside it. Grid: (cdiv(cols + 2, BLOCK), rows + 2, 24).
    """
    part = tl.program_id(2)
    pair = part // 12
    frame = pair * 2 + part // 3 % 4
    row = tl.program_id(1)
    col = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    channel = tl.arange(0, 256)
    width = cols * 16
    from_row = tl.minimum(tl.maximum(row - 1, 0), rows - 1)
    from_col = tl.minimum(tl.maximum(col - 1, 0), cols - 1)
    at = (from_row * 16 + channel // 16)[None, :] * width + from_col[:, None] * 16 + (channel % 16)[None, :]
    planes = rows.to(tl.int64) * 16 * width
    source = before + (frame * 3 + part % 3) * planes
    if frame >= 2:
        source = clip + ((frame - 2) * 3 + part % 3) * planes
    known = (col < cols + 2)[:, None] & (channel >= 0)[None, :]
    value = tl.load(source + at, mask=known, other=0.0)
    into = ((pair * (rows + 2) + row) * (cols + 2) + col).to(tl.int64)[:, None] * 3072
    into += part % 12 * 256 + channel[None, :]
    tl.store(out + into, value.to(out.dtype.element_ty), mask=known)


@triton.jit
def norm_silu(source, bias, gamma, out, rows, eighths, ROWS: tl.constexpr, LANES: tl.constexpr):
    """silu(x / max(|x|, 1e-12) * sqrt(channels) * gamma) of x = source + bias, over a pixel's 8 * eighths channels.

    source, out (rows, channels); bias, gamma (channels,) float32. Grid: (cdiv(rows, ROWS),).
    """
    channels = eighths * 8
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    lane = tl.arange(0, LANES)
    inside = lane < channels
    known = (row < rows)[:, None] & inside[None, :]
    at = row.to(tl.int64)[:, None] * channels + lane[None, :]
    value = tl.load(source + at, mask=known, other=0.0).to(tl.float32)
    value = tl.where(known, value + tl.load(bias + lane, mask=inside, other=0.0)[None, :], 0.0)
    length = tl.maximum(tl.sqrt_rn(tl.sum(value * value, axis=1)), 1e-12)
    scale = tl.sqrt_rn(channels.to(tl.float32)) / length
    normed = value * scale[:, None] * tl.load(gamma + lane, mask=inside, other=0.0)[None, :]
    tl.store(out + at, (normed / (1.0 + tl.exp(-normed))).to(out.dtype.element_ty), mask=known)


@triton.jit
def pad_maps(first, second, out, rows, cols, quarters, BLOCK: tl.constexpr, WORDS: tl.constexpr):
    """Two maps of first and two of second side by side, their borders repeated, in words of 32 bits.

    first, second (2, rows, cols, 4 * quarters) -> out (rows + 2, cols + 2, 4 * 4 * quarters). Grid:
    (cdiv(cols + 2, BLOCK), rows + 2, 4 * cdiv(4 * quarters, WORDS)).
    """
    words = quarters * 4
    part = tl.program_id(2) % 4
    row = tl.program_id(1)
    col = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    word = tl.program_id(2) // 4 * WORDS + tl.arange(0, WORDS)
    from_row = tl.minimum(tl.maximum(row - 1, 0), rows - 1)
    from_col = tl.minimum(tl.maximum(col - 1, 0), cols - 1)
    known = (col < cols + 2)[:, None] & (word < words)[None, :]
    source = first
    if part >= 2:
        source = second
    at = ((part % 2 * rows + from_row) * cols + from_col).to(tl.int64)[:, None] * words + word[None, :]
    into = (row * (cols + 2) + col).to(tl.int64)[:, None] * (4 * words) + part * words + word[None, :]
    tl.store(out + into, tl.load(source + at, mask=known, other=0), mask=known)
