"""The TCDecoder (variant "tiny"): one latent and its four LQ frames become four frames (spec §5)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...wan.network.memory import MemoryBlock, TimeGrow
from .config import FRAMES_PER_LATENT, LATENT_PATCH, LQ_CHANNELS, FlashVSRConfig

MEMORY_BLOCKS = (5, 6, 7, 11, 12, 13, 17, 18, 19)
"""Indices of the blocks that remember their previous input, in the order of the states."""


class TCDecoder(nn.Module):
    """27 published layers; the ones without weights are left out of `decoder` and live in `forward`.

    All frames of a latent go through a layer together: a memory block needs the frame before only as its *input*, so
    this equals the published order, one frame at a time through everything. A 1x1 convolution commutes with
    nearest-neighbour upsampling and is done before it, at a quarter of the cost.
    """

    def __init__(self, config: FlashVSRConfig) -> None:
        super().__init__()
        assert config.tc_channels is not None
        a, b, c, d = config.tc_channels
        self.channels = (a,) * 3 + (b,) * 3 + (c,) * 3
        self.decoder = nn.ModuleDict(
            {
                "1": nn.Conv2d(LQ_CHANNELS + config.latent_channels, a, 3, padding=1),
                "3": nn.Conv2d(a, a, 3, padding=1, bias=False),
                **{str(index): MemoryBlock(a) for index in MEMORY_BLOCKS[0:3]},
                "9": TimeGrow(a, 1),
                "10": nn.Conv2d(a, b, 3, padding=1, bias=False),
                **{str(index): MemoryBlock(b) for index in MEMORY_BLOCKS[3:6]},
                "15": TimeGrow(b, 2),
                "16": nn.Conv2d(b, c, 3, padding=1, bias=False),
                **{str(index): MemoryBlock(c) for index in MEMORY_BLOCKS[6:9]},
                "21": TimeGrow(c, 2),
                "22": nn.Conv2d(c, d, 3, padding=1, bias=False),
                "24": nn.Conv2d(d, d, 3, padding=1, bias=False),
                "26": nn.Conv2d(d, 3, 3, padding=1),
            }
        )

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights and of the memories."""
        return next(self.parameters()).dtype

    def forward(self, latent: Tensor, lq: Tensor, *memories: Tensor) -> tuple[Tensor, ...]:
        """`latent` (1, 16, H/8, W/8), `lq` (4, 3, H, W) in [-1, 1], float32; nine memories, zeros after a reset.

        Returns frames (4, 3, H, W) float32, nominally in [-1, 1] and not clamped, and the nine next memories.
        The first three frames after a reset are to be dropped.
        """
        after: list[Tensor] = []

        def remember(x: Tensor) -> Tensor:
            for _ in range(3):
                block = MEMORY_BLOCKS[len(after)]
                x, memory = self.decoder[str(block)](x, memories[len(after)])
                after.append(memory)
            return x

        def grow(x: Tensor, index: int) -> Tensor:
            grown: Tensor = self.decoder[str(index + 1)](F.interpolate(self.decoder[str(index)](x), scale_factor=2.0))
            return grown

        x = torch.cat([condition(lq), latent], 1).to(self.dtype)
        x = F.relu(self.decoder["1"](torch.tanh(x / 3) * 3))
        x = remember(F.relu(self.decoder["3"](x)))
        x = remember(grow(x, 9))
        x = remember(grow(x, 15))
        x = F.relu(grow(x, 21))
        x = self.decoder["26"](F.relu(self.decoder["24"](x)))
        return x.float() * 2 - 1, *after


def condition(lq: Tensor) -> Tensor:
    """Four frames (4, 3, H, W) -> (1, 768, H/8, W/8), channel ((c*4 + frame)*8 + dy)*8 + dx."""
    size = LATENT_PATCH
    x = F.pixel_unshuffle(lq, size)
    x = x.reshape(FRAMES_PER_LATENT, -1, size * size, *x.shape[2:])
    return x.transpose(0, 1).flatten(0, 2)[None]


assert FRAMES_PER_LATENT * 3 * LATENT_PATCH**2 == LQ_CHANNELS
