"""Frames that are not there yet when a step returns: whoever takes them waits for the device, or has them made."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from ..geometry import Array
from ..model import Frame
from ..runtimes.graph import Value

IN_FLIGHT = 1
"""Steps submitted before the frames of the one before are fetched."""
_AT_ONCE = threading.Semaphore(2)
"""Frames made at once where each is made for itself: where one thread of a graph works, another graph uses the other cores. No
more, since each takes a graph's memory."""


def emitted(
    made: Value, finish: Callable[[Array], Sequence[Array]], count: int, nbytes: int, *, pending: bool
) -> Sequence[Frame]:
    """A step's ``count`` frames of ``nbytes`` each, which ``finish`` makes of a graph's result: now, or when they are taken."""
    if not pending:
        return finish(made.numpy())
    step = _Step(lambda: finish(made.numpy()))
    return [_Later(step, index, nbytes) for index in range(count)]


def made_when_taken(make: Callable[[], Array], nbytes: int) -> Frame:
    """A frame of ``nbytes`` that needs no state and leaves none: made by whoever takes it, beside others."""

    def limited() -> Sequence[Array]:
        with _AT_ONCE:
            return [make()]

    return _Later(_Step(limited), 0, nbytes)


class _Step:
    """The frames of one step."""

    def __init__(self, make: Callable[[], Sequence[Array]]) -> None:
        self._make: Callable[[], Sequence[Array]] | None = make
        self._frames: Sequence[Array] = ()
        self._lock = threading.Lock()

    def frames(self) -> Sequence[Array]:
        """Waits for them, once; what they are made of is let go of."""
        with self._lock:
            if self._make is not None:
                self._frames = self._make()
                self._make = None
        return self._frames


class _Later:
    """See ``model.Pending``."""

    def __init__(self, step: _Step, index: int, nbytes: int) -> None:
        self._step, self._index, self.nbytes = step, index, nbytes

    def array(self) -> Array:
        """See ``model.Pending.array``."""
        return self._step.frames()[self._index]
