"""What SwiftVR's step takes of a device: every buffer by name, counted before any is allocated. Pure.

The step allocates from this very table, so what is stated is what is taken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ....gpu.budget import MemoryPlan
from ..calls import memory_shape
from ..options import Options
from ..section import Memory, Section
from ..step import FRAMES_PER_LATENT, Grid, grid_of

IN_FLIGHT = 1
"""Steps submitted ahead: one is computed while the one before is fetched."""
ITEM_BYTES: Mapping[str, int] = {"fp16": 2, "bf16": 2, "fp32": 4}
_FLOAT = 4
_ALIGNMENT_BYTES = 256
"""TensorRT wants each tensor at a multiple of it."""


@dataclass(frozen=True, slots=True)
class StepShape:
    """All that the sizes of a step depend on."""

    section: Section
    low: tuple[int, int]
    """(height, width) of the input frames."""
    out: tuple[int, int]
    """(height, width) of the output frames."""
    grid: Grid
    """Of the padded output."""
    dtype: str
    """The model's type: "fp16", "bf16" or "fp32"."""
    latents: int
    """Of every step but a run's first, which has one more."""

    @property
    def first_latents(self) -> int:
        return self.latents + 1

    @property
    def low_group_bytes(self) -> int:
        """Four input frames, and what is left free behind them."""
        size = FRAMES_PER_LATENT * 3 * math.prod(self.low) * _FLOAT
        return -(-size // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES

    @property
    def padded_group_bytes(self) -> int:
        """Four frames of the padded output."""
        return FRAMES_PER_LATENT * 3 * self.grid.height_px * self.grid.width_px * _FLOAT

    @property
    def patches_bytes(self) -> int:
        """One latent, in patches."""
        return self.grid.tokens * 4 * self.section.latent_channels * _FLOAT

    def memory_bytes(self, memory: Memory) -> int:
        """One memory of the autoencoder."""
        return math.prod(memory_shape(memory, self.grid)) * ITEM_BYTES[self.dtype]


def step_shape(section: Section, options: Options, *, dtype: str, low: tuple[int, int], scale: int) -> StepShape:
    """The sizes of a step for frames, or tiles, of ``low`` = (height, width)."""
    out = scale * low[0], scale * low[1]
    return StepShape(section, low, out, grid_of(*out), dtype, options.clip_len // FRAMES_PER_LATENT)


def state_bytes(shape: StepShape) -> dict[str, int]:
    """Buffers that carry a run's state from step to step: of each memory two, one read and one written."""
    section = shape.section
    return {
        f"{part}.{n}.{side}": shape.memory_bytes(memory)
        for part, memories in (("encoder", section.encoder_memories), ("decoder", section.decoder_memories))
        for n, memory in enumerate(memories)
        for side in (0, 1)
    }


def work_bytes(shape: StepShape) -> dict[str, int]:
    """Buffers that a step works in, at most (a first step)."""
    tokens = shape.first_latents * shape.grid.tokens
    dim = shape.section.heads * shape.section.head_dim
    wide = tokens * dim * ITEM_BYTES[shape.dtype]
    patches = shape.first_latents * shape.patches_bytes
    return {
        "upscaled": shape.padded_group_bytes,
        "patches": patches,
        "x.0": tokens * dim * _FLOAT,
        "x.1": tokens * dim * _FLOAT,
        **dict.fromkeys(("q", "k", "v", "attended"), wide),
        # Two of these: the decoder reads one while the next step's DiT fills the other.
        "made.0": patches,
        "made.1": patches,
    }


def memory_plan(
    shape: StepShape, *, runs: int, weights_bytes: int, tables_bytes: int, scratch_bytes: int, held_bytes: int
) -> MemoryPlan:
    """The statement: what a SwiftVR of this shape takes, from first to last.

    Args:
        shape: of the frame, or of a tile.
        runs: states held at once: tiles.
        weights_bytes: of all graphs.
        tables_bytes: of windows, rotations and the upscale.
        scratch_bytes: that graphs work in.
        held_bytes: that the runtime takes by itself.
    """
    return MemoryPlan(
        {
            "weights": weights_bytes,
            "state": runs * sum(state_bytes(shape).values()),
            "engine scratch": scratch_bytes,
            "runtime": held_bytes,
            "work": sum(work_bytes(shape).values()) + tables_bytes,
            "frames": (IN_FLIGHT + 1) * shape.first_latents * (shape.low_group_bytes + shape.padded_group_bytes),
        }
    )
