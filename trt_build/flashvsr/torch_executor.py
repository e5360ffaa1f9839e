"""Runs FlashVSR's step with the torch modules, on the CPU or a GPU: the reference every other executor is held against."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vsflashsr.models.flashvsr.attention import AttentionPlan
from vsflashsr.models.flashvsr.rope import slice_positions, slice_tables
from vsflashsr.models.flashvsr.windows import WINDOW_TOKENS

from .config import FlashVSRConfig
from .dit import build_constants
from .pieces import FirstPiece, LastPiece, MiddlePiece, Weights, first_weights, last_weights, middle_weights

type Array = npt.NDArray[np.float32]
type Observer = Callable[[int, Mapping[str, Tensor]], None]


def _module[M: nn.Module](kind: Callable[[FlashVSRConfig], M], config: FlashVSRConfig, weights: Weights) -> M:
    with torch.device("meta"):
        module = kind(config)
    module.load_state_dict(weights, assign=True)
    return module.eval()


class TorchDiT:
    """The DiT part of an `Executor`, float32 unless `dtype` says otherwise."""

    def __init__(
        self,
        config: FlashVSRConfig,
        tensors: Mapping[str, Tensor],
        prompt: Tensor,
        *,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        observer: Observer | None = None,
    ) -> None:
        self.layers, self.heads, self.head_dim = config.layers, config.heads, config.head_dim
        self.device, self.dtype, self.observer = torch.device(device), dtype, observer
        constants = build_constants(config, tensors, prompt)
        self._first = _module(FirstPiece, config, first_weights(config, tensors, constants)).to(device, dtype)
        self._middle = [
            _module(MiddlePiece, config, middle_weights(config, tensors, layer, constants)).to(device, dtype)
            for layer in range(config.layers - 1)
        ]
        self._last = _module(LastPiece, config, last_weights(config, tensors, constants)).to(device, dtype)

    def upload(self, array: Array) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def download(self, tensor: Tensor) -> Array:
        out: Array = tensor.float().cpu().numpy()
        return out

    def gather(self, parts: Sequence[Tensor], order: npt.NDArray[np.int64]) -> Tensor:
        return torch.cat(list(parts))[torch.from_numpy(order.copy()).to(self.device)]

    def split(self, tensor: Tensor, parts: int) -> tuple[Tensor, ...]:
        return tuple(part.clone() for part in tensor.chunk(parts))

    def state_bytes(self, tensor: Tensor) -> int:
        return tensor.nbytes

    @torch.inference_mode()
    def first(self, patches: Tensor, lq: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x, q, k, v = self._first(patches, lq)
        return x, q, k, v

    @torch.inference_mode()
    def middle(self, layer: int, x: Tensor, attended: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x, q, k, v = self._middle[layer](x, attended)
        return x, q, k, v

    @torch.inference_mode()
    def last(self, x: Tensor, attended: Tensor, patches: Tensor) -> Tensor:
        latents: Tensor = self._last(x, attended, patches)
        return latents

    @torch.inference_mode()
    def attend(
        self, layer: int, q: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor], plan: AttentionPlan
    ) -> Tensor:
        positions = slice_positions(len(keys))
        queries = self._rotated(q, plan, positions[-(len(q) // plan.grid.slice_tokens) :])
        rotated_keys = self._rotated(torch.cat(list(keys)), plan, positions)
        stacked = torch.cat(list(values)).float().reshape(rotated_keys.shape)
        kept = self._kept(queries, rotated_keys, plan)
        out = torch.zeros_like(queries)
        for head in range(plan.heads):
            for row in range(kept.shape[1]):
                if not kept[head, row].any():
                    continue
                seen = kept[head, row].repeat_interleave(WINDOW_TOKENS)
                rows = slice(row * WINDOW_TOKENS, (row + 1) * WINDOW_TOKENS)
                scores = queries[rows, head] @ rotated_keys[seen, head].T * plan.head_dim**-0.5
                out[rows, head] = scores.softmax(dim=-1) @ stacked[seen, head]
        attended = out.reshape(len(q), -1).to(self.dtype)
        if self.observer is not None:
            self.observer(layer, {"q": queries, "k": rotated_keys, "v": stacked, "out": attended, "mask": kept})
        return attended

    def _rotated(self, tokens: Tensor, plan: AttentionPlan, positions: Sequence[int]) -> Tensor:
        tables = [slice_tables(plan.grid, plan.head_dim, position) for position in positions]
        cosine, sine = (torch.from_numpy(np.concatenate(part)).to(self.device)[:, None] for part in zip(*tables, strict=True))
        even, odd = tokens.float().reshape(len(tokens), plan.heads, -1, 2).unbind(-1)
        turned = torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], dim=-1)
        return turned.reshape(len(tokens), plan.heads, plan.head_dim)

    def _kept(self, queries: Tensor, keys: Tensor, plan: AttentionPlan) -> Tensor:
        q, k = (part.reshape(-1, WINDOW_TOKENS, plan.heads, plan.head_dim).mean(1).transpose(0, 1) for part in (queries, keys))
        scores = q @ k.mT * plan.head_dim**-0.5
        query_slices, key_slices = q.shape[1] // plan.grid.blocks, k.shape[1] // plan.grid.blocks
        visible = torch.from_numpy(plan.visible.copy()).to(self.device).repeat(query_slices, key_slices)
        weights = scores.masked_fill(~visible, -torch.inf).softmax(dim=-1)
        flat = weights.reshape(plan.heads, query_slices, -1)
        rank = min(flat.shape[-1] - 1, plan.budget)
        threshold = flat.sort(dim=-1, descending=True).values[..., rank : rank + 1]
        return (flat > threshold).reshape(weights.shape)
