"""Frames of a causal model in any order: finds the segment, replays where the state isn't there, keeps a little.

Output frame n is a function of the source, the model and n alone. State is therefore addressed by where its run began and
how many steps it has made, never by the order in which frames were asked for.

The stream neither fetches frames nor calls the model: it says what comes next for frame n (``Done``, ``Missing`` frames,
or a ``Job`` for the model), and is told what came of it. So it can be asked while the model works, and nothing in it waits.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from .errors import FlashsrError
from .model import Frame, Given, ModelSpec
from .schedule import Step
from .segments import CutTest, Segment, Undecided, segment_of

KEPT_BYTES = 256 << 20
"""Finished frames kept for back-steps and neighbours: 30 frames of 1920x1080 luma."""
KEPT_FRAMES = 48
STATE_BYTES = 512 << 20
"""States kept for readers at different places of the clip (``Interleave([out, out[30:]])``)."""
STATES = 4
ROUND_FRAMES = 16
"""Frames asked for at once while a run is replayed, unless one step reads more: enough for the filters before this one to
work side by side, few enough to hold. So far back cuts are looked for at once, too."""
NEAR_FRAMES = 32
"""A frame so far ahead of a run's state will be made from it soon: what its step reads is worth fetching already.
Requests come up to 12 frames out of order even in a linear run, and up to one for each thread ahead."""


class Source(Protocol):
    """The clip in the model's format, as far as its frames have come."""

    @property
    def num_frames(self) -> int: ...

    def frame(self, n: int) -> Given | None:
        """Frame n, (C, h, w), if it is at hand."""

    def is_cut(self, n: int) -> bool | None:
        """Does a new shot begin with frame n (0 < n < num_frames)? A function of the clip and n alone; None: not known yet."""

    def unseen(self, n: int) -> Iterable[int]:
        """The frames that have to be seen before ``is_cut(n)`` is known."""


@dataclass(frozen=True, slots=True)
class Done:
    """The frame is finished: ``CausalStream.result`` gives it."""


@dataclass(frozen=True, slots=True)
class Missing:
    """Frames of the source have to come first."""

    frames: tuple[int, ...]
    """These, in order."""
    keep: frozenset[int]
    """And these, which are at hand, have to stay."""


@dataclass(slots=True)
class Cursor[State]:
    """A run in progress: where it began, the next step to make and the state to make it with."""

    segment: Segment
    next_step: int = 0
    state: State | None = None
    last: int | None = None
    """The shot's last frame, once a step has come near enough to see it; reads beyond repeat it."""

    @property
    def run(self) -> int:
        """Which run it is of."""
        return self.segment.first

    @property
    def run_start(self) -> int:
        """Where offsets count from."""
        return self.segment.run_start


@dataclass(frozen=True, slots=True)
class Job[State]:
    """One call of the model. It is taken out of the stream, so that a step that fails leaves no half-advanced state behind."""

    wanted: int
    step: Step
    frames: Sequence[Given]
    numbers: Sequence[int]
    cursor: Cursor[State]

    @property
    def reads(self) -> range:
        """The source's frames up to which this and the steps before it have read."""
        return range(self.cursor.run, self.cursor.run_start + self.step.reads.stop)


