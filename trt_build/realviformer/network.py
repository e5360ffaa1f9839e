"""RealViformer as a torch module: one frame and the state before it become one frame four times its size and the next state."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import Block, Down, Norm, Shapes, Up, blocks, call, conv, in_strips, mixed, scores, warp
from .spynet import SpyNet

SCALE = 4
_HEAD_HALO = 2
"""Rows of the input that a row of the head's output sees: 1 + 1/2 + 1/4 + 1/4."""


class _MergeAttention(nn.Module):
    """Channel attention of the present frame (q) to the past (k, v)."""

    def __init__(self, shapes: Shapes, name: str) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.empty(shapes[f"{name}.temperature"]))
        self.q = conv(shapes, f"{name}.q")
        self.kv = conv(shapes, f"{name}.kv")
        self.kv_dwconv = conv(shapes, f"{name}.kv_dwconv", depthwise=True)
        self.project_out = conv(shapes, f"{name}.project_out")

    def parts(self, query: Tensor, past: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v together, and v mixed."""
        q, kv = call(self.q, query), self.kv_dwconv(call(self.kv, past))
        k, v = kv.chunk(2, 1)
        return q, kv, mixed(torch.softmax(scores(q, k, self.temperature), -1), v)

    def forward(self, query: Tensor, past: Tensor) -> Tensor:
        made: Tensor = self.project_out(self.parts(query, past)[2])
        return made


class Merge(nn.Module):
    """The present frame's features and the past's, warped, as one. Without a skip connection."""

    def __init__(self, shapes: Shapes, name: str = "attn_merge") -> None:
        super().__init__()
        self.norm_q, self.norm_kv, self.norm_out = (
            Norm(shapes, f"{name}.{part}") for part in ("norm_q", "norm_kv", "norm_out")
        )
        self.attn = _MergeAttention(shapes, f"{name}.attn")
        self.ffn = nn.Sequential(
            conv(shapes, f"{name}.ffn.0"),
            conv(shapes, f"{name}.ffn.1", depthwise=True),
            nn.GELU(),
            conv(shapes, f"{name}.ffn.3"),
        )

    def forward(self, now: Tensor, past: Tensor) -> Tensor:
        query = self.norm_q(now)
        attended = self.norm_out(self.attn(query, self.norm_kv(past)))
        # The normed query, not what came in.
        return call(self.ffn, torch.cat([query, attended], 1)).float()


class RealViformer(nn.Module):
    """The whole model, built from a checkpoint's shapes, with a checkpoint's names."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self.shallow_extraction = nn.Sequential(
            conv(shapes, "shallow_extraction.0"), Block(shapes, "shallow_extraction.1", strips=True)
        )
        self.spynet = SpyNet(shapes)
        self.attn_merge = Merge(shapes)
        self.encoder_level1 = blocks(shapes, "encoder_level1", strips=True)
        self.down1_2 = Down(shapes, "down1_2")
        self.encoder_level2 = blocks(shapes, "encoder_level2", strips=False)
        self.down2_3 = Down(shapes, "down2_3")
        self.latent = blocks(shapes, "latent", strips=False)
        self.up3_2 = Up(shapes, "up3_2")
        self.reduce_chan_level2 = conv(shapes, "reduce_chan_level2")
        self.decoder_level2 = blocks(shapes, "decoder_level2", strips=False)
        self.up2_1 = Up(shapes, "up2_1")
        self.decoder_level1 = blocks(shapes, "decoder_level1", strips=True)
        self.refinement = blocks(shapes, "refinement", strips=True)
        self.compress = conv(shapes, "compress")
        self.upconv1, self.upconv2, self.conv_hr, self.conv_last = (
            conv(shapes, name) for name in ("upconv1", "upconv2", "conv_hr", "conv_last")
        )

    def shallow(self, frame: Tensor) -> Tensor:
        """Features of the frame alone."""
        made: Tensor = self.shallow_extraction[1](call(self.shallow_extraction[0], frame).float())
        return made

    def refined(self, merged: Tensor) -> dict[str, Tensor]:
        """Every stage of the U-Net behind the merge, by name; the last, `refined`, is what it is for."""
        out: dict[str, Tensor] = {}
        out["enc1"] = self.encoder_level1(merged)
        out["down1_2"] = self.down1_2(out["enc1"])
        out["enc2"] = self.encoder_level2(out["down1_2"])
        out["down2_3"] = self.down2_3(out["enc2"])
        out["latent"] = self.latent(out["down2_3"])
        out["up3_2"] = self.up3_2(out["latent"])
        out["reduced"] = call(self.reduce_chan_level2, torch.cat([out["up3_2"], out["enc2"]], 1)).float()
        out["dec2"] = self.decoder_level2(out["reduced"])
        out["up2_1"] = self.up2_1(out["dec2"])
        out["dec1"] = self.decoder_level1(torch.cat([out["up2_1"], out["enc1"]], 1))
        out["refined"] = self.refinement(out["dec1"])
        return out

    def head(self, refined: Tensor) -> Tensor:
        """What is added to the bilinear upscale."""
        x = _leaky(F.pixel_shuffle(call(self.upconv1, refined), 2))
        x = _leaky(F.pixel_shuffle(self.upconv2(x), 2))
        made: Tensor = self.conv_last(_leaky(self.conv_hr(x)))
        return made.float()

    def forward(self, frames: Tensor, feat: Tensor, prev: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One step. `frames` and `prev` (1, 3, h, w) in 0..1, `feat` (1, n, h, w); h and w multiples of 4; all float32.

        With zeros for `feat` it is the first step of a run, whatever `prev` is: a state of zeros stays zero when warped.

        Returns:
            The frame (1, 3, 4h, 4w), not clamped, and the next `feat` and `prev`.
        """
        past = warp(feat, self.spynet(frames, prev), "zeros")
        refined = self.refined(self.attn_merge(self.shallow(frames), past))["refined"]
        base = F.interpolate(frames, scale_factor=float(SCALE), mode="bilinear", align_corners=False)
        added = in_strips(self.head, refined, halo=_HEAD_HALO, scale=SCALE)
        return added + base, call(self.compress, refined).float(), frames.clone()


def to_precision(network: RealViformer, dtype: torch.dtype) -> RealViformer:
    """The network with its convolutions in `dtype`; norms, temperatures and masks stay float32."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.to(dtype)
    return network


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.1)
