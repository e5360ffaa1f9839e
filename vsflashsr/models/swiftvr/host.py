"""SwiftVR as the filter's ``Model`` on the CPU: upscale, pad, the step on ONNX graphs, crop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ... import geometry
from ...model import ModelSpec
from ...runtimes.graph import HostGraph
from .calls import StepOf
from .section import Memory, Section
from .step import Array, Memories, StepState, grid_of, run_step
from .upscale import upscale_tables
from .windows import Windows

_SCORES = 64 << 20
"""Scores of one call of the attention, 256 MB: where all windows together have more, each is called alone."""


class HostExecutor:
    """See ``Executor``: graphs of ONNX Runtime on arrays."""

    def __init__(self, section: Section, graphs: StepOf[HostGraph]) -> None:
        self.layers, self.head_dim, self.window = section.layers, section.head_dim, section.window
        self._section, self._graphs = section, graphs

    def memories(self, height: int, width: int) -> tuple[Memories, Memories]:
        """See ``Executor.memories``."""

        def zeros(memories: Sequence[Memory], graph: HostGraph) -> Memories:
            return tuple(
                np.zeros((1, memory.channels, height // memory.pixels, width // memory.pixels), graph.inputs["state0"].dtype)
                for memory in memories
            )

        section, graphs = self._section, self._graphs
        return zeros(section.encoder_memories, graphs.encoder), zeros(section.decoder_memories, graphs.decoder)

    def upscale(self, frames: Array, tables: Mapping[str, Array]) -> Array:
        """See ``Executor.upscale``."""
        return _run(self._graphs.upscale, {"frames": frames, **tables})[0]

    def encode(self, frames: Array, memories: Memories) -> tuple[Array, Memories]:
        """See ``Executor.encode``."""
        patches, *after = _run(self._graphs.encoder, {"frames": frames, **_states(memories)})
        return patches, tuple(after)

    def first(self, patches: Array) -> tuple[Array, Array, Array, Array]:
        """See ``Executor.first``."""
        x, q, k, v = _run(self._graphs.first, {"patches": patches})
        return x, q, k, v

    def attend(self, q: Array, k: Array, v: Array, cos: Array, sin: Array, over: Windows) -> Array:
        """See ``Executor.attend``. Windows don't see each other, so that one at a time gives the same in less memory."""
        count, length = over.gather.shape
        feeds = {"q": q, "k": k, "v": v, "cos": cos, "sin": sin}
        if count * self._section.heads * length**2 <= _SCORES:
            return _run(self._graphs.attention, {**feeds, "gather": over.gather, "owner": over.owner})[0]
        alone = np.arange(length)
        parts = [
            _run(
                self._graphs.attention,
                {**{name: array[tokens] for name, array in feeds.items()}, "gather": alone[None], "owner": alone},
            )[0]
            for tokens in over.gather
        ]
        return np.concatenate(parts)[over.owner]

    def middle(self, layer: int, x: Array, attended: Array) -> tuple[Array, Array, Array, Array]:
        """See ``Executor.middle``."""
        x, q, k, v = _run(self._graphs.middle[layer], {"x": x, "attended": attended})
        return x, q, k, v

    def last(self, x: Array, attended: Array, patches: Array) -> Array:
        """See ``Executor.last``."""
        return _run(self._graphs.last, {"x": x, "attended": attended, "patches": patches})[0]

    def decode(self, patches: Array, memories: Memories) -> tuple[Array, Memories]:
        """See ``Executor.decode``."""
        frames, *after = _run(self._graphs.decoder, {"patches": patches, **_states(memories)})
        return frames, tuple(after)


class SwiftVRModel:
    """SwiftVR on the CPU, at one pre-upscale.

    Args:
        spec: of the model at the factor of the pre-upscale, which is that of the output.
        executor: what runs the step.
    """

    def __init__(self, spec: ModelSpec, executor: HostExecutor) -> None:
        self.spec, self._executor = spec, executor

    def step(
        self, frames: Sequence[geometry.Array], numbers: Sequence[int], state: StepState | None
    ) -> tuple[list[geometry.Array], StepState]:
        """See ``Model.step``. ``numbers`` don't matter: nothing here is random."""
        low = frames[0].shape[1], frames[0].shape[2]
        height, width = (side * self.spec.scale for side in low)
        grid = grid_of(height, width)
        tables = upscale_tables(low, self.spec.scale, (grid.height_px, grid.width_px))
        made, after = run_step(self._executor, np.stack(frames), tables, grid, state)
        return list(made[:, :, :height, :width]), after

    def state_bytes(self, state: StepState) -> int:
        """All memories."""
        return state.nbytes


def _states(memories: Memories) -> dict[str, Array]:
    return {f"state{n}": memory for n, memory in enumerate(memories)}


def _run(graph: HostGraph, feeds: Mapping[str, Array]) -> list[Array]:
    cast = {name: np.require(array, graph.inputs[name].dtype, ["C", "W"]) for name, array in feeds.items()}
    return [value.numpy() for value in graph.run(cast).values()]
