"""Runs FlashVSR's step with the torch modules, on the CPU or a GPU: the reference every other executor is held against."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vsflashsr.models.flashvsr.host.attention import AttentionPlan
from vsflashsr.models.flashvsr.network.config import FlashVSRConfig
from vsflashsr.models.flashvsr.network.projector import ProjectorV1, build_projector
from vsflashsr.models.flashvsr.network.tcdecoder import TCDecoder
from vsflashsr.models.flashvsr.network.wan_vae import WanVaeDecoder, cache_specs
from vsflashsr.models.flashvsr.rope import slice_positions, slice_tables
from vsflashsr.models.flashvsr.windows import WINDOW_TOKENS, Grid
from vsflashsr.models.wan.network.dit import build_constants
from vsflashsr.models.wan.network.pieces import (
    FirstPiece,
    LastPiece,
    MiddlePiece,
    first_weights,
    last_weights,
    middle_weights,
    precision_of,
)

from .checkpoint import Checkpoint

type Array = npt.NDArray[np.float32]
type Observer = Callable[[int, Mapping[str, Tensor]], None]


def load_piece[M: nn.Module](
    kind: Callable[[FlashVSRConfig], M],
    config: FlashVSRConfig,
    weights: Mapping[str, Tensor],
    device: torch.device,
    dtype: torch.dtype,
) -> M:
    """A piece with its weights, in the precision a bundle would have."""
    with torch.device("meta"):
        module = kind(config)
    module.load_state_dict({name: w.to(device, precision_of(name, dtype)) for name, w in weights.items()}, assign=True)
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
        load = partial(load_piece, config=config, device=self.device, dtype=dtype)
        self._first = load(FirstPiece, weights=first_weights(config, tensors, constants))
        self._middle = [
            load(MiddlePiece, weights=middle_weights(config, tensors, layer, constants))
            for layer in range(config.layers - 1)
        ]
        self._last = load(LastPiece, weights=last_weights(config, tensors, constants))

    def block_taps(self) -> dict[str, nn.Module]:
        """Modules of block 0 whose outputs the golden taps hold."""
        after = (self._middle[0] if self._middle else self._last).after
        return {
            "sa_in": self._first.before.norm1,
            "sa_out": after.o,
            "ca_in": after.norm3,
            "ca_out": after.cross_o,
        }

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
            by_window = [part[:, head].reshape(-1, WINDOW_TOKENS, plan.head_dim) for part in (rotated_keys, stacked)]
            for row in range(kept.shape[1]):
                blocks = kept[head, row].nonzero().flatten()
                if not len(blocks):
                    continue
                key, value = (part[blocks].flatten(0, 1) for part in by_window)
                rows = slice(row * WINDOW_TOKENS, (row + 1) * WINDOW_TOKENS)
                scores = queries[rows, head] @ key.T * plan.head_dim**-0.5
                out[rows, head] = scores.softmax(dim=-1) @ value
        attended = out.reshape(len(q), -1).to(self.dtype)
        if self.observer is not None:
            self.observer(layer, {"q": queries, "k": rotated_keys, "v": stacked, "out": attended, "mask": kept})
        return attended

    def _rotated(self, tokens: Tensor, plan: AttentionPlan, positions: Sequence[int]) -> Tensor:
        tables = [slice_tables(plan.grid, plan.head_dim, position) for position in positions]
        cosine, sine = (
            torch.from_numpy(np.concatenate(part)).to(self.device)[:, None] for part in zip(*tables, strict=True)
        )
        even, odd = tokens.float().reshape(len(tokens), plan.heads, -1, 2).unbind(-1)
        turned: Tensor = torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], dim=-1)
        return turned.reshape(len(tokens), plan.heads, plan.head_dim)

    def _kept(self, queries: Tensor, keys: Tensor, plan: AttentionPlan) -> Tensor:
        q, k = (
            part.reshape(-1, WINDOW_TOKENS, plan.heads, plan.head_dim).mean(1).transpose(0, 1)
            for part in (queries, keys)
        )
        scores = q @ k.mT * plan.head_dim**-0.5
        query_slices, key_slices = q.shape[1] // plan.grid.blocks, k.shape[1] // plan.grid.blocks
        visible = torch.from_numpy(plan.visible.copy()).to(self.device).repeat(query_slices, key_slices)
        weights = scores.masked_fill(~visible, -torch.inf).softmax(dim=-1)
        flat = weights.reshape(plan.heads, query_slices, -1)
        rank = min(flat.shape[-1] - 1, plan.budget)
        threshold = flat.sort(dim=-1, descending=True).values[..., rank : rank + 1]
        kept: Tensor = (flat > threshold).reshape(weights.shape)
        return kept


class TorchExecutor(TorchDiT):
    """An `Executor` over a whole checkpoint."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        observer: Observer | None = None,
    ) -> None:
        config = checkpoint.config
        super().__init__(config, checkpoint.dit, checkpoint.prompt, device=device, dtype=dtype, observer=observer)
        self._config = config
        self.looks_back = checkpoint.version != "v1"
        self._projector = self._part(lambda: build_projector(config, checkpoint.version), checkpoint.projector)
        self._vae_first: nn.Module | None = None
        self._vae_caches: tuple[int, ...] = ()
        if checkpoint.tcdecoder is not None:
            decoder = TCDecoder(config)
            self._decoder = self._part(lambda: decoder, checkpoint.tcdecoder)
            self._states = [(1, channels, 8 // 2 ** (n // 3)) for n, channels in enumerate(decoder.channels)]
        else:
            assert checkpoint.vae is not None
            specs = cache_specs(config, first=False)
            first = [name for name, _, _ in cache_specs(config, first=True)]
            self._decoder = self._part(lambda: WanVaeDecoder(config), checkpoint.vae)
            self._vae_first = self._part(lambda: WanVaeDecoder(config, first=True), checkpoint.vae)
            self._states = [(2, channels, pixels) for _, channels, pixels in specs]
            self._vae_caches = tuple(n for n, (name, _, _) in enumerate(specs) if name in first)

    def _part(self, build: Callable[[], nn.Module], tensors: Mapping[str, Tensor]) -> nn.Module:
        module = build()
        module.load_state_dict(dict(tensors))
        return module.to(self.device, self.dtype).eval()

    def projector_context(self, frame: Array) -> tuple[Tensor, ...]:
        if isinstance(self._projector, ProjectorV1):
            return ()
        _, height, width = frame.shape
        features = torch.zeros(
            2, self._config.lq_hidden[0], height // 16, width // 16, dtype=self.dtype, device=self.device
        )
        return self.upload(np.repeat(frame[None], 2, axis=0)), features

    @torch.inference_mode()
    def project(self, frames: Array, context: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        clip = self.upload(frames)
        if not context:
            tokens: Tensor = self._projector(clip)
            return tokens, ()
        tokens, features = self._projector(clip, *context)
        return tokens, (clip[2:].clone(), features)

    def decoder_states(self, grid: Grid) -> tuple[Tensor, ...]:
        return tuple(
            torch.zeros(
                frames,
                channels,
                grid.height_px // pixels,
                grid.width_px // pixels,
                dtype=self.dtype,
                device=self.device,
            )
            for frames, channels, pixels in self._states
        )

    @torch.inference_mode()
    def decode(
        self, latent: Tensor, condition: Array, states: tuple[Tensor, ...], *, first: bool
    ) -> tuple[Array, tuple[Tensor, ...]]:
        if isinstance(self._decoder, TCDecoder):
            frames, *after = self._decoder(latent, self.upload(condition), *states)
            return self.download(frames), tuple(after)
        if not first or self._vae_first is None:
            frames, *after = self._decoder(latent, *states)
            return self.download(frames), tuple(after)
        frames, *some = self._vae_first(latent, *(states[n] for n in self._vae_caches))
        # The first latent leaves the memories of the time convolutions alone.
        remembered = dict(zip(self._vae_caches, some, strict=True))
        return self.download(frames), tuple(remembered.get(n, state) for n, state in enumerate(states))
