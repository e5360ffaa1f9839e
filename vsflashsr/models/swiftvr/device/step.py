"""SwiftVR's streaming step on a device: graphs on streams, state worked on where it lies.

Executes what `step` does on the host, on memory that stays: nothing is allocated after the first step, and the work of each stage
is captured once into a CUDA graph. There are two stages: upscale, encoder and DiT run on one stream, the decoder on the other,
so that a step is decoded beside the next one's DiT.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....geometry import Array
from ....gpu.device import Device, Stream
from ....gpu.pipeline import Pipeline, RunMemory, RunState, Stage
from ....gpu.results import StepResult
from ....runtimes.graph import DeviceGraph, GraphCall, PreparedGraph, Shapes, weights_bytes
from ...wan.prepared import PreparedPiece
from ..calls import StepOf
from ..step import DROPPED_FRAMES, FRAMES_PER_LATENT
from ..upscale import upscale_tables
from ..windows import rotary, windows
from . import memory
from .memory import IN_FLIGHT, StepShape


@dataclass(frozen=True, slots=True)
class _Phase:
    """Graphs and tables for one number of latents."""

    first: PreparedPiece
    middle: PreparedPiece
    last: PreparedPiece
    attention: tuple[PreparedGraph, PreparedGraph]
    """In plain windows, and in shifted ones."""
    tables: tuple[Mapping[str, int], Mapping[str, int]]
    """Of both, on the device."""

    def __iter__(self) -> Iterator[PreparedPiece | PreparedGraph]:
        yield from (self.first, self.middle, self.last, *self.attention)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a step stands in its run."""

    cold: bool
    """It is the run's first."""
    latents: int
    side: int
    """Which of the two buffers of each memory its first latent reads."""


