"""Programs that are run: where they are, how to get them, and what they said when they failed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import FlashsrError

PACKAGES = {
    "ffmpeg": "ffmpeg",
    "ffprobe": "ffmpeg",
    "mkvmerge": "mkvtoolnix",
    "x265": "x265",
    "x264": "x264",
    "SvtAv1EncApp": "svt-av1",
}
"""A program → the package it comes in, which Debian, Homebrew and Scoop or Chocolatey name alike."""


def find(program: str, purpose: str) -> str:
    """The path of a program.

    Raises:
        FlashsrError: it isn't there; the sentence says how to install it.
    """
    path = shutil.which(program)
    if path is None:
        package = PACKAGES.get(program, program)
        raise FlashsrError(
            f"{purpose} needs the program {program}, got none on PATH; install it (apt install {package}, "
            f"brew install {package}, scoop install {package})"
        )
    return path


def own_group() -> dict[str, int]:
    """Arguments of Popen that keep the terminal's Ctrl-C from a child: its parent decides what becomes of it."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"process_group": 0}


def run(command: Sequence[str | Path], what: str, *, fine: Sequence[int] = (0,)) -> str:
    """Run a program to its end and return what it wrote to stdout.

    Args:
        what: what it was to do, for the message: "<what> failed …".
        fine: exit codes that mean success: mkvmerge's 1 is a warning.

    Raises:
        FlashsrError: it failed.
    """
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode not in fine:
        said = last_words(done.stderr) or last_words(done.stdout) or f"exit code {done.returncode}"
        raise FlashsrError(f"{what} failed, got from {Path(command[0]).name}: {said}; see its message")
    return done.stdout


def last_words(text: str) -> str:
    """The last line that says something, without bars that were drawn over themselves."""
    lines = [line.strip() for line in text.replace("\r", "\n").splitlines()]
    telling = [line for line in lines if line]
    errors = [line for line in telling if "error" in line.lower() or "no space" in line.lower()]
    return (errors or telling or [""])[-1][:300]
