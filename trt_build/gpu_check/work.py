"""Arithmetic of a steady FlashVSR step (8 frames), counted as in the specification: two operations for a multiply-add. Pure."""

from __future__ import annotations

from vsflashsr.models.flashvsr.network.config import FlashVSRConfig
from vsflashsr.models.flashvsr.windows import Grid, local_mask, pair_budget, topk_ratio

DECODER_PER_PIXEL = 1.70e6
"""Of the TCDecoder, for each pixel of each output frame, at the published widths."""


def kept_pairs(grid: Grid, sparse_ratio: float, local_range: int, key_slices: int) -> int:
    """(query window, key window) pairs that one head keeps in a steady step."""
    visible = int(local_mask(grid, local_range).sum()) * key_slices
    return min(pair_budget(topk_ratio(sparse_ratio, grid), grid), visible)


def step_flop(
    config: FlashVSRConfig, grid: Grid, *, sparse_ratio: float = 2.0, local_range: int = 11, key_slices: int = 4
) -> dict[str, float]:
    """By stage."""
    tokens = grid.slice_tokens
    per_token = 2 * (6 * config.dim**2 + 2 * config.dim * config.ffn) * config.layers
    pairs = kept_pairs(grid, sparse_ratio, local_range, key_slices)
    first, second = config.lq_hidden
    places = tokens // 2
    convolutions = 2 * (2 * first * 768 * 36) + 2 * second * first * 36 + 2 * second * config.dim
    return {
        "projector": 2.0 * places * convolutions,
        "pieces": tokens * (per_token + 2 * 2 * config.text_len * config.dim * config.layers),
        "attention": 4.0 * 128 * 128 * config.head_dim * config.heads * pairs * config.layers,
        "decoder": DECODER_PER_PIXEL * grid.height_px * grid.width_px * 8,
    }