class DeviceStep:
    """Everything a SwiftVR of one size needs on a device.

    Args:
        device: where.
        graphs: all of a step, loaded.
        calls: how they are called.
        shape: of the frame or tile.
        runs: states that may be held at once.
        captured: replay stages as CUDA graphs; False where the graphs are torch's.
        remedy: what a user can do where the memory doesn't suffice.

    Raises:
        FlashsrError: the graphs refuse the size, or the device has too little memory.
    """

    def __init__(
        self,
        device: Device,
        graphs: StepOf[DeviceGraph],
        calls: StepOf[GraphCall],
        shape: StepShape,
        *,
        runs: int,
        captured: bool,
        remedy: str,
    ) -> None:
        self._device, self.shape = device, shape
        device.make_current()
        held = weights_bytes(graphs)
        self._tables_bytes = 0
        self._upscale, self._encoder, self._decoder = (
            graph.prepare(call.shapes[0].inputs)
            for graph, call in (
                (graphs.upscale, calls.upscale), (graphs.encoder, calls.encoder), (graphs.decoder, calls.decoder)
            )
        )  # fmt: skip
        self._upscale_tables = self._placed(
            upscale_tables(shape.low, shape.out[0] // shape.low[0], (shape.grid.height_px, shape.grid.width_px))
        )
        self._phases = {
            count: self._phase(graphs, calls, number, count)
            for number, count in enumerate((shape.latents, shape.first_latents))
        }
        ahead = [self._upscale, self._encoder, *(part for phase in self._phases.values() for part in phase)]
        scratch = max(part.scratch_bytes for part in ahead)
        self.memory = memory.memory_plan(
            shape,
            runs=runs,
            weights_bytes=held,
            tables_bytes=self._tables_bytes,
            scratch_bytes=scratch + self._decoder.scratch_bytes,
            held_bytes=max(part.held_bytes for part in ahead) + self._decoder.held_bytes,
        )
        # The weights are there already, and the tables.
        self.memory.require(device.free_bytes(), remedy, taken_bytes=held + self._tables_bytes)
        self._work = {name: device.alloc(size) for name, size in memory.work_bytes(shape).items()}
        self._scratch, self._decoder_scratch = (
            device.alloc(max(1, size)) for size in (scratch, self._decoder.scratch_bytes)
        )
        self._pipeline = Pipeline(
            device,
            in_flight=IN_FLIGHT,
            in_bytes=shape.first_latents * shape.low_group_bytes,
            out_bytes=shape.first_latents * shape.padded_group_bytes,
            run_bytes=memory.state_bytes(shape),
            runs=runs,
            stages=2,
            captured=captured,
        )

    def submit(self, frames: Sequence[Array], state: RunState | None) -> tuple[StepResult, RunState]:
        """Queue a step: `state` is None at the beginning of a run, else what the step before returned.

        Args:
            frames: four for each latent, (3, h, w) in 0..1.
            state: changed.
        """
        self._device.make_current()
        if state is None:
            state = self._pipeline.cold()
        slot, run, place = self._pipeline.slot, state.memory, self._place(state.steps)
        stages = [
            Stage(place, lambda stream: self._queue_dit(stream, run, place, slot)),
            Stage(place, lambda stream: self._queue_decoder(stream, run, place, slot)),
        ]
        result = self._pipeline.submit(
            state,
            stages,
            give=lambda given, uploader: given.send(
                uploader, place.latents * self.shape.low_group_bytes, lambda raw: self._fill(raw, frames)
            ),
            take=lambda made, done, copier: made.send(
                done, copier, place.latents * self.shape.padded_group_bytes, lambda raw: self._unpacked(raw, place)
            ),
        )
        return result, state

    def state_bytes(self) -> int:
        """Device memory of one run."""
        return sum(memory.state_bytes(self.shape).values())

    def _place(self, steps: int) -> _Place:
        """Of the step after so many."""
        before = 0 if steps == 0 else self.shape.first_latents + (steps - 1) * self.shape.latents
        return _Place(steps == 0, self.shape.first_latents if steps == 0 else self.shape.latents, before % 2)

    # --- what stays ---

    def _phase(self, graphs: StepOf[DeviceGraph], calls: StepOf[GraphCall], number: int, count: int) -> _Phase:
        """For the shapes of this number in the calls, which are those of so many latents."""
        shape, section = self.shape, self.shape.section
        box = count, shape.grid.rows, shape.grid.cols
        cos, sin = rotary(*box, section.head_dim)
        turned = self._placed({"cos": cos, "sin": sin})
        attention: list[PreparedGraph] = []
        tables: list[Mapping[str, int]] = []
        prepared: dict[object, PreparedGraph] = {}
        for kind, shifted in enumerate((False, True)):
            over = windows(*box, section.window, shifted=shifted)
            tables.append(turned | self._placed({"gather": over.gather, "owner": over.owner}))
            given: Shapes = calls.attention.shapes[2 * number + kind]
            # Small grids have as many windows in both: an execution context less.
            key = frozenset(given.inputs.items())
            prepared.setdefault(key, graphs.attention.prepare(given.inputs) if key not in prepared else prepared[key])
            attention.append(prepared[key])
        return _Phase(
            PreparedPiece([graphs.first], calls.first.shapes[number].inputs),
            PreparedPiece(graphs.middle, calls.middle[0].shapes[number].inputs),
            PreparedPiece([graphs.last], calls.last.shapes[number].inputs),
            (attention[0], attention[1]),
            (tables[0], tables[1]),
        )

    def _placed(self, tables: Mapping[str, NDArray[Any]]) -> dict[str, int]:
        """Addresses of tables on the device, for good."""
        self._tables_bytes += sum(table.nbytes for table in tables.values())
        return {name: self._device.constant_array(table).address for name, table in tables.items()}

    # --- a step ---

    def _fill(self, raw: NDArray[np.uint8], frames: Sequence[Array]) -> None:
        """Each four of the frames where the upscale reads them."""
        for first in range(0, len(frames), FRAMES_PER_LATENT):
            start = first // FRAMES_PER_LATENT * self.shape.low_group_bytes
            group = np.stack(frames[first : first + FRAMES_PER_LATENT])
            np.copyto(raw[start : start + group.nbytes].view(np.float32).reshape(group.shape), group)

    def _queue_dit(self, stream: Stream, run: RunMemory, place: _Place, slot: int) -> None:
        """Frames to latents, and these to restored ones."""
        shape, work, scratch = self.shape, self._work, self._scratch.address
        if place.cold:
            self._forget(stream, run, "encoder", place.side)
        for latent in range(place.latents):
            low = self._pipeline.given(slot).address + latent * shape.low_group_bytes
            upscaled = work["upscaled"].address
            self._upscale.enqueue(stream, {"frames": low, **self._upscale_tables, "upscaled": upscaled}, scratch)
            made = work["patches"].address + latent * shape.patches_bytes
            states = self._states(run, "encoder", place.side + latent)
            self._encoder.enqueue(stream, {"frames": upscaled, "patches": made, **states}, scratch)
        phase, patches = self._phases[place.latents], work["patches"].address
        qkv = {name: work[name].address for name in "qkv"}
        attended = work["attended"].address
        phase.first.enqueue(0, stream, {"patches": patches, "x": work["x.0"].address, **qkv}, scratch)
        layers = shape.section.layers
        for layer in range(layers):
            kind = layer % 2
            phase.attention[kind].enqueue(stream, {**qkv, **phase.tables[kind], "out": attended}, scratch)
            given = {"x": work[f"x.{kind}"].address, "attended": attended}
            if layer + 1 < layers:
                out = {"x_out": work[f"x.{1 - kind}"].address, **qkv}
                phase.middle.enqueue(layer, stream, given | out, scratch)
            else:
                out = {"patches": patches, "latents": work[f"made.{slot}"].address}
                phase.last.enqueue(0, stream, given | out, scratch)

    def _queue_decoder(self, stream: Stream, run: RunMemory, place: _Place, slot: int) -> None:
        """Restored latents to frames."""
        if place.cold:
            self._forget(stream, run, "decoder", place.side)
        for latent in range(place.latents):
            addresses = {
                "patches": self._work[f"made.{slot}"].address + latent * self.shape.patches_bytes,
                "frames": self._pipeline.makes(slot).address + latent * self.shape.padded_group_bytes,
                **self._states(run, "decoder", place.side + latent),
            }
            self._decoder.enqueue(stream, addresses, self._decoder_scratch.address)

    def _states(self, run: RunMemory, part: str, latent: int) -> dict[str, int]:
        """Where a latent's call reads and writes the memories."""
        memories = self.shape.section.encoder_memories if part == "encoder" else self.shape.section.decoder_memories
        return {
            f"{name}{n}": run.buffers[f"{part}.{n}.{side % 2}"].address
            for n in range(len(memories))
            for name, side in (("state", latent), ("next", latent + 1))
        }

    def _forget(self, stream: Stream, run: RunMemory, part: str, side: int) -> None:
        for name, buffer in run.buffers.items():
            if name.startswith(f"{part}.") and name.endswith(f".{side}"):
                stream.zero(buffer)

    def _unpacked(self, raw: NDArray[Any], place: _Place) -> list[Array]:
        """Without what a run's first latent has too many, cropped."""
        shape = self.shape
        made = raw.view(np.float32).reshape(-1, 3, shape.grid.height_px, shape.grid.width_px)
        height, width = shape.out
        return [frame[:, :height, :width].copy() for frame in made[DROPPED_FRAMES if place.cold else 0 :]]
