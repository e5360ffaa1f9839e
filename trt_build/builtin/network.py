"""The network: a recurrent luma upscaler whose memory is moved along with the picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trt_build.builtin.motion import motion, warp

State = tuple[Tensor, Tensor]
"""(luma, hidden) of the frame before: (n, 1, h, w) and (n, state channels, h, w)."""

GAIN = 8.0
"""Brings differences of luma (a few hundredths) to about 1 inside the network, where Adam's steps suit them."""


@dataclass(frozen=True)
class NetConfig:
    """Shape of the network."""

    scale: int
    """2 or 4."""
    channels: int = 32
    """Width of the trunk."""
    layers: int = 10
    """3x3 convolutions in the trunk."""
    state: int = 8
    """Channels of memory per low-resolution pixel; 0 for a single-frame network."""
    reduce: int = 1
    """The trunk runs at 1 / reduce of the low resolution (1 or 2)."""
    memory: Literal["aligned", "still"] = "aligned"
    """Whether the memory is warped by the motion, or taken as it lies."""


class FoldedConv(nn.Module):
    """identity + 3x3 + (1x1 then 3x3 of twice the width), multiplied out to one 3x3 before it is applied.

    The sum of branches trains better than one kernel and costs the same, because it is the weights that are folded.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.direct = nn.Parameter(torch.randn(channels, channels, 3, 3) * (0.3 / (9 * channels) ** 0.5))
        self.narrow = nn.Parameter(torch.randn(2 * channels, channels) / channels**0.5)
        self.wide = nn.Parameter(torch.randn(channels, 2 * channels, 3, 3) * (0.3 / (18 * channels) ** 0.5))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.identity: Tensor
        identity = torch.zeros(channels, channels, 3, 3)
        identity[range(channels), range(channels), 1, 1] = 1
        self.register_buffer("identity", identity, persistent=False)

    def weight(self) -> Tensor:
        """The one kernel."""
        with torch.autocast(self.direct.device.type, enabled=False):
            return self.direct + self.identity + torch.einsum("omhw,mi->oihw", self.wide, self.narrow)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight(), self.bias, padding=1)

    def folded(self) -> nn.Conv2d:
        """The same as an ordinary convolution."""
        conv = nn.Conv2d(self.direct.shape[0], self.direct.shape[0], 3, padding=1)
        conv.weight.data.copy_(self.weight().detach())
        conv.bias.data.copy_(self.bias.detach())  # type: ignore[union-attr]
        return conv


def lanczos_kernel(scale: int) -> Tensor:
    """(scale^2, 1, 7, 7): the Lanczos-3 upscale as a convolution, one output channel for each phase."""
    taps = torch.zeros(scale, 7, dtype=torch.float64)
    for phase in range(scale):
        centre = 3 + (phase + 0.5) / scale - 0.5
        distance = torch.arange(7, dtype=torch.float64) - centre
        taps[phase] = torch.sinc(distance) * torch.sinc(distance / 3) * (distance.abs() < 3)
    taps /= taps.sum(1, keepdim=True)
    return torch.einsum("ay,bx->abyx", taps, taps).reshape(scale * scale, 1, 7, 7).float()


def _around(luma: Tensor) -> Tensor:
    """Mean of each pixel's 5x5 neighbourhood; edges repeat."""
    return F.avg_pool2d(F.pad(luma, (2, 2, 2, 2), mode="replicate"), 5, 1)


class Net(nn.Module):
    """frame, state -> upscaled frame, next state."""

    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        self.config = config
        c, s, r = config.channels, config.state, config.reduce
        inputs = 2 + s if s else 1
        self.stem = nn.Conv2d(inputs, c, 4, 2, 1) if r == 2 else nn.Conv2d(inputs, c, 3, 1, 1)
        self.trunk = nn.ModuleList(FoldedConv(c) for _ in range(config.layers))
        self.head = nn.Conv2d(c, r * r * (config.scale**2 + s), 3, 1, 1)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]
        self.head.weight.data *= 0.1
        self.base: Tensor
        self.register_buffer("base", lanczos_kernel(config.scale), persistent=False)

    def first_state(self, frame: Tensor) -> State:
        """What there is before the first frame: nothing."""
        n, _, h, w = frame.shape
        return frame.new_zeros(n, 1, h, w), frame.new_zeros(n, self.config.state, h, w)

    def flow(self, frame: Tensor, before: Tensor) -> Tensor:
        """Motion of the picture, see `motion`."""
        with torch.no_grad():
            return motion(frame, before)

    def forward(
        self, frame: Tensor, luma: Tensor, hidden: Tensor, flow: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`frame` (n, 1, h, w) and the state -> (n, 1, scale * h, scale * w) and the next state (luma, hidden)."""
        config = self.config
        padded = F.pad(frame, (3, 3, 3, 3), mode="replicate")
        base = F.conv2d(padded, self.base)
        # The trunk sees differences from the neighbourhood only, so that a flat area is zero whatever its level, and
        # so is the frame before the first.
        seen = frame - _around(frame)
        if config.state:
            if config.memory == "aligned":
                flow = self.flow(frame, luma) if flow is None else flow
                moved = warp(torch.cat([luma, hidden], 1), flow)
                before, hidden = moved[:, :1], moved[:, 1:]
            else:
                before = luma
            change = before - _around(before) - seen
            seen = torch.cat([GAIN * seen, GAIN * change, hidden], 1)
        else:
            seen = GAIN * seen
        x = stem = F.leaky_relu(self.stem(seen), 0.1)
        for conv in self.trunk:
            x = F.leaky_relu(conv(x), 0.1)
        x = self.head(x + stem)
        if config.reduce == 2:
            x = F.pixel_shuffle(x, 2)
        phases = config.scale**2
        out = F.pixel_shuffle(base + x[:, :phases].float() / GAIN, config.scale)
        return out, frame, x[:, phases:].float()

    def fold(self) -> Net:
        """The same network with ordinary convolutions, for export."""
        net = Net(self.config)
        net.load_state_dict(self.state_dict())
        net.trunk = nn.ModuleList(conv.folded() for conv in net.trunk if isinstance(conv, FoldedConv))
        return net.eval()

    def macs(self) -> float:
        """Multiply-adds of the convolutions for one low-resolution pixel."""
        c, s, r = self.config.channels, self.config.state, self.config.reduce
        inputs, outputs = (2 + s if s else 1), r * r * (self.config.scale**2 + s)
        taps = 16 if r == 2 else 9
        return (inputs * c * taps + self.config.layers * c * c * 9 + c * outputs * 9) / r**2 + 49 * self.config.scale**2
