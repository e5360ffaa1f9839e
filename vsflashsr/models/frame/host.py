"""Single-frame upscalers: any ONNX graph of one image in, one larger image out, as shared by the thousand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...bundle import Precision
from ...errors import FlashsrError
from ...geometry import Array, pad, padded
from ...model import Channels, Frame, ModelSpec
from ...runtimes.graph import HostGraph, Value
from ...schedule import Schedule
from ..later import IN_FLIGHT, emitted, made_when_taken

_PROBE_PX = 64
_MULTIPLES = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True, slots=True)
class FrameGraph:
    """What a single-frame graph turned out to be."""

    input: str
    output: str
    scale: int
    channels: Channels
    precision: Precision
    size_multiple: int
    size: tuple[int, int] | None
    """(height, width) where the graph takes that size only."""

    @property
    def spec(self) -> ModelSpec:
        """Every frame for itself."""
        return ModelSpec(self.scale, self.channels, Schedule(1, 1, 1, 1), preroll=0, max_segment=1)


class FrameModel:
    """A graph (N, C, h, w) → (N, C, s*h, s*w), float32 or float16, C = 3 (RGB) or 1 (luma), on the CPU.

    Args:
        loaded: the graph.
        graph: what it turned out to be.
        value_range: what it calls black and white.
    """

    def __init__(self, loaded: HostGraph, graph: FrameGraph, value_range: tuple[float, float] = (0.0, 1.0)) -> None:
        self._loaded, self.graph, self._value_range = loaded, graph, value_range
        self._apart = loaded.concurrent and not loaded.pending
        self.spec = replace(graph.spec, in_flight=IN_FLIGHT if loaded.pending or self._apart else 0)

    def step(
        self, frames: Sequence[Array], numbers: Sequence[int], state: tuple[()] | None
    ) -> tuple[Sequence[Frame], tuple[()]]:
        """See ``Model.step``. The state is empty."""
        (frame,) = frames
        _, height, width = frame.shape
        rows, columns = padded(height, self.graph.size_multiple), padded(width, self.graph.size_multiple)
        scale = self.graph.scale

        def made() -> Value:
            result = _made(self._loaded, pad(frame, columns, rows), self._value_range)
            got, expected = tuple(result.shape()), (1, frame.shape[0], rows * scale, columns * scale)
            if got != expected:
                raise FlashsrError(
                    f"{self._loaded.path.name!r} made {got} from {columns}x{rows}, expected {expected}; correct the model"
                )
            return result

        def finish(out: Array) -> list[Array]:
            return [_unscaled(out, self._value_range)[:, : height * scale, : width * scale]]

        size = 4 * math.prod((frame.shape[0], height * scale, width * scale))
        if self._apart:
            return [made_when_taken(lambda: finish(made().numpy())[0], size)], ()
        return emitted(made(), finish, 1, size, pending=self._loaded.pending), ()

    def state_bytes(self, state: tuple[()]) -> int:
        """There is none."""
        return 0


def examine(graph: HostGraph, value_range: tuple[float, float] = (0.0, 1.0)) -> FrameGraph:
    """What a graph is, from its inputs and outputs and from running it on small grey pictures.

    Raises:
        FlashsrError: it is no single-frame upscaler.
    """
    where = f"{graph.path.name!r}"
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise FlashsrError(
            f"{where} has the inputs {list(graph.inputs)} and outputs {list(graph.outputs)}; "
            "a single-frame upscaler has one of each: make it a bundle of another kind"
        )
    (given,), (made,) = graph.inputs.values(), graph.outputs
    shape = given.shape
    if len(shape) != 4 or (shape[1] not in (1, 3) and isinstance(shape[1], int)):
        raise FlashsrError(f"{where} reads {list(shape)}; a single-frame upscaler reads (1, 3 or 1, height, width)")
    if isinstance(shape[0], int) and shape[0] != 1:
        raise FlashsrError(f"{where} reads batches of {shape[0]}; export it with a batch of 1")
    channels: Channels = "luma" if shape[1] == 1 else "rgb"
    precision: Precision = "fp16" if given.dtype == np.float16 else "fp32"
    height, width = shape[2:]

    def found(scale: int, multiple: int, size: tuple[int, int] | None) -> FrameGraph:
        return FrameGraph(given.name, made, scale, channels, precision, multiple, size)

    if isinstance(height, int) and isinstance(width, int):
        return found(_probe(graph, channels, height, width, value_range), 1, (height, width))
    reason: FlashsrError | None = None
    for multiple in _MULTIPLES:
        # A multiple of this power of two and of no higher one: what passes here passes for every such size.
        rows = height if isinstance(height, int) else _PROBE_PX + multiple
        columns = width if isinstance(width, int) else _PROBE_PX + multiple
        try:
            return found(_probe(graph, channels, rows, columns, value_range), multiple, None)
        except FlashsrError as error:
            reason = reason or error
    assert reason is not None
    raise reason


def _probe(graph: HostGraph, channels: Channels, height: int, width: int, value_range: tuple[float, float]) -> int:
    """The scale, from running the graph once on a small grey picture."""
    grey = np.full((1 if channels == "luma" else 3, height, width), 0.5, np.float32)
    out = _run(graph, grey, value_range)
    scale = int(out.shape[1]) // height
    if scale not in (1, 2, 3, 4) or out.shape != (grey.shape[0], height * scale, width * scale):
        raise FlashsrError(
            f"{graph.path.name!r} makes {out.shape} from {grey.shape}; a single-frame upscaler is 1x, 2x, 3x or 4x"
        )
    return scale


def _run(graph: HostGraph, frame: Array, value_range: tuple[float, float]) -> Array:
    out = _made(graph, frame, value_range).numpy()
    if out.ndim != 4 or out.shape[0] != 1:
        raise FlashsrError(f"{graph.path.name!r} makes {out.shape}; a single-frame upscaler makes one image")
    return _unscaled(out, value_range)


def _made(graph: HostGraph, frame: Array, value_range: tuple[float, float]) -> Value:
    low, high = value_range
    (given,) = graph.inputs.values()
    # Times one plus nothing is two passes over the frame: 3 ms for 1280x720 RGB (2026-11-25).
    scaled = frame if (low, high) == (0.0, 1.0) else frame * np.float32(high - low) + np.float32(low)
    batch = np.ascontiguousarray(scaled[None], given.dtype)
    (result,) = graph.run({given.name: batch}).values()
    return result


def _unscaled(out: Array, value_range: tuple[float, float]) -> Array:
    """(1, C, h, w) as the graph makes it → (C, h, w) in 0..1."""
    low, high = value_range
    made: Array = out[0].astype(np.float32, copy=False)
    return made if (low, high) == (0.0, 1.0) else (made - np.float32(low)) / np.float32(high - low)
