"""The one place that opens files which others may have made: regular ones, of bounded size, inside their folder, hashed."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
from functools import lru_cache
from io import FileIO
from pathlib import Path, PurePosixPath, PureWindowsPath

from .errors import FlashsrError

LARGEST_BYTES = 16 << 30
"""Of a file of a bundle: several times the largest there is (FlashVSR's projector in fp32)."""
_SETTLED_S = 2.0
"""A file that was changed so short a time ago may change again within one tick of the system's clock for files."""


class UnfitFileError(OSError):
    """There is something, but not a file that may be read; ``strerror`` is the reason."""

    def __init__(self, reason: str, path: Path) -> None:
        super().__init__(errno.EINVAL, reason, str(path))


def open_regular(path: Path, *, limit_bytes: int = LARGEST_BYTES, follow: bool = True) -> FileIO:
    """The file, for reading, unbuffered. What is no regular file is never waited for.

    Args:
        path: where it lies.
        limit_bytes: its size may be no more.
        follow: may ``path`` itself be a link?

    Raises:
        UnfitFileError: a directory, device, pipe or socket, too large, or no name that a file can have.
        OSError: it can't be opened.
    """
    flags = os.O_RDONLY
    # Without NONBLOCK, opening a pipe waits for whoever writes into it.
    for name in ("O_NONBLOCK", "O_CLOEXEC", "O_NOCTTY", "O_BINARY", "O_NOINHERIT", *(() if follow else ("O_NOFOLLOW",))):
        flags |= getattr(os, name, 0)
    if not follow and path.is_symlink():  # Windows knows no O_NOFOLLOW
        raise UnfitFileError("it is a link", path)
    try:
        handle = os.open(path, flags)
    except ValueError as error:  # a zero or half a surrogate in its name
        raise UnfitFileError("no file can have this name", path) from error
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise UnfitFileError("it is no regular file", path)
        if found.st_size > limit_bytes:
            raise UnfitFileError(f"it has {found.st_size} bytes, more than the {limit_bytes} there may be", path)
        return FileIO(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_regular(path: Path, *, limit_bytes: int) -> bytes:
    """All of the file. Raises as ``open_regular``."""
    with open_regular(path, limit_bytes=limit_bytes) as file:
        return file.read()


def leaves(path: Path, folder: Path) -> bool:
    """Does ``path`` lead out of ``folder`` by links? Raises OSError where it leads nowhere."""
    real, root = (os.path.realpath(p, strict=True) for p in (path, folder))
    return not Path(real).is_relative_to(root)


def safe_name(where: str, name: str) -> str:
    """``name`` if it is a plain relative path that stays inside its folder on every system, else an error.

    Raises:
        FlashsrError: it begins with ``where``.
    """
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    inside = posix.name and not (posix.is_absolute() or windows.drive or windows.root or set("\\:") & set(name))
    if not inside or ".." in posix.parts or not name.isprintable() or len(name) > 1000:
        raise FlashsrError(f"{where} names a file outside its folder, got {name[:100]!r}; don't use this file")
    return name


type _State = tuple[int, int, int, int, int]
"""Device, inode, size, and the times of its last change in content and in anything."""


def _state(file: FileIO) -> _State:
    found = os.fstat(file.fileno())
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


@lru_cache(maxsize=4096)
def _remembered(_: _State) -> list[str]:
    """A place for the hash of the file in that state."""
    return []


def sha256_of(path: Path, *, limit_bytes: int = LARGEST_BYTES) -> str:
    """The file's sha256, in hexadecimal. Raises as ``open_regular``.

    It is read again only if it has changed in anything that the system keeps track of: nobody can set back the time of a file's
    last change in anything (POSIX). Windows has no such time, so there it is always read.
    """
    with open_regular(path, limit_bytes=limit_bytes) as file:
        before = _state(file)
        settled = os.name == "posix" and abs(time.time() - before[-1] / 1e9) > _SETTLED_S
        known = _remembered(before) if settled else []
        if not known:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            if _state(file) != before:
                raise UnfitFileError("it changed while it was read", path)
            known.append(digest)
        return known[0]
