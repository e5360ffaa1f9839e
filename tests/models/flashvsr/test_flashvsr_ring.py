"""The ring holds what the reference's growing and shrinking list of slices holds."""

from hypothesis import given
from hypothesis import strategies as st

from vsflashsr.models.flashvsr.ring import ring_slots, ring_step


@given(st.integers(1, 12), st.integers(1, 60))
def test_the_ring_holds_the_slices_that_the_reference_keeps(kv_ratio: int, steps: int) -> None:
    ring: dict[int, int] = {}
    kept: list[int] = []
    made = 0
    for index in range(steps):
        place = ring_step(index, kv_ratio)
        own = list(range(made, made + len(place.slots)))
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


def test_published_cache_lengths() -> None:
    def kept_after(kv_ratio: int) -> list[int]:
        return [ring_step(index, kv_ratio).seen - 1 for index in range(1, 6)]

    assert kept_after(3) == [3] * 5
    assert kept_after(2) == kept_after(1) == [2] * 5
    assert kept_after(5) == [3, 4, 5, 5, 5]
