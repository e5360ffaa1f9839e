"""Through the real vspipe: the same bytes in every order, a silent stdout, faults that are heard."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import psutil
import pytest

from .support.pipe import VSPIPE, environment, vspipe, y4m
from .support.tiny import write_frame_graph, write_tiny_bundle

LENGTH, CUTS = 200, (41, 97, 150)

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
        path = tmp_path / "a scrípt.vpy"
        path.write_text(HEAD + body, encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize(
    ("which", "threads"),
    [("tiny", 4), ("tiny_25_21", 16)]
    + [
        pytest.param(which, threads, marks=pytest.mark.long)
        for which in ("tiny", "tiny_25_21", "builtin")
        for threads in (1, 4, 16)
        if (which, threads) not in (("tiny", 4), ("tiny_25_21", 16))
    ],
)
def test_frames_do_not_depend_on_order_threads_or_range(
    which: str, threads: int, script: Callable[[str], Path], request: pytest.FixtureRequest
) -> None:
    """A filter for each order, one after the other in one run; a range in another."""
    model = which if which == "builtin" else str(request.getfixturevalue(which))
    setup = f"""
core.num_threads = {threads}
clip = noise({LENGTH}, 30, 18, cuts={CUTS})
order = list(range({LENGTH}))
random.Random(7).shuffle(order)
def out():
    return flashsr(clip, 2, model={model!r})
"""
    shuffled = list(range(LENGTH))
    random.Random(7).shuffle(shuffled)
    interleaved = [k for n in range(LENGTH) for k in (n, min(n + 30, LENGTH - 1))][:-1]
    runs = {
        "linear": ("out()", list(range(LENGTH))),
        "reversed": ("out().std.Reverse()", list(range(LENGTH))[::-1]),
        "shuffled": ("(lambda o: core.std.Splice([o[n] for n in order]))(out())", shuffled),
        # Interleave repeats the shorter clip's last frame, and ends with the longer one's.
        "interleaved": ("(lambda o: core.std.Interleave([o, o[30:]]))(out())", interleaved),
    }
    clips = ", ".join(clip for clip, _ in runs.values())
    frames = y4m(script(setup + f"core.std.Splice([{clips}]).set_output()")).frames
    linear = frames[:LENGTH]
    assert len(set(linear)) == LENGTH
    start = 0
    for name, (_, numbers) in runs.items():
        assert frames[start : start + len(numbers)] == [linear[n] for n in numbers], name
        start += len(numbers)
    assert start == len(frames)
    assert y4m(script(setup + "out().set_output()"), "-s", "57", "-e", "140").frames == linear[57:141]


def test_threads_do_not_change_frames(script: Callable[[str], Path], tiny: Path) -> None:
    runs = [
        y4m(script(f"core.num_threads = {t}\nflashsr(noise(60, 30, 18), 2, model={str(tiny)!r}).set_output()")).frames
        for t in (1, 16)
    ]
    assert runs[0] == runs[1]


def test_a_chunked_encode_equals_a_linear_one(script: Callable[[str], Path], tiny_25_21: Path) -> None:
    path = script(f"flashsr(noise(90, 30, 18, cuts=(33,)), 2, model={str(tiny_25_21)!r}).set_output()")
    whole = y4m(path).frames
    parts = [y4m(path, "-s", str(a), "-e", str(b - 1)).frames for a, b in ((0, 40), (40, 41), (41, 90))]
    assert list(chain.from_iterable(parts)) == whole


def test_stdout_is_only_video_with_logging_at_its_loudest(script: Callable[[str], Path], tiny: Path) -> None:
    path = script(f"""
