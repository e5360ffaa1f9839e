"""The folder of a job that is under way: its plan, its finished chunks. Whatever is in it under its final name is whole.

Files are written under another name, flushed to the disk and then renamed, and a chunk's record is written after its data: a
power cut leaves chunks that are whole and such that aren't there.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from ..errors import FlashsrError
from .chunks import Chunk
from .plan import Plan, from_json

PART = ".part"


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of a finished chunk."""

    index: int
    start: int
    stop: int
    bytes: int
    sha256: str
    shown: int
    """Frames in it: fewer than the plan's only where the source failed."""
    failure: str | None = None
    """Why it ends early."""


class WorkFolder:
    """A job's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.index = path / "source.bsindex"
        self.others = path / "others.mkv"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One process at a time works in it.

        Raises:
            FlashsrError: another does, or it can't be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / "lock")
            lock.acquire(timeout=0)
        except Timeout as error:
            raise FlashsrError(
                f"another vsflashsr works in {self.path}; wait for it, or give another folder with --work"
            ) from error
        except OSError as error:
            raise FlashsrError(
                f"the work folder can't be written, got {self.path} ({error.strerror}); give another with --work"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def plan(self) -> Plan | None:
        """The plan that lies here; None if there is none that can be read."""
        try:
            return from_json((self.path / "plan.json").read_text("utf-8"))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def begin(self, plan: Plan) -> None:
        """Make the folder that of ``plan``: what it held of another is gone."""
        self.clear(keep_index=True)
        write_durably(self.path / "script.vpy", plan.script.encode())
        write_durably(self.path / "plan.json", plan.to_json().encode())

    def clear(self, *, keep_index: bool = False) -> None:
        """Remove what a job left: the plan first, so that nothing is taken for whole that isn't."""
        for name in ("plan.json", "script.vpy"):
            (self.path / name).unlink(missing_ok=True)
        for path in self.path.glob("chunk-*"):
            path.unlink(missing_ok=True)
        self.others.unlink(missing_ok=True)
        if not keep_index:
            for path in self.path.glob(f"{self.index.name}*"):
                path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the folder with all that is ours in it; what isn't, stays."""
        self.clear()
        self.sweep()
        for path in self.path.glob("*.mkv"):
            path.unlink(missing_ok=True)
        with suppress(OSError):
            (self.path / "lock").unlink(missing_ok=True)
            self.path.rmdir()

    def sweep(self) -> None:
        """Remove what was being written when a run was killed."""
        for path in self.path.glob(f"*{PART}"):
            with suppress(OSError):  # on Windows it may still be open in a process that is just ending
                path.unlink()

    def data(self, chunk: Chunk, suffix: str) -> Path:
        return self.path / f"chunk-{chunk.index:05}{suffix}"

    def keep(self, chunk: Chunk, suffix: str, part: Path, record: Record) -> None:
        """Take over the data of a finished chunk, which lies flushed at ``part``."""
        part.replace(self.data(chunk, suffix))
        flush_folder(self.path)
        write_durably(self._record(chunk), json.dumps(asdict(record), indent=1).encode())

    def finished(self, plan: Plan, suffix: str) -> dict[int, Record]:
        """The chunks that are there and whole, by their number; what isn't whole is encoded again."""
        found: dict[int, Record] = {}
        for chunk in plan.chunks:
            try:
                record = Record(**json.loads(self._record(chunk).read_text("utf-8")))
            except (OSError, ValueError, TypeError):
                continue
            if (record.start, record.stop) == (chunk.start, chunk.stop) and self._whole(chunk, suffix, record):
                found[chunk.index] = record
        return found

    def _whole(self, chunk: Chunk, suffix: str, record: Record) -> bool:
        try:
            with self.data(chunk, suffix).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == record.sha256
        except OSError:
            return False

    def _record(self, chunk: Chunk) -> Path:
        return self.path / f"chunk-{chunk.index:05}.json"


def write_durably(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all, a power cut notwithstanding."""
    part = path.with_name(f"{path.name}.{os.getpid()}{PART}")
    with part.open("wb") as file:
        file.write(data)
        flush(file)
    part.replace(path)
    flush_folder(path.parent)


def flush(file: BinaryIO) -> None:
    """To the disk, not just to the system's cache."""
    file.flush()
    os.fsync(file.fileno())


def flush_folder(path: Path) -> None:
    """A folder's entries to the disk; Windows does so by itself and can't be told to."""
    if sys.platform == "win32":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def free_bytes(path: Path) -> int:
    """Room on the disk that holds ``path``."""
    return shutil.disk_usage(path).free