class CausalStream[State]:
    """Random access to the output of a causal model over ``source``.

    Methods take no time worth mentioning; they must not overlap. Between a ``Job`` and its ``put`` or ``fail`` no other may
    be asked for, but ``ahead`` and ``result`` may.
    """

    def __init__(self, spec: ModelSpec, source: Source, *, preroll: int, max_segment: int) -> None:
        self._spec = spec
        self._source = source
        self._preroll = preroll
        self._max_segment = max_segment
        self._cursors: OrderedDict[tuple[int, int], Cursor[State]] = OrderedDict()
        self._working: tuple[int, int] | None = None
        """Run and index of the step that the model is making."""
        self._state_bytes = 0
        self._kept: OrderedDict[int, Frame] = OrderedDict()

    def next(self, n: int) -> Done | Missing | Job[State]:
        """What has to happen next for output frame ``n`` to be finished."""
        if n in self._kept:
            self._kept.move_to_end(n)
            return Done()
        segment = self._segment(n)
        if isinstance(segment, Undecided):
            return self._missing_for_cuts(segment)
        target = self._spec.schedule.index_of(n - segment.run_start)
        cursor = self._furthest(segment.first, target) or Cursor(segment)
        step = self._spec.schedule.step(cursor.next_step)
        numbers = [cursor.run_start + offset for offset in step.reads]
        shown, unseen = self._shown(cursor, numbers)
        frames = [self._source.frame(k) for k in shown]
        if unseen or any(frame is None for frame in frames):
            return self._missing(cursor, target, unseen)
        if cursor.next_step == 0:
            # It takes the place of the one used longest ago, so that there are never more states than may be kept.
            self._drop_cursors(self._affordable() - 1)
        else:
            del self._cursors[cursor.run, cursor.next_step]
        self._working = cursor.run, cursor.next_step
        return Job(n, step, [frame for frame in frames if frame is not None], numbers, cursor)

    def put(
        self, job: Job[State], emitted: Sequence[Frame], state: State, state_bytes: int, waited: Collection[int]
    ) -> None:
        """What the model made of a job.

        Args:
            job: as ``next`` gave it.
            emitted: the finished frames.
            state: the state after the step, which costs ``state_bytes``.
            waited: frames that somebody is about to take: they are kept.

        Raises:
            FlashsrError: the step emitted too many frames, or too few.
        """
        self._working = None
        cursor, step = job.cursor, job.step
        if len(emitted) != len(step.emits):
            raise FlashsrError(
                f"the model emitted {len(emitted)} frames in step {step.index}, its schedule says {len(step.emits)}; "
                "correct the bundle"
            )
        cursor.state = state
        cursor.next_step += 1
        self._state_bytes = state_bytes
        self._cursors[cursor.run, cursor.next_step] = cursor
        self._drop_cursors(self._affordable())
        for offset, frame in zip(step.emits, emitted, strict=True):
            n = cursor.run_start + offset
            if n not in self._kept and (n == job.wanted or self._delivers(cursor, n)):
                self._kept[n] = frame
        self._forget(len(emitted), emitted[0].nbytes, {job.wanted, *waited})

    def fail(self, job: Job[State]) -> None:
        """The model couldn't do it. Its state is gone."""
        self._working = None

    def result(self, n: int) -> Frame | None:
        """Output frame ``n``, (C, scale*h, scale*w), if it is finished and kept. Don't write into it."""
        return self._kept.get(n)

    def ahead(self, n: int) -> list[int]:
        """The frames that ``next(n)`` will want if frames are taken in order, best fetched before; only a guess.

        Those at hand, and those that only a replay reads, are left out.
        """
        if n in self._kept:
            return []
        schedule, end = self._spec.schedule, self._source.num_frames
        segment = self._segment_of(n, lambda k: bool(self._source.is_cut(k)))
        assert isinstance(segment, Segment)
        run, target = segment.first, schedule.index_of(n - segment.run_start)
        cursor = self._furthest(run, target)
        reached = 0 if cursor is None else cursor.next_step
        if self._working is not None and self._working[0] == run and reached <= self._working[1] <= target:
            reached = self._working[1] + 1
        if reached > target or schedule.step(target).emits.start - schedule.step(reached).emits.start > NEAR_FRAMES:
            return []
        reads = [max(segment.run_start + offset, run) for offset in schedule.step(target).reads]
        last = end - 1 if cursor is None or cursor.last is None else cursor.last
        wanted = {min(k, last) for k in reads if self._source.frame(min(k, last)) is None}
        for k in {n, *reads}:
            if run < k <= last and self._source.is_cut(k) is None:
                wanted.update(self._source.unseen(k))
        return sorted(wanted)

    def _segment(self, n: int) -> Segment | Undecided:
        return self._segment_of(n, self._source.is_cut)

    def _segment_of(self, n: int, is_cut: CutTest) -> Segment | Undecided:
        return segment_of(n, is_cut, preroll=self._preroll, max_segment=self._max_segment, chunk=self._spec.chunk)

    def _missing_for_cuts(self, undecided: Undecided) -> Missing:
        """What tells whether there is a cut at that frame or, going back, at one of those before it."""
        first = max(undecided.first, undecided.at - ROUND_FRAMES + 1)
        unknown = [k for k in range(first, undecided.at + 1) if self._source.is_cut(k) is None]
        return Missing(tuple(sorted({m for k in unknown for m in self._source.unseen(k)})), frozenset())

    def _missing(self, cursor: Cursor[State], target: int, unseen: set[int]) -> Missing:
        """What the cursor's next step waits for, and steps after it up to ``target`` as far as they fit into a round."""
        frames: set[int] = set(unseen)
        keep: set[int] = set()
        for index in range(cursor.next_step, target + 1):
            reads = [cursor.run_start + offset for offset in self._spec.schedule.step(index).reads]
            shown, unknown = self._shown(cursor, reads)
            wanted = {k for k in shown if self._source.frame(k) is None} | unknown
            if index > cursor.next_step and len(frames | keep | wanted | set(shown)) > ROUND_FRAMES:
                break
            frames |= wanted
            keep.update(set(shown) - wanted)
            if unknown:
                break  # where the shot ends isn't known yet, so neither is what later steps read
        return Missing(tuple(sorted(frames)), frozenset(keep))

    def _shown(self, cursor: Cursor[State], numbers: Sequence[int]) -> tuple[list[int], set[int]]:
        """The frame to read for each position: itself, or the shot's first or last where it lies outside.

        Where that isn't known yet the list ends; the set then has the frames that are to be seen, or likely to be read.
        """
        shown: list[int] = []
        end = self._source.num_frames
        for k in numbers:
            if cursor.last is None:
                if k >= end:
                    cursor.last = end - 1
                elif k > cursor.run:
                    begins = self._source.is_cut(k)
                    if begins is None:
                        rest = [j for j in numbers if k <= j < end]
                        undecided = [j for j in rest if self._source.is_cut(j) is None]
                        unseen = {m for j in undecided for m in self._source.unseen(j)}
                        return shown, unseen | {j for j in rest if self._source.frame(j) is None}
                    if begins:
                        cursor.last = k - 1
            shown.append(max(cursor.run, k if cursor.last is None else min(k, cursor.last)))
        return shown, set()

    def _furthest(self, run: int, target: int) -> Cursor[State] | None:
        """The furthest state of this run that hasn't gone past ``target``."""
        steps = [step for of, step in self._cursors if of == run and step <= target]
        return self._cursors[run, max(steps)] if steps else None

    def _affordable(self) -> int:
        return max(1, min(STATES, STATE_BYTES // max(1, self._state_bytes)))

    def _drop_cursors(self, most: int) -> None:
        while len(self._cursors) > most:
            self._cursors.popitem(last=False)

    def _delivers(self, cursor: Cursor[State], n: int) -> bool:
        """Is frame ``n`` this run's to deliver? Else it is preroll or padding, and another run delivers it."""
        if n >= self._source.num_frames or (cursor.last is not None and n > cursor.last):
            return False
        owner = self._segment(n)
        return isinstance(owner, Segment) and owner.first == cursor.run

    def _forget(self, emitted: int, frame_bytes: int, waited: Collection[int]) -> None:
        """Drop the frames used longest ago; never the last two steps, those in flight, nor any that somebody waits for."""
        room = kept_frames(self._spec, emitted, frame_bytes)
        for n in list(self._kept):
            if len(self._kept) <= room:
                return
            if n not in waited:
                del self._kept[n]


def kept_frames(spec: ModelSpec, emitted: int, frame_bytes: int) -> int:
    """Finished frames that are kept where a step emits so many: at the least the last two steps' and those in flight."""
    return max((2 + spec.in_flight) * emitted, min(KEPT_FRAMES, KEPT_BYTES // frame_bytes))
