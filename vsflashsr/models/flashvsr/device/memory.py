"""What FlashVSR's step takes of a device: every buffer by name, counted before any is allocated. Pure.

The step allocates from this very table, so what is stated is what is taken.
"""

from __future__ import annotations

from dataclasses import dataclass

from ....gpu.budget import MemoryPlan
from ..kernels import launches
from ..plan import CONTEXT_FRAMES, FIRST_EMITS, FIRST_READS, FIRST_SLICES, FRAMES_PER_LATENT, ring_slots
from ..rope import rope_split
from ..section import DecoderState
from ..windows import SLICE_LATENTS, Grid

LATENT_CHANNELS = 16
PATCH_VALUES = 64
IN_FLIGHT = 1
"""Steps submitted ahead: one is computed while the one before is fetched."""
_FLOAT = 4


@dataclass(frozen=True, slots=True)
class StepShape:
    """All that the sizes of a step depend on."""

    grid: Grid
    """Of the padded output."""
    low: tuple[int, int]
    """(height, width) of the input frames."""
    out: tuple[int, int]
    """(height, width) of the output frames."""
    layers: int
    heads: int
    head_dim: int
    dtype: str
    """The model's type: "fp16", "bf16" or "fp32"."""
    kv_ratio: float
    local_range: int
    budget: int
    """`windows.pair_budget`."""
    projector_hidden: int
    """Channels of the projector's second context; 0 in v1, which has none."""
    decoder_states: tuple[DecoderState, ...]
    wavelet: bool
    """Is the colour fix the wavelet one, which needs room?"""

    @property
    def item_bytes(self) -> int:
        """Of the model's type."""
        return launches.ITEM_BYTES[self.dtype]

    @property
    def half(self) -> bool:
        """Are finished frames float16? From 0 to 1 that is 0.06 of an 8-bit step, finer than what the model computes in."""
        return self.dtype != "fp32"

    def attention(self, query_slices: int, key_slices: int) -> launches.Attention:
        """A layer's attention of `query_slices` new slices, which see `key_slices`."""
        return launches.Attention(
            self.grid, self.heads, self.head_dim, self.dtype, query_slices, key_slices, self.local_range, self.budget
        )

    @property
    def planes(self) -> launches.Planes:
        """The frames of one latent, for the colour fix."""
        return self.planes_of(FRAMES_PER_LATENT)

    def planes_of(self, frames: int) -> launches.Planes:
        """Those of so many frames."""
        emitted = "fp16" if self.half else "fp32"
        return launches.Planes(3 * frames, *self.out, self.grid.height_px, self.grid.width_px, emitted)

    @property
    def dim(self) -> int:
        return self.heads * self.head_dim

    @property
    def slots(self) -> int:
        return ring_slots(self.kv_ratio)

    @property
    def low_frame_bytes(self) -> int:
        return 3 * self.low[0] * self.low[1] * _FLOAT

    @property
    def out_frame_bytes(self) -> int:
        return 3 * self.out[0] * self.out[1] * (2 if self.half else _FLOAT)

    @property
    def padded_frame_bytes(self) -> int:
        return 3 * self.grid.height_px * self.grid.width_px * _FLOAT

    @property
    def latent_bytes(self) -> int:
        """Of one latent frame, float32."""
        return LATENT_CHANNELS * (self.grid.height_px // 8) * (self.grid.width_px // 8) * _FLOAT

    @property
    def ring_slot_bytes(self) -> int:
        """Keys or values of one slice in one layer."""
        return self.grid.slice_tokens * self.dim * self.item_bytes

    @property
    def pooled_slot_bytes(self) -> int:
        """Pooled keys of one slice in one layer, float32."""
        return self.grid.blocks * self.dim * _FLOAT

    def decoder_state_bytes(self, state: DecoderState) -> int:
        """One memory of the decoder."""
        rows, cols = self.grid.height_px // 8, self.grid.width_px // 8
        return state.frames * state.channels * rows * cols * state.factor**2 * self.item_bytes


def cache_bytes(shape: StepShape) -> dict[str, int]:
    """Buffers that carry a run's state from step to step."""
    tables = {
        f"{kind}.{layer}": shape.slots * size
        for layer in range(shape.layers)
        for kind, size in (
            ("keys", shape.ring_slot_bytes),
            ("values", shape.ring_slot_bytes),
            ("pooled", shape.pooled_slot_bytes),
        )
    }
    tables["unread frames"] = FRAMES_PER_LATENT * shape.low_frame_bytes
    tables["unread exact"] = FRAMES_PER_LATENT * _FLOAT
    if shape.projector_hidden:
        hidden = CONTEXT_FRAMES * shape.projector_hidden * shape.grid.rows * 8 * shape.grid.cols * 8 * shape.item_bytes
        tables |= {f"context.{side}": hidden for side in (0, 1)}
        tables["context frames"] = CONTEXT_FRAMES * shape.low_frame_bytes
        tables["context exact"] = CONTEXT_FRAMES * _FLOAT
    for n, state in enumerate(shape.decoder_states):
        tables |= {f"memory.{n}.{side}": shape.decoder_state_bytes(state) for side in (0, 1)}
    return tables


def input_bytes(shape: StepShape) -> dict[str, int]:
    """What the host sends for a step, at most (a first step)."""
    latents = FIRST_SLICES * SLICE_LATENTS
    time = _rotary_values(shape, FIRST_SLICES) * _FLOAT
    return {
        "frames": FIRST_READS * shape.low_frame_bytes,
        "exact": FIRST_READS * _FLOAT,
        "keys": (1 + latents) * 8,
        "cosine": time,
        "sine": time,
    }


def _rotary_values(shape: StepShape, slices: int) -> int:
    """Values of a rotary table of that many slices (`gpu.tables.rotary_tables`)."""
    time, row, col = rope_split(shape.head_dim)
    return (slices * SLICE_LATENTS * time + shape.grid.rows * 8 * row + shape.grid.cols * 8 * col) // 2


def work_bytes(shape: StepShape) -> dict[str, int]:
    """Buffers that a step works in, at most (a first step, or one that sees the whole ring)."""
    tokens = FIRST_SLICES * shape.grid.slice_tokens
    row_bytes = shape.dim * shape.item_bytes
    latents = FIRST_SLICES * SLICE_LATENTS
    attention = [
        launches.attention_scratch(shape.attention(FIRST_SLICES, FIRST_SLICES)),
        launches.attention_scratch(shape.attention(1, shape.slots)),
    ]
    rows = 3 * shape.low[0] * shape.out[1] * _FLOAT
    fix = launches.wavelet_scratch_bytes(shape.planes) if shape.wavelet else 0
    return {
        "x.0": tokens * shape.dim * _FLOAT,
        "x.1": tokens * shape.dim * _FLOAT,
        "q": tokens * row_bytes,
        "k": tokens * row_bytes,
        "attention": max(scratch.size_bytes for scratch in attention),
        "attended": tokens * row_bytes,
        "lq rows": (shape.grid.slice_tokens // SLICE_LATENTS) * row_bytes,
        "lq": tokens * row_bytes,
        "noise": latents * shape.latent_bytes,
        "patches": tokens * PATCH_VALUES * _FLOAT,
        "made patches": tokens * PATCH_VALUES * _FLOAT,
        # Two of these: the decoder reads one while the next step's DiT fills the other.
        "latents.0": latents * shape.latent_bytes,
        "latents.1": latents * shape.latent_bytes,
        "clip": (CONTEXT_FRAMES + FRAMES_PER_LATENT) * shape.padded_frame_bytes,
        "context rows": FRAMES_PER_LATENT * rows,
        # The decoder's side has its own, because it runs beside the next step's projector.
        "condition": FRAMES_PER_LATENT * shape.padded_frame_bytes,
        "unread rows": FRAMES_PER_LATENT * rows,
        "made": FRAMES_PER_LATENT * shape.padded_frame_bytes,
        "moments": 2 * launches.moments_bytes(shape.planes),
        "moments scratch": launches.moments_scratch_bytes(shape.planes),
        "colour": max(1, fix),
    }


def memory_plan(
    shape: StepShape, *, runs: int, weights_bytes: int, scratch_bytes: int, held_bytes: int
) -> MemoryPlan:
    """The statement: what a FlashVSR of this shape takes, from first to last.

    Args:
        shape: of the frame, or of a tile.
        runs: states held at once: tiles.
        weights_bytes: of all graphs.
        scratch_bytes: that graphs work in.
        held_bytes: that the runtime takes by itself.
    """
    state = cache_bytes(shape)
    ring = sum(size for name, size in state.items() if name.split(".")[0] in ("keys", "values"))
    return MemoryPlan(
        {
            "weights": weights_bytes,
            "KV cache": runs * ring,
            "other state": runs * (sum(state.values()) - ring),
            "engine scratch": scratch_bytes,
            "runtime": held_bytes,
            "work": sum(work_bytes(shape).values()),
            "frames": (IN_FLIGHT + 1) * (sum(input_bytes(shape).values()) + FIRST_EMITS * shape.out_frame_bytes),
        }
    )
