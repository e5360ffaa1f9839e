"""FlashVSR's streaming step on a device: graphs and kernels on streams, caches worked on where they lie.

Executes the same `StepPlan` as `host.step`, on memory that stays: nothing is allocated after the first step, and the work of each
stage is captured once into a CUDA graph. There are two stages: the projector and the DiT run on one stream, the decoder and the
colour fix on the other, so that a step is decoded beside the next one's DiT.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ....geometry import Array, Made
from ....gpu.device import Device, Stream
from ....gpu.pipeline import Pipeline, RunMemory, RunState, Stage
from ....gpu.results import StepResult
from ....resample import on_grid
from ....runtimes.graph import DeviceGraph, PreparedGraph, weights_bytes
from ...wan.prepared import PreparedPiece
from ..calls import StepOf, decoder_shapes, projector_shapes, token_shapes
from ..kernels import launches
from ..kernels.tables import resize_table, rotary_tables
from ..noise import signed
from ..plan import (
    CONTEXT_FRAMES,
    FIRST_EMITS,
    FIRST_SLICES,
    FRAMES_PER_LATENT,
    Decoding,
    Projection,
    StepPlan,
    consecutive,
    step_plan,
)
from ..section import Section
from . import memory
from .memory import IN_FLIGHT, LATENT_CHANNELS, PATCH_VALUES, StepShape

if TYPE_CHECKING:
    from ....gpu.kernels.kernel import Launch
    from ....gpu.kernels.library import KernelLibrary


@dataclass(frozen=True, slots=True)
class StepInputs:
    """What the host gives a step."""

    frames: Sequence[Array]
    """25 or 8 of (3, h, w), 0..1."""
    seed: int
    """Of the noise."""
    noise_frames: Sequence[int]
    """Whose noise it starts from: 6 or 2, of `noise.noise_frames`."""


def _laid_out(sizes: Mapping[str, int]) -> tuple[dict[str, int], int]:
    """Where each part begins in one buffer, and the buffer's size."""
    offsets: dict[str, int] = {}
    end = 0
    for name, size in sizes.items():
        offsets[name] = end
        end += -(-size // 512) * 512
    return offsets, end


@runtime_checkable
class LeavesNorms(Protocol):
    """A ``PreparedGraph`` that makes q and k before their norms."""

    @property
    def norms(self) -> launches.HeadNorms | None:
        """Those norms; None: it makes no q and k."""


def norms_left(graph: PreparedGraph) -> launches.HeadNorms | None:
    """What is left to do to the q and k that a piece makes."""
    return graph.norms if isinstance(graph, LeavesNorms) else None


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
        graphs: StepOf[DeviceGraph],
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
        self._looks_back = section.version != "v1"
        device.make_current()
        self._phases = {
            slices: _Phase(
                *(
                    PreparedPiece(piece, token_shapes(kind, slices * shape.grid.slice_tokens, shape.dim, PATCH_VALUES))
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
        decoders = [d for d in (self._decoder, self._decoder_first) if d is not None]
        pieces = [p for phase in self._phases.values() for p in (phase.first, phase.middle, phase.last)]
        dit_scratch = max(self._projector.scratch_bytes, *(p.scratch_bytes for p in pieces))
        decoder_scratch = max(d.scratch_bytes for d in decoders)
        dit_held = max(self._projector.held_bytes, *(p.held_bytes for p in pieces))
        held = weights_bytes(graphs)
        self.memory = memory.memory_plan(
            shape,
            runs=runs,
            weights_bytes=held,
            scratch_bytes=dit_scratch + decoder_scratch,
            held_bytes=dit_held + max(d.held_bytes for d in decoders) + library.made_bytes(memory.work_bytes(shape)["attended"]),
        )
        # The weights are there already.
        self.memory.require(device.free_bytes(), remedy, taken_bytes=held)
        self._work = {name: device.alloc(size) for name, size in memory.work_bytes(shape).items()}
        self._dit_scratch = device.alloc(max(1, dit_scratch))
        self._decoder_scratch = device.alloc(max(1, decoder_scratch))
        self._offsets, self._input_bytes = _laid_out(memory.input_bytes(shape))
        self._resize, self._row_tables, self._col_tables = self._resize_tables(padding)
        self._pipeline = Pipeline(
            device,
            in_flight=IN_FLIGHT,
            in_bytes=self._input_bytes,
            out_bytes=FIRST_EMITS * shape.out_frame_bytes,
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
        plan = self.plan(state)
        # Temporal positions are data: no captured stage depends on them.
        stages = [
            Stage((plan.ring.slots, plan.ring.seen), lambda stream: self._queue_dit(stream, run, plan, slot)),
            Stage(plan.cold, lambda stream: self._queue_decode(stream, run, plan, slot)),
        ]
        result = self._pipeline.submit(
            state,
            stages,
            give=lambda slot, uploader: slot.send(
                uploader, self._input_bytes, lambda raw: self._fill(raw, inputs, plan)
            ),
            take=lambda slot, made, copier: slot.send(
                made, copier, plan.emits * self.shape.out_frame_bytes, self._unpacked
            ),
        )
        return result, state

    def plan(self, state: RunState | None) -> StepPlan:
        """What the step after this state does."""
        index = 0 if state is None else state.steps
        return step_plan(index, self.shape.kv_ratio, looks_back=self._looks_back)

    def state_bytes(self) -> int:
        """Device memory of one run."""
        return sum(memory.cache_bytes(self.shape).values())

    def _unpacked(self, raw: NDArray[Any]) -> list[Made]:
        made = raw.view(np.float16 if self.shape.half else np.float32).reshape(-1, 3, *self.shape.out).copy()
        return list(made)

    # --- input ---

    def _fill(self, raw: NDArray[np.uint8], inputs: StepInputs, plan: StepPlan) -> None:
        cosine, sine = rotary_tables(self.shape.grid, self.shape.head_dim, plan.slices, plan.ring.latent)
        parts: dict[str, NDArray[Any]] = {
            "frames": np.stack(inputs.frames),
            "exact": np.array([on_grid(frame) for frame in inputs.frames], np.int32),
            "keys": np.array([signed(number) for number in (inputs.seed, *inputs.noise_frames)], np.int64),
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
            launches.AxisTables(
                *(self.device.constant_array(part).address for part in (table.starts, table.weights, table.whole_weights))
            )
            for table in (rows, cols)
        ]
        return resize, placed[0], placed[1]

    # --- projector and DiT ---

    def _queue_dit(self, stream: Stream, run: RunMemory, plan: StepPlan, slot: int) -> None:
        self._queue_projector(stream, run, plan, slot)
        shape, work, place, slices = self.shape, self._work, plan.ring, plan.slices
        phase = self._phases[slices]
        scratch = self._dit_scratch.address
        patches = work["patches"].address
        noise = work["noise"].address
        self._run(stream, [launches.noise(self._given(slot, "keys"), noise, shape.grid, slices)])
        self._run(stream, [launches.to_patches(noise, patches, shape.grid, slices)])
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
        norms = norms_left(phase.first.graph(0))
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
                norms=norms,
            )
            self._run(stream, launches.attention(attention, at, place.slots[0]))
            x, x_out = (work[f"x.{(layer + side) % 2}"].address for side in (0, 1))
            after = {"x": x, "attended": work["attended"].address}
            if layer + 1 < shape.layers:
                phase.middle.enqueue(layer, stream, {**after, "x_out": x_out, **made, "v": values(layer + 1)}, scratch)
                norms = norms_left(phase.middle.graph(layer))
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

    def _queue_projector(self, stream: Stream, run: RunMemory, plan: StepPlan, slot: int) -> None:
        """The step's frames, four at a time behind the two before them, become its tokens."""
        shape, work = self.shape, self._work
        context_bytes = CONTEXT_FRAMES * shape.padded_frame_bytes
        past, clip = work["clip"].part(0, context_bytes), work["clip"].address + context_bytes
        newest = work["clip"].part(FRAMES_PER_LATENT * shape.padded_frame_bytes, context_bytes)
        token_bytes = shape.dim * shape.item_bytes
        if self._looks_back:
            if plan.cold:
                stream.zero(run.buffers[f"context.{plan.projections[0].side}"])
            self._upscale(stream, run, slot, plan.context, past.address, "context")
        for number, projection in enumerate(plan.projections):
            if self._looks_back and number:
                stream.copy(past, newest)
            self._upscale(stream, run, slot, projection.frames, clip, "context")
            self._project(stream, run, projection)
            if projection.latent is not None:
                rows, tokens = work["lq rows"].address, work["lq"].address
                gather = launches.gather_latent(rows, tokens, shape.grid, projection.latent, token_bytes)
                self._run(stream, [gather])
        if self._looks_back:
            self._keep(stream, run, "context", slot, plan.keeps_context, CONTEXT_FRAMES)

    def _project(self, stream: Stream, run: RunMemory, projection: Projection) -> None:
        clip = self._work["clip"].address
        own = clip + CONTEXT_FRAMES * self.shape.padded_frame_bytes
        addresses = {"clip": own, "tokens": self._work["lq rows"].address}
        if self._looks_back:
            addresses |= {
                "ctx1": clip,
                "ctx2": run.buffers[f"context.{projection.side}"].address,
                "next2": run.buffers[f"context.{1 - projection.side}"].address,
            }
        self._projector.enqueue(stream, addresses, self._dit_scratch.address)

    # --- decoder and colours ---

    def _queue_decode(self, stream: Stream, run: RunMemory, plan: StepPlan, slot: int) -> None:
        if plan.cold:
            for n in self._states:
                stream.zero(run.buffers[f"memory.{n}.{plan.decodings[0].side}"])
        for latent, decoding in enumerate(plan.decodings):
            self._upscale(stream, run, slot, decoding.condition, self._work["condition"].address, "unread")
            self._decode_latent(stream, run, latent, decoding, slot)
            self._finish(stream, decoding, slot)
        self._keep(stream, run, "unread", slot, plan.keeps, FRAMES_PER_LATENT)

    def _decode_latent(self, stream: Stream, run: RunMemory, latent: int, decoding: Decoding, slot: int) -> None:
        """Decodes one latent; its frames end where the four of `made` end."""
        graph, states = self._decoder, self._states
        into = self._work["made"].address
        if decoding.first and self._decoder_first is not None:
            graph, states = self._decoder_first, self._first_states
            into += (FRAMES_PER_LATENT - decoding.emits) * self.shape.padded_frame_bytes  # it makes no others
        addresses = {"latent": self._work[f"latents.{slot}"].address + latent * self.shape.latent_bytes, "frames": into}
        if self._section.variant == "tiny":
            addresses["lq"] = self._work["condition"].address
        for n in self._states:
            before, after = (run.buffers[f"memory.{n}.{s}"] for s in (decoding.side, 1 - decoding.side))
            if n in states:
                addresses |= {f"state{n}": before.address, f"next{n}": after.address}
            else:
                stream.copy(after, before)  # a memory that the first latent leaves alone
        graph.enqueue(stream, addresses, self._decoder_scratch.address)

    def _finish(self, stream: Stream, decoding: Decoding, slot: int) -> None:
        """Colours, crop and 0..1 for the frames that are emitted."""
        shape, work, count = self.shape, self._work, decoding.emits
        planes = shape.planes_of(count)
        skipped = (FRAMES_PER_LATENT - count) * shape.padded_frame_bytes
        made, before = work["made"].address + skipped, work["condition"].address + skipped
        out = self._pipeline.makes(slot).address + decoding.out * shape.out_frame_bytes
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

    def _upscale(self, stream: Stream, run: RunMemory, slot: int, frames: Sequence[int], out: int, kept: str) -> None:
        """Frames by their numbers in the plan, upscaled, one after the other at `out`.

        `kept` is what the run's state calls those that were read before this step.
        """
        scratch = self._work[f"{kept} rows"].address
        low_bytes, padded_bytes = self.shape.low_frame_bytes, self.shape.padded_frame_bytes
        for first, count in consecutive(frames):
            if first < 0:
                source, exact = (run.buffers[f"{kept} {kind}"].address for kind in ("frames", "exact"))
                place = first - min(frames)
            else:
                source, exact, place = self._given(slot, "frames"), self._given(slot, "exact"), first
            source, exact = source + place * low_bytes, exact + 4 * place
            work = launches.resize(self._resize, count, source, exact, self._row_tables, self._col_tables, out, scratch)
            self._run(stream, work)
            out += count * padded_bytes

    def _keep(self, stream: Stream, run: RunMemory, name: str, slot: int, first: int, count: int) -> None:
        """Copies low-resolution frames that the next step needs into the run's state."""
        given, low_bytes = self._pipeline.given(slot), self.shape.low_frame_bytes
        for kind, size in (("frames", low_bytes), ("exact", 4)):
            source = given.part(self._offsets[kind] + first * size, count * size)
            stream.copy(run.buffers[f"{name} {kind}"], source, count * size)

    def _run(self, stream: Stream, work: Iterable[Launch]) -> None:
        for launch in work:
            self._library.run(stream, launch)
