"""Where state begins: the segment of a frame, from scene cuts and a fixed grid. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

CutTest = Callable[[int], bool]
"""``is_cut(n)``: does a new shot begin with frame n? Asked for 0 < n < number of frames only."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Frames over which state is carried. It delivers from ``start`` on; its run begins, cold, at ``run_start``."""

    start: int
    run_start: int
    """``start`` at a cut; up to ``preroll`` frames earlier on the grid: those frames are run and thrown away."""


def segment_of(n: int, is_cut: CutTest, *, preroll: int, max_segment: int) -> Segment:
    """The segment that delivers frame ``n``.

    A function of n and of the cuts in [grid line at or before n, minus ``preroll``; n] alone, so it is the same however
    the frame was reached, and asks for at most ``max_segment + preroll`` cuts.
    """

    def begins_shot(k: int) -> bool:
        return k == 0 or is_cut(k)

    grid = n // max_segment * max_segment
    start = n
    while start > grid and not begins_shot(start):
        start -= 1
    run_start = start
    while start - run_start < preroll and not begins_shot(run_start):
        run_start -= 1
    return Segment(start, run_start)
