"""FlashVSR's streaming step on the host: executes a `StepPlan` over an `Executor`, which has tensors of its own kind.

Tensors are never changed, so a state may be kept, and the step after it run again. Executors are NumPy with ONNX Runtime, and
torch for checks; the step on a device, for memory that stays, is `device.step`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ..plan import StepPlan, step_plan
from ..windows import Grid, local_mask, pair_budget, window_order
from .attention import AttentionPlan

type Array = npt.NDArray[np.float32]


class Executor[T](Protocol):
    """What a step needs done to tensors of kind T. All methods are pure: no tensor that was passed in is changed."""

    layers: int
    heads: int
    head_dim: int
    looks_back: bool
    """Has the projector a context?"""

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
    steps: int
    """Steps of the run so far."""


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
    attention: AttentionPlan,
    plan: StepPlan,
) -> tuple[T, tuple[tuple[Slice[T], ...], ...]]:
    """All layers of one step, in window order: noise patches and LQ tokens → latent patches, caches (None in a first step)."""
    x, q, k, v = executor.first(patches, tokens)
    kept: list[tuple[Slice[T], ...]] = []
    latents: T | None = None
    for layer in range(executor.layers):
        pairs = zip(executor.split(k, plan.slices), executor.split(v, plan.slices), strict=True)
        own = tuple(Slice(*pair) for pair in pairs)
        seen = (*(caches[layer] if caches is not None else ()), *own)
        attended = executor.attend(layer, q, [part.keys for part in seen], [part.values for part in seen], attention)
        kept.append(seen[-plan.ring.keeps :])
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
    index = 0 if state is None else state.steps
    plan = step_plan(index, options.kv_ratio, looks_back=executor.looks_back)
    # Frames are counted from the step's first, so what the step before has kept comes last here.
    known = frames if state is None else np.concatenate([frames, state.frames])
    context = executor.projector_context(frames[0]) if state is None else state.context
    states = executor.decoder_states(grid) if state is None else state.states
    tokens: list[T] = []
    for projection in plan.projections:
        own, context = executor.project(known[list(projection.frames)], context)
        if projection.latent is not None:
            tokens.append(own)
    latents, caches = run_dit(
        executor,
        executor.upload(to_patches(noise, grid)),
        executor.gather(tokens, window_order(grid, plan.slices)),
        None if state is None else state.caches,
        attention_plan(executor, grid, options),
        plan,
    )
    decoded: list[Array] = []
    clean = from_patches(executor.download(latents), grid)
    for latent, decoding in enumerate(plan.decodings):
        condition = known[list(decoding.condition)]
        own_frames, states = executor.decode(
            executor.upload(clean[None, :, latent]), condition, states, first=decoding.first
        )
        decoded.append(own_frames[-decoding.emits :])
    return np.concatenate(decoded), StepState(caches, context, states, frames[plan.keeps :].copy(), index + 1)
