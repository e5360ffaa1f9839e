"""Steps of a model on a device, several of them under way: uploaded on one stream, computed on others, fetched on a last one.

Everything is taken when it is made: rings of slots for what goes in and comes out, and memory for the runs that are held at
once. A model says what its stages queue; what waits for what is said here.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from ..errors import FlashsrError
from .device import Buffer, Device, Event, Stream
from .inputs import InputSlot
from .replay import Replay
from .results import ResultSlot


class RunMemory:
    """The buffers of one run's state, and the work that was captured on them."""

    def __init__(self, device: Device, sizes: Mapping[str, int]) -> None:
        self.buffers: dict[str, Buffer] = {name: device.alloc(size) for name, size in sizes.items()}
        self.replays: dict[Hashable, Replay] = {}


class RunState:
    """How far a run has come. Its memory serves the next run when nobody holds this any more."""

    def __init__(self, memory: RunMemory) -> None:
        self.memory = memory
        self.steps = 0
        """Steps that were submitted. The memory holds what the last of them leaves, and nothing older."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What a step does on one stream."""

    key: Hashable
    """Whenever it is the same for the same memory and slot, the work is the same to the last address."""
    enqueue: Callable[[Stream], None]


class Pipeline:
    """The streams, rings and runs of a model on a device.

    Args:
        device: where.
        in_flight: steps that may be submitted and not yet fetched.
        in_bytes: what goes in with a step, at most.
        out_bytes: what comes out of one, at most.
        run_bytes: the buffers of a run's state.
        runs: states that are held at once; more are allocated where they are asked for.
        stages: stages of a step, one behind the other. Each has its stream, so that neighbouring steps overlap.
        captured: replay stages as CUDA graphs; False for work that can't be captured.
    """

    def __init__(
        self,
        device: Device,
        *,
        in_flight: int,
        in_bytes: int,
        out_bytes: int,
        run_bytes: Mapping[str, int],
        runs: int,
        stages: int,
        captured: bool,
    ) -> None:
        self._device, self._run_bytes, self._captured = device, run_bytes, captured
        self._uploader, self._copier = device.stream(), device.stream()
        self._streams = [device.stream() for _ in range(stages)]
        slots = range(in_flight + 1)
        self._inputs = [InputSlot(device, in_bytes) for _ in slots]
        self._results = [ResultSlot(device, out_bytes) for _ in slots]
        self._done: list[list[Event]] = [[device.event() for _ in range(stages)] for _ in slots]
        self._free: deque[RunMemory] = deque(RunMemory(device, run_bytes) for _ in range(runs))
        self._submitted = 0

    @property
    def slot(self) -> int:
        """Where in its rings the next step will be."""
        return self._submitted % len(self._inputs)

    def given(self, slot: int) -> Buffer:
        """What the step in this slot reads."""
        return self._inputs[slot].buffer

    def makes(self, slot: int) -> Buffer:
        """What the step in this slot writes."""
        return self._results[slot].buffer

    def cold(self) -> RunState:
        """A run that begins; its memory holds anything."""
        memory = self._free.popleft() if self._free else RunMemory(self._device, self._run_bytes)
        state = RunState(memory)
        weakref.finalize(state, self._free.append, memory)
        return state

    def submit[Result](
        self,
        state: RunState,
        stages: Sequence[Stage],
        *,
        give: Callable[[InputSlot, Stream], None],
        take: Callable[[ResultSlot, Event, Stream], Result],
    ) -> Result:
        """Queue a step of a run in the slot `slot`; the state is the next step's when this returns.

        Args:
            state: of the run; changed.
            stages: as many as there are streams. The first reads the input, the last writes the result; what they hand over
                between them has to lie in memory of the slot, or of the run where only one of them uses it.
            give: queues what fills the input slot on the stream (``InputSlot.send`` or ``receive``).
            take: queues on the stream, behind the event, what becomes of the result slot (``ResultSlot.send`` or ``keep``).
        """
        try:
            return self._queued(state, stages, give, take)
        except BaseException:
            # Some of it may be queued, and the slot is going to be used again.
            for stream in (self._uploader, *self._streams, self._copier):
                with suppress(FlashsrError):
                    stream.synchronize()
            raise

    def _queued[Result](
        self,
        state: RunState,
        stages: Sequence[Stage],
        give: Callable[[InputSlot, Stream], None],
        take: Callable[[ResultSlot, Event, Stream], Result],
    ) -> Result:
        slot = self.slot
        given, made, done = self._inputs[slot], self._results[slot], self._done[slot]
        for other in self._inputs:
            other.let_go()
        give(given, self._uploader)
        made.clear(self._streams[-1])
        before = given.copied
        for number, (stage, stream) in enumerate(zip(stages, self._streams, strict=True)):
            stream.wait(before)
            key = number, slot, stage.key
            state.memory.replays.setdefault(key, Replay(stage.enqueue, captured=self._captured))(stream)
            stream.record(done[number])
            before = done[number]
        # The last stage waited for the others: behind it nobody reads the input, or what lies between the stages.
        self._streams[-1].record(given.read)
        self._submitted += 1
        state.steps += 1
        return take(made, before, self._copier)
