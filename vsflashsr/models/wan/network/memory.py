"""The blocks of the small streaming autoencoders beside the DiT: those that remember a frame, and those that grow in time."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MemoryBlock(nn.Module):
    """A residual block that also sees its own previous input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(2 * width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """`x` (t, C, h, w) in time order, `memory` (1, C, h, w) the input before it -> output, next memory."""
        past = torch.cat([memory, x[:-1]]) if x.shape[0] > 1 else memory
        return F.relu(self.conv(torch.cat([x, past], 1)) + x), x[-1:]


class TimeGrow(nn.Module):
    """A 1x1 convolution to `stride` times the channels, which become `stride` frames, the earlier first."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(width, width * stride, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        frames, _, height, width = x.shape
        return x.reshape(frames * self.stride, -1, height, width) if self.stride > 1 else x
