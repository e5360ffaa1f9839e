"""The network: chroma that was resized, and what luma says of it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GAIN = 8.0
"""Brings what chroma and luma vary by (a few hundredths) to about 1 inside the network, where Adam's steps suit them."""

MARGIN = 0.2
"""How far a result may leave the range of the resized chroma around, as a part of that range."""

AROUND = 3
"""Blocks square whose range that is."""

SLOPE = 0.1
"""Of LeakyReLU below zero."""


@dataclass(frozen=True)
class ChromaConfig:
    """Shape of the network."""

    scale: int
    """Of the model whose luma it sees, 2 or 4; it works on blocks of so many pixels square, of which each was one of the chroma
    that was resized. At x4, blocks of half that size gained 0.53 points of SSIMULACRA2 where these gain 0.69 (2026-11-25)."""
    channels: int = 32
    """Width of the layers between the first and the last."""
    layers: int = 3
    """All convolutions: the first reads blocks, the last makes them."""


def bounds(base: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """The least and the most that a result may be at each pixel of `base`, block by block."""
    # Of blocks first: ONNX Runtime takes 13 of 62 ms for windows of 12x12 pixels (960x544, 2026-11-25).
    low, high = (sign * F.max_pool2d(F.max_pool2d(sign * base, block), AROUND, 1, AROUND // 2) for sign in (-1, 1))
    margin = MARGIN * (high - low)
    low, high = (F.interpolate(side, scale_factor=block, mode="nearest") for side in (low - margin, high + margin))
    return low, high


class ChromaNet(nn.Module):
    """(n, 3, h, w), luma and U and V on one grid -> the same luma, and U and V with detail; sides are multiples of the scale.

    Kernels of the first layer sum to zero over each plane and nothing has a bias: where a picture is flat nothing is added,
    exactly; elsewhere as much more or less as contrast is more or less. No result leaves the range of U or V around it by more
    than a fifth of that range: grey stays grey, and no colour appears that wasn't there.
    """

    def __init__(self, config: ChromaConfig) -> None:
        super().__init__()
        self.config = config
        block = config.scale
        widths = [config.channels] * (config.layers - 1)
        self.first = nn.Parameter(torch.randn(widths[0], 3, 3 * block, 3 * block) * (1.4 / (27 * block**2)) ** 0.5)
        between = [torch.randn(b, a, 3, 3) * (1.4 / (9 * a)) ** 0.5 for a, b in pairwise(widths)]
        last = 0.1 * torch.randn(2 * block**2, widths[-1], 3, 3) * (1.4 / (9 * widths[-1])) ** 0.5
        self.others = nn.ParameterList([nn.Parameter(weight) for weight in [*between, last]])
        self.folded = False

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        block, luma, base = self.config.scale, x[:, :1], x[:, 1:]
        first = self.first if self.folded else GAIN * (self.first - self.first.mean((2, 3), keepdim=True))
        features = F.conv2d(F.pad(x, (block, block, block, block), mode="replicate"), first, stride=block)
        for weight in self.others:
            features = F.conv2d(F.leaky_relu(features, SLOPE), weight, padding=1)
        own = base + F.pixel_shuffle(features if self.folded else features / GAIN, block)
        low, high = bounds(base, block)
        return torch.cat([luma, torch.minimum(torch.maximum(own, low), high)], 1)

    def fold(self) -> ChromaNet:
        """The same with plain weights, for export."""
        net = ChromaNet(self.config)
        with torch.no_grad():
            net.first.copy_(GAIN * (self.first - self.first.mean((2, 3), keepdim=True)))
            for mine, theirs in zip(net.others, self.others, strict=True):
                mine.copy_(theirs)
            net.others[-1].div_(GAIN)
        net.folded = True
        return net.eval()

    def macs(self) -> float:
        """Multiply-adds of the convolutions for one low-resolution pixel of luma of a 4:2:0 clip."""
        weights: int = sum(weight.numel() for weight in (self.first, *self.others))
        return weights / 4
