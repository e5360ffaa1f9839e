"""Where state begins: the segment of a frame, from scene cuts and a fixed grid. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

type CutTest = Callable[[int], bool | None]
"""``is_cut(n)``: does a new shot begin with frame n? None: not known yet. Asked for 0 < n < number of frames only."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Frames over which state is carried. It delivers from ``start`` on; its run begins, cold, at ``run_start``."""

    start: int
    first: int
    """The first frame that its run reads, and what tells one run from all others: ``start`` at a cut; up to ``preroll`` frames
    earlier on the grid: those frames are run and thrown away."""
    run_start: int
    """The multiple of the model's chunk at or before ``first``; what the run reads before that is copies of it, thrown away too.
    So all runs of a shot cut it into the same chunks, and a grid line shows none."""


@dataclass(frozen=True, slots=True)
class Undecided:
    """The segment isn't known before it is known whether a shot begins with frame ``at``."""

    at: int
    first: int
    """No cut before this frame plays a part."""


def segment_of(
    n: int, is_cut: CutTest, *, preroll: int, max_segment: int, chunk: int = 1
) -> Segment | Undecided:
    """The segment that delivers frame ``n``; runs begin on multiples of ``chunk``.

    A function of n and of the cuts in [grid line at or before n, minus ``preroll``; n] alone, so it is the same however
    the frame was reached, and asks for at most ``max_segment + preroll`` cuts.
    """
    grid = n // max_segment * max_segment
    start = n
    while start > grid:
        begins = is_cut(start)
        if begins is None:
            return Undecided(start, max(1, grid - preroll + 1))
        if begins:
            return Segment(start, start, start - start % chunk)
        start -= 1
    first = start
    while first > 0 and start - first < preroll:
        begins = is_cut(first)
        if begins is None:
            return Undecided(first, max(1, start - preroll + 1))
        if begins:
            break
        first -= 1
    return Segment(start, first, first - first % chunk)
