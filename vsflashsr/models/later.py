"""Frames of a host graph whose call may not have ended: fetched by whoever takes them, while the next step is made."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from ..geometry import Array
from ..model import Frame
from ..runtimes.graph import Value

IN_FLIGHT = 1
"""Steps submitted before the frames of the one before are fetched."""


def emitted(
    made: Value, finish: Callable[[Array], Sequence[Array]], count: int, nbytes: int, *, pending: bool
) -> Sequence[Frame]:
    """A step's ``count`` frames of ``nbytes`` each, which ``finish`` makes of a graph's result: now, or when they are taken."""
    if not pending:
        return finish(made.numpy())
    step = _Step(made, finish)
    return [_Later(step, index, nbytes) for index in range(count)]


class _Step:
    """The frames of one step."""

    def __init__(self, made: Value, finish: Callable[[Array], Sequence[Array]]) -> None:
        self._made: Value | None = made
        self._finish = finish
        self._frames: Sequence[Array] = ()
        self._lock = threading.Lock()

    def frames(self) -> Sequence[Array]:
        """Waits for them, once; the device's memory is let go of."""
        with self._lock:
            if self._made is not None:
                self._frames = self._finish(self._made.numpy())
                self._made = None
        return self._frames


class _Later:
    """See ``model.Pending``."""

    def __init__(self, step: _Step, index: int, nbytes: int) -> None:
        self._step, self._index, self.nbytes = step, index, nbytes

    def array(self) -> Array:
        """See ``model.Pending.array``."""
        return self._step.frames()[self._index]
