"""SPyNet, as RealViformer has it: optical flow from coarse to fine."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import Shapes, call, conv, warp
from .layout import SPYNET_LEVELS, SPYNET_WIDTHS

_MULTIPLE = 32


class _Level(nn.Module):
    """Five 7x7 convolutions with ReLUs between them."""

    def __init__(self, shapes: Shapes, name: str) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index in range(len(SPYNET_WIDTHS) - 1):
            layers += [conv(shapes, f"{name}.basic_module.{2 * index}"), nn.ReLU()]
        self.basic_module = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        return call(self.basic_module, x).float()


class SpyNet(nn.Module):
    """Where each pixel of `ref` was in `supp`, in pixels: (1, 2, h, w), x first, float32.

    Args:
        levels: sizes of the pyramid. Frames of 32 columns and less have five in the published code; a graph has always six, as
            their number can't depend on a size that is free.
    """

    def __init__(self, shapes: Shapes, name: str = "spynet", levels: int = SPYNET_LEVELS) -> None:
        super().__init__()
        self.levels = levels
        self.basic_module = nn.ModuleList(
            _Level(shapes, f"{name}.basic_module.{level}") for level in range(SPYNET_LEVELS)
        )
        self.mean, self.std = (nn.Buffer(torch.empty(shapes[f"{name}.{part}"])) for part in ("mean", "std"))

    def pyramid(self, ref: Tensor, supp: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """What goes into each level and the flow it gives, coarse to fine."""
        size = tuple((side + _MULTIPLE - 1) // _MULTIPLE * _MULTIPLE for side in ref.shape[2:])
        sizes = [[(resized(x, size) - self.mean) / self.std] for x in (ref, supp)]
        for levels in sizes:
            for _ in range(self.levels - 1):
                levels.insert(0, F.avg_pool2d(levels[0], 2))
        given: list[Tensor] = []
        flows: list[Tensor] = []
        for level, (r, s) in enumerate(zip(*sizes, strict=True)):
            if level == 0:
                # Nothing is known yet, and warping by nothing changes nothing.
                up, seen = r[:, :2] * 0, s
            else:
                up = 2 * F.interpolate(flows[-1], scale_factor=2.0, mode="bilinear", align_corners=True)
                seen = warp(s, up, "border")
            given.append(torch.cat([r, seen, up], 1))
            flows.append(self.basic_module[level](given[-1]) + up)
        return given, flows

    def forward(self, ref: Tensor, supp: Tensor) -> Tensor:
        rows, columns = ref.shape[2], ref.shape[3]
        flow = self.pyramid(ref, supp)[1][-1]
        across, down = columns / flow.shape[3], rows / flow.shape[2]
        out = resized(flow, (rows, columns))
        return torch.cat([out[:, :1] * across, out[:, 1:] * down], 1)


def resized(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Bilinear, half-pixel centres, no antialiasing."""
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def levels_of(columns: int) -> int:
    """Levels of the pyramid in the published code, for frames so wide."""
    return SPYNET_LEVELS if columns > _MULTIPLE else SPYNET_LEVELS - 1
