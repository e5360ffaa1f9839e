"""Segments and the stream: output frame n is a function of the source, the model and n alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vsflashsr import stream as stream_module
from vsflashsr.errors import FlashsrError
from vsflashsr.geometry import Array
from vsflashsr.model import ModelSpec
from vsflashsr.schedule import Schedule
from vsflashsr.segments import segment_of
from vsflashsr.stream import CausalStream

SCHEDULES = [
    Schedule(1, 1, 1, 1),
    Schedule(25, 21, 8, 8),
    Schedule(3, 1, 1, 1),
    Schedule(4, 4, 4, 4),
    Schedule(7, 2, 3, 3),
]

type History = tuple[int, ...]


class Recorder:
    """A "model" whose output frame is everything it has read in its run, folded into one number, and which frame it is."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.spec = ModelSpec(1, "luma", schedule, preroll=0, max_segment=10)
        self.steps = 0
        self.fail_at: int | None = None

    def step(
        self, frames: Sequence[Array], numbers: Sequence[int], state: History | None
    ) -> tuple[list[Array], History]:
        self.steps += 1
        if self.fail_at in numbers:
            raise RuntimeError("the source broke")
        wanted = self.schedule.first_reads if state is None else self.schedule.reads
        assert len(frames) == len(numbers) == wanted
        history = (state or ()) + tuple(int(f[0, 0, 0]) for f in frames)
        emits = self.schedule.first_emits if state is None else self.schedule.emits
        stop = len(history) - self.schedule.look_ahead
        digest = hash(history) % 9973
        return [np.full((1, 1, 1), history[k] * 10000 + digest, np.float32) for k in range(stop - emits, stop)], history

    def state_bytes(self, state: History) -> int:
        return 8 * len(state)


class _Later:
    """A frame that is made when it is fetched."""

    nbytes = 4

    def __init__(self, frame: Array, failure: str | None = None) -> None:
        self._frame, self._failure = frame, failure

    def array(self) -> Array:
        if self._failure is not None:
            raise FlashsrError(self._failure)
        return self._frame


class _Handed:
    """A state that can be used once, and that knows how many of its kind there are."""

    def __init__(self, owner: Device, history: History) -> None:
        self.owner, self.history = owner, history
        owner.alive += 1
        owner.most_alive = max(owner.most_alive, owner.alive)

    def take(self) -> History:
        history, self.history = self.history, ()
        assert history, "a state was handed over twice"
        return history

    def __del__(self) -> None:
        self.owner.alive -= 1


class Device:
    """A `Recorder` that behaves like a device: frames come later, a state is consumed by the step it is given to."""

    def __init__(self, schedule: Schedule, in_flight: int, state_bytes: int = 1) -> None:
        self._inner = Recorder(schedule)
        self.spec = replace(self._inner.spec, in_flight=in_flight)
        self.size, self.alive, self.most_alive = state_bytes, 0, 0
        self.submitted: list[int] = []
        self.broken: int | None = None

    def step(
        self, frames: Sequence[Array], numbers: Sequence[int], state: _Handed | None
    ) -> tuple[list[_Later], _Handed]:
        history = None if state is None else state.take()
        if state is None:
            state = _Handed(self, ())
        self.submitted.append(numbers[0])
        if self.broken in numbers:
            raise FlashsrError("the device is gone")
        made, state.history = self._inner.step(frames, numbers, history)
        return [_Later(frame) for frame in made], state

    def state_bytes(self, state: _Handed) -> int:
        return self.size


class Numbers:
    """A clip whose frame n is the number n (from 1 on), with given cuts."""

    def __init__(self, num_frames: int, cuts: frozenset[int]) -> None:
        self.num_frames = num_frames
        self.cuts = cuts

    def frame(self, n: int) -> Array:
        assert 0 <= n < self.num_frames, "a frame outside the clip was asked for"
        return np.full((1, 1, 1), n + 1, np.float32)

    def is_cut(self, n: int) -> bool:
        assert 0 < n < self.num_frames, "a cut outside the clip was asked for"
        return n in self.cuts


