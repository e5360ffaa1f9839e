"""Hostile input never crashes, hangs, passes unseen or is answered with anything but a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from .runner import counts, faults, run

COUNTS = {"manifest": 300, "onnx": 300, "engine": 200, "argument": 355}


@pytest.mark.parametrize("kind", COUNTS)
def test_hostile_input_is_refused_in_a_sentence(kind: str, tmp_path: Path) -> None:
    results = run(kind, COUNTS[kind], tmp_path)
    assert len(results) == COUNTS[kind] and faults(results) == []
    # The makers make both what can be used and what can't; engines are used or built anew.
    assert counts(results)["accepted"] > 5
    assert counts(results)["refused"] > 100 or kind == "engine"


@pytest.mark.parametrize(
    ("kind", "seed"),
    [("manifest", 10038), ("manifest", 10208), ("manifest", 10591), ("onnx", 10769)],
    ids=["a state of another shape", "a schedule that the graph can't run", "an empty name", "a size's name that is no text"],
)
def test_what_the_long_run_found_stays_refused(kind: str, seed: int, tmp_path: Path) -> None:
    assert [result.became for result in run(kind, 1, tmp_path, first=seed)] == ["refused"]


@pytest.mark.long
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("kind", COUNTS)
def test_much_more_of_it(kind: str, tmp_path: Path) -> None:
    results = run(kind, 5000, tmp_path, first=10_000)
    assert len(results) == 5000 and faults(results) == []
