"""Models: how a bundle's graphs make a step. They know nothing of VapourSynth, and nothing of order or seeking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import numpy as np

from .geometry import Array, Made
from .schedule import Schedule

if TYPE_CHECKING:
    from .gpu.budget import MemoryPlan
    from .gpu.device import Device
    from .gpu.frames import DeviceFrame, FrameWork

type Channels = Literal["luma", "rgb"]
"""What a model sees and makes: the luma plane alone (1, h, w), or RGB (3, h, w)."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What the filter and the stream have to know of a model."""

    scale: int
    """Output size over input size."""
    channels: Channels
    schedule: Schedule
    preroll: int
    """Frames after which a cold state is as good as warm."""
    max_segment: int
    """Frames between grid lines: the most that a seek replays, less the preroll. 1: every frame for itself."""
    chunk: int = 1
    """Runs begin on multiples of so many frames: the model cuts what it reads into pieces of this length, and two runs agree only
    if they cut alike."""
    half: bool = False
    """Are its frames float16, because it computes no more? 3840x2160 values become float32 in 65 ms by NumPy (2026-11-25), where
    VapourSynth's resizer takes them as they are; and half as many bytes cross the bus."""
    in_flight: int = 0
    """Steps worth submitting before the frames of the step before are fetched; 0 where a step ends before it returns."""


class Pending(Protocol):
    """A finished frame that a device is still making, or that hasn't been fetched from it."""

    @property
    def nbytes(self) -> int:
        """Size of the frame."""

    def array(self) -> Made:
        """Waits for the frame, (C, scale*h, scale*w). Any number of times, and after later steps too.

        Raises:
            FlashsrError: the device failed.
        """


type Frame = Made | Pending
"""What a step emits."""


type Given = Array | DeviceFrame
"""What a step reads: where a clip is resident on the GPU and the model works there, frames stay."""


def fetched(frame: Frame) -> Made:
    """The frame itself, waited for if need be."""
    return frame if isinstance(frame, np.ndarray) else frame.array()


class Model[State](Protocol):
    """A causal upscaler. ``step`` is pure: same frames, numbers and state, same bytes."""

    @property
    def spec(self) -> ModelSpec: ...

    def step(
        self, frames: Sequence[Array], numbers: Sequence[int], state: State | None
    ) -> tuple[Sequence[Frame], State]:
        """Read new frames, emit finished ones, and give the state to carry on with.

        Args:
            frames: new frames (C, h, w); ``spec.schedule.first_reads`` of them where ``state`` is None, else ``reads``.
            numbers: the clip's frame number of each; a frame repeated as padding keeps counting up.
            state: None at the beginning of a run, else what the step before returned. It is handed over: a model on a
                device works in it, so a state is passed once, and never again even if the step failed.

        Returns:
            Finished frames (C, scale*h, scale*w), float16 where ``spec.half`` says so, else float32; and the new state.
        """

    def state_bytes(self, state: State) -> int:
        """Memory that keeping ``state`` costs."""


@runtime_checkable
class OnDevice(Protocol):
    """What a model has, beside, whose ``step`` takes a ``DeviceFrame`` for each frame too, and then makes ``KeptFrame``."""

    @property
    def device(self) -> Device: ...

    @property
    def memory(self) -> MemoryPlan:
        """What it takes of the device by itself."""

    @property
    def kept_bytes(self) -> int:
        """Device memory of one frame that it has made."""

    def stay(self, work: FrameWork) -> None:
        """Frames will be on the device: this carries them. Called once, before any step."""
