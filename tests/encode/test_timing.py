"""Timestamps keep their order and place, at constant rates and at variable ones."""

from __future__ import annotations

import itertools
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vsflashsr.encode.timing import doubled, file_text, from_starts, parse_duration, read_file

RATE = Fraction(30000, 1001)
STAMPS = st.lists(st.one_of(st.none(), st.floats(-10, 10_000)), min_size=1, max_size=60)


@settings(deadline=None)
@given(STAMPS)
def test_starts_always_ascend(stamps: list[float | None]) -> None:
    starts = from_starts(stamps, [RATE]).starts
    assert len(starts) == len(stamps)
    assert all(a < b for a, b in itertools.pairwise(starts))


@settings(deadline=None)
@given(st.lists(st.floats(0.005, 2), min_size=1, max_size=40), st.floats(0, 100))
def test_what_is_in_order_stays_as_it_is(gaps: list[float], first: float) -> None:
    stamps = [first]
    for gap in gaps:
        stamps.append(stamps[-1] + gap)
    assert from_starts(stamps, [RATE]).starts == pytest.approx(stamps, abs=0.0023)


@pytest.mark.parametrize("first", [0.0, 0.533, 2.08])
def test_milliseconds_of_a_constant_rate_go_back_to_it(first: float) -> None:
    timing = from_starts([round(first + float(i / RATE), 3) for i in range(300)], [RATE])
    assert timing.rate == RATE
    assert timing.starts[-1] == pytest.approx(timing.starts[0] + float(299 / RATE), abs=1e-9)


def test_many_frames_without_a_timestamp_lie_between() -> None:
    stamps = [0.54, None, None, 0.66, 0.70, None, None, 0.82, 0.86, None]
    timing = from_starts(stamps, [Fraction(25), Fraction(50, 3)])
    assert timing.rate == 25
    assert timing.starts == pytest.approx([0.54 + i / 25 for i in range(10)])


def test_a_frame_without_a_timestamp_takes_its_place() -> None:
    known = [float(i / RATE) for i in range(5)]
    assert from_starts([*known[:4], None], [RATE]).starts == pytest.approx(known)
    assert from_starts([None, *known[1:]], [RATE]).starts == pytest.approx(known)


@settings(deadline=None)
@given(st.lists(st.floats(0.005, 2), min_size=1, max_size=40))
def test_doubling_puts_a_frame_into_each_gap(gaps: list[float]) -> None:
    stamps = [0.0]
    for gap in gaps:
        stamps.append(stamps[-1] + gap)
    timing = from_starts(stamps, [RATE])
    twice = doubled(timing)
    assert twice.starts[::2] == timing.starts
    assert len(twice.starts) == 2 * len(timing.starts)
    assert all(a < b for a, b in itertools.pairwise(twice.starts))
    assert twice.end == pytest.approx(timing.end)
    assert twice.rate == (None if timing.rate is None else 2 * timing.rate)


def test_a_part_has_its_own_end() -> None:
    timing = from_starts([0.0, 1.0, 3.0, 3.5], [Fraction(1)])
    assert timing.rate is None
    assert timing.part(1, 2).starts == (1.0,)
    assert timing.part(1, 2).end == 3.0


def test_the_file_is_read_back() -> None:
    assert read_file(file_text([0.0, 0.04, 1.5], 0.25)) == pytest.approx([0.25, 0.29, 1.75])


@pytest.mark.parametrize(
    ("text", "seconds"), [("10", 10), ("10s", 10), ("1.5m", 90), ("1h", 3600), ("1:30", 90), ("0:01:30.5", 90.5)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "x", "-1", "1:2:3:4", ":", "inf", "nan", "s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError):
        parse_duration(text)
