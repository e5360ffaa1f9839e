"""Which frames a step reads and which it emits: pure arithmetic, counted from the first frame of a run."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import FlashsrError

_MOST_FRAMES = 1024


@dataclass(frozen=True, slots=True)
class Step:
    """One call of the model. All numbers are frame offsets from the first frame of the run."""

    index: int
    """0 for the cold step that begins a run."""
    reads: range
    """New frames the step reads; steps before it have read everything before ``reads.start``."""
    emits: range
    """Frames the step puts out."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How many frames step 0 and every later step read and emit (FlashVSR: 25 → 21, then 8 → 8)."""

    first_reads: int
    first_emits: int
    reads: int
    """Frames that each step after the first reads; equal to ``emits``, or the look-ahead would drift."""
    emits: int

    def __post_init__(self) -> None:
        if max(self.first_reads, self.reads) > _MOST_FRAMES:
            raise FlashsrError(f"a step reads {_MOST_FRAMES} frames at most, got {self}; correct the bundle")
        if min(self.first_emits, self.emits) < 1:
            raise FlashsrError(f"every step of a schedule emits at least one frame, got {self}; correct the bundle")
        if self.first_reads < self.first_emits:
            raise FlashsrError(f"step 0 can't emit more frames than it reads, got {self}; correct the bundle")
        if self.reads != self.emits:
            raise FlashsrError(
                f"steps after the first read as many frames as they emit, got {self}; correct the bundle"
            )

    @property
    def look_ahead(self) -> int:
        """Frames that a step reads beyond the newest frame it emits."""
        return self.first_reads - self.first_emits

    def index_of(self, offset: int) -> int:
        """The index of the step that emits the frame at ``offset`` (≥ 0)."""
        return 0 if offset < self.first_emits else 1 + (offset - self.first_emits) // self.emits

    def step(self, index: int) -> Step:
        """What step ``index`` (≥ 0) reads and emits."""
        if index == 0:
            return Step(0, range(self.first_reads), range(self.first_emits))
        read = self.first_reads + (index - 1) * self.reads
        emit = self.first_emits + (index - 1) * self.emits
        return Step(index, range(read, read + self.reads), range(emit, emit + self.emits))
