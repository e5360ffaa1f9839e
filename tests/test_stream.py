"""Segments and the stream: output frame n is a function of the source, the model and n alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vsflashsr import stream as stream_module
from vsflashsr.errors import FlashsrError
from vsflashsr.geometry import Array
from vsflashsr.model import ModelSpec, fetched
from vsflashsr.schedule import Schedule
from vsflashsr.segments import Segment, Undecided, segment_of
from vsflashsr.stream import CausalStream, Done, Job, Missing

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

    def __init__(self, schedule: Schedule, chunk: int = 1) -> None:
        self.schedule = schedule
        self.spec = ModelSpec(1, "luma", schedule, preroll=0, max_segment=10, chunk=chunk)
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
    """A clip whose frame n is the number n (from 1 on), with given cuts. Frames come when they are asked for.

    A cut is known once the frame and the one before it have been seen.
    """

    def __init__(self, num_frames: int, cuts: frozenset[int]) -> None:
        self.num_frames = num_frames
        self.cuts = cuts
        self.at_hand: set[int] = set()
        self.seen: set[int] = set()

    def number(self, n: int) -> Array:
        return np.full((1, 1, 1), n + 1, np.float32)

    def frame(self, n: int) -> Array | None:
        assert 0 <= n < self.num_frames, "a frame outside the clip was asked for"
        return self.number(n) if n in self.at_hand else None

    def is_cut(self, n: int) -> bool | None:
        assert 0 < n < self.num_frames, "a cut outside the clip was asked for"
        return n in self.cuts if {n - 1, n} <= self.seen else None

    def unseen(self, n: int) -> Iterable[int]:
        return {n - 1, n} - self.seen


class Player:
    """Does what the plugin and `node.Requests` do for one request after the other: fetches, runs the model, takes the frame."""

    def __init__(self, model: Recorder | Device, source: Numbers, preroll: int, max_segment: int) -> None:
        self.model: Any = model
        self.source = Numbers(source.num_frames, source.cuts)
        self.stream: CausalStream[Any] = CausalStream(model.spec, self.source, preroll=preroll, max_segment=max_segment)
        self.requested: list[int] = []
        self.most_at_hand = 0

    def come(self, numbers: Iterable[int]) -> None:
        numbers = list(numbers)
        assert len(set(numbers)) == len(numbers) and all(0 <= n < self.source.num_frames for n in numbers)
        self.requested += numbers
        self.source.at_hand.update(numbers)
        self.source.seen.update(numbers)
        self.most_at_hand = max(self.most_at_hand, len(self.source.at_hand))

    def frame(self, n: int, waited: Iterable[int] = ()) -> float:
        keep: frozenset[int] = frozenset()
        while not isinstance(todo := self.stream.next(n), Done):
            if isinstance(todo, Missing):
                assert todo.frames
                self.source.at_hand &= todo.keep
                self.come(todo.frames)
                continue
            self.source.at_hand.difference_update(todo.numbers)
            try:
                emitted, state = self.model.step(todo.frames, todo.numbers, todo.cursor.state)
            except BaseException:
                self.stream.fail(todo)
                raise
            self.stream.put(todo, emitted, state, self.model.state_bytes(state), {n, *waited})
        self.source.at_hand = set(keep)
        kept = self.stream.result(n)
        assert kept is not None
        return float(fetched(kept)[0, 0, 0])


def expected(n: int, source: Numbers, schedule: Schedule, preroll: int, max_segment: int, chunk: int = 1) -> float:
    """Frame n by the words of the design, run for itself from its segment's beginning."""
    begins = {0, *source.cuts}
    grid = n // max_segment * max_segment
    start = max([grid, *(c for c in begins if grid <= c <= n)])
    shot = max(c for c in begins if c <= start)
    first = start if start in begins else max(start - preroll, shot, 0)
    run = first // chunk * chunk
    end = min([source.num_frames, *(c for c in begins if c > n)])
    model, state, emitted = Recorder(schedule), None, list[Array]()
    while len(emitted) <= n - run:
        step = schedule.step(model.steps)
        numbers = [run + k for k in step.reads]
        out, state = model.step([source.number(max(first, min(k, end - 1))) for k in numbers], numbers, state)
        emitted += out
    return float(emitted[n - run][0, 0, 0])


clips = st.integers(1, 90).flatmap(
    lambda n: st.builds(
        Numbers, st.just(n), st.frozensets(st.integers(1, n - 1), max_size=6) if n > 1 else st.just(frozenset())
    )
)


