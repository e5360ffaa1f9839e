"""The tensors of a RealViformer: names and shapes, from its sizes. A checkpoint's sizes are read off its own shapes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from ..weights_file import Shape

SPYNET_WIDTHS = (8, 32, 64, 32, 16, 2)
"""Channels between the five 7x7 convolutions of a level of the optical flow."""
SPYNET_LEVELS = 6
HEAD_WIDTH = 64
"""Channels at four times the input's size; fixed, whatever the width of the rest."""
MASK = "attn_merge.attn.masktemp"
"""Left in the published file from an experiment; no part of the model."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of one model; the defaults are the published ones."""

    features: int = 48
    """Channels of the recurrent state."""
    blocks: tuple[int, int, int, int] = (2, 3, 4, 1)
    """Transformer blocks at full, half and quarter size, and behind the decoder."""
    heads: tuple[int, int, int] = (1, 2, 4)
    """At full, half and quarter size."""
    merge_heads: int = 2
    squeeze: tuple[int, int, int] = (4, 4, 4)
    """What the attention's channels are divided by, at full, half and quarter size."""
    expansion: float = 2.66
    """Hidden channels of a block's feed-forward over its channels; the product is truncated."""


def layout(sizes: Sizes) -> dict[str, Shape]:
    """Every tensor's shape by published name."""
    return dict(_tensors(sizes))


def _conv(name: str, shape: Shape) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def _block(name: str, width: int, heads: int, squeeze: int, expansion: float) -> Iterator[tuple[str, Shape]]:
    """``squeeze`` 1: a plain block, without the mask."""
    inner, hidden = width // squeeze, int(width * expansion)
    yield f"{name}.norm1.body.weight", (inner,)
    yield f"{name}.attn.temperature", (heads, 1, 1)
    yield f"{name}.attn.qkv.weight", (3 * inner, inner, 1, 1)
    yield f"{name}.attn.qkv_dwconv.weight", (3 * inner, 1, 3, 3)
    yield f"{name}.attn.project_out.weight", (inner, inner, 1, 1)
    if squeeze > 1:
        yield f"{name}.attn.linear1.weight", (1, 2)
        yield f"{name}.attn.linear2.weight", (inner // heads, inner // heads)
        yield f"{name}.compress.weight", (inner, width, 3, 3)
        yield f"{name}.expand.weight", (width, inner, 3, 3)
    yield f"{name}.norm2.body.weight", (width,)
    yield f"{name}.ffn.project_in.weight", (2 * hidden, width, 1, 1)
    yield f"{name}.ffn.dwconv.weight", (2 * hidden, 1, 3, 3)
    yield f"{name}.ffn.project_out.weight", (width, hidden, 1, 1)


def _blocks(name: str, count: int, width: int, heads: int, squeeze: int, sizes: Sizes) -> Iterator[tuple[str, Shape]]:
    for index in range(count):
        yield from _block(f"{name}.{index}", width, heads, squeeze, sizes.expansion)


def _tensors(sizes: Sizes) -> Iterator[tuple[str, Shape]]:
    n = sizes.features
    full, half, quarter, after = sizes.blocks
    yield from _conv("shallow_extraction.0", (n, 3, 3, 3))
    yield from _block("shallow_extraction.1", n, sizes.heads[0], 1, sizes.expansion)
    yield from _blocks("encoder_level1", full, n, sizes.heads[0], sizes.squeeze[0], sizes)
    yield "down1_2.body.0.weight", (n // 2, n, 3, 3)
    yield from _blocks("encoder_level2", half, 2 * n, sizes.heads[1], sizes.squeeze[1], sizes)
    yield "down2_3.body.0.weight", (n, 2 * n, 3, 3)
    yield from _blocks("latent", quarter, 4 * n, sizes.heads[2], sizes.squeeze[2], sizes)
    yield "up3_2.body.0.weight", (8 * n, 4 * n, 3, 3)
    yield "reduce_chan_level2.weight", (2 * n, 4 * n, 1, 1)
    yield from _blocks("decoder_level2", half, 2 * n, sizes.heads[1], sizes.squeeze[1], sizes)
    yield "up2_1.body.0.weight", (4 * n, 2 * n, 3, 3)
    # Twice the channels, but the heads of full size.
    yield from _blocks("decoder_level1", full, 2 * n, sizes.heads[0], sizes.squeeze[0], sizes)
    yield from _blocks("refinement", after, 2 * n, sizes.heads[0], sizes.squeeze[0], sizes)
    yield from _conv("compress", (n, 2 * n, 1, 1))
    yield from _conv("upconv1", (4 * n, 2 * n, 3, 3))
    yield from _conv("upconv2", (4 * HEAD_WIDTH, n, 3, 3))
    yield from _conv("conv_hr", (HEAD_WIDTH, HEAD_WIDTH, 3, 3))
    yield from _conv("conv_last", (3, HEAD_WIDTH, 3, 3))
    for name in ("norm_q", "norm_kv", "norm_out"):
        yield f"attn_merge.{name}.body.weight", (n,)
    yield "attn_merge.attn.temperature", (sizes.merge_heads, 1, 1)
    yield "attn_merge.attn.q.weight", (n, n, 3, 3)
    yield "attn_merge.attn.kv.weight", (2 * n, n, 1, 1)
    yield "attn_merge.attn.kv_dwconv.weight", (2 * n, 1, 3, 3)
    yield "attn_merge.attn.project_out.weight", (n, n, 1, 1)
    yield "attn_merge.ffn.0.weight", (n, 2 * n, 1, 1)
    yield "attn_merge.ffn.1.weight", (n, 1, 3, 3)
    yield "attn_merge.ffn.3.weight", (n, n, 1, 1)
    for level in range(SPYNET_LEVELS):
        for index, (inputs, outputs) in enumerate(pairwise(SPYNET_WIDTHS)):
            yield from _conv(f"spynet.basic_module.{level}.basic_module.{2 * index}", (outputs, inputs, 7, 7))
    yield "spynet.mean", (1, 3, 1, 1)
    yield "spynet.std", (1, 3, 1, 1)


def blocks_of(shapes: Mapping[str, Shape], name: str) -> int:
    """How many blocks ``name.0``, ``name.1``, … the tensors hold."""
    count = 0
    while f"{name}.{count}.norm1.body.weight" in shapes:
        count += 1
    return count
