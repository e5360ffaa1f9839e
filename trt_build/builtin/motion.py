"""Where a frame's pixels were in the frame before: Lucas-Kanade over a pyramid, without a single learned weight."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = {8: 2, 4: 2, 2: 2, 1: 1}
"""Reductions at which motion is looked for, coarse to fine, and iterations at each.

Measured as the PSNR of the high-resolution frame before, moved, against the frame itself (12 training clips at x2, clean /
degraded, 2026-11-22): 32.9 / 30.7 dB; without the last level 31.0 / 29.2; with an average of the flow over 3x3 instead of
5x5 32.1 / 29.9.
"""
SIZE_MULTIPLE = max(LEVELS)
"""Of which height and width must be multiples."""
RADIUS = 2
"""Of the window over which motion is taken as one, and of the average over the flow after each iteration."""
DAMPING = 1e-4
"""Added to the squared gradients (of luma 0..1): less texture than this is no evidence of motion."""


def _box(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 2 * RADIUS + 1, 1, RADIUS, count_include_pad=False)


def _edges(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Neighbours to the left, right, above and below; edges repeat."""
    x = F.pad(x, (1, 1, 1, 1), mode="replicate")
    return x[:, :, 1:-1, :-2], x[:, :, 1:-1, 2:], x[:, :, :-2, 1:-1], x[:, :, 2:, 1:-1]


def _sample(x: Tensor, flow: Tensor, step: int) -> Tensor:
    """`x` (n, c, step * h, step * w) at `step` times (each place of h x w, and `flow` (n, 2, h, w)), bilinearly; edges repeat."""
    height, width = flow.shape[2], flow.shape[3]
    rows = torch.arange(height, device=x.device, dtype=x.dtype).view(1, -1, 1)
    columns = torch.arange(width, device=x.device, dtype=x.dtype).view(1, 1, -1)
    # Pixel centres at (i + 0.5) / size: unlike aligned corners this holds for a size of 1 too.
    across = (columns + flow[:, 0] + 0.5 / step) * (2 / width) - 1
    down = (rows + flow[:, 1] + 0.5 / step) * (2 / height) - 1
    grid = torch.stack([across, down], -1)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def warp(x: Tensor, flow: Tensor) -> Tensor:
    """`x` (n, c, h, w) sampled bilinearly at each pixel plus `flow` (n, 2, h, w: dx, dy in pixels); edges repeat."""
    return _sample(x, flow, 1)


def difference_kernel() -> Tensor:
    """(12, 4, 3, 3): from the four phases of a picture (row by row, as a pixel shuffle takes them) to themselves, to the
    phases of its second differences along x, and of those along y."""
    kernel = torch.zeros(3, 2, 2, 2, 2, 3, 3)
    for a in range(2):
        for b in range(2):
            kernel[:, a, b, a, b, 1, 1] = torch.tensor([1.0, -2.0, -2.0])
            for step in (-1, 1):
                kernel[1, a, b, a, (b + step) % 2, 1, 1 + (b + step) // 2] += 1
                kernel[2, a, b, (a + step) % 2, b, 1 + (a + step) // 2, 1] += 1
    return kernel.reshape(12, 4, 3, 3)


def recall(picture: Tensor, flow: Tensor, kernel: Tensor) -> Tensor:
    """The phases (n, 4, h, w) of `picture` (n, 1, 2h, 2w), moved by `flow` (n, 2, h, w, in pixels of h x w), without a blur.

    `kernel` is `difference_kernel()`. Bilinear interpolation at a fraction t between two pixels blurs; that is taken back. For
    a parabola it is too large by t (1 - t) / 2 times the second difference (Keys' cubic of 1981 with a = -0.5 takes off just
    that); twice as much was best for pictures that are moved again and again. The second difference is that of the result,
    which is right where neighbours move alike and needs no other sampling. Averages of a frame and the moved result before
    it gained 0.06 dB with bilinear, 0.17 with bicubic (a = -0.75), 0.21 with this (8 training clips at x2, degraded, 8
    frames, 2026-11-22). No frequency is amplified by more than 1.125.
    """
    # The phases as channels of one sampling: ONNX Runtime samples channels in parallel, but one channel in one thread.
    edged = F.pad(picture, (0, 1, 0, 1), mode="replicate")
    phases = [edged[:, :, :-1, :-1], edged[:, :, :-1, 1:], edged[:, :, 1:, :-1], edged[:, :, 1:, 1:]]
    moved = _sample(torch.cat(phases, 1), flow, 2)
    parts = F.conv2d(F.pad(moved, (1, 1, 1, 1), mode="replicate"), kernel)
    t = 2 * flow
    t = t - t.floor()
    t = t * (1 - t)
    return parts[:, :4] - t[:, :1] * parts[:, 4:8] - t[:, 1:] * parts[:, 8:]


def motion(current: Tensor, previous: Tensor) -> Tensor:
    """Flow (n, 2, h, w) with which `previous` (n, 1, h, w) is to be warped to look like `current`."""
    flow: Tensor | None = None
    for level, iterations in LEVELS.items():
        now, before = (F.avg_pool2d(x, level) if level > 1 else x for x in (current, previous))
        if flow is None:
            flow = torch.cat([now, now], 1) * 0
        else:
            flow = 2 * F.interpolate(flow, scale_factor=2.0, mode="bilinear", align_corners=False)
        left, right, above, below = _edges(now)
        gx, gy = (right - left) * 0.5, (below - above) * 0.5
        moments = _box(torch.cat([gx * gx, gy * gy, gx * gy], 1))
        xx, yy, xy = moments[:, 0:1] + DAMPING, moments[:, 1:2] + DAMPING, moments[:, 2:3]
        inverse = 1 / (xx * yy - xy * xy)
        for _ in range(iterations):
            error = now - warp(before, flow)
            pull = _box(torch.cat([gx * error, gy * error], 1))
            px, py = pull[:, 0:1], pull[:, 1:2]
            step = torch.cat([(yy * px - xy * py) * inverse, (xx * py - xy * px) * inverse], 1)
            flow = _box(flow + step.clamp(-1, 1))
    assert flow is not None
    return flow
