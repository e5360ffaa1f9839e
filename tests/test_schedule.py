"""The schedule: every frame is emitted once, in order, and never before it was read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vsflashsr.errors import FlashsrError
from vsflashsr.schedule import Schedule

schedules = st.builds(
    lambda emits, first, look: Schedule(first + look, first, emits, emits),
    st.integers(1, 12),
    st.integers(1, 30),
    st.integers(0, 12),
)


@given(schedules, st.integers(0, 60))
def test_steps_tile_reads_and_emits(schedule: Schedule, count: int) -> None:
    read = emitted = 0
    for i in range(count + 1):
        step = schedule.step(i)
        assert (step.index, step.reads.start, step.emits.start) == (i, read, emitted)
        read, emitted = step.reads.stop, step.emits.stop
        assert read - emitted == schedule.look_ahead >= 0


@given(schedules, st.integers(0, 500))
def test_index_of_names_the_step_that_emits(schedule: Schedule, offset: int) -> None:
    assert offset in schedule.step(schedule.index_of(offset)).emits


def test_flashvsr_numbers() -> None:
    schedule = Schedule(25, 21, 8, 8)
    assert schedule.look_ahead == 4
    assert [schedule.step(i).reads for i in range(3)] == [range(25), range(25, 33), range(33, 41)]
    assert [schedule.step(i).emits for i in range(3)] == [range(21), range(21, 29), range(29, 37)]


@pytest.mark.parametrize("numbers", [(0, 0, 1, 1), (2, 3, 1, 1), (4, 4, 2, 1), (1, 1, 0, 0)])
def test_impossible_schedules_are_refused(numbers: tuple[int, int, int, int]) -> None:
    with pytest.raises(FlashsrError):
        Schedule(*numbers)
