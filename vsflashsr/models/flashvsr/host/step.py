"""FlashVSR's streaming step, written once: what runs in which order, and what is carried from step to step.

The step knows schedules, positions, caches and frames; it never touches the numbers. Those belong to an `Executor`, which has
tensors of its own kind: NumPy with ONNX Runtime, torch, or device memory with TensorRT.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ..windows import Grid, local_mask, pair_budget, window_order
from .attention import AttentionPlan

type Array = npt.NDArray[np.float32]

FRAMES_PER_LATENT = 4
LEADING_FRAMES = 3
"""Copies of frame 0 that condition latent 0 with it."""


class Executor[T](Protocol):
    """What a step needs done to tensors of kind T. All methods are pure: no tensor that was passed in is changed."""

    layers: int
    heads: int
    head_dim: int

    def upload(self, array: Array) -> T:
        """A tensor of the executor's from a host array, float32."""

    def download(self, tensor: T) -> Array:
        """A host array, float32, from a tensor of the executor's."""

    def gather(self, parts: Sequence[T], order: npt.NDArray[np.int64]) -> T:
        """Rows of the concatenated parts in the given order."""

    def split(self, tensor: T, parts: int) -> tuple[T, ...]:
        """Equal groups of rows, each of its own memory: it outlives the others."""

    def first(self, patches: T, lq: T) -> tuple[T, T, T, T]:
        """`FirstPiece`: x, q, k, v of layer 0."""

    def middle(self, layer: int, x: T, attended: T) -> tuple[T, T, T, T]:
        """`MiddlePiece` after the attention of `layer`: x, q, k, v of the next."""

    def last(self, x: T, attended: T, patches: T) -> T:
        """`LastPiece`: the latents, as patches."""

    def attend(self, layer: int, q: T, keys: Sequence[T], values: Sequence[T], plan: AttentionPlan) -> T:
        """`attention.sparse_attention`: keys and values one tensor per slice, oldest first, the step's own last."""

    def project(self, frames: Array, context: tuple[T, ...]) -> tuple[T, tuple[T, ...]]:
        """Four frames (4, 3, H, W) and the projector's context → tokens (h*w, dim) in row order, next context."""

    def projector_context(self, frame: Array) -> tuple[T, ...]:
        """The projector's context before the first call, of which `frame` (3, H, W) is the first frame."""

    def decode(self, latent: T, condition: Array, states: tuple[T, ...], *, first: bool) -> tuple[Array, tuple[T, ...]]:
        """One latent (1, 16, H/8, W/8), its four frames (4, 3, H, W), the states → frames (4, 3, H, W) in -1..1, next states.

        `first` marks a segment's first latent, which the Wan VAE turns into one frame, and the TCDecoder into four of which
        three come before the clip.
        """

    def decoder_states(self, grid: Grid) -> tuple[T, ...]:
        """The decoder's states before the first latent."""

    def state_bytes(self, tensor: T) -> int:
        """Memory a tensor holds."""


@dataclass(frozen=True)
class Slice[T]:
    """One layer's cached keys (after RMS norm, not rotated) and values of 2 latent frames. Never changed, so states share it."""

    keys: T
    values: T


@dataclass(frozen=True)
class StepState[T]:
    """What one step leaves for the next. States of neighbouring steps share all but one slice per layer, so keeping an old one
    costs a third of the cache (kv_ratio 3), the projector's context and the decoder's memories."""

    caches: tuple[tuple[Slice[T], ...], ...]
    """Per layer, oldest slice first."""
    context: tuple[T, ...]
    """The projector's left context."""
    states: tuple[T, ...]
    """The decoder's memories."""
    frames: Array
    """(4, 3, H, W): the newest frames, which the projector has read and the decoder hasn't."""


@dataclass(frozen=True)
class StepOptions:
    """Numbers that change what a step computes."""

    ratio: float
    """`topk_ratio`: what `windows.topk_ratio` makes of sparse_ratio."""
    local_range: int
    kv_ratio: float


def attention_plan[T](executor: Executor[T], grid: Grid, options: StepOptions) -> AttentionPlan:
    """What every layer's attention is told."""
    budget = pair_budget(options.ratio, grid)
    return AttentionPlan(grid, executor.heads, executor.head_dim, budget, local_mask(grid, options.local_range))


