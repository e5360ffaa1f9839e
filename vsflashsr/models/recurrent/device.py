"""Recurrent and single-frame graphs on a device: state stays there, several steps are in flight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import FlashsrError
from ...geometry import Array, Made, pad
from ...gpu.budget import MemoryPlan
from ...gpu.device import Device, Stream
from ...gpu.frames import DeviceFrame, FrameWork, KeptFrame, kept_bytes, planes_of
from ...gpu.kernels.planes import Levels, move
from ...gpu.pipeline import Pipeline, RunState, Stage
from ...model import Frame, Given, ModelSpec
from ...runtimes.graph import DeviceGraph, PreparedGraph, Shape, Shapes
from .host import NEXT, STATE

IN_FLIGHT = 3
"""Steps submitted ahead: one being uploaded, one running, one being fetched."""


@dataclass(frozen=True, slots=True)
class DeviceGraphs:
    """What a recurrent model runs: ``step`` with state in and out, ``first`` without state in."""

    step: DeviceGraph
    step_shapes: Shapes
    first: DeviceGraph | None
    first_shapes: Shapes
    """Of a run's first step, whichever graph makes it."""
    frames: str
    """Name of the input with the frames."""
    out: str
    """Name of the output with the frames."""
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
        self.device, self._graphs, self._size = device, graphs, size
        self._made_size = size[0] * spec.scale, size[1] * spec.scale
        self._work: FrameWork | None = None
        device.make_current()
        *_, self._rows, self._columns = graphs.step_shapes.inputs[graphs.frames]
        self._state_sizes = {
            name.removeprefix(NEXT): math.prod(shape) * graphs.step.outputs[name].dtype.itemsize
            for name, shape in graphs.step_shapes.outputs.items()
            if name != graphs.out
        }
        self._step = self._first = self._prepared(graphs.step, graphs.step_shapes)
        if graphs.first is not None or graphs.first_shapes != graphs.step_shapes:
            self._first = self._prepared(graphs.first or graphs.step, graphs.first_shapes)
        calls = {self._step, self._first}
        half = all(call.makes_dtype == np.float16 for call in calls) and graphs.value_range == (0.0, 1.0)
        self.spec = replace(spec, in_flight=IN_FLIGHT, half=half)
        in_bytes, out_bytes = max(c.in_bytes for c in calls), max(c.out_bytes for c in calls)
        scratch_bytes = max(c.graph.scratch_bytes for c in calls)
        self.memory = MemoryPlan(
            {
                "frames": (IN_FLIGHT + 1) * (in_bytes + out_bytes),
                "weights": graphs.step.weights_bytes + (graphs.first.weights_bytes if graphs.first else 0),
                "state": runs * 2 * sum(self._state_sizes.values()),
                "engine scratch": scratch_bytes,
                "runtime": max(c.graph.held_bytes for c in calls),
            }
        )
        # The weights are there already.
        self.memory.require(device.free_bytes(), remedy, taken_bytes=self.memory.items["weights"])
        self._scratch = device.alloc(max(1, scratch_bytes))
        # Two sets of each state, of which a step reads one and writes the other.
        self._pipeline = Pipeline(
            device,
            in_flight=IN_FLIGHT,
            in_bytes=in_bytes,
            out_bytes=out_bytes,
            run_bytes={f"{name}.{side}": size for name, size in self._state_sizes.items() for side in (0, 1)},
            runs=runs if self._state_sizes else 0,
            stages=1,
            captured=captured,
        )

    def step(
        self, frames: Sequence[Given], numbers: Sequence[int], state: RunState | None
    ) -> tuple[Sequence[Frame], RunState]:
        """See ``Model.step``: queued, not waited for."""
        self.device.make_current()
        first = state is None
        call = self._first if first else self._step
        if state is None:
            state = self._pipeline.cold()
        stages = [self._stage(state, call, first=first)]
        resident = [frame for frame in frames if isinstance(frame, DeviceFrame)]
        if resident:
            assert len(resident) == len(frames) and self._work is not None, "a clip is resident or it isn't"
            return self._resident(state, stages, call, resident, self._work), state
        arrays = [frame for frame in frames if not isinstance(frame, DeviceFrame)]
        done = self._pipeline.submit(
            state,
            stages,
            give=lambda slot, uploader: slot.send(uploader, call.in_bytes, lambda raw: self._fill(raw, call, arrays)),
            take=lambda slot, made, copier: slot.send(
                made, copier, call.out_bytes, lambda raw: self._unpacked(raw, call)
            ),
        )
        height, width = self._made_size
        return done.frames(call.makes[0], call.makes[1] * height * width * (2 if self.spec.half else 4)), state

    def stay(self, work: FrameWork) -> None:
        """See ``OnDevice.stay``."""
        self._work = work

    @property
    def kept_bytes(self) -> int:
        """See ``OnDevice.kept_bytes``."""
        height, width = self._made_size
        return kept_bytes(self._step.makes[1], height, width, self._step.makes_dtype)

    def _resident(
        self, state: RunState, stages: list[Stage], call: _Call, frames: Sequence[DeviceFrame], work: FrameWork
    ) -> list[KeptFrame]:
        """A step whose frames are on the device before it and stay there."""
        low, high = self._graphs.value_range
        given, made = self._pipeline.given(self._pipeline.slot), self._pipeline.makes(self._pipeline.slot)
        reads = planes_of(given.address, call.reads, call.reads_dtype)
        makes = planes_of(made.address, call.makes, call.makes_dtype)
        inwards = Levels(high - low, low)
        outwards = Levels(1 / (high - low), -low / (high - low))

        def unpack(stream: Stream) -> None:
            for frame, into in zip(frames, reads, strict=True):
                for source, out in zip(frame.surfaces, into, strict=True):
                    work.run(stream, move(source, out, self._size, (self._rows, self._columns), inwards))

        return self._pipeline.submit(
            state,
            stages,
            give=lambda slot, uploader: slot.receive(uploader, frames, unpack),
            take=lambda slot, done, copier: slot.keep(
                done,
                copier,
                lambda stream: [work.keep(stream, planes, self._made_size, outwards) for planes in makes],
            ),
        )

    def state_bytes(self, state: RunState) -> int:
        """Both sets."""
        return 2 * sum(self._state_sizes.values())

    def _fill(self, raw: NDArray[np.uint8], call: _Call, frames: Sequence[Array]) -> None:
        """The frames as the graph reads them, into page-locked memory."""
        low, high = self._graphs.value_range
        for place, frame in zip(raw.view(call.reads_dtype).reshape(call.reads), frames, strict=True):
            whole = pad(frame, self._columns, self._rows)
            if (low, high) != (0.0, 1.0):
                whole = whole * np.float32(high - low) + np.float32(low)
            np.copyto(place, whole, casting="same_kind")

    def _stage(self, state: RunState, call: _Call, *, first: bool) -> Stage:
        slot, side, buffers = self._pipeline.slot, state.steps % 2, state.memory.buffers
        reads = {name: buffers[f"{name}.{side}"] for name in self._state_sizes}
        addresses = {
            self._graphs.frames: self._pipeline.given(slot).address,
            self._graphs.out: self._pipeline.makes(slot).address,
            **{NEXT + name: buffers[f"{name}.{1 - side}"].address for name in self._state_sizes},
        }
        cold = first and self._graphs.first is not None
        if not cold:
            addresses |= {STATE + name: buffer.address for name, buffer in reads.items()}

        def enqueue(stream: Stream) -> None:
            if first and not cold:
                for buffer in reads.values():
                    stream.zero(buffer)
            call.graph.enqueue(stream, addresses, self._scratch.address)

        return Stage((first, side), enqueue)

    def _unpacked(self, raw: NDArray[Any], call: _Call) -> list[Made]:
        height, width = self._made_size
        made = raw.view(call.makes_dtype).reshape(call.makes)[:, :, :height, :width]
        if self.spec.half:
            return list(made.copy())
        made = made.astype(np.float32)
        low, high = self._graphs.value_range
        if (low, high) != (0.0, 1.0):
            made = (made - np.float32(low)) / np.float32(high - low)
        return list(made)

    def _prepared(self, graph: DeviceGraph, shapes: Shapes) -> _Call:
        """``graph`` for these shapes, checked."""
        frames, out = self._graphs.frames, self._graphs.out
        if set(shapes.inputs) != set(graph.inputs):
            raise FlashsrError(
                f"the engine reads {sorted(graph.inputs)}, expected {sorted(shapes.inputs)}; build it again"
            )
        prepared = graph.prepare(shapes.inputs)
        got = {name: tuple(shape) for name, shape in prepared.outputs.items()}
        if got != shapes.outputs:
            raise FlashsrError(
                f"the model makes {got} from {self._columns}x{self._rows}, expected {dict(shapes.outputs)}; correct the bundle"
            )
        return _Call(
            prepared, shapes.inputs[frames], graph.inputs[frames].dtype, shapes.outputs[out], graph.outputs[out].dtype
        )
