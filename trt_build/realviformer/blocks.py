"""What RealViformer is made of: norms, channel attention, gated feed-forward, blocks, pixel shuffles, warping.

Modules are built from the shapes of a checkpoint and have its names, so that sizes are never said twice. Tensors are
(1, C, h, w). Where the convolutions are float16, everything that sums over many values stays float32: norms, the products of
channel attention, softmax, mask, flow and the residual.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..weights_file import Shape
from .layout import blocks_of

Shapes = Mapping[str, Shape]

_EPSILON = 1e-5
STRIPS = 4
"""Parts a plane is cut into where a layer would take most of the memory. Divides every size the model takes."""


def conv(shapes: Shapes, name: str, *, depthwise: bool = False) -> nn.Conv2d:
    """A convolution that keeps the size; it has a bias if the checkpoint has one."""
    outputs, inputs, kernel, _ = shapes[f"{name}.weight"]
    groups = outputs if depthwise else 1
    return nn.Conv2d(
        inputs * groups, outputs, kernel, padding=kernel // 2, groups=groups, bias=f"{name}.bias" in shapes
    )


def call(layer: nn.Module, x: Tensor) -> Tensor:
    """`layer(x)` in the precision of its weights."""
    made: Tensor = layer(x.to(next(layer.parameters()).dtype))
    return made


def in_strips(layer: Callable[[Tensor], Tensor], x: Tensor, *, halo: int, scale: int = 1) -> Tensor:
    """`layer(x)` in `STRIPS` parts one below the other, for the memory of one.

    Equal, as long as an output row sees no further than `halo` rows up and down; a part's own border at the picture's edge is
    the layer's zero padding, as in the whole. `scale`: rows of output for one of input.
    """
    rows = x.shape[2] // STRIPS
    parts: list[Tensor] = []
    for index in range(STRIPS):
        start = _at_least_zero(index * rows - halo)
        part = layer(x[:, :, start : (index + 1) * rows + halo])
        top = (index * rows - start) * scale
        parts.append(part[:, :, top : top + rows * scale])
    return torch.cat(parts, 2)


def _at_least_zero(value: int | Tensor) -> int | Tensor:
    """A size is a tensor while a graph is traced."""
    return value.clamp(min=0) if isinstance(value, Tensor) else max(value, 0)


class Norm(nn.Module):
    """`x / sqrt(var + 1e-5) * weight` over channels: the variance is about the mean, but x keeps its mean."""

    class _Body(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.empty(channels))

    def __init__(self, shapes: Shapes, name: str) -> None:
        super().__init__()
        self.body = self._Body(shapes[f"{name}.body.weight"][0])

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        variance = (wide - wide.mean(1, keepdim=True)).square().mean(1, keepdim=True)
        scaled: Tensor = wide / torch.sqrt(variance + _EPSILON) * self.body.weight.reshape(1, -1, 1, 1)
        return scaled


def scores(q: Tensor, k: Tensor, temperature: Tensor) -> Tensor:
    """Cosine of every pair of channels of a head, times its temperature: (1, C, h, w) twice → (heads, C/heads, C/heads).

    Divided by the lengths after the product: the same numbers to rounding, without two more passes over the planes. In float32,
    where 1e-12 isn't 0 (a plane of zeros then has cosine 0, not NaN) and sums over a picture don't overflow.
    """
    heads = temperature.shape[0]
    rows_q, rows_k = (x.float().reshape(heads, -1, q.shape[2] * q.shape[3]) for x in (q, k))
    lengths_q, lengths_k = (x.square().sum(2).sqrt().clamp_min(1e-12) for x in (rows_q, rows_k))
    products = rows_q @ rows_k.transpose(1, 2) / lengths_q[:, :, None] / lengths_k[:, None, :]
    return products * temperature


def mixed(weights: Tensor, v: Tensor) -> Tensor:
    """Channels of v (1, C, h, w) in the mixture of `weights` (heads, C/heads, C/heads)."""
    made: Tensor = weights.to(v.dtype) @ v.reshape(weights.shape[0], -1, v.shape[2] * v.shape[3])
    return made.reshape(v.shape)


class Attention(nn.Module):
    """Channel attention, with a factor for every channel (`mask`) where the checkpoint has its two matrices."""

    def __init__(self, shapes: Shapes, name: str) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.empty(shapes[f"{name}.temperature"]))
        self.qkv = conv(shapes, f"{name}.qkv")
        self.qkv_dwconv = conv(shapes, f"{name}.qkv_dwconv", depthwise=True)
        self.project_out = conv(shapes, f"{name}.project_out")
        self.linear1: nn.Linear | None = None
        self.linear2: nn.Linear | None = None
        if f"{name}.linear1.weight" in shapes:
            (_, two), (outputs, inputs) = shapes[f"{name}.linear1.weight"], shapes[f"{name}.linear2.weight"]
            self.linear1 = nn.Linear(two, 1, bias=False)
            self.linear2 = nn.Linear(inputs, outputs, bias=False)

    def projected(self, x: Tensor) -> Tensor:
        """q, k and v: (1, 3C, h, w)."""
        made: Tensor = self.qkv_dwconv(call(self.qkv, x))
        return made

    def mask_parts(self, of: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """From the scores before softmax: [max, mean] (heads, c, 2), hidden (heads, c, 1), logits (heads, 1, c)."""
        assert self.linear1 is not None and self.linear2 is not None
        both = torch.stack([of.amax(2), of.mean(2)], 2)
        hidden: Tensor = self.linear1(both)
        logits: Tensor = self.linear2(F.gelu(hidden).transpose(1, 2))
        return both, hidden, logits

    def weights(self, of: Tensor) -> Tensor:
        """What v is mixed with, from the scores: softmax, times the mask."""
        kept = torch.softmax(of, -1)
        return kept if self.linear1 is None else kept * torch.sigmoid(self.mask_parts(of)[2]).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.projected(x).chunk(3, 1)
        made: Tensor = self.project_out(mixed(self.weights(scores(q, k, self.temperature)), v))
        return made


class FeedForward(nn.Module):
    """Two halves of a wider product, one the gate of the other."""

    def __init__(self, shapes: Shapes, name: str) -> None:
        super().__init__()
        self.project_in = conv(shapes, f"{name}.project_in")
        self.dwconv = conv(shapes, f"{name}.dwconv", depthwise=True)
        self.project_out = conv(shapes, f"{name}.project_out")

    def gated(self, x: Tensor) -> Tensor:
        """What goes into the last product."""
        gate, value = self.dwconv(call(self.project_in, x)).chunk(2, 1)
        product: Tensor = F.gelu(gate) * value
        return product

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.project_out(self.gated(x))
        return made


class Block(nn.Module):
    """A transformer block; squeezed where the checkpoint has `compress`: attention on fewer channels, skip around all of it.

    Args:
        strips: run the feed-forward in strips. For planes of full size, of which it holds ten times the model's width.
    """

    def __init__(self, shapes: Shapes, name: str, *, strips: bool) -> None:
        super().__init__()
        self.strips = strips
        self.norm1 = Norm(shapes, f"{name}.norm1")
        self.attn = Attention(shapes, f"{name}.attn")
        squeezed = f"{name}.compress.weight" in shapes
        self.compress = conv(shapes, f"{name}.compress") if squeezed else None
        self.expand = conv(shapes, f"{name}.expand") if squeezed else None
        self.norm2 = Norm(shapes, f"{name}.norm2")
        self.ffn = FeedForward(shapes, f"{name}.ffn")

    def forward(self, x: Tensor) -> Tensor:
        """x and what it becomes are float32."""
        narrow = x if self.compress is None else call(self.compress, x)
        attended = self.attn(self.norm1(narrow))
        if self.expand is not None:
            attended = self.expand(attended)
        x = x + attended.float()
        normed = self.norm2(x)
        added = in_strips(self.ffn, normed, halo=1) if self.strips else self.ffn(normed)
        return x + added.float()


def blocks(shapes: Shapes, name: str, *, strips: bool) -> nn.Sequential:
    """The blocks `name.0`, `name.1`, …"""
    return nn.Sequential(*(Block(shapes, f"{name}.{i}", strips=strips) for i in range(blocks_of(shapes, name))))


class Down(nn.Module):
    """To half the size and twice the channels."""

    def __init__(self, shapes: Shapes, name: str) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(shapes, f"{name}.body.0"))

    def forward(self, x: Tensor) -> Tensor:
        made = F.pixel_unshuffle(call(self.body, x), 2)
        return made.float()


class Up(nn.Module):
    """To double the size and half the channels."""

    def __init__(self, shapes: Shapes, name: str) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(shapes, f"{name}.body.0"))

    def forward(self, x: Tensor) -> Tensor:
        made = F.pixel_shuffle(call(self.body, x), 2)
        return made.float()


def warp(x: Tensor, flow: Tensor, padding: str) -> Tensor:
    """x (1, C, h, w) seen at (column + flow[:, 0], row + flow[:, 1]), bilinear, float32.

    `padding` is "border" or "zeros": what lies outside is the edge, or nothing.
    """
    rows, columns = x.shape[2], x.shape[3]
    across = torch.arange(columns, dtype=torch.float32, device=x.device).reshape(1, 1, -1) + flow[:, 0]
    down = torch.arange(rows, dtype=torch.float32, device=x.device).reshape(1, -1, 1) + flow[:, 1]
    # Written so that one row or column doesn't divide by zero.
    grid = torch.stack([across * _per_pixel(columns) - 1, down * _per_pixel(rows) - 1], 3)
    return F.grid_sample(x.float(), grid, mode="bilinear", padding_mode=padding, align_corners=True)


def _per_pixel(size: int | Tensor) -> float | Tensor:
    """How far apart pixels are where the first is at -1 and the last at 1."""
    if isinstance(size, Tensor):
        return 2 / (size - 1).clamp(min=1).float()
    return 2 / max(size - 1, 1)
