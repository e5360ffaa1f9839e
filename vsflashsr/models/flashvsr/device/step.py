"""FlashVSR's streaming step on a device: graphs and kernels on streams, caches worked on where they lie.

The same computation as `step.run_step`, written for memory that stays: the KV cache is a ring (`ring`), nothing is allocated
after the first step, and the work of each phase is captured once into a CUDA graph. Two streams share it: the projector and the
DiT run on one, the decoder and the colour fix on the other, so that a step is decoded beside the next one's DiT.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ....geometry import Array
from ....gpu.device import Device, Stream
from ....gpu.pipeline import Pipeline, RunMemory, RunState, Stage
from ....gpu.results import StepResult
from ....resample import on_grid
from ....runtimes.graph import PreparedGraph
from ..kernels import launches
from ..kernels.tables import resize_table, rotary_tables
from ..ring import FIRST_SLICES, RingStep, ring_step
from ..section import Section
from ..windows import SLICE_LATENTS
from . import memory
from .graphs import PreparedPiece, StepGraphs, decoder_shapes, projector_shapes, token_shapes
from .memory import FRAMES_PER_LATENT, IN_FLIGHT, LATENT_CHANNELS, PATCH_VALUES, StepShape

if TYPE_CHECKING:
    from ..kernels.library import KernelLibrary


@dataclass(frozen=True, slots=True)
class StepInputs:
    """What the host gives a step."""

    frames: Sequence[Array]
    """25 or 8 of (3, h, w), 0..1."""
    noise: NDArray[np.float32]
    """(16, 6 or 2, H/8, W/8)."""


def _laid_out(sizes: Mapping[str, int]) -> tuple[dict[str, int], int]:
    """Where each part begins in one buffer, and the buffer's size."""
    offsets: dict[str, int] = {}
    end = 0
    for name, size in sizes.items():
        offsets[name] = end
        end += -(-size // 512) * 512
    return offsets, end


@dataclass(frozen=True, slots=True)
class _Phase:
    """Graphs for one number of tokens."""

    first: PreparedPiece
    middle: PreparedPiece
    last: PreparedPiece


class DeviceStep:
    """Everything a FlashVSR of one size needs on a device.

    Args:
        device, library: where, and its kernels.
        graphs: pieces, projector, decoder.
        section: of the bundle.
        shape: of the frame or tile.
        padding: beyond the picture.
        color_fix: "adain" or "wavelet", made from whole frames; "none" for tiles.
        runs: states that may be held at once.
        captured: replay phases as CUDA graphs; False where the graphs are torch's.
        remedy: what a user can do where the memory doesn't suffice.

    Raises:
        FlashsrError: the graphs refuse the size, or the device has too little memory.
    """

    def __init__(
        self,
        device: Device,
        library: KernelLibrary,
        graphs: StepGraphs,
        section: Section,
        shape: StepShape,
        *,
        padding: str = "reflect",
        color_fix: str = "adain",
        runs: int = 1,
        captured: bool = True,
        remedy: str = "use tile=",
    ) -> None:
        self.device, self.shape = device, shape
        self._library, self._section, self._color_fix = library, section, color_fix
        device.make_current()
        self._phases = {
            slices: _Phase(
                *(
                    piece.prepare(token_shapes(kind, slices * shape.grid.slice_tokens, shape.dim, PATCH_VALUES))
                    for kind, piece in (("first", graphs.first), ("middle", graphs.middle), ("last", graphs.last))
                )
            )
            for slices in (FIRST_SLICES, 1)
        }
        self._projector = graphs.projector.prepare(projector_shapes(section, shape.grid))
        self._states = [n for n in range(len(shape.decoder_states)) if f"state{n}" in graphs.decoder.inputs]
        self._decoder = graphs.decoder.prepare(
            decoder_shapes(section, shape.grid, LATENT_CHANNELS, self._states),
        )
        self._decoder_first: PreparedGraph | None = None
        self._first_states = self._states
        if graphs.decoder_first is not None:
            self._first_states = [n for n in self._states if f"state{n}" in graphs.decoder_first.inputs]
            self._decoder_first = graphs.decoder_first.prepare(
                decoder_shapes(section, shape.grid, LATENT_CHANNELS, self._first_states)
            )
        dit_scratch = max(
            self._projector.scratch_bytes,
            *(p.scratch_bytes for phase in self._phases.values() for p in (phase.first, phase.middle, phase.last)),
        )
        decoders = [d for d in (self._decoder, self._decoder_first) if d is not None]
        decoder_scratch = max(d.scratch_bytes for d in decoders)
        self.memory = memory.memory_plan(
            shape, runs=runs, weights_bytes=graphs.weights_bytes, scratch_bytes=dit_scratch + decoder_scratch
        )
        # The weights are there already.
        self.memory.require(device.free_bytes(), remedy, taken_bytes=graphs.weights_bytes)
        self._work = {name: device.alloc(size) for name, size in memory.work_bytes(shape).items()}
        self._dit_scratch = device.alloc(max(1, dit_scratch))
        self._decoder_scratch = device.alloc(max(1, decoder_scratch))
        self._offsets, self._input_bytes = _laid_out(memory.input_bytes(shape))
        self._resize, self._row_tables, self._col_tables = self._resize_tables(padding)
        self._pipeline = Pipeline(
            device,
            in_flight=IN_FLIGHT,
            in_bytes=self._input_bytes,
            out_bytes=memory.FIRST_EMITS * shape.out_frame_bytes,
            run_bytes=memory.cache_bytes(shape),
            runs=runs,
            stages=2,
            captured=captured,
        )

    def submit(self, inputs: StepInputs, state: RunState | None) -> tuple[StepResult, RunState]:
        """Queue a step: `state` is None at the beginning of a run, else what the step before returned.

        Returns its frames, (21 or 8, 3, height, width) in 0..1 once they are fetched, and the state.
        """
        self.device.make_current()
        if state is None:
            state = self._pipeline.cold()
        slot, run = self._pipeline.slot, state.memory
        place = ring_step(state.steps, self.shape.kv_ratio)
        first = state.steps == 0
        emits = memory.FIRST_EMITS if first else len(inputs.frames)
        # Temporal positions are data: no captured stage depends on them.
        stages = [
            Stage((place.slots, place.seen), lambda stream: self._queue_dit(stream, run, place, first, slot)),
            Stage(first, lambda stream: self._queue_decode(stream, run, first, slot)),
        ]
        result = self._pipeline.submit(
            state,
            stages,
            fill=lambda raw: self._fill(raw, inputs, place),
            in_bytes=self._input_bytes,
            out_bytes=emits * self.shape.out_frame_bytes,
            unpack=self._unpacked,
        )
        return result, state

    def state_bytes(self) -> int:
        """Device memory of one run."""
        return sum(memory.cache_bytes(self.shape).values())

    def _unpacked(self, raw: NDArray[Any]) -> list[Array]:
        made = raw.view(np.float32).reshape(-1, 3, *self.shape.out).copy()
        return list(made)

    # --- input ---

    def _fill(self, raw: NDArray[np.uint8], inputs: StepInputs, place: RingStep) -> None:
        cosine, sine = rotary_tables(self.shape.grid, self.shape.head_dim, len(place.slots), place.latent)
        parts = {
            "frames": np.stack(inputs.frames),
            "exact": np.array([on_grid(frame) for frame in inputs.frames], np.int32),
            "noise": np.ascontiguousarray(inputs.noise),
            "cosine": cosine,
            "sine": sine,
        }
        for name, values in parts.items():
            first = self._offsets[name]
            np.copyto(raw[first : first + values.nbytes].view(values.dtype).reshape(values.shape), values)

    def _resize_tables(self, padding: str) -> tuple[launches.Resize, launches.AxisTables, launches.AxisTables]:
        shape = self.shape
        rows, cols = (resize_table(size, target) for size, target in zip(shape.low, shape.out, strict=True))
        resize = launches.Resize(
            *shape.low,
            *shape.out,
            shape.grid.height_px,
            shape.grid.width_px,
            padding == "reflect",
            rows.taps,
            cols.taps,
        )
        placed = [
            launches.AxisTables(*map(self._constant, (table.starts, table.weights, table.whole_weights)))
            for table in (rows, cols)
        ]
        return resize, placed[0], placed[1]

    def _constant(self, values: NDArray[Any]) -> int:
        """The address of a table on the device, for good."""

        def fill(raw: NDArray[np.uint8]) -> None:
            np.copyto(raw.view(values.dtype).reshape(values.shape), values)

        return self.device.constant(values.nbytes, fill).address

    # --- projector and DiT ---

    def _queue_dit(self, stream: Stream, run: RunMemory, place: RingStep, first: bool, slot: int) -> None:
        self._queue_projector(stream, run, first, slot)
        shape, work = self.shape, self._work
        slices = len(place.slots)
        phase = self._phases[slices]
        scratch = self._dit_scratch.address
        patches = work["patches"].address
        self._run(stream, [launches.to_patches(self._given(slot, "noise"), patches, shape.grid, slices)])
        attention = shape.attention(slices, place.seen)
        made = {"q": work["q"].address, "k": work["k"].address}

        def values(layer: int) -> int:
            return run.buffers[f"values.{layer}"].address + place.slots[0] * shape.ring_slot_bytes

        phase.first.enqueue(
            0,
            stream,
            {"patches": patches, "lq": work["lq"].address, "x": work["x.0"].address, **made, "v": values(0)},
            scratch,
        )
        for layer in range(shape.layers):
            at = launches.AttentionAddresses(
                q=work["q"].address,
                k=work["k"].address,
                keys=run.buffers[f"keys.{layer}"].address,
                values=run.buffers[f"values.{layer}"].address,
                key_means=run.buffers[f"pooled.{layer}"].address,
                cosine=self._given(slot, "cosine"),
                sine=self._given(slot, "sine"),
                out=work["attended"].address,
                scratch=work["attention"].address,
            )
            self._run(stream, launches.attention(attention, at, place.slots[0]))
            x, x_out = (work[f"x.{(layer + side) % 2}"].address for side in (0, 1))
            after = {"x": x, "attended": work["attended"].address}
            if layer + 1 < shape.layers:
                phase.middle.enqueue(layer, stream, {**after, "x_out": x_out, **made, "v": values(layer + 1)}, scratch)
            else:
                latents = {"patches": patches, "latents": work["made patches"].address}
                phase.last.enqueue(0, stream, {**after, **latents}, scratch)
        plane = launches.latent_values(shape.grid)
        made_latents = work[f"latents.{slot}"].address
        # One latent after the other, as the decoder takes them.
        self._run(
            stream,
            [
                launches.from_patches(
                    work["made patches"].address,
                    made_latents,
                    shape.grid,
                    slices,
                    frame_stride=LATENT_CHANNELS * plane,
                    channel_stride=plane,
                )
            ],
        )

    def _queue_projector(self, stream: Stream, run: RunMemory, first: bool, slot: int) -> None:
        """The step's frames, four at a time, become its tokens."""
        shape, work = self.shape, self._work
        causal = self._section.version != "v1"
        frame_bytes, low_bytes = shape.padded_frame_bytes, shape.low_frame_bytes
        clip = work["clip"].address
        frames, exact = self._given(slot, "frames"), self._given(slot, "exact")
        # Seven calls in a first step, two in each later one: every step but the first begins and ends on the same side.
        side = 1
        start = 1 if first else 0
        latents = SLICE_LATENTS * (FIRST_SLICES if first else 1)
        if causal and first:
            for n in range(6):
                self._upscale(stream, frames, exact, 1, clip + n * frame_bytes, "clip rows")
            stream.zero(run.buffers["context.0"])
            self._project(stream, run, 0)
        elif causal:
            context = run.buffers["context frames"].address, run.buffers["context exact"].address
            self._upscale(stream, *context, 2, clip, "clip rows")
        for latent in range(latents):
            n = start + FRAMES_PER_LATENT * latent
            if causal and latent:
                stream.copy(work["clip"].part(0, 2 * frame_bytes), work["clip"].part(4 * frame_bytes, 2 * frame_bytes))
            self._upscale(stream, frames + n * low_bytes, exact + 4 * n, 4, clip + 2 * frame_bytes, "clip rows")
            self._project(stream, run, side)
            side = 1 - side
            token_bytes = shape.dim * shape.item_bytes
            gather = launches.gather_latent(work["lq rows"].address, work["lq"].address, shape.grid, latent, token_bytes)
            self._run(stream, [gather])
        if causal:
            last = start + FRAMES_PER_LATENT * latents - 2
            self._keep(stream, run, "context", slot, last, 2)

    def _project(self, stream: Stream, run: RunMemory, side: int) -> None:
        clip = self._work["clip"].address
        addresses = {"clip": clip + 2 * self.shape.padded_frame_bytes, "tokens": self._work["lq rows"].address}
        if self._section.version != "v1":
            addresses |= {
                "ctx1": clip,
                "ctx2": run.buffers[f"context.{side}"].address,
                "next2": run.buffers[f"context.{1 - side}"].address,
            }
        self._projector.enqueue(stream, addresses, self._dit_scratch.address)

    # --- decoder and colours ---

    def _queue_decode(self, stream: Stream, run: RunMemory, first: bool, slot: int) -> None:
        shape, work = self.shape, self._work
        low_bytes = shape.low_frame_bytes
        frames, exact = self._given(slot, "frames"), self._given(slot, "exact")
        latents = SLICE_LATENTS * (FIRST_SLICES if first else 1)
        condition = work["condition"].address
        if first:
            for n in self._states:
                stream.zero(run.buffers[f"memory.{n}.0"])
        done = 0
        for latent in range(latents):
            if first and latent == 0:
                for n in range(FRAMES_PER_LATENT):
                    self._upscale(stream, frames, exact, 1, condition + n * shape.padded_frame_bytes, "condition rows")
            elif latent == 0:
                unread = run.buffers["unread frames"].address, run.buffers["unread exact"].address
                self._upscale(stream, *unread, FRAMES_PER_LATENT, condition, "condition rows")
            else:
                n = FRAMES_PER_LATENT * latent - (3 if first else 4)
                self._upscale(
                    stream, frames + n * low_bytes, exact + 4 * n, FRAMES_PER_LATENT, condition, "condition rows"
                )
            count = self._decode_latent(stream, run, latent, slot, first=first and latent == 0)
            self._finish(stream, count, done, slot)
            done += count
        last = (25 if first else 8) - FRAMES_PER_LATENT
        self._keep(stream, run, "unread", slot, last, FRAMES_PER_LATENT)

    def _decode_latent(self, stream: Stream, run: RunMemory, latent: int, slot: int, *, first: bool) -> int:
        """Decodes one latent; its newest frames, as many as are returned, are the last ones of the four."""
        # An even number of latents in every step: each ends with the memories on the side where it began.
        side = latent % 2
        graph, states = self._decoder, self._states
        into = self._work["made"].address
        count = 1 if first else FRAMES_PER_LATENT
        if first and self._decoder_first is not None:
            graph, states = self._decoder_first, self._first_states
            into += 3 * self.shape.padded_frame_bytes  # it makes one frame only
        addresses = {"latent": self._work[f"latents.{slot}"].address + latent * self.shape.latent_bytes, "frames": into}
        if self._section.variant == "tiny":
            addresses["lq"] = self._work["condition"].address
        for n in self._states:
            before, after = (run.buffers[f"memory.{n}.{s}"] for s in (side, 1 - side))
            if n in states:
                addresses |= {f"state{n}": before.address, f"next{n}": after.address}
            else:
                stream.copy(after, before)  # a memory that the first latent leaves alone
        graph.enqueue(stream, addresses, self._decoder_scratch.address)
        return count

    def _finish(self, stream: Stream, count: int, done: int, slot: int) -> None:
        """Colours, crop and 0..1 for the last `count` frames of `made`, to where the step's frames are from `done` on."""
        shape, work = self.shape, self._work
        planes = launches.Planes(3 * count, *shape.out, shape.grid.height_px, shape.grid.width_px)
        skipped = (FRAMES_PER_LATENT - count) * shape.padded_frame_bytes
        made, before = work["made"].address + skipped, work["condition"].address + skipped
        out = self._pipeline.makes(slot).address + done * shape.out_frame_bytes
        match self._color_fix:
            case "adain":
                own, wanted = work["moments"].address, work["moments"].address + launches.moments_bytes(planes)
                scratch = work["moments scratch"].address
                self._run(stream, launches.moments(planes, made, own, scratch))
                self._run(stream, launches.moments(planes, before, wanted, scratch))
                self._run(stream, [launches.adain(planes, made, own, wanted, out)])
            case "wavelet":
                self._run(stream, launches.wavelet(planes, made, before, out, work["colour"].address))
            case "none":
                self._run(stream, [launches.finish(planes, made, out)])

    # --- both ---

    def _given(self, slot: int, name: str) -> int:
        """The address of a part of a step's inputs."""
        return self._pipeline.given(slot).address + self._offsets[name]

    def _upscale(self, stream: Stream, source: int, exact: int, frames: int, out: int, rows: str) -> None:
        scratch = self._work[rows].address
        self._run(
            stream,
            launches.resize(self._resize, frames, source, exact, self._row_tables, self._col_tables, out, scratch),
        )

    def _keep(self, stream: Stream, run: RunMemory, name: str, slot: int, first: int, count: int) -> None:
        """Copies low-resolution frames that the next step needs into the run's state."""
        given, low_bytes = self._pipeline.given(slot), self.shape.low_frame_bytes
        for kind, size in (("frames", low_bytes), ("exact", 4)):
            source = given.part(self._offsets[kind] + first * size, count * size)
            stream.copy(run.buffers[f"{name} {kind}"], source, count * size)

    def _run(self, stream: Stream, work: Iterable[launches.Launch]) -> None:
        for launch in work:
            self._library.run(stream, launch)
