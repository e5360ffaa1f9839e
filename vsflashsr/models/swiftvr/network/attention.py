"""Windowed self-attention as a torch module: rotate on the grid, gather windows, attend, take each token from its owner."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class WindowedAttention(nn.Module):
    """q, k, v (tokens, dim), tables of `windows.rotary` and `windows.windows` → (tokens, dim)."""

    inputs = ("q", "k", "v", "cos", "sin", "gather", "owner")

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads

    def rotated(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Each pair of neighbouring channels of each head turned, in float32."""
        even, odd = x.float().reshape(x.shape[0], self.heads, -1, 2).unbind(3)
        cos, sin = cos[:, None], sin[:, None]
        return torch.stack([even * cos - odd * sin, even * sin + odd * cos], 3).reshape(x.shape).to(x.dtype)

    def windowed(self, x: Tensor, gather: Tensor) -> Tensor:
        """(windows, heads, tokens of a window, head dimension)."""
        return x[gather].reshape(*gather.shape, self.heads, -1).transpose(1, 2)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, gather: Tensor, owner: Tensor
    ) -> Tensor:
        queries, keys = (self.windowed(self.rotated(x, cos, sin), gather) for x in (q, k))
        attended = F.scaled_dot_product_attention(queries, keys, self.windowed(v, gather))
        return attended.transpose(1, 2).reshape(-1, v.shape[1])[owner]
