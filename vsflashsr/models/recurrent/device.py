"""Recurrent and single-frame graphs on a device: state stays there, several steps are in flight."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...bundle import StateSpec
from ...errors import FlashsrError
from ...geometry import Array, pad, padded
from ...gpu.budget import MemoryPlan
from ...gpu.inputs import InputSlot
from ...gpu.replay import Replay
from ...gpu.results import PendingFrame, ResultSlot
from ...gpu.staging import StagingRing
from ...model import ModelSpec
from ...runtimes.graph import DeviceGraph, PreparedGraph, Shape
from .host import NEXT, STATE

if TYPE_CHECKING:
    from ...gpu.device import Buffer, Device, Stream

IN_FLIGHT = 3
"""Steps submitted ahead: one being uploaded, one running, one being fetched."""


@dataclass(frozen=True, slots=True)
class DeviceGraphs:
    """What a recurrent model runs: ``step`` with state in and out, ``first`` without state in."""

    step: DeviceGraph
    first: DeviceGraph | None
    frames: str
    """Name of the input with the frames."""
    out: str
    """Name of the output with the frames."""
    states: tuple[StateSpec, ...] = ()
    size_multiple: int = 1
    value_range: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True, slots=True)
class _Call:
    """A graph for the model's size, with the shapes of its frames."""

    graph: PreparedGraph
    reads: Shape
    reads_dtype: np.dtype[Any]
    makes: Shape
    makes_dtype: np.dtype[Any]

    @property
    def in_bytes(self) -> int:
        return int(np.prod(self.reads)) * self.reads_dtype.itemsize

    @property
    def out_bytes(self) -> int:
        return int(np.prod(self.makes)) * self.makes_dtype.itemsize


class DeviceState:
    """One run's state, in two sets of tensors of which each step reads one and writes the other.

    Its memory goes back to the model when nobody holds it any more.
    """

    def __init__(self, memory: _StateMemory) -> None:
        self.memory = memory
        self.side = 0


class _StateMemory:
    def __init__(self, device: Device, sizes: Mapping[str, int]) -> None:
        self.sides: tuple[dict[str, Buffer], dict[str, Buffer]] = (
            {name: device.alloc(size) for name, size in sizes.items()},
            {name: device.alloc(size) for name, size in sizes.items()},
        )
        self.replays: dict[tuple[bool, int, int], Replay] = {}
        """Captured work, by (first step?, side, ring slot): the addresses are baked into it."""


