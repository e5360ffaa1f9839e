"""SwiftVR on a device as the filter's ``Model``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from ....geometry import Array
from ....gpu.pipeline import RunState
from ....gpu.results import PendingFrame
from ....model import ModelSpec
from ..step import DROPPED_FRAMES
from .memory import IN_FLIGHT
from .step import DeviceStep


class DeviceSwiftVRModel:
    """See ``SwiftVRModel``.

    Args:
        spec: of the model at the factor of the pre-upscale.
        step: the opened step.
    """

    def __init__(self, spec: ModelSpec, step: DeviceStep) -> None:
        self.spec = replace(spec, in_flight=IN_FLIGHT)
        self._step = step
        self.memory = step.memory

    def step(
        self, frames: Sequence[Array], numbers: Sequence[int], state: RunState | None
    ) -> tuple[list[PendingFrame], RunState]:
        """See ``Model.step``: queued, not waited for. ``numbers`` don't matter: nothing here is random."""
        emits = len(frames) - (DROPPED_FRAMES if state is None else 0)
        result, state = self._step.submit(frames, state)
        return result.frames(emits, 4 * 3 * math.prod(self._step.shape.out)), state

    def state_bytes(self, state: RunState) -> int:
        """All of one run's buffers."""
        return self._step.state_bytes()
