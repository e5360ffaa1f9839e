"""Video files for tests, made by ffmpeg on the spot, and how to look at what became of them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ..support.pipe import environment

PROGRAMS = ("ffmpeg", "ffprobe", "mkvmerge", "x265")
needs_programs = pytest.mark.skipif(
    not all(map(shutil.which, PROGRAMS)), reason=f"needs {', '.join(PROGRAMS)}; scripts/test.sh installs them"
)
PICTURE = "testsrc2=size=64x48:rate=25"


def ffmpeg(*arguments: str | Path) -> None:
    subprocess.run(["ffmpeg", "-v", "error", "-y", "-nostdin", *map(str, arguments)], check=True)


def make(path: Path, *, frames: int = 20, picture: str = PICTURE, extra: tuple[str, ...] = ()) -> Path:
    """A small clip without sound; ``extra``: ffmpeg's output options, the codec among them."""
    options = extra or ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p")
    ffmpeg("-f", "lavfi", "-i", picture, "-frames:v", str(frames), *options, path)
    return path


def upscale(*arguments: str | Path, timeout_s: float = 250) -> subprocess.CompletedProcess[str]:
    """``vsflashsr upscale`` as a user runs it."""
    return subprocess.run(
        [sys.executable, "-m", "vsflashsr", "upscale", *map(str, arguments)],
        capture_output=True,
        encoding="utf-8",
        timeout=timeout_s,
        env=environment(),
        check=False,
    )


def probe(path: Path) -> dict[str, Any]:
    """ffprobe's description: streams with counted packets, format, chapters."""
    command = [
        "ffprobe",
        "-v",
        "error",
        "-count_packets",
        "-show_streams",
        "-show_format",
        "-show_chapters",
        "-of",
        "json",
    ]
    done = subprocess.run([*command, str(path)], check=True, capture_output=True, encoding="utf-8")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def video(path: Path) -> dict[str, Any]:
    stream: dict[str, Any] = next(s for s in probe(path)["streams"] if s["codec_type"] == "video")
    return stream


def times(path: Path, stream: str = "v:0") -> list[float]:
    """When each packet is shown, in seconds, in order."""
    command = [
        "ffprobe",
        "-v",
        "error",
        "-select_streams",
        stream,
        "-show_entries",
        "packet=pts_time",
        "-of",
        "csv=p=0",
    ]
    done = subprocess.run([*command, str(path)], check=True, capture_output=True, encoding="utf-8")
    return sorted(float(line.strip(",")) for line in done.stdout.split() if line.strip(","))


def stream_hash(path: Path, stream: str, *, decoded: bool = False) -> str:
    """Of a stream's packets, or of what they decode to."""
    codec = [] if decoded else ["-c", "copy"]
    command = [
        "ffmpeg",
        "-v",
        "error",
        "-i",
        str(path),
        "-map",
        f"0:{stream}",
        *codec,
        "-f",
        "hash",
        "-hash",
        "md5",
        "-",
    ]
    return subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout


def frame_hashes(path: Path) -> list[str]:
    """Of every decoded frame of the first video stream."""
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-map", "0:v:0", "-f", "framemd5", "-"]
    said = subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout
    return [line.split(",")[-1].strip() for line in said.splitlines() if not line.startswith("#")]
