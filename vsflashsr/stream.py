"""Frames of a causal model in any order: finds the segment, replays where the state isn't there, keeps a little.

Output frame n is a function of the source, the model and n alone. State is therefore addressed by where its run began and
how many steps it has made, never by the order in which frames were asked for. Knows nothing of what a model does.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .errors import FlashsrError
from .geometry import Array
from .model import Frame, Model, fetched
from .segments import Segment, segment_of

KEPT_BYTES = 256 << 20
"""Finished frames kept for back-steps and neighbours: 30 frames of 1920x1080 luma."""
KEPT_FRAMES = 48
STATE_BYTES = 512 << 20
"""States kept for readers at different places of the clip (``Interleave([out, out[30:]])``)."""
STATES = 4


_log = logging.getLogger(__name__)


class Source(Protocol):
    """The clip in the model's format."""

    @property
    def num_frames(self) -> int: ...

    def frame(self, n: int) -> Array:
        """Frame n, (C, h, w)."""

    def is_cut(self, n: int) -> bool:
        """Does a new shot begin with frame n (0 < n < num_frames)? A function of the clip and n alone."""


@dataclass(slots=True)
class _Cursor[State]:
    """A run in progress: where it began, the next step to make and the state to make it with."""

    run_start: int
    next_step: int = 0
    state: State | None = None
    last: int | None = None
    """The shot's last frame, once a step has come near enough to see it; reads beyond repeat it."""


