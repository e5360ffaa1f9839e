"""The plugin: frames are requested, never waited for, so no memory limit, order or thread count makes it hang."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import vapoursynth as vs

from vsflashsr import flashsr, node

from .support.clips import digest, noise
from .support.pipe import ROOT, vspipe, y4m

HEAD = """
import random
import vapoursynth as vs
from vapoursynth import core
from tests.support.clips import noise
from vsflashsr import flashsr
"""


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], Path]:
    """Write a script whose path has a space and letters that are not ASCII."""

    def write(body: str) -> Path:
        path = tmp_path / f"a scrípt {hashlib.sha256(body.encode()).hexdigest()[:8]}.vpy"
        path.write_text(HEAD + body, encoding="utf-8")
        return path

    return write


OFFLINE = {"commands", "compare", "encode"}
"""Folders of programs that read a clip from outside."""


def test_no_callback_waits_for_a_frame() -> None:
    """One look at the first frame, and a trial on a blank one, while the script is evaluated; no other wait in any filter."""
    waits = {
        (path.name, line.strip())
        for path in (ROOT / "vsflashsr").rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if ".get_frame" in line and not OFFLINE & set(path.relative_to(ROOT / "vsflashsr").parts)
    }
    assert waits == {
        ("first_frame.py", "with clip.get_frame(0) as frame:"),
        ("first_frame.py", "node.get_frame(0).close()"),
    }
    assert not re.search(r"\bgetFrame(Async)?\(", (ROOT / "vsflashsr/native/vsflashsr.c").read_text(encoding="utf-8"))


LENGTHS = {"176x144": 40, "720x576": 24, "1920x1080": 12}
"""A frame of 1080p is 8K after two filters in a row: a few of those exceed any limit tested."""


def orders(length: int) -> dict[str, tuple[str, list[int]]]:
    """Expressions of ``out``, and the frames they show."""
    shuffled, half = random.Random(3).sample(range(length), length), length // 2
    return {
        "linear": ("out[:]", list(range(length))),
        "reversed": ("out.std.Reverse()", list(range(length))[::-1]),
        "shuffled": (f"core.std.Splice([out[n] for n in {shuffled}])", shuffled),
        "interleaved": (
            f"core.std.Interleave([out, out[{half}:] + out[:{half}]])",
            [k for n in range(length) for k in (n, (n + half) % length)],
        ),
    }


def body(model: Path, size: str, threads: int, limit: int | None, names: list[str], *, twice: bool = False) -> str:
    """A script with a source, resizers on both sides of the filter, and no more memory than ``limit`` MB.

    All orders after each other, each with a filter of its own.
    """
    width, height = size.split("x")
    length = LENGTHS[size]
    parts = []
    for name in names:
        again = f"out = flashsr(out.resize.Bicubic({width}, {height}), 2, model={str(model)!r})" if twice else ""
        parts.append(f"""
out = flashsr(clip, 2, model={str(model)!r}, max_segment={length * 5 // 8})
{again}
parts.append({orders(length)[name][0]}.resize.Bicubic(64, 48))
""")
    return f"""
core.num_threads = {threads}
{"" if limit is None else f"core.max_cache_size = {limit}"}
clip = noise({length}, 32, 24, cuts=({length * 17 // 40}, {length * 31 // 40})).resize.Bicubic({width}, {height})
parts = []
{"".join(parts)}
core.std.Splice(parts).set_output()
"""


@pytest.mark.parametrize(("which", "threads"), [("tiny", 1), ("tiny_25_21", 4)])
def test_with_no_memory_to_spare_it_neither_hangs_nor_changes_a_frame(
    which: str, threads: int, script: Callable[[str], Path], request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(which)
    free = y4m(script(body(model, "176x144", 2, None, ["linear"])), timeout_s=60).frames
    shown = orders(40)
    wanted = [free[n] for _, numbers in shown.values() for n in numbers]
    assert y4m(script(body(model, "176x144", threads, 1, [*shown])), timeout_s=60).frames == wanted


LIMIT_S = 60
"""What hangs, hangs for ever."""
MATRIX = [
    (limit, size, threads)
    for limit in (1, 4, 16, 64)
    for size in ("176x144", "720x576", "1920x1080")
    for threads in (1, 4, 16)
]


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("limit", "size", "threads"), MATRIX)
@pytest.mark.parametrize("which", ["tiny", "tiny_25_21"])
def test_no_limit_size_thread_count_or_order_makes_it_hang(
    which: str, limit: int, size: str, threads: int, script: Callable[[str], Path], request: pytest.FixtureRequest
) -> None:
    """The whole matrix, a range in the middle and two filters in a row too: never a hang, never another byte."""
    model = request.getfixturevalue(which)
    shown = orders(LENGTHS[size])

    def frames(limit: int | None, threads: int, names: list[str], *of: str, twice: bool = False) -> list[bytes]:
        return y4m(script(body(model, size, threads, limit, names, twice=twice)), *of, timeout_s=LIMIT_S).frames

    free = frames(None, 2, ["linear"])
    assert frames(limit, threads, [*shown]) == [free[n] for _, numbers in shown.values() for n in numbers]
    assert frames(limit, threads, ["linear"], "-s", "7", "-e", "10") == free[7:11]
    assert frames(limit, threads, ["linear"], twice=True) == frames(None, 2, ["linear"], twice=True)


def test_seeks_while_a_linear_reader_runs(tiny: Path) -> None:
    """A previewer: frames anywhere, any number at once, while somebody plays."""
    clip = noise(120, 32, 24, cuts=(50,))
    wanted = [digest(f) for f in flashsr(clip, 2, model=tiny, max_segment=30).frames()]
    out = flashsr(clip, 2, model=tiny, max_segment=30)
    jumps = random.Random(5)
    with_jumps: list[tuple[int, Any]] = []
    for n, f in enumerate(out.frames(prefetch=4)):
        assert digest(f) == wanted[n]
        with_jumps += [(k, out.get_frame_async(k)) for k in jumps.sample(range(120), 3)]
    for k, future in with_jumps:
        assert digest(future.result(timeout=60)) == wanted[k]


def test_without_the_plugin_there_is_one_clear_sentence(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Without:
        core = object()

    with monkeypatch.context() as patch:
        patch.setattr(node, "vs", Without)
        with pytest.raises(
            vs.Error, match=r"flashsr: the package's native part isn't there, got no core.vsflashsr.*; install"
        ):
            flashsr(noise(2, 32, 24), 2, model=tiny)


def test_an_error_of_the_source_is_the_only_one(script: Callable[[str], Path], tiny: Path) -> None:
    """Through both nodes, with several frames in flight: what the source said, no traceback of ours."""
    path = script(f"""
core.num_threads = 4
clip = noise(60, 30, 18)
good = flashsr(clip, 2, model={str(tiny)!r})
def read(n, f):
    if n == 20:
        raise RuntimeError("disc error at 20")
    return f
flashsr(clip.std.ModifyFrame(clip, read), 2, model={str(tiny)!r}).set_output()
""")
    done = vspipe(path, ".", timeout_s=60)
    text = done.stderr.decode(errors="replace")
    assert done.returncode != 0 and "disc error at 20" in text
    assert "node.py" not in text and "stream.py" not in text