def expected(n: int, source: Numbers, schedule: Schedule, preroll: int, max_segment: int) -> float:
    """Frame n by the words of the design, run for itself from its segment's beginning."""
    begins = {0, *source.cuts}
    grid = n // max_segment * max_segment
    start = max([grid, *(c for c in begins if grid <= c <= n)])
    shot = max(c for c in begins if c <= start)
    run = start if start in begins else max(start - preroll, shot, 0)
    end = min([source.num_frames, *(c for c in begins if c > n)])
    model, state, emitted = Recorder(schedule), None, list[Array]()
    while len(emitted) <= n - run:
        step = schedule.step(model.steps)
        numbers = [run + k for k in step.reads]
        out, state = model.step([source.frame(min(k, end - 1)) for k in numbers], numbers, state)
        emitted += out
    return float(emitted[n - run][0, 0, 0])


clips = st.integers(1, 90).flatmap(
    lambda n: st.builds(
        Numbers, st.just(n), st.frozensets(st.integers(1, n - 1), max_size=6) if n > 1 else st.just(frozenset())
    )
)


@settings(max_examples=150, deadline=None)
@given(clips, st.sampled_from(SCHEDULES), st.integers(0, 9), st.integers(1, 40), st.randoms(use_true_random=False))
def test_any_order_gives_the_designed_frames(
    source: Numbers, schedule: Schedule, preroll: int, grid: int, random: Random
) -> None:
    wanted = [expected(n, source, schedule, preroll, grid) for n in range(source.num_frames)]
    order = list(range(source.num_frames))
    random.shuffle(order)
    for run in (range(source.num_frames), order, order[::-1] + order, list(reversed(range(source.num_frames)))):
        stream = CausalStream(Recorder(schedule), source, preroll=preroll, max_segment=grid)
        for n in run:
            assert float(stream.frame(n)[0, 0, 0]) == wanted[n], n


@settings(max_examples=150, deadline=None)
@given(
    clips,
    st.sampled_from(SCHEDULES),
    st.integers(0, 9),
    st.integers(1, 40),
    st.integers(1, 3),
    st.randoms(use_true_random=False),
)
def test_steps_in_flight_change_no_frame(
    source: Numbers, schedule: Schedule, preroll: int, grid: int, in_flight: int, random: Random
) -> None:
    wanted = [expected(n, source, schedule, preroll, grid) for n in range(source.num_frames)]
    jumps = [n for _ in range(6) for n in range(random.randrange(source.num_frames), source.num_frames)][:200]
    for run in (range(source.num_frames), jumps, list(reversed(range(source.num_frames)))):
        # A state larger than what may be kept: there is never a second one.
        model = Device(schedule, in_flight, state_bytes=stream_module.STATE_BYTES)
        stream = CausalStream(model, source, preroll=preroll, max_segment=grid)
        for n in run:
            assert float(stream.frame(n)[0, 0, 0]) == wanted[n], n
        assert model.most_alive == 1


def test_the_next_step_is_submitted_before_a_frame_is_fetched() -> None:
    model, source = Device(Schedule(25, 21, 8, 8), in_flight=1), Numbers(100, frozenset())
    stream = CausalStream(model, source, preroll=0, max_segment=100)
    stream.frame(0)
    assert model.submitted == [0, 25]
    for n in range(1, 21):
        stream.frame(n)
    assert model.submitted == [0, 25]
    stream.frame(21)
    assert model.submitted == [0, 25, 33]
    for n in range(22, 100):
        stream.frame(n)
    assert model.submitted == [0, *range(25, 100, 8)]  # each once, none beyond the clip


def test_a_seek_submits_nothing_ahead() -> None:
    model, source = Device(Schedule(1, 1, 1, 1), in_flight=3), Numbers(100, frozenset())
    stream = CausalStream(model, source, preroll=0, max_segment=10)
    for n in (55, 12, 93):
        stream.frame(n)
    assert set(model.submitted) == {*range(50, 56), 10, 11, 12, 90, 91, 92, 93}


