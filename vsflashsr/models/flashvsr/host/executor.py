"""Runs FlashVSR's step with ONNX Runtime and NumPy on the CPU: slow, and what the faster ones are checked against."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ....errors import FlashsrError
from ....runtimes.backend import HostBackend
from ....runtimes.graph import GraphCall, HostGraph, Shapes
from ..calls import StepOf
from ..section import Section
from ..windows import Grid
from .attention import AttentionPlan, sparse_attention

type Array = npt.NDArray[np.float32]
type Tensor = npt.NDArray[Any]
type Observer = Callable[[int, Mapping[str, Tensor]], None]


def _run(graph: HostGraph, feeds: Mapping[str, Tensor]) -> list[Tensor]:
    cast = {name: np.ascontiguousarray(value, graph.inputs[name].dtype) for name, value in feeds.items()}
    return [value.numpy() for value in graph.run(cast).values()]


class OnnxExecutor:
    """An ``Executor`` whose tensors are NumPy arrays.

    Args:
        section: what the bundle says.
        graphs: of a step, loaded.
        window: softmax attention of one query window, loaded.
        observer: told each layer's number, and what its attention came to (`out`, `mask`).
    """

    def __init__(
        self, section: Section, graphs: StepOf[HostGraph], window: HostGraph, observer: Observer | None = None
    ) -> None:
        self.layers, self.heads, self.head_dim = section.layers, section.heads, section.head_dim
        self.looks_back = section.version != "v1"
        self._section, self._graphs, self._window, self._observer = section, graphs, window, observer
        self._state_dtype = graphs.decoder.inputs["state0"].dtype

    def upload(self, array: Array) -> Tensor:
        return array

    def download(self, tensor: Tensor) -> Array:
        return tensor.astype(np.float32, copy=False)

    def gather(self, parts: Sequence[Tensor], order: npt.NDArray[np.int64]) -> Tensor:
        out: Tensor = np.concatenate(list(parts))[order]
        return out

    def split(self, tensor: Tensor, parts: int) -> tuple[Tensor, ...]:
        return (tensor,) if parts == 1 else tuple(part.copy() for part in np.split(tensor, parts))

    def state_bytes(self, tensor: Tensor) -> int:
        return int(tensor.nbytes)

    def first(self, patches: Tensor, lq: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x, q, k, v = _run(self._graphs.first[0], {"patches": patches, "lq": lq})
        return x, q, k, v

    def middle(self, layer: int, x: Tensor, attended: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x, q, k, v = _run(self._graphs.middle[layer], {"x": x, "attended": attended})
        return x, q, k, v

    def last(self, x: Tensor, attended: Tensor, patches: Tensor) -> Tensor:
        return _run(self._graphs.last[0], {"x": x, "attended": attended, "patches": patches})[0]

    def attend(
        self, layer: int, q: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor], plan: AttentionPlan
    ) -> Tensor:
        attended, kept = sparse_attention(q, keys, values, plan, self._attend_window)
        if self._observer is not None:
            self._observer(layer, {"out": attended, "mask": kept})
        return attended

    def _attend_window(self, q: Array, k: Array, v: Array) -> Array:
        """By ONNX Runtime, whose threads don't spin: NumPy's take 48 times as long beside an encoder (2026-11-22)."""
        return _run(self._window, {"q": q, "k": k, "v": v})[0]

    def projector_context(self, frame: Array) -> tuple[Tensor, ...]:
        if self._section.version == "v1":
            return ()
        _, height, width = frame.shape
        kind = self._graphs.projector.inputs["ctx2"].dtype
        features = np.zeros((2, self._section.projector_hidden, height // 16, width // 16), kind)
        return np.repeat(frame[None], 2, axis=0), features

    def project(self, frames: Array, context: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        if not context:
            return _run(self._graphs.projector, {"clip": frames})[0], ()
        tokens, features = _run(self._graphs.projector, {"clip": frames, "ctx1": context[0], "ctx2": context[1]})
        return tokens, (frames[2:].copy(), features)

    def decoder_states(self, grid: Grid) -> tuple[Tensor, ...]:
        rows, cols = grid.rows * 16, grid.cols * 16
        return tuple(
            np.zeros((state.frames, state.channels, rows * state.factor, cols * state.factor), self._state_dtype)
            for state in self._section.decoder_states
        )

    def decode(
        self, latent: Tensor, condition: Array, states: tuple[Tensor, ...], *, first: bool
    ) -> tuple[Array, tuple[Tensor, ...]]:
        graphs = self._graphs
        graph = graphs.decoder_first if first and graphs.decoder_first is not None else graphs.decoder
        feeds = {"latent": latent, "lq": condition, **{f"state{n}": state for n, state in enumerate(states)}}
        frames, *after = _run(graph, {name: value for name, value in feeds.items() if name in graph.inputs})
        # The first latent leaves the memories alone that it has no use for.
        remembered = dict(zip(list(graph.outputs)[1:], after, strict=True))
        return frames.astype(np.float32, copy=False), tuple(
            remembered.get(f"next{n}", state) for n, state in enumerate(states)
        )


MADE = {"first": ("x", "q", "k", "v"), "middle": ("x_out", "q", "k", "v"), "last": ("latents",)}
"""Outputs of the DiT's pieces, in their order."""


def load_executor(
    backend: HostBackend, folder: Path, section: Section, calls: StepOf[GraphCall], observer: Observer | None = None
) -> OnnxExecutor:
    """The executor on a backend.

    Args:
        backend: what loads the graphs.
        folder, section: the bundle's.
        calls: its `step_calls`.
        observer: see `OnnxExecutor`.

    Raises:
        FlashsrError: a graph can't be had there.
    """
    path = folder / section.attention
    window, *loaded = backend.load([GraphCall(path, path.stem, (Shapes({}, {}),)), *calls])
    graphs = calls.loaded(loaded)
    _check(window, ("out",))
    _check(graphs.projector, ("tokens",) if section.version == "v1" else ("tokens", "next2"))
    for kind, outputs in MADE.items():
        for graph in getattr(graphs, kind):
            _check(graph, outputs)
    states = tuple(f"next{n}" for n in range(len(section.decoder_states)))
    _check(graphs.decoder, ("frames", *states))
    if (cold := graphs.decoder_first) is not None:
        # It leaves memories out that the first latent has no use for.
        _check(cold, ("frames", *(name for name in states if name in cold.outputs)))
    return OnnxExecutor(section, graphs, window, observer)


def _check(graph: HostGraph, outputs: tuple[str, ...]) -> None:
    """Does it make what the step reads by place? Said when the script runs, not in the middle of an encode."""
    if tuple(graph.outputs) != outputs:
        raise FlashsrError(
            f"{str(graph.path)!r} should make {', '.join(outputs)}, got {', '.join(graph.outputs)}; export the bundle again"
        )
