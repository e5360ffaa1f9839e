"""Is a clip interlaced? A vote over samples of its frames, and what follows from it together with its flags. Pure.

The test of one frame is close to that of ffmpeg's filter idet: lines of a frame are compared with the lines between them from
the frame before, the frame after, and the frame itself. In an interlaced frame the frame's own lines fit about as badly as those
of the nearer field next door, and the farther one fits worse: which one that is tells the order of the fields. In a progressive
frame its own lines fit best by far.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

type Array = np.ndarray[Any, Any]
type Vote = Literal["tff", "bff", "progressive", "unclear"]
type Repeat = Literal["top", "bottom"]
type Kind = Literal["progressive", "interlaced", "telecine"]
type FieldOrder = Literal["tff", "bff"]

INTERLACE_RATIO = 1.04
PROGRESSIVE_RATIO = 1.5
"""Both are idet's own thresholds."""
SURELY_PROGRESSIVE_RATIO = 1.67
"""From here on a frame is progressive whatever its neighbours say. Progressive frames of telecine reach 5 to 12, sharp moving
test pictures 1.7 to 1.9, interlaced frames with motion 1.0 to 1.56 (the clips of scripts/field_votes.py, 2026-11-24)."""

REPEAT_RATIO = 3.0
"""A field is the one before, shown again, if it changed less than the other by this ratio: idet's own."""

RUNS, RUN_FRAMES = 8, 12
"""Twelve frames in a row show a 3:2 pattern twice."""

SHARE_IF_FLAGGED = 0.1
"""Flagged frames are interlaced if this share of the clear votes says so: still shots of interlaced video look progressive."""
SHARE_IF_NOT = 0.4
"""Without a flag it takes more, and only combs that can be seen: fine patterns that move up or down look like combs."""
VISIBLE_RATIO = 0.66
"""Lines that fit their neighbours worse than this times as they fit those of their own field are combs to the eye. Progressive
frames of natural clips have 0.37 to 0.60, of ffmpeg's test picture 0.55 to 0.69, interlaced ones 0.5 (still) to 49."""
LEAST_CLEAR, LEAST_CLEAR_SHARE = 3, 0.05
"""Fewer clear votes than this, in number or of all, decide nothing."""
_CYCLE = 5


@dataclass(frozen=True, slots=True)
class Look:
    """How one frame looks between its neighbours."""

    vote: Vote
    visible: bool = False
    """Is it combed so that an eye would see it?"""
    repeat: Repeat | None = None
    """Which of its fields is that of the frame before, shown again."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """How samples look, one tuple for each run of neighbouring frames."""

    runs: tuple[tuple[Look, ...], ...]
    starts: tuple[int, ...]
    """First frame of each run."""

    def count(self, *votes: Vote) -> int:
        return sum(look.vote in votes for run in self.runs for look in run)

    @property
    def frames(self) -> int:
        return sum(map(len, self.runs))

    def __str__(self) -> str:
        combed, progressive = self.count("tff", "bff"), self.count("progressive")
        return f"{combed} combed, {progressive} progressive, {self.count('unclear')} unclear of {self.frames}"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a clip is, and why."""

    kind: Kind
    order: FieldOrder | None
    """Which field comes first; None where the frames are progressive."""
    phase: int | None
    """Of telecine with one pattern throughout: which of five frames is the first combed one; else None."""
    why: str


def sample_runs(frames: int) -> tuple[range, ...]:
    """Which frames to look at: a few runs, spread evenly. A frame needs both neighbours, so the first and last are none."""
    inner = frames - 2
    if inner < 1:
        return ()
    if inner <= RUNS * RUN_FRAMES:
        return (range(1, frames - 1),)
    step = (inner - RUN_FRAMES) / (RUNS - 1)
    return tuple(range(1 + int(i * step), 1 + int(i * step) + RUN_FRAMES) for i in range(RUNS))


def gather(frames: int, luma: Callable[[int], Array]) -> Evidence:
    """How a clip's samples look.

    Args:
        frames: how many there are.
        luma: (height, width) of frame n.
    """
    runs = sample_runs(frames)
    looks: list[tuple[Look, ...]] = []
    for run in runs:
        before, here = luma(run.start - 1), luma(run.start)
        cast: list[Look] = []
        for n in run:
            after = luma(n + 1)
            cast.append(look_at(before, here, after))
            before, here = here, after
        looks.append(tuple(cast))
    return Evidence(tuple(looks), tuple(run.start for run in runs))


def look_at(before: Array, here: Array, after: Array) -> Look:
    """How one frame looks between its neighbours; luma of (height, width) each."""
    if here.shape[0] < 5 or not before.shape == here.shape == after.shape:
        return Look("unclear")
    kind = np.float32 if here.dtype.kind == "f" else np.int32
    b, h, a = (plane[:, ::2].astype(kind) for plane in (before, here, after))
    comb = np.abs(h[1:-3] + h[3:-1] - 2 * h[2:-2]).sum(dtype=np.float64)
    field = np.abs(h[:-4] + h[4:] - 2 * h[2:-2]).sum(dtype=np.float64)
    return Look(_vote(b, h, a), bool(comb > VISIBLE_RATIO * field), _repeat(b, h))


