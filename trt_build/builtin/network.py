"""The network: a luma upscaler that moves its last result along with the picture and goes on from there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .motion import difference_kernel, motion, recall

State = tuple[Tensor, Tensor]
"""The frame before (n, 1, h, w), and what came of it at twice the size (n, 1, 2h, 2w)."""

GAIN = 8.0
"""Brings differences of luma (a few hundredths) to about 1 inside the network, where Adam's steps suit them."""

DOUBT = 12.0
"""What is remembered counts less the more it differs from the frame: not at all from a mean of 1/12 of the range on."""

UNLIKE = 3.0
ALIKE = 0.4
"""What differs from the frame by more than ALIKE times as much as the frame itself varies (mean deviations over 5x5 pixels)
is trusted the less, by UNLIKE times the rest: a shot of low contrast would pass by DOUBT alone."""

STEP = 1 / 219
"""A step of 8 bit."""

NOVEL = 4.0
"""The trunk sees the memory whole where the picture moved by a quarter of a pixel, not at all where it moved by whole pixels or
stood: there it has seen the same samples, and a trunk that sharpens by what it sharpened before takes far longer to settle than
8 frames (text under noise of 0.7/255: 4.9/255 between a run begun there and a long one, with this 0.1)."""

STILL = 25 / STEP
"""Where not one of 5x5 pixels has changed by a step of 8 bit, the picture stands."""

KEEP = 0.8
"""Most of the memory's part in a result. Moving it amplifies by 1.125 at most, so that what was remembered wrongly fades."""

HOLD = 0.6
"""The same where the picture stands: after 8 frames 0.017, after the 12 of preroll 0.002, of any difference is left."""

MARGIN = 0.2
"""How far a result may leave the range of the frame's 3x3 pixels around, as a part of that range. Lanczos leaves it by 0.10 at
the edge of a step."""

TEXTURE = 0.5
"""How much further where the frame is texture: of what its finest structures, bright and dark, both have over 5x5 pixels. What is
thinner than three pixels lost contrast when it was made small. With the margin alone sam2_blocks lost 1.9 dB and 15 points of
SSIMULACRA2 at x2, small print 0.6 dB. A dot, a line, a step alone has structures of one kind only, and gets nothing."""

LEVEL = 9
"""The network adds detail, not light: over this many pixels square the mean of what it adds to the Lanczos upscale is taken back.
What was trained for sharpness brightens small dark letters and lines otherwise: the drawn clips held out by 0.9 to 1.1/255, with
this by 0.1, for 0.8 points of SSIMULACRA2 there at x2 and none at x4. With 5 it costs 2.4 points and 1, with 15 1.4 at x2."""


@dataclass(frozen=True)
class NetConfig:
    """Shape of the network."""

    scale: int
    """2 or 4."""
    channels: int = 32
    """Width of the trunk."""
    layers: int = 8
    """3x3 convolutions in the trunk."""


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


def halving_kernel(scale: int) -> Tensor:
    """(4, scale^2, 1, 1): phases of a picture `scale` times as large as the frame to those of one twice as large: means."""
    kernel = torch.zeros(2, 2, scale, scale)
    part = scale // 2
    for a in range(2):
        for b in range(2):
            kernel[a, b, a * part : (a + 1) * part, b * part : (b + 1) * part] = 1 / part**2
    return kernel.reshape(4, scale * scale, 1, 1)