class DeviceRecurrentModel:
    """A recurrent model, or a single-frame one (no states), on a device, for frames of one size.

    Args:
        device: where.
        spec: of the model; ``in_flight`` is set here.
        graphs: what it runs.
        size: (height, width) of the low-resolution frames.
        runs: states that are held at once.
        captured: replay steps as CUDA graphs.
        remedy: what a user can do where the memory doesn't suffice.

    Raises:
        FlashsrError: the graphs don't fit their description or the size, or the device has too little memory.
    """

    def __init__(
        self,
        device: Device,
        spec: ModelSpec,
        graphs: DeviceGraphs,
        size: tuple[int, int],
        *,
        runs: int = 1,
        captured: bool = True,
        remedy: str = "use tile=, such as tile=512",
    ) -> None:
        self._device, self._graphs, self._size, self._captured = device, graphs, size, captured
        self.spec = replace(spec, in_flight=IN_FLIGHT)
        device.make_current()
        rows, columns = (padded(side, graphs.size_multiple) for side in size)
        self._rows, self._columns = rows, columns
        self._state_sizes = {
            s.name: int(np.prod(s.resolve(rows, columns))) * np.dtype(s.dtype).itemsize for s in graphs.states
        }
        self._step = self._prepared(graphs.step, spec.schedule.reads, spec.schedule.emits, cold=False)
        cold = graphs.first is not None or spec.schedule.first_reads != spec.schedule.reads
        self._first = (
            self._prepared(
                graphs.first or graphs.step,
                spec.schedule.first_reads,
                spec.schedule.first_emits,
                cold=graphs.first is not None,
            )
            if cold
            else self._step
        )
        calls = {self._step, self._first}
        in_bytes, out_bytes = max(c.in_bytes for c in calls), max(c.out_bytes for c in calls)
        scratch_bytes = max(c.graph.scratch_bytes for c in calls)
        self.memory = MemoryPlan(
            {
                "frames": (IN_FLIGHT + 1) * (in_bytes + out_bytes),
                "weights": graphs.step.weights_bytes + (graphs.first.weights_bytes if graphs.first else 0),
                "state": runs * 2 * sum(self._state_sizes.values()),
                "engine scratch": scratch_bytes,
            }
        )
        # The weights are there already.
        self.memory.require(device.free_bytes(), remedy, taken_bytes=self.memory.items["weights"])
        self._uploader, self._stream, self._copier = (device.stream() for _ in range(3))
        self._scratch = device.alloc(max(1, scratch_bytes))
        self._staging = StagingRing(device, in_bytes, IN_FLIGHT + 1)
        self._inputs = [InputSlot(device, in_bytes) for _ in range(IN_FLIGHT + 1)]
        self._results = [ResultSlot(device, out_bytes) for _ in range(IN_FLIGHT + 1)]
        self._made = [device.event() for _ in range(IN_FLIGHT + 1)]
        self._free: deque[_StateMemory] = deque()
        self._steps = 0

    def step(
        self, frames: Sequence[Array], numbers: Sequence[int], state: DeviceState | None
    ) -> tuple[list[PendingFrame], DeviceState]:
        """See ``Model.step``: queued, not waited for."""
        self._device.make_current()
        slot = self._steps % (IN_FLIGHT + 1)
        self._steps += 1
        first = state is None
        call = self._first if first else self._step
        if state is None:
            state = self._cold_state()
        given = self._inputs[slot]
        given.send(self._staging, self._uploader, call.in_bytes, lambda raw: self._fill(raw, call, frames))
        result = self._results[slot]
        result.clear(self._stream)
        self._stream.wait(given.copied)
        self._run(state, call, first, slot)
        self._stream.record(given.read)
        self._stream.record(self._made[slot])
        state.side = 1 - state.side
        done = result.send(self._made[slot], self._copier, call.out_bytes, lambda raw: self._unpacked(raw, call))
        height, width = (side * self.spec.scale for side in self._size)
        return done.frames(call.makes[0], call.makes[1] * height * width * 4), state

    def state_bytes(self, state: DeviceState) -> int:
        """Both sets."""
        return 2 * sum(self._state_sizes.values())

    def _cold_state(self) -> DeviceState:
        memory = self._free.popleft() if self._free else _StateMemory(self._device, self._state_sizes)
        state = DeviceState(memory)
        weakref.finalize(state, self._free.append, memory)
        if self._graphs.first is None:
            for buffer in memory.sides[0].values():
                self._stream.zero(buffer)
        return state

    def _fill(self, raw: NDArray[np.uint8], call: _Call, frames: Sequence[Array]) -> None:
        """The frames as the graph reads them, into page-locked memory."""
        low, high = self._graphs.value_range
        for place, frame in zip(raw.view(call.reads_dtype).reshape(call.reads), frames, strict=True):
            whole = pad(frame, self._columns, self._rows)
            if (low, high) != (0.0, 1.0):
                whole = whole * np.float32(high - low) + np.float32(low)
            np.copyto(place, whole, casting="same_kind")

    def _run(self, state: DeviceState, call: _Call, first: bool, slot: int) -> None:
        # Where the first step runs the same graph on zeros, it is the same work.
        key = (first and self._first is not self._step, state.side, slot)
        replays = state.memory.replays
        if key not in replays:
            addresses = {
                self._graphs.frames: self._inputs[slot].buffer.address,
                self._graphs.out: self._results[slot].buffer.address,
            }
            before, after = state.memory.sides[state.side], state.memory.sides[1 - state.side]
            addresses |= {NEXT + name: buffer.address for name, buffer in after.items()}
            if not (first and self._graphs.first is not None):
                addresses |= {STATE + name: buffer.address for name, buffer in before.items()}
            scratch = self._scratch.address

            def enqueue(stream: Stream) -> None:
                call.graph.enqueue(stream, addresses, scratch)

            replays[key] = Replay(enqueue, captured=self._captured)
        replays[key](self._stream)

    def _unpacked(self, raw: NDArray[Any], call: _Call) -> list[Array]:
        height, width = (side * self.spec.scale for side in self._size)
        made = raw.view(call.makes_dtype).reshape(call.makes)[:, :, :height, :width].astype(np.float32)
        low, high = self._graphs.value_range
        if (low, high) != (0.0, 1.0):
            made = (made - np.float32(low)) / np.float32(high - low)
        return list(made)

    def _prepared(self, graph: DeviceGraph, reads: int, emits: int, *, cold: bool) -> _Call:
        """``graph`` for this size, checked."""
        names = self._graphs
        channels = 1 if self.spec.channels == "luma" else 3
        shapes: dict[str, Shape] = {names.frames: (reads, channels, self._rows, self._columns)}
        states = {s.name: s.resolve(self._rows, self._columns) for s in names.states}
        if not cold:
            shapes |= {STATE + name: shape for name, shape in states.items()}
        if set(shapes) != set(graph.inputs):
            raise FlashsrError(f"the engine reads {sorted(graph.inputs)}, expected {sorted(shapes)}; build it again")
        prepared = graph.prepare(shapes)
        wanted: dict[str, Shape] = {names.out: (emits, channels, self._rows * self.spec.scale, self._columns * self.spec.scale)}
        wanted |= {NEXT + name: shape for name, shape in states.items()}
        got = {name: tuple(shape) for name, shape in prepared.outputs.items()}
        if got != wanted:
            raise FlashsrError(
                f"the model makes {got} from {self._columns}x{self._rows}, expected {wanted}; correct the bundle"
            )
        return _Call(
            prepared,
            shapes[names.frames],
            graph.inputs[names.frames].dtype,
            wanted[names.out],
            graph.outputs[names.out].dtype,
        )
