"""ReAE, the causal autoencoder around the DiT: four frames and what is remembered make a latent, and the reverse (spec 3).

Latents are given and taken as the DiT has them, in patches: one for each token, (row, column, channel), the channel fastest.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...wan.network.memory import MemoryBlock, TimeGrow
from .config import DECODER_MEMORIES, ENCODER_MEMORIES, SwiftVRConfig

FRAMES_PER_LATENT = 4
PIXELS_PER_LATENT = 16


class _TimePool(nn.Module):
    """A 1x1 convolution over `stride` consecutive frames, stacked in channels, the earlier first."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(width * stride, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        frames, channels, height, width = x.shape
        stacked: Tensor = self.conv(x.reshape(frames // self.stride, channels * self.stride, height, width))
        return stacked


class _Remembering(nn.Module):
    """Layers under their published indices, some of which remember the frame before."""

    layers: nn.ModuleDict
    memories: tuple[int, ...]

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights and of the memories."""
        return next(self.parameters()).dtype

    def remember(self, x: Tensor, memories: tuple[Tensor, ...], after: list[Tensor]) -> Tensor:
        """The next three memory blocks."""
        for _ in range(3):
            block = self.layers[str(self.memories[len(after)])]
            x, memory = block(x, memories[len(after)])
            after.append(memory)
        return x


class Encoder(_Remembering):
    """Frames to latents; all frames of a call go through a layer together."""

    def __init__(self, config: SwiftVRConfig) -> None:
        super().__init__()
        e = config.encoder
        self.memories = ENCODER_MEMORIES
        self.layers = nn.ModuleDict(
            {
                "0": nn.Conv2d(12, e, 3, padding=1),
                "2": _TimePool(e, 2),
                "3": nn.Conv2d(e, e, 3, stride=2, padding=1, bias=False),
                "7": _TimePool(e, 2),
                "8": nn.Conv2d(e, e, 3, stride=2, padding=1, bias=False),
                "12": _TimePool(e, 1),
                "13": nn.Conv2d(e, e, 3, stride=2, padding=1, bias=False),
                "17": nn.Conv2d(e, config.dit.latent_channels, 3, padding=1),
                **{str(index): MemoryBlock(e) for index in ENCODER_MEMORIES},
            }
        )

    def forward(self, frames: Tensor, *memories: Tensor) -> tuple[Tensor, ...]:
        """`frames` (4n, 3, H, W) in 0..1, float32; nine memories, zeros at the beginning of a run.

        Returns patches (n * H/32 * W/32, 192) float32 and the nine next memories.
        """
        after: list[Tensor] = []
        layers = self.layers
        x = F.relu(layers["0"](F.pixel_unshuffle(frames, 2).to(self.dtype)))
        x = self.remember(layers["3"](layers["2"](x)), memories, after)
        x = self.remember(layers["8"](layers["7"](x)), memories, after)
        x = self.remember(layers["13"](layers["12"](x)), memories, after)
        return to_patches(layers["17"](x).float()), *after


class Decoder(_Remembering):
    """Latents to frames, four each. A 1x1 convolution commutes with nearest-neighbour upsampling and is done before it."""

    def __init__(self, config: SwiftVRConfig) -> None:
        super().__init__()
        a, b, c, d = config.decoder
        self.memories = DECODER_MEMORIES
        widths = (a, a, a, b, b, b, c, c, c)
        self.layers = nn.ModuleDict(
            {
                "1": nn.Conv2d(config.dit.latent_channels, a, 3, padding=1),
                "7": TimeGrow(a, 1),
                "8": nn.Conv2d(a, b, 3, padding=1, bias=False),
                "13": TimeGrow(b, 2),
                "14": nn.Conv2d(b, c, 3, padding=1, bias=False),
                "19": TimeGrow(c, 2),
                "20": nn.Conv2d(c, d, 3, padding=1, bias=False),
                "22": nn.Conv2d(d, 12, 3, padding=1),
                **{str(i): MemoryBlock(width) for i, width in zip(DECODER_MEMORIES, widths, strict=True)},
            }
        )

    def forward(self, patches: Tensor, *memories: Tensor) -> tuple[Tensor, ...]:
        """`patches` (n * H/32 * W/32, 192) float32; nine memories, zeros at the beginning of a run.

        Returns frames (4n, 3, H, W) in 0..1, float32, and the nine next memories. The first three frames of a run are to be
        dropped.
        """
        after: list[Tensor] = []
        layers = self.layers

        def grown(x: Tensor, index: int) -> Tensor:
            made: Tensor = layers[str(index + 1)](F.interpolate(layers[str(index)](x), scale_factor=2.0))
            return made

        latents = from_patches(patches, memories[0].shape[2], memories[0].shape[3])
        x = F.relu(layers["1"]((torch.tanh(latents / 3) * 3).to(self.dtype)))
        x = grown(self.remember(x, memories, after), 7)
        x = grown(self.remember(x, memories, after), 13)
        x = F.relu(grown(self.remember(x, memories, after), 19))
        return F.pixel_shuffle(layers["22"](x).float().clamp(0, 1), 2), *after


def to_patches(latents: Tensor) -> Tensor:
    """(n, C, 2h, 2w) → (n * h * w, 4C)."""
    _, channels, height, width = latents.shape
    box = latents.reshape(-1, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 3, 5, 1)
    return box.reshape(-1, 4 * channels)


def from_patches(patches: Tensor, height: int, width: int) -> Tensor:
    """The reverse of `to_patches`, for latents of this height and width."""
    channels = patches.shape[1] // 4
    box = patches.reshape(-1, height // 2, width // 2, 2, 2, channels).permute(0, 5, 1, 3, 2, 4)
    return box.reshape(-1, channels, height, width)


def encoder_weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published tensors as `Encoder` has them."""
    return {
        f"layers.{name.removeprefix('encoder.')}": tensors[name].float() for name in tensors if name.startswith("encoder.")
    }


def decoder_weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published tensors as `Decoder` has them.

    Published, a latent becomes two by being repeated and convolved in time with zeros around the pair. With the taps W0, W1, W2
    that is (W1 + W2) x and then (W0 + W1) x: one 1x1 convolution, and no memory.
    """
    out: dict[str, Tensor] = {}
    for name in tensors:
        if not name.startswith("decoder."):
            continue
        tensor, own = tensors[name].float(), f"layers.{name.removeprefix('decoder.')}"
        if name.endswith(".conv3d.weight"):
            first, second, third = tensor.unbind(2)
            tensor = torch.cat([second + third, first + second])
        out[own.replace(".proj.", ".conv.").replace(".conv3d.", ".conv.")] = tensor
    return out


def memory_sizes(config: SwiftVRConfig) -> tuple[tuple[tuple[int, int], ...], tuple[tuple[int, int], ...]]:
    """Of each memory of the encoder and of the decoder: channels, and pixels of the picture for one of its own."""
    a, b, c, _ = config.decoder
    encoder = tuple((config.encoder, pixels) for pixels in (4, 8, 16) for _ in range(3))
    decoder = tuple((width, pixels) for width, pixels in ((a, 16), (b, 8), (c, 4)) for _ in range(3))
    return encoder, decoder
