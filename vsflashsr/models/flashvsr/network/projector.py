"""The LQ projector: four frames of the pre-upscaled video become the tokens of one latent (spec §4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import LQ_CHANNELS, LQ_PATCH, FlashVSRConfig
from .layers import ChannelNorm, FrameConv


class Projector(nn.Module):
    """What v1 and v1.1 share: layers and names. A subclass says what stands left of a clip."""

    def __init__(self, config: FlashVSRConfig) -> None:
        super().__init__()
        first, second = config.lq_hidden
        self.conv1 = FrameConv(LQ_CHANNELS, first, (4, 3, 3))
        self.norm1 = ChannelNorm(first)
        self.conv2 = FrameConv(first, second, (4, 3, 3))
        self.norm2 = ChannelNorm(second)
        self.linear_layers = nn.ModuleList([nn.Linear(second, config.dim)])

    def _features(self, frames: Tensor) -> Tensor:
        """Six frames (6, 3, H, W) -> two feature maps (2, hidden, h, w) of frames 0..3 and 2..5."""
        x = F.pad(F.pixel_unshuffle(frames, LQ_PATCH), (1, 1, 1, 1), mode="replicate")
        pairs = torch.cat([x[0:4].flatten(0, 1)[None], x[2:6].flatten(0, 1)[None]])
        return F.silu(self.norm1(self.conv1(pairs)))

    def _tokens(self, features: Tensor) -> Tensor:
        """Four feature maps (4, hidden, h, w) -> tokens (h*w, dim), row by row."""
        x = F.pad(features, (1, 1, 1, 1), mode="replicate").flatten(0, 1)[None]
        x = F.silu(self.norm2(self.conv2(x)))
        tokens: Tensor = self.linear_layers[0](x.flatten(2)[0].transpose(0, 1))
        return tokens

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights, and of tokens and context."""
        return self.conv1.bias.dtype


class ProjectorV1(Projector):
    """v1: each clip is its own left context, so nothing is remembered between calls."""

    def forward(self, clip: Tensor) -> Tensor:
        """`clip` (4, 3, H, W) float32 in [-1, 1] -> tokens (h*w, dim)."""
        clip = clip.to(self.dtype)
        features = self._features(torch.cat([clip[2:4], clip]))
        return self._tokens(torch.cat([features, features]))


class ProjectorV11(Projector):
    """v1.1: causal; the left context is what the previous call saw and computed."""

    def forward(self, clip: Tensor, ctx1: Tensor, ctx2: Tensor) -> tuple[Tensor, Tensor]:
        """`clip` (4, 3, H, W), `ctx1` (2, 3, H, W) the two frames before it, float32; `ctx2` (2, hidden, h, w).

        Returns tokens (h*w, dim) and the next `ctx2`. The first call of a segment is given four copies of frame 0
        with `ctx1` two more; its tokens are thrown away and its `ctx2` may be anything.
        """
        features = self._features(torch.cat([ctx1, clip]).to(self.dtype))
        return self._tokens(torch.cat([ctx2, features])), features


def build_projector(config: FlashVSRConfig, version: str) -> ProjectorV1 | ProjectorV11:
    """The projector of a version; the weights of either load into both."""
    return ProjectorV1(config) if version == "v1" else ProjectorV11(config)