def test_what_breaks_ahead_is_raised_only_where_it_is_asked_for() -> None:
    model, source = Device(Schedule(1, 1, 1, 1), in_flight=2), Numbers(100, frozenset())
    model.broken = 7
    stream = CausalStream(model, source, preroll=0, max_segment=100)
    for n in range(7):
        stream.frame(n)
    with pytest.raises(FlashsrError, match="the device is gone"):
        stream.frame(7)
    model.broken = None
    assert float(stream.frame(8)[0, 0, 0]) == expected(8, source, Schedule(1, 1, 1, 1), 0, 100)


@given(clips, st.integers(0, 200), st.integers(0, 9), st.integers(1, 40))
def test_a_seek_is_bounded(source: Numbers, n: int, preroll: int, grid: int) -> None:
    n %= source.num_frames
    segment = segment_of(n, source.is_cut, preroll=preroll, max_segment=grid)
    assert segment.run_start <= segment.start <= n
    assert n - segment.start < grid and segment.start - segment.run_start <= preroll
    assert not any(segment.run_start < c <= n and c > segment.start for c in source.cuts)


def test_linear_runs_make_each_step_once_but_for_preroll() -> None:
    model, source = Recorder(Schedule(1, 1, 1, 1)), Numbers(200, frozenset({70}))
    stream = CausalStream(model, source, preroll=4, max_segment=50)
    for n in range(200):
        stream.frame(n)
    assert model.steps == 200 + 4 * 3  # grid lines 50, 100 and 150; 0 and 70 begin shots


def test_neighbours_and_two_readers_never_replay() -> None:
    model, source = Recorder(Schedule(1, 1, 1, 1)), Numbers(400, frozenset())
    stream = CausalStream(model, source, preroll=0, max_segment=400)
    for n in range(300):
        for k in (n, n + 90, max(0, n - 3)):  # two readers 90 apart, and small back-steps
            stream.frame(k)
    assert model.steps <= 2 * 390


def test_reverse_costs_a_replay_per_kept_batch_only() -> None:
    model, source = Recorder(Schedule(1, 1, 1, 1)), Numbers(100, frozenset())
    stream = CausalStream(model, source, preroll=0, max_segment=100)
    for n in reversed(range(100)):
        stream.frame(n)
    assert model.steps < 100 * 3


def test_a_failed_step_leaves_no_half_advanced_state() -> None:
    model, source = Recorder(Schedule(25, 21, 8, 8)), Numbers(100, frozenset())
    stream = CausalStream(model, source, preroll=0, max_segment=100)
    stream.frame(30)
    model.fail_at = 45
    with pytest.raises(RuntimeError, match="broke"):
        stream.frame(40)
    model.fail_at = None
    assert float(stream.frame(40)[0, 0, 0]) == expected(40, source, model.schedule, 0, 100)


def test_kept_frames_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "KEPT_BYTES", 40)
    model, source = Recorder(Schedule(1, 1, 1, 1)), Numbers(100, frozenset())
    stream = CausalStream(model, source, preroll=0, max_segment=100)
    for n in range(100):
        stream.frame(n)
        assert len(stream._kept) <= 10
        assert len(stream._cursors) <= stream_module.STATES


def test_values_that_are_not_finite_name_the_frame() -> None:
    class Bad(Recorder):
        def step(
            self, frames: Sequence[Array], numbers: Sequence[int], state: History | None
        ) -> tuple[list[Array], History]:
            out, history = super().step(frames, numbers, state)
            if 7 in numbers:
                out[0][0, 0, 0] = np.nan
            return out, history

    stream = CausalStream(Bad(Schedule(1, 1, 1, 1)), Numbers(20, frozenset()), preroll=0, max_segment=20)
    stream.frame(6)
    with pytest.raises(FlashsrError, match=r"not finite.*frame 7"):
        stream.frame(7)
    with pytest.raises(FlashsrError, match=r"frame 7"):
        stream.frame(8)