@settings(max_examples=150, deadline=None)
@given(
    clips,
    st.sampled_from(SCHEDULES),
    st.integers(0, 9),
    st.integers(1, 40),
    st.sampled_from([1, 1, 4, 7]),
    st.randoms(use_true_random=False),
)
def test_any_order_gives_the_designed_frames(
    source: Numbers, schedule: Schedule, preroll: int, grid: int, chunk: int, random: Random
) -> None:
    wanted = [expected(n, source, schedule, preroll, grid, chunk) for n in range(source.num_frames)]
    order = list(range(source.num_frames))
    random.shuffle(order)
    for run in (range(source.num_frames), order, order[::-1] + order, list(reversed(range(source.num_frames)))):
        player = Player(Recorder(schedule, chunk), source, preroll, grid)
        for n in run:
            assert player.frame(n) == wanted[n], n


@settings(max_examples=150, deadline=None)
@given(
    clips,
    st.sampled_from(SCHEDULES),
    st.integers(0, 9),
    st.integers(1, 40),
    st.integers(1, 3),
    st.randoms(use_true_random=False),
)
def test_states_that_are_used_up_and_never_a_second_one(
    source: Numbers, schedule: Schedule, preroll: int, grid: int, in_flight: int, random: Random
) -> None:
    """A device's state is consumed by its step, and is larger than what may be kept."""
    wanted = [expected(n, source, schedule, preroll, grid) for n in range(source.num_frames)]
    jumps = [n for _ in range(6) for n in range(random.randrange(source.num_frames), source.num_frames)][:200]
    for run in (range(source.num_frames), jumps, list(reversed(range(source.num_frames)))):
        model = Device(schedule, in_flight, state_bytes=stream_module.STATE_BYTES)
        player = Player(model, source, preroll, grid)
        for n in run:
            assert player.frame(n) == wanted[n], n
        assert model.most_alive == 1


@settings(max_examples=150, deadline=None)
@given(
    clips,
    st.sampled_from(SCHEDULES),
    st.integers(0, 9),
    st.integers(1, 40),
    st.lists(st.integers(0, 200), max_size=60),
    st.randoms(use_true_random=False),
)
def test_what_was_fetched_ahead_changes_no_frame(
    source: Numbers, schedule: Schedule, preroll: int, grid: int, order: list[int], random: Random
) -> None:
    """Any frames at hand beforehand, and any questions between: the same frames, and nothing is asked for outside the clip."""
    player = Player(Recorder(schedule), source, preroll, grid)
    for n in (k % source.num_frames for k in order):
        player.come(k for k in player.stream.ahead(n) if random.random() < 0.7)
        player.come({k for k in (n - 1, n, n + 3) if 0 <= k < source.num_frames and random.random() < 0.3})
        player.stream.ahead(random.randrange(source.num_frames))
        assert player.frame(n) == expected(n, source, schedule, preroll, grid), n


@given(clips, st.integers(0, 200), st.integers(0, 9), st.integers(1, 40), st.integers(1, 30))
def test_a_seek_is_bounded(source: Numbers, n: int, preroll: int, grid: int, chunk: int) -> None:
    n %= source.num_frames
    segment = segment_of(n, lambda k: k in source.cuts, preroll=preroll, max_segment=grid, chunk=chunk)
    assert isinstance(segment, Segment)
    assert segment.run_start <= segment.first <= segment.start <= n
    assert n - segment.start < grid and segment.start - segment.first <= preroll
    assert segment.run_start % chunk == 0 and segment.first - segment.run_start < chunk
    assert not any(segment.first < c <= n and c > segment.start for c in source.cuts)


@given(clips, st.integers(0, 200), st.integers(0, 9), st.integers(1, 40), st.integers(1, 30))
def test_chunks_move_where_a_run_begins_and_nothing_else(
    source: Numbers, n: int, preroll: int, grid: int, chunk: int
) -> None:
    n %= source.num_frames
    plain, moved = (
        segment_of(n, lambda k: k in source.cuts, preroll=preroll, max_segment=grid, chunk=size) for size in (1, chunk)
    )
    assert isinstance(plain, Segment) and isinstance(moved, Segment)
    assert (plain.start, plain.first) == (moved.start, moved.first) and plain.run_start == plain.first


