"""Memory depends on the frame size, never on the clip's length."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .support.pipe import environment

CODE = """
import json, psutil, sys
import vapoursynth as vs
from tests.support.clips import noise
from vsflashsr import flashsr
vs.core.max_cache_size = 256
model, size, last = sys.argv[1], sys.argv[2], int(sys.argv[3])
width, height = map(int, size.split("x"))
clip = noise(50, width, height, cuts=(20,)).std.Loop(100)[: last + 1]
out = flashsr(clip, 2, model=model)
process, seen = psutil.Process(), {}
for n, f in enumerate(out.frames(close=True)):
    if n in (200, last):
        seen[n] = process.memory_info().rss
print(json.dumps(seen))
"""


def growth(model: str, size: str, last: int) -> float:
    """Resident memory at frame ``last`` over that at frame 200."""
    command = [sys.executable, "-c", CODE, model, size, str(last)]
    done = subprocess.run(command, env=environment(), capture_output=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    first, second = json.loads(done.stdout).values()
    return float(second / first)


@pytest.mark.parametrize("which", ["tiny", pytest.param("tiny_25_21", marks=pytest.mark.long)])
def test_memory_is_flat_between_frames_200_and_2000(which: str, request: pytest.FixtureRequest) -> None:
    assert growth(str(request.getfixturevalue(which)), "96x64", 2000) < 1.05


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_memory_of_the_builtin_model_is_flat(tiny: Path) -> None:
    assert growth("builtin", "160x96", 2000) < 1.05
