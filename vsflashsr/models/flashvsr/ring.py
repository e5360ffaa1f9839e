"""The KV cache as a ring: where a step's slices go, and which slots it sees. Pure.

Attention, pooling and selection don't care about the order of keys, so a slice stays where it was written until it is the
oldest and the newest takes its place. A step thus writes one slice, instead of moving the whole cache.
"""

from __future__ import annotations

from dataclasses import dataclass

from .windows import SLICE_LATENTS

FIRST_SLICES = 3
"""Slices a first step makes."""


@dataclass(frozen=True, slots=True)
class RingStep:
    """One step's place in the ring."""

    slots: tuple[int, ...]
    """Where its own slices go, oldest first: neighbouring slots."""
    seen: int
    """The attention sees the slots 0 .. seen - 1."""
    latent: int
    """Temporal position of its first latent."""


def ring_slots(kv_ratio: float) -> int:
    """Slots of the ring: the slices the cache keeps (`int(kv_ratio)`, but never fewer than 2; spec 3.4) and the step's own."""
    return max(2, int(kv_ratio)) + 1


def ring_step(index: int, kv_ratio: float) -> RingStep:
    """Step `index` of a run (0: the first, of three slices)."""
    slots = ring_slots(kv_ratio)
    if index == 0:
        return RingStep(tuple(range(FIRST_SLICES)), FIRST_SLICES, 0)
    made = FIRST_SLICES + index - 1
    return RingStep((made % slots,), min(slots, made + 1), SLICE_LATENTS * made)
