"""When each frame is shown: from a source's timestamps to those of the frames made from it. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

TOLERANCE_S = 0.0011
"""A container that counts in milliseconds puts a frame of a constant rate up to this far from its place."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Start of each frame in seconds, on the source's own clock, ascending."""

    starts: tuple[float, ...]
    rate: Fraction | None
    """Frames a second if that is constant, else None."""
    last_s: float
    """How long the last frame is shown."""

    @property
    def end(self) -> float:
        return self.starts[-1] + self.last_s

    def part(self, first: int, stop: int) -> Timing:
        """The timing of frames [first, stop)."""
        last = self.last_s if stop == len(self.starts) else self.starts[stop] - self.starts[stop - 1]
        return Timing(self.starts[first:stop], self.rate, last)


def from_starts(stamps: Sequence[float | None], rates: Sequence[Fraction]) -> Timing:
    """The timing of decoded frames.

    Args:
        stamps: when each is shown, in seconds; None where it isn't known. Those that go back count as unknown.
        rates: what the frame rate may be, the likeliest first. The first that all frames lie on is kept; before and after
            what is known the likeliest counts on. Between, unknown frames are spread evenly.
    """
    usual = float(1 / rates[0])
    known: list[tuple[int, float]] = []
    for i, stamp in enumerate(stamps):
        if stamp is not None and (not known or stamp > known[-1][1]):
            known.append((i, stamp))
    known = known or [(0, 0.0)]
    first, last = known[0], known[-1]
    starts = [first[1] - (first[0] - i) * usual for i in range(first[0])]
    for (i, start), (j, end) in itertools.pairwise(known):
        starts += [start + (end - start) * k / (j - i) for k in range(j - i)]
    starts += [last[1] + k * usual for k in range(len(stamps) - last[0])]
    for rate in rates:
        if all(abs(start - starts[0] - float(i / rate)) <= TOLERANCE_S for i, start in enumerate(starts)):
            return Timing(tuple(starts[0] + float(i / rate) for i in range(len(starts))), rate, float(1 / rate))
    return Timing(tuple(starts), None, usual if len(starts) == 1 else starts[-1] - starts[-2])


def read_file(text: str) -> list[float | None]:
    """Seconds of a timestamp file of format 2."""
    return [float(line) / 1000 for line in text.splitlines() if line.strip() and not line.startswith("#")]


def doubled(timing: Timing) -> Timing:
    """Two frames where there was one, the second half a frame later: what a deinterlacer makes of two fields."""
    ends = [*timing.starts[1:], timing.end]
    halves = ((start, (start + end) / 2) for start, end in zip(timing.starts, ends, strict=True))
    rate = None if timing.rate is None else timing.rate * 2
    return Timing(tuple(itertools.chain.from_iterable(halves)), rate, timing.last_s / 2)


def file_text(starts_s: Sequence[float], shift_s: float) -> str:
    """Starts of frames as a timestamp file of format 2 (milliseconds), ``shift_s`` later."""
    return "\n".join(["# timestamp format v2", *(f"{(t + shift_s) * 1000:.6f}" for t in starts_s), ""])


def parse_duration(text: str) -> float:
    """Seconds of ``10``, ``10s``, ``1.5m``, ``1h``, ``1:30`` or ``0:01:30.5``.

    Raises:
        ValueError: anything else, and what isn't above zero.
    """
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    text = text.strip().lower()
    if ":" in text:
        parts = text.split(":")
        if len(parts) > 3 or not all(parts):
            raise ValueError(text)
        seconds = _sum_base_60(float(part) for part in parts)
    elif text[-1:] in units:
        seconds = float(text[:-1]) * units[text[-1]]
    else:
        seconds = float(text)
    if not 0 <= seconds < float("inf"):
        raise ValueError(text)
    return seconds


def _sum_base_60(parts: Iterable[float]) -> float:
    total = 0.0
    for part in parts:
        total = total * 60 + part
    return total
