"""Moves tokens, patches and latents between the orders that the graphs and the attention want."""

# Triton is untyped, and reads annotations its own way.
# mypy: disable-error-code="import-untyped, no-untyped-def, no-untyped-call, untyped-decorator"

import triton
import triton.language as tl


@triton.jit
def gather_latent(source, out, rows, cols, words, BLOCK_TOKENS: tl.constexpr, BLOCK_WORDS: tl.constexpr):
    """The tokens of one latent frame from row order to window order, as 32-bit words, whatever they hold.

    source (rows * 8 * cols * 8, words); out: the first token of this latent in window order, whose windows are 128 tokens apart.
    Grid: (cdiv(tokens, BLOCK_TOKENS), cdiv(words, BLOCK_WORDS)); tokens is a multiple of 64.
    """
    token = tl.program_id(0) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    word = tl.program_id(1) * BLOCK_WORDS + tl.arange(0, BLOCK_WORDS)
    row = token // (cols * 8)
    col = token % (cols * 8)
    place = (row // 8 * cols + col // 8) * 128 + row % 8 * 8 + col % 8
    known = (word < words)[None, :]
    values = tl.load(source + token.to(tl.int64)[:, None] * words + word[None, :], mask=known)
    tl.store(out + place.to(tl.int64)[:, None] * words + word[None, :], values, mask=known)


@triton.jit
def _patch_places(rows, cols, frame_stride, channel_stride, BLOCK: tl.constexpr):
    """Of BLOCK tokens in window order: where in the latents their 64 values are, and where in the patches."""
    token = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.arange(0, 64)
    window = token // 128
    place = window % (rows * cols)
    frame = window // (rows * cols) * 2 + token % 128 // 64
    row = place // cols * 8 + token % 64 // 8
    col = place % cols * 8 + token % 8
    above = frame.to(tl.int64)[:, None] * frame_stride + (row * 2)[:, None] * (cols * 16) + (col * 2)[:, None]
    inside = (value % 16).to(tl.int64) * channel_stride + value // 32 * (cols * 16) + value // 16 % 2
    return above + inside[None, :], token[:, None] * 64 + value[None, :]


@triton.jit
def to_patches(latents, patches, rows, cols, frame_stride, channel_stride, BLOCK: tl.constexpr):
    """latents, 16 channels of 16 rows x 16 cols pixels, strides in values -> patches (tokens, 64), window order.

    A patch is ordered (row, column, channel). Grid: (tokens / BLOCK,).
    """
    source, into = _patch_places(rows, cols, frame_stride, channel_stride, BLOCK)
    tl.store(patches + into, tl.load(latents + source))


@triton.jit
def from_patches(patches, latents, rows, cols, frame_stride, channel_stride, BLOCK: tl.constexpr):
    """The inverse of `to_patches`."""
    into, source = _patch_places(rows, cols, frame_stride, channel_stride, BLOCK)
    tl.store(latents + into, tl.load(patches + source))
