"""The vote tells progressive, interlaced and telecined pictures apart, whatever the flags say."""

from __future__ import annotations

import itertools
from functools import cache
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vsflashsr.encode import fields
from vsflashsr.encode.fields import Array, Evidence, Look

HEIGHT, WIDTH = 48, 64
type Kind = Literal["progressive", "tff", "bff", "telecine"]


@cache
def moment(time: float) -> Array:
    """A soft texture that moves: 3 pixels to the right and 1 down in a second of ``time``."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float64)
    x, y = columns - 3 * time, rows - time
    texture = np.sin(x / 3.1) + np.sin((x + y) / 5.3) + np.sin((x - 2 * y) / 11.7)
    grey: Array = (128 + 30 * texture).astype(np.uint8)
    return grey


def weave(top: Array, bottom: Array) -> Array:
    woven = top.copy()
    woven[1::2] = bottom[1::2]
    return woven


def frame(kind: Kind, n: int) -> Array:
    if kind == "progressive":
        return moment(n)
    if kind == "telecine":
        film, place = divmod(n, 5)
        a, b = [(0, 0), (1, 1), (1, 2), (2, 3), (3, 3)][place]
        return weave(moment(4 * film + a), moment(4 * film + b))
    early, late = moment(n), moment(n + 0.5)
    return weave(early, late) if kind == "tff" else weave(late, early)


def evidence(kind: Kind, frames: int = 150) -> Evidence:
    return fields.gather(frames, lambda n: frame(kind, n))


@pytest.mark.parametrize("flag", [None, "tff", "bff"])
def test_progressive_stays_whatever_it_is_flagged(flag: fields.FieldOrder | None) -> None:
    finding = fields.decide(evidence("progressive"), flag)
    assert (finding.kind, finding.order) == ("progressive", None)
    assert ("the flag is wrong" in finding.why) == (flag is not None)


@pytest.mark.parametrize("kind", ["tff", "bff"])
@pytest.mark.parametrize("flag", [None, "tff", "bff"])
def test_interlaced_is_found_with_its_order(kind: fields.FieldOrder, flag: fields.FieldOrder | None) -> None:
    finding = fields.decide(evidence(kind), flag)
    assert (finding.kind, finding.order) == ("interlaced", kind)
    assert ("the flag is wrong" in finding.why) == (flag != kind)


@pytest.mark.parametrize("shift", range(5))
def test_telecine_is_named_with_its_phase(shift: int) -> None:
    found = fields.gather(150, lambda n: frame("telecine", n + shift))
    finding = fields.decide(found, "tff")
    assert finding.kind == "telecine"
    assert finding.phase == (2 - shift) % 5
    assert "film" in finding.why


def test_a_pattern_that_breaks_has_no_phase() -> None:
    found = fields.gather(400, lambda n: frame("telecine", n if n < 200 else n + 2))
    finding = fields.decide(found, "tff")
    assert (finding.kind, finding.phase) == ("telecine", None)


@pytest.mark.parametrize(("flag", "kind"), [(None, "progressive"), ("bff", "interlaced")])
def test_a_still_picture_goes_by_its_flag(flag: fields.FieldOrder | None, kind: str) -> None:
    finding = fields.decide(fields.gather(20, lambda n: frame("progressive", 0)), flag)
    assert finding.kind == kind
    assert "the flag decides" in finding.why


@pytest.mark.parametrize("vote", ["tff", "progressive"])
@pytest.mark.parametrize("flag", [None, "bff"])
def test_a_few_votes_among_many_unclear_ones_decide_nothing(vote: fields.Vote, flag: fields.FieldOrder | None) -> None:
    looks = (Look(vote, True), Look(vote, True), *(Look("unclear") for _ in range(94)))
    assert fields.decide(Evidence((looks,), (1,)), flag).order == flag


@settings(deadline=None)
@given(st.integers(0, 100_000))
def test_samples_lie_within_and_spread(frames: int) -> None:
    runs = fields.sample_runs(frames)
    assert all(0 < n < frames - 1 for run in runs for n in run)
    assert sum(map(len, runs)) == min(max(0, frames - 2), fields.RUNS * fields.RUN_FRAMES)
    assert all(a.stop <= b.start for a, b in itertools.pairwise(runs))


def test_small_and_unequal_pictures_say_nothing() -> None:
    tiny = np.zeros((4, 8), np.uint8)
    assert fields.look_at(tiny, tiny, tiny) == Look("unclear")
    assert fields.look_at(moment(0), tiny, moment(1)) == Look("unclear")
    assert fields.decide(Evidence((), ()), "tff").kind == "interlaced"
