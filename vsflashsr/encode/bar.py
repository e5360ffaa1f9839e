"""How far a job is, on stderr: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

_EVERY_S = 30.0


def readable(size_bytes: float) -> str:
    """A size with its unit."""
    for unit in ("B", "KiB", "MiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.2f} GiB"


def clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


class Bar:
    """Frames, frames a second, time left and size of a job."""

    def __init__(self, total: int, done: int, done_bytes: int) -> None:
        """
        Args:
            total: frames in all.
            done: frames that an earlier run has finished, of ``done_bytes``.
        """
        self._total, self._done, self._done_bytes = total, done, done_bytes
        self._under_way: dict[int, tuple[int, int]] = {}
        self._begun = self._said = time.monotonic()
        console = Console(stderr=True)
        self._live = console.is_terminal
        self._progress = Progress(
            SpinnerColumn(),
            BarColumn(bar_width=None),
            TextColumn("{task.completed}/{task.total} frames"),
            TextColumn("{task.fields[rate]}"),
            console=console,
            disable=not self._live,
            expand=True,
        )
        self._task = self._progress.add_task("", total=total, completed=done, rate="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    @property
    def made(self) -> int:
        """Frames of this run."""
        return sum(frames for frames, _ in self._under_way.values())

    def at(self, chunk: int, frames: int, size_bytes: int) -> None:
        """So many frames of a chunk have gone into the encoder, and so many bytes have come out."""
        self._under_way[chunk] = (frames, size_bytes)
        now = time.monotonic()
        words = self._words(now)
        self._progress.update(self._task, completed=self._done + self.made, rate=words)
        if not self._live and now - self._said >= _EVERY_S:
            self._said = now
            sys.stderr.write(f"{self._done + self.made}/{self._total} frames, {words}\n")

    def _words(self, now: float) -> str:
        rate = self.made / max(now - self._begun, 1e-6)
        frames = self._done + self.made
        left = clock((self._total - frames) / rate) if rate else "?"
        size = self._done_bytes + sum(size for _, size in self._under_way.values())
        return f"{rate:.2f} frames/s, {left} left, {readable(size)}"