@given(clips, st.integers(0, 200), st.integers(0, 9), st.integers(1, 40), st.frozensets(st.integers(0, 90)))
def test_an_undecided_segment_asks_for_what_decides_it(
    source: Numbers, n: int, preroll: int, grid: int, known: frozenset[int]
) -> None:
    """Step by step, never for the same cut twice, never for one outside its bounds, and ends where all is known."""
    n %= source.num_frames
    told = set(known)
    while isinstance(
        found := segment_of(n, lambda k: k in source.cuts if k in told else None, preroll=preroll, max_segment=grid),
        Undecided,
    ):
        assert found.at not in told and found.first <= found.at <= n
        assert found.first > n // grid * grid - preroll
        told.add(found.at)
    assert found == segment_of(n, lambda k: k in source.cuts, preroll=preroll, max_segment=grid)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_seek_goes_in_rounds_that_hold_few_frames(schedule: Schedule) -> None:
    player = Player(Recorder(schedule), Numbers(1000, frozenset()), 20, 200)
    player.frame(599)
    assert player.most_at_hand <= max(stream_module.ROUND_FRAMES, schedule.first_reads) + 2
    # Each frame once for the cuts and once for the replay, and what the rounds overlap by.
    assert len(player.requested) <= 2.3 * (220 + schedule.first_reads)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_linear_run_fetches_each_frame_once(schedule: Schedule) -> None:
    """Ahead of time and asking as `node.Requests` does; what begins on the grid reads its preroll again."""
    source = Numbers(400, frozenset({70, 71, 233}))
    player = Player(Recorder(schedule), source, 0, 400)
    for n in range(400):
        player.come(player.stream.ahead(n))
        held = set(player.source.at_hand)
        player.frame(n)
        player.source.at_hand = held - set(range(n - schedule.first_reads)) if schedule.reads > 1 else set()
    repeated = len(player.requested) - len(set(player.requested))
    # A cut is seen when the frames behind it are there already: they are fetched again for the shot that they begin.
    assert repeated <= 4 * schedule.first_reads


def test_ahead_names_what_the_next_frames_read() -> None:
    player = Player(Recorder(Schedule(25, 21, 8, 8)), Numbers(100, frozenset()), 0, 100)
    assert player.stream.ahead(0) == list(range(25))
    player.frame(0)
    assert player.stream.ahead(5) == []  # finished
    assert player.stream.ahead(21) == list(range(25, 33)) == player.stream.ahead(28)
    player.come(range(25, 33))
    assert player.stream.ahead(29) == list(range(33, 41))
    assert player.stream.ahead(95) == []  # too far off: what a replay reads, it asks for itself


def test_ahead_asks_for_nothing_that_is_being_made() -> None:
    player = Player(Recorder(Schedule(1, 1, 1, 1)), Numbers(100, frozenset()), 0, 100)
    for n in range(5):
        player.frame(n)
    player.come([5])
    job = player.stream.next(5)
    assert isinstance(job, Job)
    player.source.at_hand.clear()
    assert player.stream.ahead(5) == []
    assert player.stream.ahead(6) == [6]


def test_linear_runs_make_each_step_once_but_for_preroll() -> None:
    model, source = Recorder(Schedule(1, 1, 1, 1)), Numbers(200, frozenset({70}))
    player = Player(model, source, 4, 50)
    for n in range(200):
        player.frame(n)
    assert model.steps == 200 + 4 * 3  # grid lines 50, 100 and 150; 0 and 70 begin shots


def test_neighbours_and_two_readers_never_replay() -> None:
    model, source = Recorder(Schedule(1, 1, 1, 1)), Numbers(400, frozenset())
    player = Player(model, source, 0, 400)
    for n in range(300):
        for k in (n, n + 90, max(0, n - 3)):  # two readers 90 apart, and small back-steps
            player.frame(k)
    assert model.steps <= 2 * 390


def test_reverse_costs_a_replay_per_kept_batch_only() -> None:
    model, source = Recorder(Schedule(1, 1, 1, 1)), Numbers(100, frozenset())
    player = Player(model, source, 0, 100)
    for n in reversed(range(100)):
        player.frame(n)
    assert model.steps < 100 * 3


def test_a_failed_step_leaves_no_half_advanced_state() -> None:
    model, source = Recorder(Schedule(25, 21, 8, 8)), Numbers(100, frozenset())
    player = Player(model, source, 0, 100)
    player.frame(30)
    model.fail_at = 45
    with pytest.raises(RuntimeError, match="broke"):
        player.frame(40)
    model.fail_at = None
    assert player.frame(40) == expected(40, source, model.schedule, 0, 100)


def test_a_step_that_emits_another_number_of_frames_is_refused() -> None:
    player = Player(Recorder(Schedule(1, 1, 1, 1)), Numbers(9, frozenset()), 0, 9)
    player.come([0])
    job = player.stream.next(0)
    assert isinstance(job, Job)
    with pytest.raises(FlashsrError, match="emitted 2 frames in step 0"):
        player.stream.put(job, [player.source.number(0)] * 2, (), 1, ())


def test_kept_frames_are_bounded_in_bytes_but_for_those_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "KEPT_BYTES", 40)
    model, source = Recorder(Schedule(1, 1, 1, 1)), Numbers(100, frozenset())
    player = Player(model, source, 0, 100)
    for n in range(100):
        player.frame(n, waited={3, 4})
        assert len(player.stream._kept) <= 10
        assert len(player.stream._cursors) <= stream_module.STATES
        assert n < 4 or player.stream.result(3) is not None
