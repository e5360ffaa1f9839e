"""The network: a recurrent luma upscaler whose memory is moved along with the picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

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
    layers: int = 8
    """3x3 convolutions in the trunk."""
    state: int = 4
    """Channels of memory per low-resolution pixel, beside the frame before; at least 1."""
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


class Stem(nn.Module):
    """The first layer: 5x5 over the frame, its change since the frame before, and the hidden state.

    The kernels over luma sum to zero, so that a flat area is zero to the trunk whatever its level, and so is the frame
    before the first. What reads the memory starts as zero: until it has learned, this is a single-frame network.
    """

    def __init__(self, channels: int, state: int) -> None:
        super().__init__()
        self.luma = nn.Parameter(torch.randn(channels, 2, 5, 5) / 5)
        self.luma.data[:, 1] = 0
        self.hidden = nn.Parameter(torch.zeros(channels, state, 5, 5))
        self.bias = nn.Parameter(torch.zeros(channels))

    def weight(self) -> Tensor:
        """(channels, 2 + state, 5, 5)."""
        return torch.cat([self.luma - self.luma.mean((-1, -2), keepdim=True), self.hidden], 1)

    def forward(self, x: Tensor) -> Tensor:
        """`x` (n, 2 + state, h, w), or only the first of these channels: a frame alone. Edges repeat."""
        return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="replicate"), self.weight()[:, : x.shape[1]], self.bias)

    def folded(self) -> nn.Sequential:
        """The same with an ordinary convolution."""
        weight = self.weight().detach()
        conv = nn.Conv2d(weight.shape[1], weight.shape[0], 5)
        conv.weight.data.copy_(weight)
        conv.bias.data.copy_(self.bias.detach())  # type: ignore[union-attr]
        return nn.Sequential(nn.ReplicationPad2d(2), conv)


class Net(nn.Module):
    """frame, state -> upscaled frame, next state."""

    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        self.config = config
        c, s = config.channels, config.state
        self.stem: nn.Module = Stem(c, s)
        self.trunk = nn.ModuleList(FoldedConv(c) for _ in range(config.layers))
        self.head = nn.Conv2d(c, config.scale**2 + s, 3, 1, 1)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]
        # The picture's rows only: a hidden state of small numbers was hardly learned from.
        self.head.weight.data[: config.scale**2] *= 0.1
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
        if self.config.memory == "aligned":
            flow = self.flow(frame, luma) if flow is None else flow
            moved = warp(torch.cat([luma, hidden], 1), flow)
            luma, hidden = moved[:, :1], moved[:, 1:]
        x = self._features(self.stem(torch.cat([GAIN * frame, GAIN * (luma - frame), hidden], 1)))
        x = self.head(x)
        phases = self.config.scale**2
        return self._picture(frame, x[:, :phases]), frame, x[:, phases:].float()

    def single(self, frame: Tensor) -> Tensor:
        """`frame` (n, 1, h, w) upscaled without any memory, by the weights that need none: for the first phase of training."""
        phases = self.config.scale**2
        x = self._features(self.stem(GAIN * frame))
        bias = cast(Tensor, self.head.bias)
        return self._picture(frame, F.conv2d(x, self.head.weight[:phases], bias[:phases], padding=1))

    def _features(self, stem: Tensor) -> Tensor:
        x = first = F.leaky_relu(stem, 0.1)
        for conv in self.trunk[:-1]:
            x = F.leaky_relu(conv(x), 0.1)
        # The sum comes before the activation: there ONNX Runtime makes it a part of the convolution.
        return F.leaky_relu(self.trunk[-1](x) + first, 0.1)

    def _picture(self, frame: Tensor, residual: Tensor) -> Tensor:
        base = F.conv2d(F.pad(frame, (3, 3, 3, 3), mode="replicate"), self.base)
        return F.pixel_shuffle(base.float() + residual.float() / GAIN, self.config.scale)

    def fold(self) -> Net:
        """The same network with ordinary convolutions, for export."""
        net = Net(self.config)
        net.load_state_dict(self.state_dict())
        net.stem = cast(Stem, net.stem).folded()
        net.trunk = nn.ModuleList(conv.folded() for conv in net.trunk if isinstance(conv, FoldedConv))
        return net.eval()

    def macs(self) -> float:
        """Multiply-adds of the convolutions for one low-resolution pixel."""
        c, s, phases = self.config.channels, self.config.state, self.config.scale**2
        return c * (2 + s) * 25 + self.config.layers * c * c * 9 + c * (phases + s) * 9 + 49 * phases
