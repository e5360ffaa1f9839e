"""Arithmetic of a steady step, counted as in the specifications: two operations for a multiply-add. Pure."""

from __future__ import annotations

from vsflashsr.models.flashvsr.network.config import FlashVSRConfig
from vsflashsr.models.flashvsr.windows import Grid, local_mask, pair_budget, topk_ratio
from vsflashsr.models.swiftvr import step as swiftvr
from vsflashsr.models.swiftvr.network.config import SwiftVRConfig
from vsflashsr.models.swiftvr.windows import windows

DECODER_PER_PIXEL = 1.70e6
"""Of the TCDecoder, for each pixel of each output frame, at the published widths."""


def kept_pairs(grid: Grid, sparse_ratio: float, local_range: int, key_slices: int) -> int:
    """(query window, key window) pairs that one head keeps in a steady step."""
    visible = int(local_mask(grid, local_range).sum()) * key_slices
    return min(pair_budget(topk_ratio(sparse_ratio, grid), grid), visible)


def step_flop(
    config: FlashVSRConfig, grid: Grid, *, sparse_ratio: float = 2.0, local_range: int = 11, key_slices: int = 4
) -> dict[str, float]:
    """Of FlashVSR (8 frames), by stage."""
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


def swiftvr_step_flop(config: SwiftVRConfig, grid: swiftvr.Grid, latents: int) -> dict[str, float]:
    """Of SwiftVR (4 frames a latent), by stage."""
    dit = config.dit
    tokens = latents * grid.tokens
    per_token = 2 * (6 * dit.dim**2 + 2 * dit.dim * dit.ffn) + 4 * dit.text_len * dit.dim
    pairs = [
        over.gather.shape[0] * over.gather.shape[1] ** 2
        for over in (windows(latents, grid.rows, grid.cols, config.window, shifted=shifted) for shifted in (False, True))
    ]
    layers = (-(-dit.layers // 2), dit.layers // 2)
    pixels = grid.height_px * grid.width_px
    return {
        "pieces": float(tokens * per_token * dit.layers),
        "attention": 4.0 * dit.dim * sum(count * pair for count, pair in zip(layers, pairs, strict=True)),
        "encoder": 2.0 * latents * pixels * _encoder_products(config),
        "decoder": 2.0 * latents * pixels * _decoder_products(config),
    }


def _remembering(width: int) -> int:
    """Multiply-adds of three memory blocks for each of their pixels."""
    return 3 * 9 * 4 * width**2


def _encoder_products(config: SwiftVRConfig) -> float:
    """Multiply-adds for each pixel of the picture, of four frames: at 1/2, 1/4, 1/8 and 1/16 of its sides."""
    e, channels = config.encoder, config.dit.latent_channels
    half = 4 * 9 * 12 * e + 2 * 2 * e**2
    quarter = 2 * (9 * e**2 + _remembering(e)) + 2 * e**2
    eighth = 9 * e**2 + _remembering(e) + e**2
    sixteenth = 9 * e**2 + _remembering(e) + 9 * e * channels
    return half / 4 + quarter / 16 + eighth / 64 + sixteenth / 256


def _decoder_products(config: SwiftVRConfig) -> float:
    """Likewise; what grows in time is done before it grows in space."""
    a, b, c, d = config.decoder
    sixteenth = 9 * config.dit.latent_channels * a + _remembering(a) + a**2
    eighth = 9 * a * b + _remembering(b) + 2 * b**2
    quarter = 2 * (9 * b * c + _remembering(c) + 2 * c**2)
    half = 4 * (9 * c * d + 9 * d * 12)
    return sixteenth / 256 + eighth / 64 + quarter / 16 + half / 4
