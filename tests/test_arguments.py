"""``flashsr``'s arguments: the same ones everywhere, each checked once, whatever a user gives."""

from __future__ import annotations

import dataclasses
import inspect
import re
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import vapoursynth as vs
from hypothesis import given, settings
from hypothesis import strategies as st

from vsflashsr import flashsr
from vsflashsr.arguments import Arguments, read_arguments
from vsflashsr.errors import FlashsrError
from vsflashsr.models.kind import said_once

SIGNATURE = {n: p.default for n, p in inspect.signature(flashsr).parameters.items() if n != "clip"}


def read(**given: object) -> Arguments:
    return read_arguments({**SIGNATURE, **given})


def test_the_dataclass_has_the_signature_s_names_and_defaults() -> None:
    own = {field.name for field in dataclasses.fields(Arguments)}
    assert own == set(SIGNATURE)
    assert read() == Arguments()


def test_the_readme_s_table_is_the_signature() -> None:
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    table = text.partition("| argument | default | meaning |\n|---|---|---|\n")[2].partition("\n\n")[0]
    rows = [re.match(r"\| `(\w+)` \| (?:`(.+?)`)? ?\|", line) for line in table.splitlines()]
    assert all(rows) and rows
    said = [(row[1], row[2]) for row in rows if row is not None]
    wanted = [("clip", None), *((name, repr(default).replace("'", '"')) for name, default in SIGNATURE.items())]
    assert said == wanted


def test_the_docstring_names_every_argument() -> None:
    doc = inspect.getdoc(flashsr) or ""
    assert re.findall(r"^    (\w+):", doc, re.MULTILINE)[: 1 + len(SIGNATURE)] == ["clip", *SIGNATURE]


@pytest.mark.parametrize(
    ("given", "name", "value"),
    [
        ({"scale": np.int64(2)}, "scale", 2.0),
        ({"scale": np.float32(2.5)}, "scale", 2.5),
        ({"scale": Fraction(3, 2)}, "scale", 1.5),
        ({"matrix": "SMPTE170M"}, "matrix", 6),
        ({"matrix": np.int64(9)}, "matrix", 9),
        ({"scene_change": np.True_}, "scene_change", True),
        ({"scene_change": 0}, "scene_change", False),
        ({"resident": np.True_}, "resident", True),
        ({"tile": [np.int32(64), 32]}, "tile", (64, 32)),
        ({"threads": np.uint8(3)}, "threads", 3),
        ({"seed": np.uint64(2**64 - 1)}, "seed", 2**64 - 1),
        ({"model": Path("a b")}, "model", Path("a b")),
        ({"engine_dir": "a b"}, "engine_dir", Path("a b")),
        ({"model_options": {"x": np.float64(0.5), "y": np.False_}}, "model_options", {"x": 0.5, "y": False}),
        ({"model_options": None}, "model_options", {}),
    ],
)
def test_values_get_their_type(given: dict[str, Any], name: str, value: object) -> None:
    found = getattr(read(**given), name)
    assert found == value and type(found) is type(value)


WRONG: list[dict[str, Any]] = [
    {"scale": 10**400}, {"scale": 10**5000}, {"scale": True}, {"scale": 2j}, {"scale": Decimal(2)}, {"scale": None},
    {"model": 5}, {"model": b"x"}, {"model": [1]}, {"model": ""}, {"backend": 7}, {"backend": None},
    {"device_id": 2**80}, {"device_id": 1.0}, {"precision": np.array([1, 2])}, {"color_fix": [1]},
    {"tile": True}, {"tile": (16,)}, {"tile": 10**30}, {"tile": b"ab"}, {"overlap": 1.5}, {"max_segment": 10**30},
    {"threads": 2**70}, {"threads": 10**9}, {"seed": -1}, {"seed": 2**64}, {"strength": float("inf")},
    {"scene_change": 2}, {"scene_change": np.array([1, 0])}, {"resident": "gpu"}, {"resident": 2},
    {"engine_dir": 5}, {"engine_dir": "~nouser-x/y"},
    {"matrix": "bt 709"}, {"matrix": 0}, {"matrix": 2}, {"matrix": True}, {"matrix": 1.0},
    {"engine_dir": "a\0b"}, {"model_options": 5}, {"model_options": "ab"}, {"model_options": [1]},
    {"model_options": {1: 2}}, {"model_options": {"a": [1]}}, {"model_options": {"a": None}},
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: next(iter(wrong)))
def test_what_is_wrong_is_one_sentence(wrong: dict[str, Any]) -> None:
    with pytest.raises(FlashsrError) as caught:
        read(**wrong)
    assert re.fullmatch(r"(?s).+, got .+; .+", str(caught.value)) and len(str(caught.value)) < 300


WORDS = st.text("autofp163 ~é/\\\0", max_size=9)  # all of Unicode takes seconds to set up
ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), WORDS, st.binary(max_size=4), st.complex_numbers(),
    st.fractions(), st.lists(st.integers(), max_size=3), st.dictionaries(WORDS, st.floats(), max_size=2),
)  # fmt: skip


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(SIGNATURE)), ANYTHING, max_size=3))
def test_anything_is_taken_or_refused(given_: dict[str, Any]) -> None:
    try:
        found = read(**given_)
    except FlashsrError as error:
        assert ", got " in str(error) and ";" in str(error)
    else:
        assert 1 <= found.scale <= 4 and 0 <= found.strength <= 1
        assert found.scene_change in (True, False)


@pytest.mark.parametrize("value", [-1, 10**30, True, "x", b"x", [1], object(), 1.5])
def test_formats_that_are_none(value: object) -> None:
    clip = vs.core.std.BlankClip(None, 16, 16, vs.GRAY8, 1)
    with pytest.raises(vs.Error, match=r"^flashsr: format is a video format .*, got .*; give one"):
        flashsr(clip, 2, format=value)


@pytest.mark.parametrize("model", ["x" * 5000, "~nouser-x/y", "a\0b", "no such"])
def test_models_that_are_nowhere(model: str) -> None:
    clip = vs.core.std.BlankClip(None, 16, 16, vs.GRAY8, 1)
    with pytest.raises(vs.Error, match=r"^flashsr: .*(there is no model|isn't known here)"):
        flashsr(clip, 2, model=model)


def test_an_option_that_contradicts_an_argument_is_refused() -> None:
    same = Arguments(seed=3, model_options={"seed": 3, "kv_ratio": 2.0})
    assert said_once(same, {"seed": same.seed, "color_fix": None}) == {"seed": 3, "kv_ratio": 2.0}
    assert said_once(Arguments(seed=3), {"seed": 3}) == {"seed": 3}
    assert said_once(Arguments(model_options={"seed": 4}), {"seed": None}) == {"seed": 4}
    with pytest.raises(FlashsrError, match=r"seed is said twice and differently, got seed=0 and .*4.*; give one"):
        said_once(Arguments(seed=0, model_options={"seed": 4}), {"seed": 0})


def test_the_first_frame_is_looked_at_once_while_the_script_runs() -> None:
    asked: list[int] = []

    def note(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
        asked.append(n)
        return f

    clip = vs.core.std.BlankClip(None, 32, 24, vs.YUV420P8, 20)
    clip = clip.std.ModifyFrame(clip, note)
    flashsr(clip, 2, backend="onnxruntime")
    assert asked == [0]