import logging, warnings
logging.basicConfig(level=logging.DEBUG)
warnings.simplefilter("always")
import onnxruntime
onnxruntime.set_default_logger_severity(0)
onnxruntime.set_default_logger_verbosity(4)
flashsr(noise(10, 30, 18), 2, model={str(tiny)!r}).set_output()
""")
    done = vspipe(path, "-", "-c", "y4m")
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert done.stdout.startswith(b"YUV4MPEG2")
    assert len(done.stdout) == len(done.stdout.partition(b"\n")[0]) + 1 + 10 * (6 + 60 * 36 * 3 // 2)
    assert b"flashsr: the clip names no matrix" in done.stderr


def fails(path: Path, *says: str, timeout_s: float = 60) -> None:
    """vspipe says all of ``says`` on stderr, exits with an error, and doesn't hang."""
    done = vspipe(path, "-", "-c", "y4m", timeout_s=timeout_s)
    text = done.stderr.decode(errors="replace")
    assert done.returncode != 0, text
    for words in says:
        assert words in text


@pytest.mark.parametrize("threads", [1, 4])
def test_a_source_that_raises_in_the_middle(script: Callable[[str], Path], tiny: Path, threads: int) -> None:
    path = script(f"""
core.num_threads = {threads}
clip = noise(60, 30, 18)
def read(n, f):
    if n == 37:
        raise RuntimeError("disc error at 37")
    return f
flashsr(clip.std.ModifyFrame(clip, read), 2, model={str(tiny)!r}).set_output()
""")
    fails(path, "disc error at 37")


def test_nan_weights_name_the_frame(script: Callable[[str], Path], tmp_path: Path) -> None:
    bad = write_tiny_bundle(tmp_path / "nan", gain=float("nan"))
    fails(script(f"flashsr(noise(9, 30, 18), 2, model={str(bad)!r}).set_output()"), "not finite", "(while making frame ")


def test_a_wrong_hash(script: Callable[[str], Path], tiny: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "b"))
    manifest = folder / "bundle.json"
    data = json.loads(manifest.read_text(encoding="utf-8"))
    data["files"]["x2.onnx"] = "0" * 64
    manifest.write_text(json.dumps(data), encoding="utf-8")
    fails(script(f"flashsr(noise(9, 30, 18), 2, model={str(folder)!r}).set_output()"), "flashsr: ", "sha256", "x2.onnx")


def test_a_truncated_onnx(script: Callable[[str], Path], tmp_path: Path) -> None:
    path = write_frame_graph(tmp_path / "up.onnx", 2)
    path.write_bytes(path.read_bytes()[:-20])
    fails(script(f"flashsr(noise(9, 30, 18), 2, model={str(path)!r}).set_output()"), "flashsr: ", "up.onnx")


def test_an_encoder_that_dies(script: Callable[[str], Path], tiny: Path) -> None:
    """The reader closes the pipe after a few kilobytes: vspipe ends with an error, soon, and nothing is left behind."""
    path = script(f"flashsr(noise(100000, 64, 48), 4, model={str(tiny)!r}).set_output()")
    command = [str(VSPIPE), str(path), "-", "-c", "y4m"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
        assert process.stdout is not None
        assert process.stdout.read(9) == b"YUV4MPEG2"
        children = psutil.Process(process.pid).children(recursive=True)
        process.stdout.close()
        assert process.wait(timeout=60) != 0
    assert not any(c.is_running() and c.status() != psutil.STATUS_ZOMBIE for c in children)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for a child alone")
def test_an_interrupted_script(script: Callable[[str], Path], tiny: Path) -> None:
    path = script(f"flashsr(noise(100000, 64, 48), 4, model={str(tiny)!r}).set_output()")
    command = [str(VSPIPE), str(path), "-"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
        assert process.stdout is not None
        assert process.stdout.read(1)  # frames come
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode != 0
    assert not any(c.is_running() and c.status() != psutil.STATUS_ZOMBIE for c in children)


def test_reloading_a_script_frees_what_it_held(tiny: Path) -> None:
    """Previewers clear the outputs and run the script again in one process: memory must not grow with reloads."""
    code = f"""
import gc, psutil, vapoursynth as vs
from tests.support.clips import noise
from vsflashsr import flashsr
for i in range(16):
    out = flashsr(noise(8, 320, 180), 4, model={str(tiny)!r})
    list(out.frames())
    del out
    gc.collect()
    if i == 5:
        before = psutil.Process().memory_info().rss
after = psutil.Process().memory_info().rss
assert after < before + 64 * 2**20, (before, after)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
