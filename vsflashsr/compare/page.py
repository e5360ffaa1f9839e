"""The page: one HTML file with everything in it, which asks no network for anything."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from .scores import Scores

_TEMPLATE = Path(__file__).with_name("page.html")
_PLACE = '"DATA"'


@dataclass(frozen=True, slots=True)
class Shown:
    """What the page shows of one method."""

    name: str
    seconds_per_frame: float
    """What a frame took on this machine, on average."""
    scores: Scores | None
    """None where there is no reference, and of the reference itself."""
    pictures: tuple[str, ...]
    """Whole frames, as data URIs."""
    loop: str
    """The frames of the looping part in one picture, as a data URI."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All that the page shows."""

    title: str
    source: str
    """The input, in a line."""
    width: int
    height: int
    aspect: float
    """A pixel's width over its height."""
    frames: tuple[int, ...]
    """Numbers of the whole frames."""
    loop_left: int
    loop_top: int
    loop_width: int
    loop_height: int
    loop_frames: int
    loop_columns: int
    """Frames in a row of a loop's picture."""
    rate: float
    """Frames per second."""
    reference: str | None
    """What was scored against, in words."""
    methods: Sequence[Shown]


def html(comparison: Comparison) -> str:
    """The page as text."""
    # "<" as JSON writes it never closes the script that the data stands in, whatever a file is called.
    data = json.dumps(asdict(comparison), ensure_ascii=True).replace("<", "\\u003c")
    before, place, after = _TEMPLATE.read_text(encoding="utf-8").partition(_PLACE)
    assert place, "the template has a place for the data"
    return before + data + after
