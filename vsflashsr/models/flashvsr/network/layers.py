"""Layers the projector and the Wan VAE share: convolutions over frames as 2-D convolutions, and the channel norm."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FrameConv(nn.Module):
    """A Conv3d over `taps` consecutive frames as one 2-D convolution over taps * channels.

    Input (frames, taps * channels, h, w), the taps oldest first; no padding but `padding` zeros on rows and columns.
    Channels ordered (tap, channel) make the stacking of consecutive frames a plain reshape, and 2-D convolutions are
    what every backend is fast at. State dicts hold the published Conv3d weight (out, in, taps, kh, kw).
    """

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int, int], padding: int = 0) -> None:
        super().__init__()
        self.taps, self.padding = kernel[0], padding
        self.weight = nn.Parameter(torch.empty(outputs, self.taps * inputs, *kernel[1:]))
        self.bias = nn.Parameter(torch.empty(outputs))

    def stored(self, weight: Tensor) -> Tensor:
        """The weight as this layer holds it, from the published Conv3d weight."""
        return weight.transpose(1, 2).flatten(1, 2)

    def published(self) -> Tensor:
        """The Conv3d weight, from the one this layer holds."""
        outputs, _, *kernel = self.weight.shape
        return self.weight.reshape(outputs, self.taps, -1, *kernel).transpose(1, 2)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        weight = self.published()
        destination[prefix + "weight"] = weight if keep_vars else weight.detach()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        key = prefix + "weight"
        if key in state_dict and state_dict[key].ndim == 5:
            state_dict[key] = self.stored(state_dict[key])
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, padding=self.padding)


class ChannelNorm(nn.Module):
    """RMS norm over channels, `x / max(|x|, 1e-12) * sqrt(C) * gamma`, in float32 whatever the precision."""

    def __init__(self, channels: int, axes: int = 3) -> None:
        super().__init__()
        self.scale = math.sqrt(channels)
        self.gamma = nn.Parameter(torch.empty(channels, *(1,) * axes))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        norm = wide.square().sum(1, keepdim=True).sqrt().clamp_min(1e-12)
        scale = self.gamma.float().reshape(1, -1, 1, 1) * self.scale
        return (wide / norm * scale).to(x.dtype)
