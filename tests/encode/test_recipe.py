"""What is done about fields and colours follows from the evidence, and film comes out of telecine whole, whatever its phase."""

from __future__ import annotations

import itertools
from fractions import Fraction

import pytest

from vsflashsr.encode import recipe
from vsflashsr.encode.fields import FieldOrder, Finding
from vsflashsr.encode.recipe import Recipe, Treatment, Wish
from vsflashsr.encode.signal import Signal
from vsflashsr.encode.source import Source
from vsflashsr.encode.timing import from_starts
from vsflashsr.errors import FlashsrError

PROGRESSIVE = Finding("progressive", None, None, "why")
FIELDS = Finding("interlaced", "bff", None, "why")
FILM = Finding("telecine", "tff", 2, "why")
BROKEN_FILM = Finding("telecine", "tff", None, "why")


@pytest.mark.parametrize(
    ("finding", "flag", "wish", "constant", "expected"),
    [
        (PROGRESSIVE, None, "auto", True, ("none", None)),
        (PROGRESSIVE, "tff", "auto", True, ("unflag", None)),
        (PROGRESSIVE, "tff", "bwdif", True, ("bwdif", "tff")),
        (PROGRESSIVE, None, "qtgmc", True, ("qtgmc", "tff")),
        (FIELDS, "tff", "auto", True, ("bwdif", "bff")),
        (FIELDS, "tff", "none", True, ("unflag", None)),
        (FIELDS, None, "none", True, ("none", None)),
        (FILM, "tff", "auto", True, ("ivtc", "tff")),
        (FILM, "tff", "auto", False, ("bwdif", "tff")),
        (BROKEN_FILM, "tff", "auto", True, ("bwdif", "tff")),
        (FILM, None, "ivtc", True, ("ivtc", "tff")),
    ],
)
def test_treatment(
    finding: Finding, flag: FieldOrder | None, wish: Wish, constant: bool, expected: tuple[Treatment, FieldOrder | None]
) -> None:
    assert recipe.treat(finding, flag, wish, constant=constant) == expected


@pytest.mark.parametrize(("finding", "constant"), [(BROKEN_FILM, True), (FIELDS, True), (FILM, False)])
def test_film_that_isnt_there_cant_be_asked_for(finding: Finding, constant: bool) -> None:
    with pytest.raises(FlashsrError, match="--deinterlace ivtc needs one 3:2 pattern"):
        recipe.treat(finding, None, "ivtc", constant=constant)


@pytest.mark.parametrize("phase", range(5))
def test_film_comes_out_of_telecine_whole_and_in_order(phase: int) -> None:
    """Fields are numbered by their film frame: each pair that is woven is of one, and none is missing or there twice."""
    # AA BB BC CD DD, in which BC's place is `phase`.
    frames = [[(0, 0), (1, 1), (1, 2), (2, 3), (3, 3)][(n + 2 - phase) % 5] for n in range(40)]
    turns = list(itertools.accumulate((n + 2 - phase) % 5 == 0 for n in range(40)))
    fields = [4 * turn + of for turn, frame in zip(turns, frames, strict=True) for of in frame]
    woven = [
        (fields[i], fields[i + 1])
        for start in range(0, len(fields), 10)
        for i in (start + offset for offset in recipe.film_offsets(phase))
        if i + 1 < len(fields)
    ]
    assert all(first == second for first, second in woven)
    film = [first for first, _ in woven]
    assert film == list(range(film[0], film[0] + len(film)))
    made = Recipe("", 0, 40, "ivtc", "tff", phase=phase)
    assert abs(recipe.out_frames(made) - 32) <= 1


def source(says: Signal, height: int = 480, family: str = "YUV") -> Source:
    starts = [i / 25 for i in range(20)]
    timing = from_starts(starts, [Fraction(25)])
    return Source(640, height, "YUV420P8", family, 8, (1, 1), 20, 0, timing, says, None, None, PROGRESSIVE)


def test_colours_are_assumed_only_where_none_are_named() -> None:
    assert recipe.assumed_colours(source(Signal(matrix=1))) == {}
    assert recipe.assumed_colours(source(Signal(), family="RGB")) == {}
    assert recipe.assumed_colours(source(Signal(primaries=9, transfer=16))) == {"_Matrix": 6}
    assert recipe.assumed_colours(source(Signal(), height=1080)) == {"_Matrix": 1, "_Primaries": 1, "_Transfer": 1}
    assert recipe.assumed_colours(source(Signal(), height=576))["_Transfer"] == 6


@pytest.mark.parametrize(
    ("treatment", "single_rate", "frames", "rate"),
    [
        ("none", False, 20, 25),
        ("bwdif", False, 40, 50),
        ("bwdif", True, 20, 25),
        ("qtgmc", False, 40, 50),
        ("ivtc", False, 16, 20),
    ],
)
def test_timing_has_as_many_frames_as_come_out(treatment: Treatment, single_rate: bool, frames: int, rate: int) -> None:
    made = Recipe("", 0, 20, treatment, "tff", single_rate=single_rate, phase=2)
    timing = recipe.out_timing(source(Signal()), made)
    assert (len(timing.starts), timing.rate, recipe.out_frames(made)) == (frames, Fraction(rate), frames)
    assert timing.end == pytest.approx(20 / 25)