def to_patches(latents: Array, grid: Grid) -> Array:
    """(16, f, H/8, W/8) → (tokens, 64) in window order, each patch ordered (row, column, channel)."""
    channels, frames, height, width = latents.shape
    box = latents.reshape(channels, frames, height // 2, 2, width // 2, 2).transpose(1, 2, 4, 3, 5, 0)
    patches = np.ascontiguousarray(box).reshape(-1, 4 * channels)
    return patches[window_order(grid, frames // 2)]


def from_patches(patches: Array, grid: Grid) -> Array:
    """The inverse of `to_patches`."""
    slices = len(patches) // grid.slice_tokens
    tokens = np.empty_like(patches)
    tokens[window_order(grid, slices)] = patches
    box = tokens.reshape(2 * slices, grid.rows * 8, grid.cols * 8, 2, 2, -1).transpose(5, 0, 1, 3, 2, 4)
    return np.ascontiguousarray(box).reshape(box.shape[0], 2 * slices, grid.rows * 16, grid.cols * 16)


def run_dit[T](
    executor: Executor[T],
    patches: T,
    tokens: T,
    caches: tuple[tuple[Slice[T], ...], ...] | None,
    plan: AttentionPlan,
    *,
    slices: int,
    kv_ratio: float,
) -> tuple[T, tuple[tuple[Slice[T], ...], ...]]:
    """All layers of one step, in window order: noise patches and LQ tokens → latent patches, caches.

    `caches` is None in a first step. A step drops at most one slice, and only if more than `kv_ratio` are there, after the
    attention: so 3 slices see 4, and fewer than 2 are never kept (spec 3.4).
    """
    x, q, k, v = executor.first(patches, tokens)
    kept: list[tuple[Slice[T], ...]] = []
    latents: T | None = None
    for layer in range(executor.layers):
        own = tuple(Slice(*pair) for pair in zip(executor.split(k, slices), executor.split(v, slices), strict=True))
        seen = (*(caches[layer] if caches is not None else ()), *own)
        attended = executor.attend(layer, q, [part.keys for part in seen], [part.values for part in seen], plan)
        kept.append(seen[1:] if len(seen) > int(kv_ratio) else seen)
        if layer + 1 < executor.layers:
            x, q, k, v = executor.middle(layer, x, attended)
        else:
            latents = executor.last(x, attended, patches)
    assert latents is not None
    return latents, tuple(kept)


def run_step[T](
    executor: Executor[T], frames: Array, noise: Array, state: StepState[T] | None, options: StepOptions
) -> tuple[Array, StepState[T]]:
    """One step from frames to frames.

    `frames` (n, 3, H, W) in -1..1, H and W multiples of 128: 25 where `state` is None, else 8; `noise` (16, 6 or 2, H/8, W/8).
    Returns (21 or 8, 3, H, W), not clamped, and the next state.
    """
    grid = Grid(frames.shape[-2] // 128, frames.shape[-1] // 128)
    latent_frames = noise.shape[1]
    slices = latent_frames // 2
    tokens: list[T] = []
    if state is None:
        context = executor.projector_context(frames[0])
        _, context = executor.project(np.repeat(frames[:1], FRAMES_PER_LATENT, axis=0), context)
        condition = np.concatenate([np.repeat(frames[:1], LEADING_FRAMES, axis=0), frames[:-FRAMES_PER_LATENT]])
        states = executor.decoder_states(grid)
        unread = frames[1:]
    else:
        context, states, unread = state.context, state.states, frames
        condition = np.concatenate([state.frames, frames[:-FRAMES_PER_LATENT]])
    for start in range(0, len(unread), FRAMES_PER_LATENT):
        own, context = executor.project(unread[start : start + FRAMES_PER_LATENT], context)
        tokens.append(own)
    latents, caches = run_dit(
        executor,
        executor.upload(to_patches(noise, grid)),
        executor.gather(tokens, window_order(grid, slices)),
        None if state is None else state.caches,
        attention_plan(executor, grid, options),
        slices=slices,
        kv_ratio=options.kv_ratio,
    )
    decoded: list[Array] = []
    clean = from_patches(executor.download(latents), grid)
    for latent in range(latent_frames):
        part = condition[latent * FRAMES_PER_LATENT : (latent + 1) * FRAMES_PER_LATENT]
        first = state is None and latent == 0
        own_frames, states = executor.decode(executor.upload(clean[None, :, latent]), part, states, first=first)
        decoded.append(own_frames[-1:] if first else own_frames)
    return np.concatenate(decoded), StepState(caches, context, states, frames[-FRAMES_PER_LATENT:].copy())
