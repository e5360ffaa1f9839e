"""The decoder of the Wan 2.1 VAE (variant "full"), one latent at a time with explicit caches (spec §5b)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import LATENT_PATCH, VAE_MULTIPLIERS, FlashVSRConfig
from .layers import ChannelNorm, FrameConv

LATENT_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
LATENT_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip

Cached = Callable[[FrameConv, Tensor], Tensor]
"""Runs a frame convolution with the frames it saw before on its left."""


class ResidualBlock(nn.Module):
    """Norm, SiLU, 3x3x3 convolution, twice, beside a shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.residual = nn.ModuleDict(
            {
                "0": ChannelNorm(inputs),
                "2": FrameConv(inputs, outputs, (3, 3, 3), padding=1),
                "3": ChannelNorm(outputs),
                "6": FrameConv(outputs, outputs, (3, 3, 3), padding=1),
            }
        )
        self.shortcut = FrameConv(inputs, outputs, (1, 1, 1)) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, cached: Cached) -> Tensor:
        y = cached(_conv(self.residual["2"]), F.silu(self.residual["0"](x)))
        y = cached(_conv(self.residual["6"]), F.silu(self.residual["3"](y)))
        out: Tensor = y + self.shortcut(x)
        return out


class Attention(nn.Module):
    """One head over all positions of a frame."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(width, axes=2)
        self.to_qkv = nn.Conv2d(width, 3 * width, 1)
        self.proj = nn.Conv2d(width, width, 1)
        self.scale = width**-0.5

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.to_qkv(self.norm(x)).flatten(2).chunk(3, 1)
        # Scaled before the product, so that half precision can't overflow.
        weights = torch.softmax((q * self.scale).transpose(1, 2) @ k, -1)
        y = (weights @ v.transpose(1, 2)).transpose(1, 2).reshape(x.shape)
        out: Tensor = self.proj(y) + x
        return out


class Upsample(nn.Module):
    """Doubles rows and columns, halves the channels; with a time convolution doubles the frames first."""

    def __init__(self, width: int, in_time: bool) -> None:
        super().__init__()
        self.resample = nn.ModuleDict({"1": nn.Conv2d(width, width // 2, 3, padding=1)})
        self.width = width
        self.time_conv = FrameConv(width, 2 * width, (3, 1, 1)) if in_time else None

    def forward(self, x: Tensor, cached: Cached, first: bool) -> Tensor:
        if self.time_conv is not None and not first:
            x = cached(self.time_conv, x)
            # Each frame becomes two: the first half of the channels, then the second.
            x = x.reshape(-1, self.width, *x.shape[2:])
        out: Tensor = self.resample["1"](F.interpolate(x, scale_factor=2.0))
        return out


class _Decoder(nn.Module):
    def __init__(self, config: FlashVSRConfig) -> None:
        super().__init__()
        assert config.vae_dim is not None
        base = config.vae_dim
        width = base * VAE_MULTIPLIERS[-1]
        self.conv1 = FrameConv(config.latent_channels, width, (3, 3, 3), padding=1)
        self.middle = nn.ModuleList([ResidualBlock(width, width), Attention(width), ResidualBlock(width, width)])
        layers: list[nn.Module] = []
        last = len(VAE_MULTIPLIERS) - 1
        for level, multiplier in enumerate(reversed(VAE_MULTIPLIERS)):
            for _ in range(3):
                layers.append(ResidualBlock(width, base * multiplier))
                width = base * multiplier
            if level < last:
                layers.append(Upsample(width, in_time=level < 2))
                width //= 2
        self.upsamples = nn.ModuleList(layers)
        self.head = nn.ModuleDict({"0": ChannelNorm(base), "2": FrameConv(base, 3, (3, 3, 3), padding=1)})


class WanVaeDecoder(nn.Module):
    """Latent by latent; each 3-tap convolution is given the two frames it saw last (zeros after a reset).

    The first latent of a segment becomes one frame and skips the time convolutions, later ones become four. `first`
    says which of the two `forward` does; both have the same weights.
    """

    def __init__(self, config: FlashVSRConfig, *, first: bool = False) -> None:
        super().__init__()
        self.first = first
        self.conv2 = FrameConv(config.latent_channels, config.latent_channels, (1, 1, 1))
        self.decoder = _Decoder(config)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights and of the caches."""
        return self.conv2.bias.dtype

    def forward(self, latent: Tensor, *caches: Tensor) -> tuple[Tensor, ...]:
        """`latent` (1, 16, H/8, W/8) float32 -> frames (1 or 4, 3, H, W) float32 in [-1, 1], and the next caches.

        Caches are those of `cache_specs(config, first)`, in that order.
        """
        frames, after = self.decode(latent, list(caches), first=self.first)
        return frames.clamp(-1, 1), *after

    def decode(self, latent: Tensor, caches: list[Tensor], *, first: bool) -> tuple[Tensor, list[Tensor]]:
        """As `forward`, without the clamp."""
        after: list[Tensor] = []

        def cached(layer: FrameConv, x: Tensor) -> Tensor:
            joined = torch.cat([caches[len(after)], x])
            after.append(joined[-2:])
            out: Tensor = layer(torch.cat([joined[:-2], joined[1:-1], joined[2:]], 1))
            return out

        return self._run(latent, cached, first), after

    def _run(self, latent: Tensor, cached: Cached, first: bool) -> Tensor:
        shape = (1, -1, 1, 1)
        z = latent * latent.new_tensor(LATENT_STD).reshape(shape) + latent.new_tensor(LATENT_MEAN).reshape(shape)
        x = cached(self.decoder.conv1, self.conv2(z.to(self.dtype)))
        for layer in (*self.decoder.middle, *self.decoder.upsamples):
            if isinstance(layer, Upsample):
                x = layer(x, cached, first)
            else:
                x = layer(x, cached) if isinstance(layer, ResidualBlock) else layer(x)
        x = cached(_conv(self.decoder.head["2"]), F.silu(self.decoder.head["0"](x)))
        frames: Tensor = x.float()
        return frames


def cache_specs(config: FlashVSRConfig, *, first: bool) -> list[tuple[str, int, int]]:
    """Name, channels and pixels per row and column of each cache (2, channels, H/pixels, W/pixels), in order of use.

    The names are those of the layers: the first latent has no caches of the time convolutions, the rest are the same.
    """
    with torch.device("meta"):
        module = WanVaeDecoder(config)
    names = {layer: name for name, layer in module.named_modules()}
    pixels = LATENT_PATCH
    layers: list[tuple[FrameConv, int]] = [(module.decoder.conv1, pixels)]
    for block in (*module.decoder.middle, *module.decoder.upsamples):
        if isinstance(block, ResidualBlock):
            layers += [(_conv(block.residual["2"]), pixels), (_conv(block.residual["6"]), pixels)]
        elif isinstance(block, Upsample):
            if block.time_conv is not None and not first:
                layers.append((block.time_conv, pixels))
            pixels //= 2
    layers.append((_conv(module.decoder.head["2"]), pixels))
    return [(names[layer], layer.weight.shape[1] // layer.taps, size) for layer, size in layers]


def _conv(module: nn.Module) -> FrameConv:
    assert isinstance(module, FrameConv)
    return module
