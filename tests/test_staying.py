"""Handles of frames that stay on the GPU: each has one owner, also where something fails."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import vapoursynth as vs

from vsflashsr import staying
from vsflashsr.gpu.imports import ExportedPlane
from vsflashsr.staying import Stay


class Work:
    """Takes the handles of each frame that it is given, and fails at one of them."""

    def __init__(self, fails_at: int) -> None:
        self.fails_at, self.handles = fails_at, list[int]()

    def frame(self, planes: list[ExportedPlane], size: tuple[int, int], kept: Any) -> Any:
        self.handles += [plane.handle for plane in planes]
        if len(self.handles) > 3 * self.fails_at:
            raise RuntimeError("no import")
        return size


@pytest.mark.parametrize("fails_at", [0, 1, 3])
def test_what_was_not_handed_on_is_given_back_where_an_import_fails(
    fails_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three frames of three planes; what the import was given is the import's to close."""
    closed: list[int] = []
    monkeypatch.setattr(staying, "close_handle", closed.append)
    frame = vs.core.std.BlankClip(format=vs.RGBS, width=8, height=4, length=1).get_frame(0)
    planes = {field.name: [0] * 9 for field in fields(ExportedPlane)} | {"handle": list(range(1, 10))}
    work: Any = Work(fails_at)
    stay = Stay(work, waits=False, reserved_bytes=0)
    pairs = [(n, frame) for n in (4, 5, 6)]
    if fails_at == 3:
        assert stay.take(pairs, planes) == dict.fromkeys((4, 5, 6), (4, 8))
    else:
        with pytest.raises(RuntimeError, match="no import"):
            stay.take(pairs, planes)
    assert sorted(work.handles + closed) == list(range(1, 10))
    assert len(closed) == 3 * max(0, 2 - fails_at)
