"""Recurrent bundles: one graph with explicit state in and out (the built-in model)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...bundle import Bundle, ScaleSpec, StateSpec
from ...errors import FlashsrError
from ...geometry import Array, pad, padded
from ...model import Frame, ModelSpec
from ...runtimes.graph import Feed, HostGraph, Tensor, Value
from ..later import IN_FLIGHT, emitted

FRAMES, OUT = "frames", "out"
STATE, NEXT = "state.", "next."


@dataclass(frozen=True, slots=True)
class RecurrentState:
    """The graph's state outputs as the runtime left them; fed back without a copy, never written."""

    tensors: Mapping[str, Value]


class RecurrentModel:
    """A bundle of kind ``recurrent`` at one of its scales, on arrays.

    Args:
        bundle: the bundle.
        scale: one of its scales.
        step, first: its graphs, loaded.

    Raises:
        FlashsrError: they don't fit what the bundle says.
    """

    def __init__(self, bundle: Bundle, scale: int, step: HostGraph, first: HostGraph | None) -> None:
        spec = bundle.scales[scale]
        self._bundle = bundle
        self._spec = spec
        self._scale = scale
        self._step, self._first = step, first
        _check(self._step, spec, bundle, cold=False)
        if self._first is not None:
            _check(self._first, spec, bundle, cold=True)

    @property
    def spec(self) -> ModelSpec:
        return replace(self._bundle.spec(self._scale), in_flight=IN_FLIGHT if self._step.pending else 0)

    def step(
        self, frames: Sequence[Array], numbers: Sequence[int], state: RecurrentState | None
    ) -> tuple[Sequence[Frame], RecurrentState]:
        """See ``Model.step``. ``numbers`` don't matter: nothing here is random."""
        _, height, width = frames[0].shape
        multiple = self._bundle.size_multiple
        rows, columns = padded(height, multiple), padded(width, multiple)
        graph = self._first if state is None and self._first is not None else self._step
        low, high = self._bundle.value_range
        batch = np.stack([pad(frame, columns, rows) for frame in frames])
        if (low, high) != (0.0, 1.0):
            batch = batch * np.float32(high - low) + np.float32(low)
        feeds: dict[str, Feed] = {FRAMES: batch.astype(graph.inputs[FRAMES].dtype, copy=False)}
        if state is not None:
            feeds |= {STATE + name: value for name, value in state.tensors.items()}
        elif graph is self._step:
            feeds |= {STATE + s.name: np.zeros(s.resolve(rows, columns), s.dtype) for s in self._spec.states}
        results = graph.run(feeds)
        new = RecurrentState({s.name: results[NEXT + s.name] for s in self._spec.states})
        for s in self._spec.states:
            got = tuple(new.tensors[s.name].shape())
            if got != s.resolve(rows, columns):
                raise FlashsrError(
                    f"state {s.name!r} came out as {got}, bundle.json says {s.resolve(rows, columns)} "
                    f"for {columns}x{rows}; correct the bundle"
                )
        expected = (frames[0].shape[0], rows * self._scale, columns * self._scale)
        made = tuple(results[OUT].shape())
        if len(made) != 4 or made[1:] != expected:
            raise FlashsrError(
                f"the model made frames of shape {made[1:]} from {columns}x{rows}, expected {expected}; "
                "correct the scale in the bundle"
            )

        def finish(out: Array) -> list[Array]:
            out = out.astype(np.float32, copy=False)
            if (low, high) != (0.0, 1.0):
                out = (out - np.float32(low)) / np.float32(high - low)
            return [frame[:, : height * self._scale, : width * self._scale] for frame in out]

        size = 4 * math.prod((made[1], height * self._scale, width * self._scale))
        return emitted(results[OUT], finish, made[0], size, pending=graph.pending), new

    def state_bytes(self, state: RecurrentState) -> int:
        """Memory of the state's tensors."""
        sizes = {s.name: np.dtype(s.dtype).itemsize for s in self._spec.states}
        return sum(math.prod(value.shape()) * sizes[name] for name, value in state.tensors.items())


def _check(graph: HostGraph, spec: ScaleSpec, bundle: Bundle, *, cold: bool) -> None:
    """Do the graph's inputs and outputs fit bundle.json? Said when the script runs, not in the middle of an encode."""
    ins = {FRAMES} | (set() if cold else {STATE + s.name for s in spec.states})
    outs = {OUT} | {NEXT + s.name for s in spec.states}
    for kind, wanted, has in (("inputs", ins, set(graph.inputs)), ("outputs", outs, set(graph.outputs))):
        if wanted != has:
            raise FlashsrError(
                f"{graph.path.name!r} has the {kind} {sorted(has)}, bundle.json implies {sorted(wanted)}; correct the bundle"
            )
    colours = graph.inputs[FRAMES].shape[1] if len(graph.inputs[FRAMES].shape) == 4 else None
    count = 1 if bundle.channels == "luma" else 3
    if colours is None or (isinstance(colours, int) and colours != count):
        raise FlashsrError(
            f"{graph.path.name!r} reads frames of shape {graph.inputs[FRAMES].shape}, a {bundle.channels} model reads "
            f"(frames, {count}, height, width); correct the bundle"
        )
    for s in spec.states:
        tensors = [graph.outputs[NEXT + s.name]] + ([] if cold else [graph.inputs[STATE + s.name]])
        for tensor in tensors:
            if not _fits(s, tensor):
                raise FlashsrError(
                    f"state {s.name!r} is {list(s.shape)} of {s.dtype} in bundle.json, but {tensor.name!r} of "
                    f"{graph.path.name!r} is {list(tensor.shape)} of {tensor.dtype}; correct the bundle"
                )


def _fits(state: StateSpec, tensor: Tensor) -> bool:
    return (
        len(state.shape) == len(tensor.shape)
        and tensor.dtype == np.dtype(state.dtype)
        and all(
            not (isinstance(a, int) and isinstance(b, int)) or a == b
            for a, b in zip(state.shape, tensor.shape, strict=True)
        )
    )
