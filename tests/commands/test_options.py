"""flashsr's arguments on a command line: all of them, and written so that they can be read."""

from __future__ import annotations

import inspect
from dataclasses import fields

import pytest
import vapoursynth as vs

from vsflashsr import flashsr
from vsflashsr.commands.options import FilterOptions
from vsflashsr.errors import FlashsrError


def test_every_argument_of_the_filter_is_there() -> None:
    others = {"clip", "scale", "matrix", "resident"}
    """What a command decides itself: it writes frames to a file or a pipe, which takes them from the host."""
    assert {f.name for f in fields(FilterOptions)} == set(inspect.signature(flashsr).parameters) - others


def test_only_what_is_given_is_passed_on() -> None:
    assert FilterOptions().keywords() == {}
    given = FilterOptions(
        tile="64x32", format="yuv420p10", scene_change=False, seed=0, model_options=["a=1", "b=1.5", "c=x=y", "d=true"]
    )
    assert given.keywords() == {
        "tile": (64, 32),
        "format": vs.YUV420P10,
        "scene_change": False,
        "seed": 0,
        "model_options": {"a": 1, "b": 1.5, "c": "x=y", "d": True},
    }
    assert FilterOptions(tile="auto").keywords() == {"tile": "auto"}
    assert FilterOptions(tile="96").keywords() == {"tile": 96}
    assert FilterOptions(device_id="1").keywords() == {"device_id": 1}
    assert FilterOptions(device_id="Arc").keywords() == {"device_id": "Arc"}


@pytest.mark.parametrize(
    ("given", "part"),
    [
        (FilterOptions(tile="64x"), "--tile"),
        (FilterOptions(tile="-3"), "--tile"),
        (FilterOptions(format="yuv"), "--format"),
        (FilterOptions(format="none"), "--format"),
        (FilterOptions(model_options=["seven"]), "--option"),
        (FilterOptions(model_options=["=7"]), "--option"),
    ],
)
def test_what_cant_be_read_is_refused(given: FilterOptions, part: str) -> None:
    with pytest.raises(FlashsrError, match=part):
        given.keywords()
