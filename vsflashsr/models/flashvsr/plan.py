"""A step of FlashVSR as data: what it reads, in which order, what is carried on, where its keys and values go, what it emits.

The step on the host and the one on a device both execute this, and know nothing of it themselves. Pure.

Frames are counted from the step's first: 0 is the first that it reads, -1 the last that the step before read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from .windows import SLICE_LATENTS

FRAMES_PER_LATENT = 4
CONTEXT_FRAMES = 2
"""Frames before a clip that the projector of v1.1 sees."""
FIRST_READS, FIRST_EMITS = 25, 21
STEP_FRAMES = 8
"""Frames that every later step reads and emits."""
FIRST_SLICES = 3
"""Slices a first step makes."""


@dataclass(frozen=True, slots=True)
class Projection:
    """A call of the projector."""

    frames: tuple[int, ...]
    """Its four."""
    latent: int | None
    """The latent of this step whose tokens it makes; None: it only fills the projector's context."""
    side: int
    """Which of the context's two buffers it reads; it writes the other."""


@dataclass(frozen=True, slots=True)
class Decoding:
    """A latent's call of the decoder."""

    condition: tuple[int, ...]
    """The four frames that it is decoded with."""
    first: bool
    """The segment's first latent: one frame comes of it, or four of which three lie before the clip."""
    emits: int
    """The last of its frames, so many, are the step's."""
    out: int
    """Where in what the step emits they begin."""
    side: int
    """Which of the two buffers of each memory it reads; it writes the other."""


@dataclass(frozen=True, slots=True)
class RingStep:
    """Where the step's keys and values go.

    The KV cache is a ring: attention, pooling and selection don't care about the order of keys, so a slice stays where it was
    written until it is the oldest and the newest takes its place. A step thus writes one slice, instead of moving all.
    """

    slots: tuple[int, ...]
    """Where its own slices go, oldest first: neighbouring slots."""
    seen: int
    """The attention sees the slots 0 .. seen - 1."""
    keeps: int
    """Slices, the newest, that are there for the next step."""
    latent: int
    """Temporal position of its first latent."""


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step of a run."""

    cold: bool
    """The run's first: there is no state yet."""
    reads: int
    emits: int
    context: tuple[int, ...]
    """The frames before those of the first projection, for projectors that look back."""
    projections: tuple[Projection, ...]
    ring: RingStep
    decodings: tuple[Decoding, ...]

    @property
    def slices(self) -> int:
        """Slices, of two latents each, that it makes."""
        return len(self.ring.slots)

    @property
    def latents(self) -> int:
        return SLICE_LATENTS * self.slices

    @property
    def keeps(self) -> int:
        """The first of the frames that the next step still needs: those that were projected and not yet decoded with."""
        return self.reads - FRAMES_PER_LATENT

    @property
    def keeps_context(self) -> int:
        """The first of those that the next step's projector looks back at."""
        return self.reads - CONTEXT_FRAMES


def ring_slots(kv_ratio: float) -> int:
    """Slots of the ring: the slices the cache keeps (`int(kv_ratio)`, but never fewer than 2; spec 3.4) and the step's own."""
    return max(2, int(kv_ratio)) + 1


@lru_cache(maxsize=64)
def step_plan(index: int, kv_ratio: float, *, looks_back: bool) -> StepPlan:
    """Step `index` of a run (0: the first).

    Args:
        index: counted from the run's beginning.
        kv_ratio: see ``Options``.
        looks_back: does the projector have a context (v1.1)? Where it has none, nothing has to fill it.
    """
    slots = ring_slots(kv_ratio)
    cold = index == 0
    made = 0 if cold else FIRST_SLICES + index - 1
    slices = FIRST_SLICES if cold else 1
    seen = min(slots, made + slices) if not cold else FIRST_SLICES
    own = tuple(range(slices)) if cold else (made % slots,)
    latents = SLICE_LATENTS * slices
    # Frame 0 is in no latent with others: the projector sees it as its own past, and latent 0 is decoded with copies of it.
    start = 1 if cold else 0
    projections: list[tuple[int | None, tuple[int, ...]]] = []
    if cold and looks_back:
        projections.append((None, (0,) * FRAMES_PER_LATENT))
    projections += [(n, _four(start + FRAMES_PER_LATENT * n)) for n in range(latents)]
    # Seven calls in a first step, two in a later one: every step begins and ends on the sides on which the others do.
    first_side = 0 if cold and looks_back else 1
    conditions = [(0,) * FRAMES_PER_LATENT if cold else _four(-FRAMES_PER_LATENT)]
    conditions += [_four(start + FRAMES_PER_LATENT * (n - 1)) for n in range(1, latents)]
    decodings: list[Decoding] = []
    out = 0
    for n, condition in enumerate(conditions):
        emits = 1 if cold and n == 0 else FRAMES_PER_LATENT
        decodings.append(Decoding(condition, cold and n == 0, emits, out, n % 2))
        out += emits
    return StepPlan(
        cold=cold,
        reads=FIRST_READS if cold else STEP_FRAMES,
        emits=out,
        context=(0, 0) if cold else (-2, -1),
        projections=tuple(
            Projection(frames, latent, (first_side + n) % 2) for n, (latent, frames) in enumerate(projections)
        ),
        ring=RingStep(own, seen, min(seen, slots - 1), SLICE_LATENTS * made),
        decodings=tuple(decodings),
    )


def consecutive(frames: Sequence[int]) -> list[tuple[int, int]]:
    """(first, how many) of each stretch of neighbouring frames."""
    stretches: list[tuple[int, int]] = []
    for frame in frames:
        if stretches and frame == sum(stretches[-1]):
            stretches[-1] = (stretches[-1][0], stretches[-1][1] + 1)
        else:
            stretches.append((frame, 1))
    return stretches


def _four(first: int) -> tuple[int, ...]:
    return tuple(range(first, first + FRAMES_PER_LATENT))
