"""Runs FlashVSR's step with ONNX Runtime and NumPy on the CPU: slow, and what the faster ones are checked against."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from ....errors import FlashsrError
from ....runtimes.onnxruntime import OnnxSession
from ..section import Graph, Section
from ..windows import Grid
from .attention import AttentionPlan, sparse_attention

type Array = npt.NDArray[np.float32]
type Tensor = npt.NDArray[Any]
type Observer = Callable[[int, Mapping[str, Tensor]], None]


class _Piece(Protocol):
    """A piece of one kind: (which of its layers, inputs by name) → outputs in the graph's order."""

    def __call__(self, layer: int, feeds: Mapping[str, Tensor]) -> list[Tensor]: ...


class _SharedPiece:
    """One session for all layers; weights are mapped from their files and passed with each call."""

    def __init__(self, folder: Path, graph: Graph, threads: int | None) -> None:
        self._session = OnnxSession(folder / graph.shared, threads=threads)
        self._weights = [_mapped(folder / name, graph) for name in graph.weights]

    def __call__(self, layer: int, feeds: Mapping[str, Tensor]) -> list[Tensor]:
        return _run(self._session, {**feeds, **self._weights[layer]})


class _ConstantPiece:
    """One session per layer."""

    def __init__(self, folder: Path, graph: Graph, threads: int | None) -> None:
        self._sessions = [OnnxSession(folder / name, threads=threads) for name in graph.constant]

    def __call__(self, layer: int, feeds: Mapping[str, Tensor]) -> list[Tensor]:
        return _run(self._sessions[layer], feeds)


def _run(session: OnnxSession, feeds: Mapping[str, Tensor | ort.OrtValue]) -> list[Tensor]:
    cast = {
        name: np.ascontiguousarray(value, session.inputs[name].dtype) if isinstance(value, np.ndarray) else value
        for name, value in feeds.items()
    }
    return [value.numpy() for value in session.run(cast).values()]


def _mapped(path: Path, graph: Graph) -> dict[str, ort.OrtValue]:
    """Tensors of a weight file, not yet read: the system loads pages as they are used, and may drop them again.

    Copy-on-write, because ONNX Runtime takes no array that is read-only.
    """
    size = path.stat().st_size
    if any(entry.offset_bytes + entry.length_bytes > size for entry in graph.tensors):
        raise FlashsrError(
            f"the weights {str(path)!r} are shorter than bundle.json says, got {size} bytes; export again"
        )
    data = np.memmap(path, np.uint8, mode="c")
    return {
        entry.name: ort.OrtValue.ortvalue_from_numpy(
            data[entry.offset_bytes : entry.offset_bytes + entry.length_bytes].view(entry.dtype).reshape(entry.shape)
        )
        for entry in graph.tensors
    }


class OnnxExecutor:
    """An ``Executor`` whose tensors are NumPy arrays.

    Args:
        folder: the bundle's folder.
        section: what its ``bundle.json`` says.
        form: "shared" or "constant" weights of the pieces; see ``Options.piece_weights``.
        threads: threads of one graph call; None: one for each core.
        observer: told each layer's number, and what its attention came to (`out`, `mask`).
    """

    def __init__(
        self,
        folder: Path,
        section: Section,
        *,
        form: str = "shared",
        threads: int | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.layers, self.heads, self.head_dim = section.layers, section.heads, section.head_dim
        self.looks_back = section.version != "v1"
        self._section, self._observer = section, observer
        kind = _SharedPiece if form == "shared" else _ConstantPiece
        self._first: _Piece = kind(folder, section.first, threads)
        self._middle: _Piece = kind(folder, section.middle, threads)
        self._last: _Piece = kind(folder, section.last, threads)
        self._window = OnnxSession(folder / section.attention, threads=threads)
        self._projector = OnnxSession(folder / section.projector, threads=threads)
        self._decoder = OnnxSession(folder / section.decoder, threads=threads)
        first = section.decoder_first
        self._decoder_first = None if first is None else OnnxSession(folder / first, threads=threads)
        self._state_dtype = self._decoder.inputs["state0"].dtype

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
        x, q, k, v = self._first(0, {"patches": patches, "lq": lq})
        return x, q, k, v

    def middle(self, layer: int, x: Tensor, attended: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x, q, k, v = self._middle(layer, {"x": x, "attended": attended})
        return x, q, k, v

    def last(self, x: Tensor, attended: Tensor, patches: Tensor) -> Tensor:
        return self._last(0, {"x": x, "attended": attended, "patches": patches})[0]

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
        kind = self._projector.inputs["ctx2"].dtype
        features = np.zeros((2, self._section.projector_hidden, height // 16, width // 16), kind)
        return np.repeat(frame[None], 2, axis=0), features

    def project(self, frames: Array, context: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        if not context:
            return _run(self._projector, {"clip": frames})[0], ()
        tokens, features = _run(self._projector, {"clip": frames, "ctx1": context[0], "ctx2": context[1]})
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
        session = self._decoder_first if first and self._decoder_first is not None else self._decoder
        feeds = {"latent": latent, "lq": condition, **{f"state{n}": state for n, state in enumerate(states)}}
        frames, *after = _run(session, {name: value for name, value in feeds.items() if name in session.inputs})
        # The first latent leaves the memories alone that it has no use for.
        remembered = dict(zip(list(session.outputs)[1:], after, strict=True))
        return frames.astype(np.float32, copy=False), tuple(
            remembered.get(f"next{n}", state) for n, state in enumerate(states)
        )
