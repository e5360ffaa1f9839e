"""Launches at the ends of the projector's and the decoder's convolutions; maps are channels last. See `launches`."""

from __future__ import annotations

from dataclasses import dataclass

from ....gpu.kernels.kernel import Launch
from .launches import ITEM_BYTES, ceil_div, launch_of
from .table import CLIP_COLS, CONDITION_COLS, FRAME_PIXELS, MAP_COLS, MAP_WORDS

CONDITION_CHANNELS = 784
"""Of four frames, unshuffled by 8, and a latent."""
CLIP_CHANNELS = 3072
"""Of four frames, unshuffled by 16."""


def pack_condition(dtype: str, lq: int, latent: int, out: int, rows: int, cols: int) -> Launch:
    """Frames (4, 3, 8 rows, 8 cols) and a latent (16, rows, cols), float32 → (rows, cols, 784), 3 tanh(x / 3) of each."""
    if cols % CONDITION_COLS:
        raise ValueError(f"a latent is a multiple of {CONDITION_COLS} wide, got {cols}")
    return launch_of(f"pack_condition.{dtype}", (cols // CONDITION_COLS, rows, 13), lq, latent, out, rows, cols)


def unpack_frame(dtype: str, source: int, bias: int, out: int, pixels: int) -> Launch:
    """(pixels, 3), and a bias (3,) float32 → (3, pixels) float32: 2 (x + bias) - 1."""
    return launch_of(f"unpack_frame.{dtype}", (ceil_div(pixels, FRAME_PIXELS), 1, 1), source, bias, out, pixels)


def pack_clip(dtype: str, before: int, clip: int, out: int, rows: int, cols: int) -> Launch:
    """Frames (2, 3, 16 rows, 16 cols) and (4, ...) behind them, float32 → (2, rows + 2, cols + 2, 3072)."""
    return launch_of(
        f"pack_clip.{dtype}", (ceil_div(cols + 2, CLIP_COLS), rows + 2, 24), before, clip, out, rows, cols
    )


@dataclass(frozen=True)
class ChannelNorm:
    """Addresses of a convolution's bias and of the norm behind it, (channels,) float32."""

    bias: int
    gamma: int


def norm_silu(dtype: str, source: int, norm: ChannelNorm, out: int, pixels: int, channels: int) -> Launch:
    """silu(channel norm(x + bias)) of (pixels, channels)."""
    if channels % 8:
        raise ValueError(f"channels are a multiple of 8, got {channels}")
    return launch_of(
        f"norm_silu.{dtype}", (pixels, 1, 1), source, norm.bias, norm.gamma, out, pixels, channels // 8
    )


def pad_maps(dtype: str, first: int, second: int, out: int, rows: int, cols: int, channels: int) -> Launch:
    """(2, rows, cols, channels) twice → (rows + 2, cols + 2, 4 channels), borders repeated."""
    words, rest = divmod(channels * ITEM_BYTES[dtype], 4)
    if rest or words % 4:
        raise ValueError(f"channels are a multiple of 16 bytes, got {channels} in {dtype}")
    return launch_of(
        "pad_maps",
        (ceil_div(cols + 2, MAP_COLS), rows + 2, 4 * ceil_div(words, MAP_WORDS)),
        first,
        second,
        out,
        rows,
        cols,
        words // 4,
    )