def doubling_kernel() -> Tensor:
    """(16, 4, 3, 3): phases of a picture twice as large as the frame to those of one four times as large, bilinearly."""
    along = torch.zeros(4, 2, 3)
    for phase in range(4):
        place = phase / 2 - 0.25
        for offset in range(-2, 4):
            along[phase, offset % 2, 1 + offset // 2] = max(0.0, 1 - abs(place - offset))
    return torch.einsum("aiy,bjx->abijyx", along, along).reshape(16, 4, 3, 3)


def _around(x: Tensor) -> Tensor:
    """Mean over 5x5 pixels."""
    return F.avg_pool2d(x, 5, 1, 2, count_include_pad=False)


def _level(x: Tensor) -> Tensor:
    """Mean of all channels (n, 1, h, w) over LEVEL x LEVEL pixels, along one axis after the other: a fifth of the additions."""
    half = LEVEL // 2
    rows = F.avg_pool2d(x.mean(1, keepdim=True), (1, LEVEL), 1, (0, half), count_include_pad=False)
    return F.avg_pool2d(rows, (LEVEL, 1), 1, (half, 0), count_include_pad=False)


def bounds(frame: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the most that a result of `frame` (n, 1, h, w) may be at each pixel, and all that is made of it."""
    low, high = -_most(-frame, 3), _most(frame, 3)
    # Top-hats: what is brighter, or darker, than any 3x3 pixels that it could be a part of.
    bright, dark = frame - _most(low, 3), -_most(-high, 3) - frame
    margin = MARGIN * (high - low) + TEXTURE * torch.minimum(_most(bright, 5), _most(dark, 5))
    return low - margin, high + margin


def _most(x: Tensor, size: int) -> Tensor:
    """The most of `size` x `size` pixels around."""
    return F.max_pool2d(x, size, 1, size // 2)


def _novelty(flow: Tensor) -> Tensor:
    """From 0 to 1 (n, 1, h, w): how far `flow` is from whole pixels."""
    part = flow - flow.floor()
    return (NOVEL * torch.minimum(part, 1 - part).sum(1, keepdim=True)).clamp(max=1)


def _between(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(x, low), high)


def _settled(base: Tensor, residual: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """`base` + `residual` within the range, as bright as `base`. What the range cuts off counts, hence it is applied twice."""
    own = _between(base + residual, low, high)
    return _between(own - _level(own - base), low, high)


class Stem(nn.Module):
    """The first layer: 5x5 over the frame and over what the memory says of it otherwise, in four phases.

    The kernels over luma sum to zero, so that a flat area is zero to the trunk whatever its level. What reads the memory
    starts as zero: until it has learned, the trunk is that of a single-frame network.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.luma = nn.Parameter(torch.randn(channels, 1, 5, 5) / 5)
        self.past = nn.Parameter(torch.zeros(channels, 4, 5, 5))
        self.bias = nn.Parameter(torch.zeros(channels))

    def weight(self) -> Tensor:
        """(channels, 5, 5, 5)."""
        return GAIN * torch.cat([self.luma - self.luma.mean((-1, -2), keepdim=True), self.past], 1)

    def forward(self, x: Tensor) -> Tensor:
        """`x` (n, 5, h, w), or only the first of these channels: a frame alone. Edges repeat."""
        return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="replicate"), self.weight()[:, : x.shape[1]], self.bias)

    def folded(self) -> nn.Sequential:
        """The same with an ordinary convolution."""
        weight = self.weight().detach()
        conv = nn.Conv2d(weight.shape[1], weight.shape[0], 5)
        conv.weight.data.copy_(weight)
        conv.bias.data.copy_(self.bias.detach())  # type: ignore[union-attr]
        return nn.Sequential(nn.ReplicationPad2d(2), conv)


