"""The vs-jetpack scaler: the filter's own frames, any size, taken wherever vs-jetpack takes a scaler."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from .support.pipe import environment

# In a process of its own: vs-jetpack puts a proxy in the place of the core.
SCRIPT = """
import vapoursynth as vs
from vskernels import Scaler
from vsflashsr import FlashSR, flashsr
from tests.support.clips import digest, noise

def frames(clip):
    return [digest(f) for f in clip.frames(close=True)]

clip = noise(3, 64, 48, vs.YUV420P8)
scaler = FlashSR(threads=1)
assert frames(scaler.supersample(clip, 2)) == frames(flashsr(clip, 2, threads=1))
assert frames(scaler.scale(clip, 96, 72)) == frames(flashsr(clip, 1.5, threads=1))
assert frames(scaler.scale(clip, 64, 48)) == frames(clip)
weak = FlashSR("builtin-hq", strength=0.5, threads=1)
assert frames(weak.scale(clip, 128, 96)) == frames(flashsr(clip, 2, model="builtin-hq", strength=0.5, threads=1))
assert frames(weak.scale(clip, 128, 96, strength=0)) == frames(flashsr(clip, 2, strength=0))
large = scaler.scale(clip, 384, 288)
assert frames(large) == frames(flashsr(flashsr(clip, 4, threads=1), 1.5, threads=1))
assert Scaler.from_param("FlashSR") is FlashSR
assert Scaler.ensure_obj(scaler) is scaler
assert hash(FlashSR("a")) != hash(FlashSR("b"))
if hasattr(vs.core, "resize2"):
    for size in ((160, 96), (32, 24), (128, 100)):
        out = scaler.scale(clip, *size)
        assert (out.width, out.height) == size
    assert frames(scaler.scale(clip, 128, 96, (0.25, 0))) != frames(scaler.scale(clip, 128, 96))
try:
    scaler.scale(clip, 128, 96, strength=2)
except vs.Error as error:
    assert str(error).startswith("flashsr: strength is from 0 to 1")
else:
    raise AssertionError("a wrong strength is taken")
"""


@pytest.mark.skipif(
    importlib.util.find_spec("vsscale") is None, reason="vs-jetpack isn't installed: pip install vsjetpack"
)
def test_the_scaler_is_the_filter() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True,
        encoding="utf-8",
        timeout=200,
        env=environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_without_vs_jetpack_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['vsscale'] = None\nimport vsflashsr\nvsflashsr.flashsr\nvsflashsr.FlashSR"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", timeout=60, env=environment(), check=False
    )
    assert done.stderr.strip().splitlines()[-1].endswith("pip install vsjetpack")
