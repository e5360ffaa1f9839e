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
    run_start: int
    """``start`` at a cut; up to ``preroll`` frames earlier on the grid: those frames are run and thrown away."""


@dataclass(frozen=True, slots=True)
class Undecided:
    """The segment isn't known before it is known whether a shot begins with frame ``at``."""

    at: int
    first: int
    """No cut before this frame plays a part."""


def segment_of(n: int, is_cut: CutTest, *, preroll: int, max_segment: int) -> Segment | Undecided:
    """The segment that delivers frame ``n``.

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
            return Segment(start, start)
        start -= 1
    run_start = start
    while run_start > 0 and start - run_start < preroll:
        begins = is_cut(run_start)
        if begins is None:
            return Undecided(run_start, max(1, start - preroll + 1))
        if begins:
            break
        run_start -= 1
    return Segment(start, run_start)
