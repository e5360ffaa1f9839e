"""How far a build has come: the phases of `IProgressMonitor` as one number, and lines in the log."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BuildStatus:
    """A build at some moment."""

    label: str
    phase: str
    """What TensorRT calls what it is doing."""
    fraction: float
    """Done, 0..1; it never goes back. Phases take very different times, so it says that something happens, not when it ends."""
    seconds: float
    """Since the build began."""
    finished: bool = False


type Progress = Callable[[BuildStatus], None]
"""Told about ten times a second, in the thread that asked for the engine, and once more when the engine is there."""


@dataclass(slots=True)
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


@dataclass(slots=True)
class Phases:
    """The state of a build's nested phases. TensorRT calls from threads of its own."""

    _open: dict[str, _Phase] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _reached: float = 0.0
    _name: str = ""

    def start(self, name: str, parent: str | None, steps: int) -> None:
        with self._lock:
            self._open[name] = _Phase(parent, max(steps, 1))
            self._name = name

    def step(self, name: str, index: int) -> None:
        with self._lock:
            if (phase := self._open.get(name)) is not None:
                phase.done = max(phase.done, index + 1)
                self._reached = max(self._reached, self._fraction())

    def finish(self, name: str) -> None:
        with self._lock:
            if (phase := self._open.pop(name, None)) is not None and phase.parent in self._open:
                self._name = phase.parent

    def now(self) -> tuple[str, float]:
        """(phase, fraction)."""
        with self._lock:
            return self._name, self._reached

    def _fraction(self) -> float:
        """Along the chain of phases that are open: a phase fills the current step of its parent."""
        children = {phase.parent: phase for phase in self._open.values()}
        total, weight, parent = 0.0, 1.0, None
        for _ in range(len(self._open)):
            if (phase := children.get(parent)) is None:
                break
            total += weight * min(phase.done, phase.steps) / phase.steps
            weight /= phase.steps
            parent = next(name for name, p in self._open.items() if p is phase)
        return min(total, 1.0)


class LogProgress:
    """Lines in the log, one every `every_s` seconds at most; a build that is done before that says nothing."""

    def __init__(self, every_s: float = 5.0) -> None:
        self._every_s = every_s
        self._next_s = every_s

    def __call__(self, status: BuildStatus) -> None:
        if status.finished:
            if self._next_s > self._every_s:
                log.info("the engine %r is built, it took %.0f s", status.label, status.seconds)
            self._next_s = self._every_s
        elif status.seconds >= self._next_s:
            log.info(
                "building the engine %r: %.0f %%, %.0f s (once for this GPU and size)",
                status.label, 100 * status.fraction, status.seconds,
            )  # fmt: skip
            self._next_s = status.seconds + self._every_s


def monitor_class(module: Any) -> Any:
    """The module's `IProgressMonitor`, which fills `phases` and ends the build once `cancelled` is set."""

    class Monitor(module.IProgressMonitor):  # type: ignore[misc]  # a base class that is only known at run time
        def __init__(self, phases: Phases, cancelled: threading.Event) -> None:
            module.IProgressMonitor.__init__(self)
            self._phases, self._cancelled = phases, cancelled

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._phases.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._phases.step(phase_name, step)
            return not self._cancelled.is_set()

        def phase_finish(self, phase_name: str) -> None:
            self._phases.finish(phase_name)

    return Monitor
