"""Which frames are encoded apart: chunks whose borders lie on the segment grid. Pure."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

USUAL_FRAMES = 240
"""An encoder begins a chunk with a key frame, and x265 sets one every 250 frames anyway."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Output frames [start, stop), encoded by one run of the encoder."""

    index: int
    start: int
    stop: int

    @property
    def frames(self) -> int:
        return self.stop - self.start


def chunk_length(max_segment: int, wanted: int = USUAL_FRAMES) -> int:
    """The least multiple of ``max_segment`` that has ``wanted`` frames.

    On the grid the filter's state begins anew, and its preroll is run, whether a chunk begins there or not: chunks on the
    grid cost the model nothing.
    """
    return max(1, -(-wanted // max_segment)) * max_segment


def plan_chunks(first: int, stop: int, length: int) -> tuple[Chunk, ...]:
    """Cut frames [first, stop) at the multiples of ``length``.

    A function of its arguments alone, so that neither workers nor interruptions move a border. A last piece shorter than a
    quarter of ``length`` belongs to the one before it: a chunk of three frames costs a key frame and an encoder's start.
    """
    if not 0 <= first < stop or length < 1:
        raise ValueError(f"chunks need 0 <= first < stop and length >= 1, got {first}, {stop}, {length}")
    borders = [first, *range((first // length + 1) * length, stop, length), stop]
    if len(borders) > 2 and borders[-1] - borders[-2] < length / 4:
        del borders[-2]
    return tuple(Chunk(i, a, b) for i, (a, b) in enumerate(itertools.pairwise(borders)))
