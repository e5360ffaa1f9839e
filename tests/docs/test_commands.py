"""Every command that the documentation shows is run as it stands, on small clips of the names it uses."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import vapoursynth as vs

from ..support.pipe import environment

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("docs/recipes.md", "docs/ffmpeg.md", "docs/getting-models.md", "README.md")
ELSEWHERE = ("scripts/demo.sh", "scripts/test.sh", "python3.12 -m venv")
"""Blocks that set an environment up: the tests of the scripts run those."""
PROGRAMS = {"x265": "x265", "mkvmerge": "mkvmerge", "ffmpeg": "ffmpeg", "av1an": "av1an", "upscale": "x265"}
QUICK = ("vsflashsr models",)
"""Blocks that run without --long."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        return f"{Path(self.page).stem}:{self.line}"


def blocks(page: str) -> list[Block]:
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [Block(page, text[: m.start()].count("\n") + 1, m[1], m[2]) for m in found]


ALL = [block for page in PAGES for block in blocks(page)]
SHELL = [b for b in ALL if b.language == "sh" and not any(word in b.text for word in ELSEWHERE)]


def test_the_pages_have_commands() -> None:
    assert {b.page for b in SHELL} == set(PAGES)
    assert len(SHELL) >= 14


@pytest.mark.parametrize("block", [b for b in ALL if b.language == "python"], ids=lambda b: b.name)
def test_python_is_python(block: Block) -> None:
    compile(block.text, block.name, "exec")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clips that the pages name, small: interlaced, with sound, rotated, with uneven timestamps."""
    folder = tmp_path_factory.mktemp("clips")
    tone = ["-f", "lavfi", "-i", "sine=440:duration=0.4"]

    def picture(size: str, rate: str = "25") -> list[str]:
        return ["-f", "lavfi", "-i", f"testsrc2=s={size}:r={rate}:d=0.4"]

    def make(name: str, *arguments: str) -> None:
        command = ["ffmpeg", "-v", "error", "-y", *arguments, str(folder / name)]
        subprocess.run(command, check=True, timeout=60)

    def progressive(name: str, size: str = "96x64", *more: str) -> None:
        make(name, *picture(size), *tone, "-c:v", "libx264", "-pix_fmt", "yuv420p", *more)

    fields = [
        "-vf",
        "tinterlace=interleave_top,fieldorder=tff",
        "-flags",
        "+ilme+ildct",
        "-c:v",
        "mpeg2video",
        "-q:v",
        "3",
    ]
    make("title.mpg", *picture("96x64", "50"), *tone, *fields, "-c:a", "mp2")
    make("recording.ts", *picture("320x288", "50"), *tone, *fields, "-c:a", "mp2")
    for name in ("film.mkv", "episode.mkv", "webcam.mkv", "in.mkv", "input.mkv"):
        progressive(name)
    progressive("upright.mp4", "96x64", "-vf", "setpts=N*(1+0.5*mod(N\\,2))/25/TB", "-vsync", "vfr")
    make(
        "phone.mp4", "-display_rotation", "90", "-i", str(folder / "upright.mp4"), "-c", "copy"
    ) if _rotates() else shutil.copy(folder / "upright.mp4", folder / "phone.mp4")
    return folder


def _rotates() -> bool:
    """Does this ffmpeg (6 or newer) have -display_rotation?"""
    said = subprocess.run(["ffmpeg", "-hide_banner", "-h", "full"], capture_output=True, encoding="utf-8", check=False)
    return "-display_rotation" in said.stdout


@pytest.mark.skipif(shutil.which("bash") is None or sys.platform == "win32", reason="there is no bash")
@pytest.mark.skipif(not hasattr(vs.core, "bs"), reason="VapourSynth has no plugin bs: install the extra samples")
@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="there is no ffmpeg")
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "block",
    [pytest.param(b, id=b.name, marks=[] if b.text.startswith(QUICK) else [pytest.mark.long]) for b in SHELL],
)
def test_the_command_runs(block: Block, clips: Path, tmp_path: Path) -> None:
    for word, program in PROGRAMS.items():
        if re.search(rf"(^|[\s|]){word}\s", block.text) and shutil.which(program) is None:
            pytest.skip(f"there is no {program}")
    if "qtgmc" in block.text and importlib.util.find_spec("vsdeinterlace") is None:
        pytest.skip("QTGMC isn't installed: install the extra qtgmc")
    folder = tmp_path / "Filme ü"
    shutil.copytree(clips, folder)
    for sample in (ROOT / "samples").glob("*.vpy"):
        shutil.copy(sample, folder)
    script = next(b.text for b in ALL if b.page == "README.md" and "VideoSource" in b.text)
    (folder / "script.vpy").write_text(script, encoding="utf-8")
    before = {path.name for path in folder.iterdir()}
    shim = tmp_path / "bin" / "vsflashsr"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m vsflashsr "$@"\n', encoding="utf-8")
    shim.chmod(0o755)
    surroundings = environment()
    path = os.pathsep.join([str(shim.parent), str(Path(sys.executable).parent), surroundings["PATH"]])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.text],
        cwd=folder,
        capture_output=True,
        timeout=600,
        check=False,
        env={**surroundings, "PATH": path, "XDG_CACHE_HOME": str(tmp_path / "cache")},
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-3000:]
    for name in _made(block.text):
        made = folder / name
        assert made.name not in before
        assert made.stat().st_size > 500, f"{name} is empty"


def _made(text: str) -> list[str]:
    """Files that a block says it makes."""
    named = re.findall(r"(?<!set )(?:-o|--output)\s+(\S+)", text)
    upscaled = re.findall(r"vsflashsr upscale \S+ (\S+)", text)
    last = re.findall(r"ffmpeg .*\s(\S+\.mkv)$", text, re.MULTILINE)
    assert named or upscaled or last or text.startswith(QUICK), "a command of which nothing can be checked"
    return [*named, *upscaled, *last]