def _repeat(before: Array, here: Array) -> Repeat | None:
    change = np.abs(here - before)
    top, bottom = change[0::2].mean(dtype=np.float64), change[1::2].mean(dtype=np.float64)
    if bottom > REPEAT_RATIO * top:
        return "top"
    return "bottom" if top > REPEAT_RATIO * bottom else None


def _vote(b: Array, h: Array, a: Array) -> Vote:
    around = h[1:-3] + h[3:-1]  # of lines 2 … height - 3

    def misfit(plane: Array) -> Array:
        total: Array = np.abs(around - 2 * plane[2:-2]).sum(axis=1, dtype=np.float64)
        return total

    past, future, own = misfit(b), misfit(a), misfit(h)
    # Row 0 is line 2, of the top field.
    top_first = past[0::2].sum() + future[1::2].sum()
    bottom_first = past[1::2].sum() + future[0::2].sum()
    fit = min(top_first, bottom_first)
    if fit > SURELY_PROGRESSIVE_RATIO * own.sum():
        return "progressive"
    if top_first > INTERLACE_RATIO * bottom_first:
        return "tff"
    if bottom_first > INTERLACE_RATIO * top_first:
        return "bff"
    return "progressive" if fit > PROGRESSIVE_RATIO * own.sum() else "unclear"


def decide(evidence: Evidence, flag: FieldOrder | None) -> Finding:
    """What the clip is.

    Args:
        evidence: votes of its frames.
        flag: what its frames are flagged as; None: progressive.
    """
    flagged = "flagged " + {"tff": "top field first", "bff": "bottom field first", None: "progressive"}[flag]
    combed, progressive = evidence.count("tff", "bff"), evidence.count("progressive")
    clear = combed + progressive
    why = f"{flagged}; sampled frames: {evidence}"
    if clear < max(LEAST_CLEAR, LEAST_CLEAR_SHARE * evidence.frames):
        kind: Kind = "progressive" if flag is None else "interlaced"
        return Finding(kind, flag, None, f"{why}: the flag decides")
    order = _order(evidence, flag)
    phase, telecine = _telecine(evidence)
    if telecine:
        return Finding(
            "telecine", order, phase, f"{why}; fields repeat in a pattern of five frames: film with 3:2 pulldown"
        )
    if flag is None:
        combed = sum(look.visible and look.vote in ("tff", "bff") for run in evidence.runs for look in run)
    if combed / clear < (SHARE_IF_FLAGGED if flag else SHARE_IF_NOT):
        wrongly = ": the flag is wrong" if flag else ""
        return Finding("progressive", None, None, why + wrongly)
    wrongly = "" if order == flag else f": the flag is wrong, {order} it is"
    return Finding("interlaced", order, None, why + wrongly)


def _order(evidence: Evidence, flag: FieldOrder | None) -> FieldOrder:
    top, bottom = evidence.count("tff"), evidence.count("bff")
    if flag is not None and max(top, bottom) < 4 * min(top, bottom) + 8:
        return flag
    return "tff" if top >= bottom else "bff"


def _telecine(evidence: Evidence) -> tuple[int | None, bool]:
    """The phase of a 3:2 pattern if all runs share one, and whether there is a pattern."""
    phases: list[int] = []
    told = 0
    for start, run in zip(evidence.starts, evidence.runs, strict=True):
        repeats = [(start + i, look.repeat) for i, look in enumerate(run) if look.repeat is not None]
        if len(run) < 2 * _CYCLE or (not repeats and all(look.vote == "unclear" for look in run)):
            continue
        told += 1
        fits = [_explained(repeats, phase) for phase in range(_CYCLE)]
        best = max(range(_CYCLE), key=fits.__getitem__)
        # Two repeated fields in five frames, less those that still shots hide.
        if fits[best] >= max(2, 0.8 * len(repeats), 0.15 * len(run)):
            phases.append(best)
    if not told or len(phases) < 0.7 * told:
        return None, False
    return (phases[0] if len(set(phases)) == 1 and len(phases) == told else None), True


def _explained(repeats: Sequence[tuple[int, Repeat]], phase: int) -> int:
    """How many of the repeated fields a 3:2 pattern explains: one field at ``phase``, the other two frames later.

    Both have to occur: a field that is the same in every fifth frame is no telecine.
    """
    first = {kind for n, kind in repeats if (n - phase) % _CYCLE == 0}
    second = {kind for n, kind in repeats if (n - phase - 2) % _CYCLE == 0}
    if len(first) != 1 or len(second) != 1 or first == second:
        return 0
    return sum((n - phase) % _CYCLE in (0, 2) for n, _ in repeats)
