"""FlashVSR as the filter's ``Model``: pre-upscale, pad, the streaming step, colour fix, crop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .... import colour_fix
from ....geometry import Array, padded
from ....model import ModelSpec
from ....resample import resize
from ..noise import step_noise
from ..options import Options
from ..windows import BLOCK_PX, Grid, topk_ratio
from .step import Executor, StepOptions, StepState, run_step

_NUMPY_PADDING = {"reflect": "reflect", "replicate": "edge"}


class FlashVSRModel:
    """FlashVSR on the CPU, at one pre-upscale.

    Args:
        spec: of the bundle at the factor of the pre-upscale, which is that of the output.
        options: the bundle's with the user's changes.
        executor: what runs the step.
    """

    def __init__(self, spec: ModelSpec, options: Options, executor: Executor[Any]) -> None:
        self.spec, self._options, self._executor = spec, options, executor

    def step(
        self, frames: Sequence[Array], numbers: Sequence[int], state: StepState[Any] | None
    ) -> tuple[list[Array], StepState[Any]]:
        """See ``Model.step``."""
        _, height, width = frames[0].shape
        height, width = height * self.spec.scale, width * self.spec.scale
        grid = Grid(padded(height, BLOCK_PX) // BLOCK_PX, padded(width, BLOCK_PX) // BLOCK_PX)
        upscaled = self._prepared(np.stack(frames), height, width, grid)
        noise = step_noise(self._options.seed, numbers, grid.height_px // 8, grid.width_px // 8)
        ratio = topk_ratio(self._options.sparse_ratio, grid)
        options = StepOptions(ratio, self._options.local_range, self._options.kv_ratio)
        made, after = run_step(self._executor, upscaled, noise, state, options)
        before = upscaled if state is None else np.concatenate([state.frames, upscaled])
        return self._finished(made, before[: len(made)], height, width), after

    def state_bytes(self, state: StepState[Any]) -> int:
        """All of it, though neighbouring states share all but one slice of each layer's cache."""
        tensors = [tensor for cache in state.caches for part in cache for tensor in (part.keys, part.values)]
        held = sum(self._executor.state_bytes(tensor) for tensor in (*tensors, *state.context, *state.states))
        return held + state.frames.nbytes

    def _prepared(
        self, frames: npt.NDArray[np.float32], height: int, width: int, grid: Grid
    ) -> npt.NDArray[np.float32]:
        """(n, 3, h, w) in 0..1 → (n, 3, H, W) in -1..1, upscaled and padded at the right and below."""
        upscaled = resize(frames, height, width) * np.float32(2) - np.float32(1)
        missing = ((0, 0), (0, 0), (0, grid.height_px - height), (0, grid.width_px - width))
        mode: Any = _NUMPY_PADDING[self._options.padding]
        return np.pad(upscaled, missing, mode=mode) if any(map(any, missing)) else upscaled

    def _finished(
        self, made: npt.NDArray[np.float32], before: npt.NDArray[np.float32], height: int, width: int
    ) -> list[Array]:
        """Crops, gives the picture its input's colours, and goes back to 0..1."""
        made, before = made[..., :height, :width], before[..., :height, :width]
        match self._options.color_fix:
            case "adain":
                made = colour_fix.adain(made, before)
            case "wavelet":
                made = colour_fix.wavelet(made, before)
        return list(np.clip(made * np.float32(0.5) + np.float32(0.5), 0, 1))
