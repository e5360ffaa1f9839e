"""An engine's build that stands still at its first step, so that what happens then depends on no machine's speed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from vsflashsr.runtimes.engines import build
from vsflashsr.runtimes.engines.progress import monitor_class


@dataclass(eq=False)
class HeldBuild:
    """Builds, once `take_over` was called."""

    reached: Callable[[], object]
    """Called in TensorRT's thread, which stands still from then on."""
    deaf: bool
    """Does it go on only when `released` is set, as in the time in which TensorRT makes no step? Else when it is cancelled."""
    released: threading.Event = field(default_factory=threading.Event)
    answers: list[bool] = field(default_factory=list)
    """What TensorRT was told at each step after it stood still: go on?"""

    def take_over(self) -> HeldBuild:
        """Every build of this process from now on, until ``mock.patch.stopall``."""
        mock.patch.object(build, "monitor_class", self._monitor).start()
        return self

    def _monitor(self, module: Any) -> Any:
        held, lock, first = self, threading.Lock(), [True]

        class Held(monitor_class(module)):  # type: ignore[misc]  # a base class that is only known at run time
            def step_complete(self, phase_name: str, step: int) -> bool:
                with lock:
                    if first:
                        first.clear()
                        held.reached()
                        (held.released if held.deaf else self._cancelled).wait()
                answer: bool = super().step_complete(phase_name, step)
                held.answers.append(answer)
                return answer

        return Held
