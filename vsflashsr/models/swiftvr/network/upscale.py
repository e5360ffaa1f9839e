"""The pre-upscale as a torch module: bilinear, which is what the model was trained behind, and black beyond the picture."""

from __future__ import annotations

from torch import Tensor, nn


class Upscale(nn.Module):
    """frames (4, 3, h, w) and the tables of `upscale.axis` for rows and columns → (4, 3, H, W), all float32."""

    inputs = ("frames", "rows", "row_weights", "cols", "col_weights")

    def forward(self, frames: Tensor, rows: Tensor, row_weights: Tensor, cols: Tensor, col_weights: Tensor) -> Tensor:
        above, below = (frames.index_select(2, side) for side in rows.unbind(0))
        tall = above * row_weights[0][:, None] + below * row_weights[1][:, None]
        left, right = (tall.index_select(3, side) for side in cols.unbind(0))
        return left * col_weights[0] + right * col_weights[1]
