"""SwiftVR's step: frames to latents, the DiT over all latents of the step at once, latents to frames (spec 6.3).

Written once over an executor, which is ONNX Runtime's graphs or torch modules. Nothing is random, positions count from 0 in every
step, and the only state is what the autoencoder remembers: the same frames give the same bytes wherever in the clip they lie.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ...geometry import padded
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

    def upscale(self, frames: Array, tables: Mapping[str, Array]) -> Array:
        """Four frames (4, 3, h, w) with `upscale_tables` → (4, 3, H, W)."""

    def encode(self, frames: Array, memories: Memories) -> tuple[Array, Memories]:
        """Four frames (4, 3, H, W) → patches of a latent (h * w, 4C)."""

    def first(self, patches: Array) -> tuple[Array, Array, Array, Array]:
        """Patches (T, 4C) → x, q, k, v (T, dim) of layer 0."""

    def attend(self, q: Array, k: Array, v: Array, cos: Array, sin: Array, over: Windows) -> Array:
        """Self-attention within windows: (T, dim)."""

    def middle(self, layer: int, x: Array, attended: Array) -> tuple[Array, Array, Array, Array]:
        """→ x, q, k, v of the layer after ``layer``."""

    def last(self, x: Array, attended: Array, patches: Array) -> Array:
        """→ patches of the restored latents."""

    def decode(self, patches: Array, memories: Memories) -> tuple[Array, Memories]:
        """Patches of a latent (h * w, 4C) → four frames (4, 3, H, W)."""


@dataclass(frozen=True, slots=True)
class StepState:
    """What the autoencoder remembers: of each memory block the input it saw last."""

    encoder: Memories
    decoder: Memories

    @property
    def nbytes(self) -> int:
        return sum(memory.nbytes for memory in (*self.encoder, *self.decoder))


@dataclass(frozen=True, slots=True)
class Grid:
    """Tokens of one latent frame."""

    rows: int
    cols: int

    @property
    def tokens(self) -> int:
        return self.rows * self.cols

    @property
    def height_px(self) -> int:
        """Of the padded output."""
        return TOKEN_PX * self.rows

    @property
    def width_px(self) -> int:
        return TOKEN_PX * self.cols


def grid_of(height: int, width: int) -> Grid:
    """For an output of this size."""
    return Grid(padded(height, TOKEN_PX) // TOKEN_PX, padded(width, TOKEN_PX) // TOKEN_PX)


def run_step(
    executor: Executor, frames: Array, tables: Mapping[str, Array], grid: Grid, state: StepState | None
) -> tuple[Array, StepState]:
    """One step from low-resolution frames (n, 3, h, w) in 0..1 to frames (n, 3, H, W), n a multiple of 4.

    Returns n of them, without the first three where ``state`` is None, and the next state.
    """
    if state is None:
        encoder, decoder = executor.memories(grid.height_px, grid.width_px)
    else:
        encoder, decoder = state.encoder, state.decoder
    patches, encoder = encoded(executor, frames, tables, encoder)
    made, decoder = decoded(executor, denoised(executor, patches, grid), grid, decoder)
    return made if state is not None else made[DROPPED_FRAMES:], StepState(encoder, decoder)


def encoded(
    executor: Executor, frames: Array, tables: Mapping[str, Array], memories: Memories
) -> tuple[Array, Memories]:
    """(n, 3, h, w) → patches (n/4 * tokens, 4C), four frames at a time: memory doesn't grow with the step."""
    patches: list[Array] = []
    for start in range(0, len(frames), FRAMES_PER_LATENT):
        upscaled = executor.upscale(frames[start : start + FRAMES_PER_LATENT], tables)
        own, memories = executor.encode(upscaled, memories)
        patches.append(own)
    return np.concatenate(patches), memories


def decoded(executor: Executor, patches: Array, grid: Grid, memories: Memories) -> tuple[Array, Memories]:
    """The reverse of `encoded`."""
    frames: list[Array] = []
    for own in np.split(patches, len(patches) // grid.tokens):
        made, memories = executor.decode(own, memories)
        frames.append(made)
    return np.concatenate(frames), memories


def denoised(executor: Executor, patches: Array, grid: Grid) -> Array:
    """The DiT over all latents of a step at once."""
    box = len(patches) // grid.tokens, grid.rows, grid.cols
    cos, sin = rotary(*box, executor.head_dim)
    over = [windows(*box, executor.window, shifted=shifted) for shifted in (False, True)]
    x, q, k, v = executor.first(patches)
    for layer in range(executor.layers):
        attended = executor.attend(q, k, v, cos, sin, over[layer % 2])
        if layer + 1 < executor.layers:
            x, q, k, v = executor.middle(layer, x, attended)
    return executor.last(x, attended, patches)
