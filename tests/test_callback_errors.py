"""What fails while a frame is made is told in one line."""

from __future__ import annotations

import pytest
import vapoursynth as vs

from vsflashsr import flashsr, node


def failure(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> list[str]:
    """Lines of the error of a frame in whose making ``error`` is raised."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(node, "to_frame", fail)
    clip = vs.core.std.BlankClip(format=vs.GRAYS, width=16, height=16, length=4)
    with pytest.raises(vs.Error) as caught:
        flashsr(clip, 2, backend="onnxruntime").get_frame(1)
    return str(caught.value).strip().splitlines()


def test_too_little_memory_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = failure(monkeypatch, MemoryError())
    assert line.startswith("flashsr: there is too little memory, got ") and "; use tile=" in line and "frame 1" in line


def test_a_fault_of_ours_is_one_line_before_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, *_, last = failure(monkeypatch, KeyError("x\x1b"))
    assert first.startswith("flashsr: this is a fault of vsflashsr, got KeyError: 'x\\x1b'; report it") and "frame 1" in first
    assert second.startswith("Traceback") and last.startswith("KeyError")