class ScaledConv(nn.Conv2d):
    """A convolution of which `gain` times the weights are applied, so that Adam's steps of one size suit it."""

    def __init__(self, inputs: int, outputs: int, size: int, gain: float) -> None:
        super().__init__(inputs, outputs, size, padding=size // 2)
        nn.init.zeros_(cast(Tensor, self.bias))
        self.weight.data *= 0.1
        self.size, self.gain = size, gain

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.gain * self.weight, self.gain * cast(Tensor, self.bias), padding=self.padding)

    def folded(self) -> nn.Conv2d:
        """The same as an ordinary convolution."""
        conv = nn.Conv2d(self.in_channels, self.out_channels, self.size, padding=self.size // 2)
        conv.weight.data.copy_(self.gain * self.weight.detach())
        cast(Tensor, conv.bias).data.copy_(self.gain * cast(Tensor, self.bias).detach())
        return conv


class Net(nn.Module):
    """frame, state -> upscaled frame, next state.

    A result is the network's own picture, and where the memory is trusted, partly the result before, moved to where the
    picture is now: errors of the two are not the same, so their mean has less. How much is said by the gate, pixel by
    pixel of twice the frame's size, at which the memory is kept at either scale.
    """

    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        self.config = config
        c = config.channels
        self.stem: nn.Module = Stem(c)
        self.trunk = nn.ModuleList(FoldedConv(c) for _ in range(config.layers))
        self.head: nn.Conv2d = ScaledConv(c, config.scale**2, 3, 1 / GAIN)
        # At the others' pace the gate stayed half closed where noise would have wanted it open.
        self.gate: nn.Conv2d = ScaledConv(c, 4, 1, 4.0)
        self.base: Tensor
        self.twice: Tensor
        self.halving: Tensor
        self.doubling: Tensor
        self.difference: Tensor
        self.register_buffer("base", lanczos_kernel(config.scale), persistent=False)
        self.register_buffer("twice", lanczos_kernel(2), persistent=False)
        self.register_buffer("halving", halving_kernel(config.scale), persistent=False)
        self.register_buffer("doubling", doubling_kernel(), persistent=False)
        self.register_buffer("difference", difference_kernel(), persistent=False)

    def first_state(self, frame: Tensor) -> State:
        """What there is before the first frame: nothing, which is trusted where the frame is as black."""
        n, _, h, w = frame.shape
        return frame.new_zeros(n, 1, h, w), frame.new_zeros(n, 1, 2 * h, 2 * w)

    def forward(
        self, frame: Tensor, luma: Tensor, picture: Tensor, flow: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`frame` (n, 1, h, w) and the state -> (n, 1, scale * h, scale * w) and the next state (luma, picture).

        `flow`, if it is known already, is `motion(frame, luma)`.
        """
        # In training what is picture stays fp32: bf16 would round it by up to 0.5/255.
        with torch.autocast(frame.device.type, enabled=False):
            if flow is None:
                with torch.no_grad():
                    flow = motion(frame, luma)
            low, high = bounds(frame)
            still = F.relu(1 - STILL * _around((frame - luma).abs()))
            flow = (1 - still) * flow
            past = recall(picture, flow, self.difference)
            edged = F.pad(frame, (3, 3, 3, 3), mode="replicate")
            twice = F.conv2d(edged, self.twice)
            base = twice if self.config.scale == 2 else F.conv2d(edged, self.base)
            trust = self._trust(frame, luma, past - twice)
            past = _between(past, low, high)
            stem = self.stem(torch.cat([frame, _novelty(flow) * trust * (past - twice)], 1))
        features = self._features(stem)
        residual, gate = self.head(features).float(), self.gate(features).float()
        with torch.autocast(frame.device.type, enabled=False):
            own = _settled(base, residual, low, high)
            pull = (KEEP + still * (HOLD - KEEP)) * trust * torch.sigmoid(gate)
            if self.config.scale == 2:
                picture = F.pixel_shuffle(own + pull * (past - own), 2)
                return picture, frame, picture
            own = own + F.conv2d(pull * (past - F.conv2d(own, self.halving)), self.doubling, padding=1)
            own = _between(own, low, high)
            return F.pixel_shuffle(own, 4), frame, F.pixel_shuffle(F.conv2d(own, self.halving), 2)

    def _trust(self, frame: Tensor, luma: Tensor, news: Tensor) -> Tensor:
        """Between 0 and 1 (n, 1, h, w): none where there is no memory (black was before), or where it is of another picture.

        `news` (n, 4, h, w) is what it says otherwise."""
        unlike = _around(news.mean(1, keepdim=True).abs())
        contrast = _around((frame - _around(frame)).abs())
        doubt = DOUBT * unlike + UNLIKE * F.relu(unlike / (contrast + STEP) - ALIKE)
        known = (4 / STEP * luma.abs()).clamp(max=1)
        return known * F.relu(1 - doubt)

    def single(self, frame: Tensor) -> Tensor:
        """`frame` (n, 1, h, w) upscaled without any memory, by the weights that need none: for the first phase of training."""
        with torch.autocast(frame.device.type, enabled=False):
            stem = self.stem(frame)
        residual = self.head(self._features(stem)).float()
        with torch.autocast(frame.device.type, enabled=False):
            base = F.conv2d(F.pad(frame, (3, 3, 3, 3), mode="replicate"), self.base)
            return F.pixel_shuffle(_settled(base, residual, *bounds(frame)), self.config.scale)

    def _features(self, stem: Tensor) -> Tensor:
        x = first = F.leaky_relu(stem, 0.1)
        for conv in self.trunk[:-1]:
            x = F.leaky_relu(conv(x), 0.1)
        # The sum comes before the activation: there ONNX Runtime makes it a part of the convolution.
        return F.leaky_relu(self.trunk[-1](x) + first, 0.1)

    def fold(self) -> Net:
        """The same network with ordinary convolutions, for export."""
        net = Net(self.config)
        net.load_state_dict(self.state_dict())
        net.stem = cast(Stem, net.stem).folded()
        net.head = cast(ScaledConv, net.head).folded()
        net.gate = cast(ScaledConv, net.gate).folded()
        net.trunk = nn.ModuleList(conv.folded() for conv in net.trunk if isinstance(conv, FoldedConv))
        return net.eval()

    def macs(self) -> float:
        """Multiply-adds of the convolutions for one low-resolution pixel."""
        c, phases = self.config.channels, self.config.scale**2
        fixed = 49 * (4 if phases == 4 else 4 + phases) + 4 * 12 * 9 + (0 if phases == 4 else 9 * 4 * phases + 2 * 4 * phases)
        return c * 5 * 25 + self.config.layers * c * c * 9 + c * phases * 9 + c * 4 + fixed
