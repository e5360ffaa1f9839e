"""SwiftVR's step: frames to latents, the DiT over all latents of the step at once, latents to frames (spec 6.3).

Written once over an executor, which is ONNX Runtime's graphs or torch modules. Nothing is random, positions count from 0 in every
step, and the only state is what the autoencoder remembers: the same frames give the same bytes wherever in the clip they lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .windows import Windows, rotary, windows

type Array = npt.NDArray[Any]
type Memories = tuple[Array, ...]

FRAMES_PER_LATENT = 4
TOKEN_PX = 32
"""Pixels of a token's side: 16 of a latent's pixel, and two of those."""
DROPPED_FRAMES = 3
"""Of the first latent of a run: it stands for frames -3..0."""


class Executor(Protocol):
    """What runs the parts of a step."""

    @property
    def layers(self) -> int: ...

    @property
    def head_dim(self) -> int: ...

    @property
    def window(self) -> tuple[int, int]:
        """Rows and columns of an attention window."""

    def memories(self, height: int, width: int) -> tuple[Memories, Memories]:
        """The encoder's and the decoder's at the beginning of a run, for pictures of this size: zeros."""

    def encode(self, frames: Array, memories: Memories) -> tuple[Array, Memories]:
        """Four frames (4, 3, H, W) → latent (1, C, H/16, W/16)."""

    def first(self, patches: Array) -> tuple[Array, Array, Array, Array]:
        """Patches (T, 4C) → x, q, k, v (T, dim) of layer 0."""

    def attend(self, q: Array, k: Array, v: Array, cos: Array, sin: Array, over: Windows) -> Array:
        """Self-attention within windows: (T, dim)."""

    def middle(self, layer: int, x: Array, attended: Array) -> tuple[Array, Array, Array, Array]:
        """→ x, q, k, v of the layer after ``layer``."""

    def last(self, x: Array, attended: Array, patches: Array) -> Array:
        """→ patches of the restored latents."""

    def decode(self, latent: Array, memories: Memories) -> tuple[Array, Memories]:
        """Latent (1, C, H/16, W/16) → four frames (4, 3, H, W)."""


@dataclass(frozen=True, slots=True)
class StepState:
    """What the autoencoder remembers: of each memory block the input it saw last."""

    encoder: Memories
    decoder: Memories

    @property
    def nbytes(self) -> int:
        return sum(memory.nbytes for memory in (*self.encoder, *self.decoder))


def run_step(executor: Executor, frames: Array, state: StepState | None) -> tuple[Array, StepState]:
    """One step from frames (n, 3, H, W) in 0..1 to frames; H and W multiples of 32, n of 4.

    Returns n of them, without the first three where ``state`` is None, and the next state.
    """
    height, width = frames.shape[2:]
    encoder, decoder = executor.memories(height, width) if state is None else (state.encoder, state.decoder)
    latents, encoder = encoded(executor, frames, encoder)
    made, decoder = decoded(executor, denoised(executor, latents), decoder)
    return made if state is not None else made[DROPPED_FRAMES:], StepState(encoder, decoder)


def encoded(executor: Executor, frames: Array, memories: Memories) -> tuple[Array, Memories]:
    """(n, 3, H, W) → latents (n/4, C, H/16, W/16), four frames at a time: memory doesn't grow with the step."""
    latents: list[Array] = []
    for start in range(0, len(frames), FRAMES_PER_LATENT):
        latent, memories = executor.encode(frames[start : start + FRAMES_PER_LATENT], memories)
        latents.append(latent)
    return np.concatenate(latents), memories


def decoded(executor: Executor, latents: Array, memories: Memories) -> tuple[Array, Memories]:
    """The reverse of `encoded`."""
    frames: list[Array] = []
    for latent in latents:
        made, memories = executor.decode(latent[None], memories)
        frames.append(made)
    return np.concatenate(frames), memories


def denoised(executor: Executor, latents: Array) -> Array:
    """The DiT over all latents (F, C, 2h, 2w) of a step at once."""
    frames, _, height, width = latents.shape
    grid = frames, height // 2, width // 2
    cos, sin = rotary(*grid, executor.head_dim)
    over = [windows(*grid, executor.window, shifted=shifted) for shifted in (False, True)]
    patches = to_patches(latents)
    x, q, k, v = executor.first(patches)
    for layer in range(executor.layers):
        attended = executor.attend(q, k, v, cos, sin, over[layer % 2])
        if layer + 1 < executor.layers:
            x, q, k, v = executor.middle(layer, x, attended)
    return from_patches(executor.last(x, attended, patches), latents.shape)


def to_patches(latents: Array) -> Array:
    """(F, C, 2h, 2w) → (F * h * w, 4C): row, column of the patch, then channel, the channel fastest."""
    frames, channels, height, width = latents.shape
    box = latents.reshape(frames, channels, height // 2, 2, width // 2, 2).transpose(0, 2, 4, 3, 5, 1)
    return np.ascontiguousarray(box).reshape(-1, 4 * channels)


def from_patches(patches: Array, shape: Sequence[int]) -> Array:
    """The reverse of `to_patches`, for latents of this shape."""
    frames, channels, height, width = shape
    box = patches.reshape(frames, height // 2, width // 2, 2, 2, channels).transpose(0, 5, 1, 3, 2, 4)
    return np.ascontiguousarray(box).reshape(frames, channels, height, width)
