"""The plan of a step: each frame is read, decoded with and emitted once, in order; the ring holds the slices of the reference."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vsflashsr.models.flashvsr.plan import (
    FIRST_EMITS,
    FIRST_READS,
    STEP_FRAMES,
    StepPlan,
    consecutive,
    ring_slots,
    step_plan,
)


def plans(steps: int, kv_ratio: float = 3, *, looks_back: bool = True) -> list[StepPlan]:
    return [step_plan(index, kv_ratio, looks_back=looks_back) for index in range(steps)]


@pytest.mark.parametrize("looks_back", [True, False])
def test_every_frame_is_projected_decoded_with_and_emitted_once(looks_back: bool) -> None:
    """Over a run, in the frames' own numbers: the schedule of spec 5.1, written down a second way."""
    projected: list[int] = []
    conditions: list[int] = []
    emitted = first = kept = 0
    for index, plan in enumerate(plans(5, looks_back=looks_back)):
        groups = [p for p in plan.projections if p.latent is not None]
        assert [p.latent for p in groups] == list(range(plan.latents)) == list(range(len(plan.decodings)))
        projected += [first + n for p in groups for n in p.frames]
        conditions += [first + n for d in plan.decodings for n in d.condition]
        # What lies before the step is what the one before has kept.
        assert min(n for d in plan.decodings for n in d.condition) >= (0 if index == 0 else kept - first)
        assert [d.out for d in plan.decodings] == [sum(d.emits for d in plan.decodings[:n]) for n in range(plan.latents)]
        emitted += plan.emits
        kept = first + plan.keeps
        first += plan.reads
        assert emitted == first - 4 and kept == emitted
    assert projected == list(range(1, first))
    assert conditions == [0, 0, 0, *range(emitted)]


def test_the_first_step_primes_a_projector_that_looks_back() -> None:
    first, later = plans(2)
    primed, *rest = first.projections
    assert primed.frames == (0, 0, 0, 0) and primed.latent is None and first.context == (0, 0)
    assert all(p.latent is not None for p in (*rest, *later.projections))
    assert all(p.latent is not None for p in step_plan(0, 3, looks_back=False).projections)
    assert (first.cold, first.reads, first.emits) == (True, FIRST_READS, FIRST_EMITS)
    assert (later.cold, later.reads, later.emits) == (False, STEP_FRAMES, STEP_FRAMES)
    assert [d.first for d in first.decodings] == [True, False, False, False, False, False]
    # The projector's context: the two frames before each four.
    assert later.context == (first.keeps_context - first.reads, first.keeps_context - first.reads + 1)


@pytest.mark.parametrize("looks_back", [True, False])
def test_each_call_reads_the_side_that_the_call_before_wrote(looks_back: bool) -> None:
    context = [p.side for plan in plans(4, looks_back=looks_back) for p in plan.projections]
    memories = [d.side for plan in plans(4, looks_back=looks_back) for d in plan.decodings]
    for sides in (context, memories):
        assert all(a != b for a, b in itertools.pairwise(sides))
    assert memories[0] == 0 and (context[0] == 0 or not looks_back)


@given(st.integers(1, 12), st.integers(1, 60))
def test_the_ring_holds_the_slices_that_the_reference_keeps(kv_ratio: int, steps: int) -> None:
    ring: dict[int, int] = {}
    kept: list[int] = []
    made = 0
    for plan in plans(steps, kv_ratio):
        place = plan.ring
        own = list(range(made, made + plan.slices))
        made += len(own)
        assert place.latent == 2 * own[0]
        assert max(place.slots) < ring_slots(kv_ratio)
        assert list(place.slots) == list(range(place.slots[0], place.slots[0] + len(own)))
        for slot, ordinal in zip(place.slots, own, strict=True):
            ring[slot] = ordinal
        seen = [*kept, *own]
        # What the step sees is what lies in its slots: nothing missing, nothing evicted, nothing unwritten.
        assert sorted(ring[slot] for slot in range(place.seen)) == seen
        kept = seen[1:] if len(seen) > kv_ratio else seen
        assert place.keeps == len(kept)


def test_published_cache_lengths() -> None:
    def kept_after(kv_ratio: int) -> list[int]:
        return [plan.ring.keeps for plan in plans(6, kv_ratio)[1:]]

    assert kept_after(3) == [3] * 5
    assert kept_after(2) == kept_after(1) == [2] * 5
    assert kept_after(5) == [4, 5, 5, 5, 5]


def test_stretches_of_frames() -> None:
    assert consecutive((0, 0, 0, 0)) == [(0, 1)] * 4
    assert consecutive((-4, -3, -2, -1)) == [(-4, 4)]
    assert consecutive((0, 0, 1, 2)) == [(0, 1), (0, 3)]
    assert consecutive(()) == []
