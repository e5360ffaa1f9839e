"""Scripts run by the real vspipe."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import vapoursynth

ROOT = Path(__file__).parents[2]
# The command in the environment's bin is a Python wrapper: killing it would leave the real one running.
VSPIPE = Path(vapoursynth.__file__).parent / ("vspipe.exe" if sys.platform == "win32" else "vspipe")


@dataclass(frozen=True)
class Frames:
    """A y4m stream, taken apart."""

    header: bytes
    frames: list[bytes]


def environment() -> dict[str, str]:
    """The environment in which a script finds this checkout."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def vspipe(script: Path, *arguments: str, timeout_s: float = 120) -> subprocess.CompletedProcess[bytes]:
    """Run ``vspipe script arguments…`` to its end."""
    command = [str(VSPIPE), str(script), *arguments]
    return subprocess.run(command, capture_output=True, timeout=timeout_s, env=environment(), check=False)


def y4m(script: Path, *arguments: str, timeout_s: float = 240) -> Frames:
    """The frames that ``vspipe -c y4m script -`` puts out; its failure is the test's."""
    done = vspipe(script, "-", "-c", "y4m", *arguments, timeout_s=timeout_s)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    header, _, rest = done.stdout.partition(b"\n")
    assert header.startswith(b"YUV4MPEG2 "), header[:80]
    fields = {f[:1]: f[1:] for f in header.split(b" ")[1:]}
    width, height = int(fields[b"W"]), int(fields[b"H"])
    assert fields[b"C"].startswith(b"420") and b"p1" not in fields[b"C"], header
    size = len(b"FRAME\n") + width * height * 3 // 2
    assert len(rest) % size == 0
    frames = [rest[i : i + size] for i in range(0, len(rest), size)]
    assert all(f.startswith(b"FRAME\n") for f in frames)
    return Frames(header, frames)
