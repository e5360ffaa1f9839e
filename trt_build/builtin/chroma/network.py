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

SLOPE = 0.1
"""Of LeakyReLU below zero."""


@dataclass(frozen=True)
class ChromaConfig:
    """Shape of the network."""

    scale: int
    """Of the model whose luma it sees: 2 or 4."""
    block: int = 2
    """It works on blocks of so many pixels square."""
    channels: int = 16
    """Width of the layers between the first and the last."""
    layers: int = 3
    """All convolutions: the first reads blocks, the last makes them."""

    @property
    def reach(self) -> int:
        """Pixels square whose range bounds a result: what was resized by `scale` varies over about three of its own pixels."""
        return self.block * (3 if self.block == self.scale else 5)


class ChromaNet(nn.Module):
    """(n, 3, h, w), luma and U and V on one grid -> the same luma, and U and V with detail; sides are multiples of `block`.

    Kernels of the first layer sum to zero over each plane and nothing has a bias: where a picture is flat nothing is added,
    exactly; elsewhere as much more or less as contrast is more or less. No result leaves the range of U or V around it by more
    than a fifth of that range: grey stays grey, and no colour appears that wasn't there.
    """

    def __init__(self, config: ChromaConfig) -> None:
        super().__init__()
        self.config = config
        block = config.block
        widths = [config.channels] * (config.layers - 1)
        self.first = nn.Parameter(torch.randn(widths[0], 3, 3 * block, 3 * block) * (1.4 / (27 * block**2)) ** 0.5)
        between = [torch.randn(b, a, 3, 3) * (1.4 / (9 * a)) ** 0.5 for a, b in pairwise(widths)]
        last = 0.1 * torch.randn(2 * block**2, widths[-1], 3, 3) * (1.4 / (9 * widths[-1])) ** 0.5
        self.others = nn.ParameterList([nn.Parameter(weight) for weight in [*between, last]])
        self.folded = False

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        block, luma, base = self.config.block, x[:, :1], x[:, 1:]
        # In training what is picture stays fp32: bf16 would round it by up to 0.5/255.
        first = self.first if self.folded else GAIN * (self.first - self.first.mean((2, 3), keepdim=True))
        features = F.conv2d(F.pad(x, (block, block, block, block), mode="replicate"), first, stride=block)
        for weight in self.others:
            features = F.conv2d(F.leaky_relu(features, SLOPE), weight, padding=1)
        own = base + F.pixel_shuffle(features if self.folded else features / GAIN, block)
        low, high = self._bounds(base)
        return torch.cat([luma, torch.minimum(torch.maximum(own, low), high)], 1)

    def _bounds(self, base: Tensor) -> tuple[Tensor, Tensor]:
        """The least and the most that a result may be at each pixel."""
        block, reach = self.config.block, self.config.reach
        low, high = (sign * F.max_pool2d(sign * base, reach, block, (reach - block) // 2) for sign in (-1, 1))
        margin = MARGIN * (high - low)
        return tuple(F.interpolate(side, scale_factor=block, mode="nearest") for side in (low - margin, high + margin))  # type: ignore[return-value]  # two of them

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
        weights = self.first.numel() + sum(weight.numel() for weight in self.others)
        return float(weights * (self.config.scale / (2 * self.config.block)) ** 2)
