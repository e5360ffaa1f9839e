"""Single-frame upscalers: any ONNX graph of one image in, one larger image out, as shared by the thousand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...bundle import Precision
from ...errors import FlashsrError
from ...geometry import Array, pad, padded
from ...model import Channels, ModelSpec
from ...runtimes.onnxruntime import OnnxSession
from ...schedule import Schedule

_PROBE_PX = 64
_MULTIPLES = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True, slots=True)
class FrameGraph:
    """What a single-frame graph turned out to be."""

    scale: int
    channels: Channels
    size_multiple: int
    size: tuple[int, int] | None
    """(height, width) where the graph takes that size only."""


class FrameModel:
    """A graph (N, C, h, w) → (N, C, s*h, s*w), float32 or float16, values 0..1, C = 3 (RGB) or 1 (luma).

    Args:
        path: the ``.onnx`` file.
        threads: see ``OnnxSession``.
        value_range: what the graph calls black and white.
        scale: what the bundle says; None (a bare file) finds it out. A different finding is an error.
    """

    def __init__(
        self,
        path: Path,
        *,
        threads: int | None = None,
        value_range: tuple[float, float] = (0.0, 1.0),
        scale: int | None = None,
    ) -> None:
        self._session = OnnxSession(path, threads=threads)
        self.value_range = value_range
        where = f"{path.name!r}"
        if len(self._session.inputs) != 1 or len(self._session.outputs) != 1:
            raise FlashsrError(
                f"{where} has the inputs {list(self._session.inputs)} and outputs {list(self._session.outputs)}; "
                "a single-frame upscaler has one of each: make it a bundle of another kind"
            )
        (self._input,) = self._session.inputs.values()
        self.names = self._input.name, next(iter(self._session.outputs))
        """Of the graph's input and output."""
        self.graph = self._examine(where)
        if scale is not None and scale != self.graph.scale:
            raise FlashsrError(f"{where} upscales by {self.graph.scale}, its bundle says {scale}; correct the bundle")

    def _examine(self, where: str) -> FrameGraph:
        shape = self._input.shape
        if len(shape) != 4 or (shape[1] not in (1, 3) and isinstance(shape[1], int)):
            raise FlashsrError(f"{where} reads {list(shape)}; a single-frame upscaler reads (1, 3 or 1, height, width)")
        if isinstance(shape[0], int) and shape[0] != 1:
            raise FlashsrError(f"{where} reads batches of {shape[0]}; export it with a batch of 1")
        channels: Channels = "luma" if shape[1] == 1 else "rgb"
        height, width = shape[2:]
        if isinstance(height, int) and isinstance(width, int):
            return FrameGraph(self._probe(where, channels, height, width), channels, 1, (height, width))
        reason: FlashsrError | None = None
        for multiple in _MULTIPLES:
            # A multiple of this power of two and of no higher one: what passes here passes for every such size.
            rows = height if isinstance(height, int) else _PROBE_PX + multiple
            columns = width if isinstance(width, int) else _PROBE_PX + multiple
            try:
                return FrameGraph(self._probe(where, channels, rows, columns), channels, multiple, None)
            except FlashsrError as error:
                reason = reason or error
        assert reason is not None
        raise reason

    def _probe(self, where: str, channels: Channels, height: int, width: int) -> int:
        """The scale, from running the graph once on a small grey picture."""
        grey = np.full((1 if channels == "luma" else 3, height, width), 0.5, np.float32)
        out = self._run(grey)
        scale = int(out.shape[1]) // height
        if scale not in (1, 2, 3, 4) or out.shape != (grey.shape[0], height * scale, width * scale):
            raise FlashsrError(
                f"{where} makes {out.shape} from {grey.shape}; a single-frame upscaler is 1x, 2x, 3x or 4x"
            )
        return scale

    def _run(self, frame: Array) -> Array:
        low, high = self.value_range
        batch = (frame * np.float32(high - low) + np.float32(low))[None].astype(self._input.dtype, copy=False)
        (result,) = self._session.run({self._input.name: batch}).values()
        out = result.numpy()
        if out.ndim != 4 or out.shape[0] != 1:
            raise FlashsrError(
                f"{self._session.path.name!r} makes {out.shape}; a single-frame upscaler makes one image"
            )
        unscaled: Array = (out[0].astype(np.float32, copy=False) - np.float32(low)) / np.float32(high - low)
        return unscaled

    @property
    def precision(self) -> Precision:
        """What the graph reads."""
        return "fp16" if self._input.dtype == np.float16 else "fp32"

    @property
    def spec(self) -> ModelSpec:
        return ModelSpec(self.graph.scale, self.graph.channels, Schedule(1, 1, 1, 1), preroll=0, max_segment=1)

    def step(
        self, frames: Sequence[Array], numbers: Sequence[int], state: tuple[()] | None
    ) -> tuple[list[Array], tuple[()]]:
        """See ``Model.step``. The state is empty."""
        (frame,) = frames
        _, height, width = frame.shape
        rows, columns = padded(height, self.graph.size_multiple), padded(width, self.graph.size_multiple)
        out = self._run(pad(frame, columns, rows))
        expected = (frame.shape[0], rows * self.graph.scale, columns * self.graph.scale)
        if out.shape != expected:
            raise FlashsrError(
                f"{self._session.path.name!r} made {out.shape} from {columns}x{rows}, expected {expected}"
            )
        return [out[:, : height * self.graph.scale, : width * self.graph.scale]], ()

    def state_bytes(self, state: tuple[()]) -> int:
        """There is none."""
        return 0