class CausalStream[State]:
    """Random access to the output of a causal model over ``source``. Not for concurrent callers.

    A model with steps in flight gets its next ones while frames are taken in order: the device works on them while this
    one's are fetched. What a frame is doesn't depend on it, and neither does whether it can be had.
    """

    def __init__(self, model: Model[State], source: Source, *, preroll: int, max_segment: int) -> None:
        self._model = model
        self._source = source
        self._preroll = preroll
        self._max_segment = max_segment
        self._cursors: OrderedDict[tuple[int, int], _Cursor[State]] = OrderedDict()
        self._state_bytes = 0
        self._kept: OrderedDict[int, Frame] = OrderedDict()
        self._latest = (0, -1)
        """Run and step of the frame asked for last."""

    def frame(self, n: int) -> Array:
        """Output frame ``n``, (C, scale*h, scale*w). Don't write into it."""
        if n not in self._kept:
            segment, target = self._place(n)
            cursor = self._take_cursor(segment, target)
            while cursor.next_step <= target:
                self._advance(cursor, wanted=n)
            self._put_cursor(cursor)
        self._kept.move_to_end(n)
        if self._model.spec.in_flight:
            self._look_ahead(n)
        return self._fetched(n)

    def _place(self, n: int) -> tuple[Segment, int]:
        """The segment that delivers frame ``n``, and which of its run's steps does."""
        segment = segment_of(n, self._source.is_cut, preroll=self._preroll, max_segment=self._max_segment)
        return segment, self._model.spec.schedule.index_of(n - segment.run_start)

    def _fetched(self, n: int) -> Array:
        kept = self._kept[n]
        frame = fetched(kept)
        if frame is not kept:
            _check_finite(frame, n)
            self._kept[n] = frame
        return frame

    def _look_ahead(self, n: int) -> None:
        """Submits the steps after that of frame ``n``, as many as the model wants in flight, if frames are taken in order."""
        segment, target = self._place(n)
        run, before = self._latest
        self._latest = segment.run_start, target
        if run != segment.run_start or target not in (before, before + 1):
            return
        last = target + self._model.spec.in_flight
        reached = [step for run, step in self._cursors if run == segment.run_start and target < step <= last]
        if not reached:
            return
        cursor = self._cursors.pop((segment.run_start, max(reached)))
        try:
            while cursor.next_step <= last and self._delivers(cursor):
                self._advance(cursor, wanted=n)
        except Exception as error:  # noqa: BLE001  # nobody has asked for these frames yet: raised again when somebody does
            _log.debug("step %d of the run at frame %d can't be made ahead: %s", cursor.next_step, cursor.run_start, error)
            return
        self._put_cursor(cursor)

    def _delivers(self, cursor: _Cursor[State]) -> bool:
        """Would the cursor's next step finish a frame that its own segment delivers?"""
        step = self._model.spec.schedule.step(cursor.next_step)
        n = cursor.run_start + step.emits.start
        if n >= self._source.num_frames or (cursor.last is not None and n > cursor.last):
            return False
        return self._place(n)[0].run_start == cursor.run_start

    def _take_cursor(self, segment: Segment, target: int) -> _Cursor[State]:
        """The furthest state of this run that hasn't gone past ``target``, else a cold one.

        It is taken out, so that a step that fails leaves no half-advanced cursor behind. A cold one takes the place of the
        one used longest ago first, so that there are never more states than may be kept.
        """
        steps = [step for run, step in self._cursors if run == segment.run_start and step <= target]
        if steps:
            return self._cursors.pop((segment.run_start, max(steps)))
        self._drop_cursors(self._affordable() - 1)
        return _Cursor(segment.run_start)

    def _put_cursor(self, cursor: _Cursor[State]) -> None:
        self._cursors[cursor.run_start, cursor.next_step] = cursor
        assert cursor.state is not None
        self._state_bytes = self._model.state_bytes(cursor.state)
        self._drop_cursors(self._affordable())

    def _affordable(self) -> int:
        return max(1, min(STATES, STATE_BYTES // max(1, self._state_bytes)))

    def _drop_cursors(self, most: int) -> None:
        while len(self._cursors) > most:
            self._cursors.popitem(last=False)

    def _advance(self, cursor: _Cursor[State], *, wanted: int) -> None:
        """Make the cursor's next step and keep what it finishes."""
        step = self._model.spec.schedule.step(cursor.next_step)
        numbers = [cursor.run_start + offset for offset in step.reads]
        frames = [self._source.frame(self._shown(cursor, k)) for k in numbers]
        emitted, cursor.state = self._model.step(frames, numbers, cursor.state)
        cursor.next_step += 1
        if len(emitted) != len(step.emits):
            raise FlashsrError(
                f"the model emitted {len(emitted)} frames in step {step.index}, its schedule says {len(step.emits)}; "
                "correct the bundle"
            )
        for offset, frame in zip(step.emits, emitted, strict=True):
            self._keep(cursor, cursor.run_start + offset, frame)
        self._forget(len(emitted), emitted[0].nbytes, wanted)

    def _shown(self, cursor: _Cursor[State], k: int) -> int:
        """The frame to read for position ``k``: k itself, or the shot's last frame where the shot has ended."""
        if cursor.last is None:
            if k >= self._source.num_frames:
                cursor.last = self._source.num_frames - 1
            elif k > cursor.run_start and self._source.is_cut(k):
                cursor.last = k - 1
        return k if cursor.last is None else cursor.last

    def _keep(self, cursor: _Cursor[State], n: int, frame: Frame) -> None:
        """Keep a finished frame, unless it is preroll or padding, that is: unless another run delivers it."""
        if n >= self._source.num_frames or (cursor.last is not None and n > cursor.last) or n in self._kept:
            return
        owner = segment_of(n, self._source.is_cut, preroll=self._preroll, max_segment=self._max_segment)
        if owner.run_start != cursor.run_start:
            return
        if isinstance(frame, np.ndarray):
            _check_finite(frame, n)
        self._kept[n] = frame

    def _forget(self, emitted: int, frame_bytes: int, wanted: int) -> None:
        """Drop the frames that were used longest ago; never the last two steps, those in flight, nor the one waited for."""
        room = max((2 + self._model.spec.in_flight) * emitted, min(KEPT_FRAMES, KEPT_BYTES // frame_bytes))
        for n in list(self._kept):
            if len(self._kept) <= room:
                return
            if n != wanted:
                del self._kept[n]


def _check_finite(frame: Array, n: int) -> None:
    # A sum passes NaN and infinity on, and costs 0.9 ms for 1920x1080 where isfinite costs 3.
    if not np.isfinite(frame.sum(dtype=np.float32)):
        raise FlashsrError(
            f"the model put out a value that is not finite (NaN or infinity) in frame {n}; "
            "its weights are damaged or its precision is too low: get the bundle again, or use precision='fp32'"
        )
