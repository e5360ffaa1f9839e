"""FlashVSR on a device as the filter's ``Model``: frames from the host, everything else there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ....geometry import Array, padded
from ....gpu.pipeline import RunState
from ....gpu.results import PendingFrame
from ....model import ModelSpec
from ..noise import noise_frames
from ..options import Options
from ..section import Section
from ..windows import BLOCK_PX, Grid, pair_budget, topk_ratio
from .memory import IN_FLIGHT, StepShape
from .step import DeviceStep, StepInputs


def step_shape(section: Section, options: Options, *, dtype: str, low: tuple[int, int], scale: int) -> StepShape:
    """The sizes of a step for frames, or tiles, of ``low`` = (height, width).

    The budget of kept pairs is the published one for this size, so a tile works as the model does on a small frame.
    """
    out = (low[0] * scale, low[1] * scale)
    grid = Grid(*(padded(side, BLOCK_PX) // BLOCK_PX for side in out))
    return StepShape(
        grid=grid,
        low=low,
        out=out,
        layers=section.layers,
        heads=section.heads,
        head_dim=section.head_dim,
        dtype=dtype,
        kv_ratio=options.kv_ratio,
        local_range=options.local_range,
        budget=pair_budget(topk_ratio(options.sparse_ratio, grid), grid),
        projector_hidden=0 if section.version == "v1" else section.projector_hidden,
        decoder_states=section.decoder_states,
        wavelet=options.color_fix == "wavelet",
    )


class DeviceFlashVSRModel:
    """See ``FlashVSRModel``.

    Args:
        spec: of the bundle at the pre-upscale's scale.
        step: the opened step.
        seed: of the noise.
    """

    def __init__(self, spec: ModelSpec, step: DeviceStep, seed: int) -> None:
        self.spec = replace(spec, in_flight=IN_FLIGHT, half=step.shape.half)
        self._step, self._seed = step, seed
        self.memory = step.memory

    def step(
        self, frames: Sequence[Array], numbers: Sequence[int], state: RunState | None
    ) -> tuple[list[PendingFrame], RunState]:
        """See ``Model.step``: queued, not waited for."""
        shape = self._step.shape
        plan = self._step.plan(state)
        result, state = self._step.submit(StepInputs(frames, self._seed, noise_frames(numbers)), state)
        return result.frames(plan.emits, shape.out_frame_bytes), state

    def state_bytes(self, state: RunState) -> int:
        """All of one run's buffers."""
        return self._step.state_bytes()
