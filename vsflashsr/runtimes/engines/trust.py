"""Whose files the folder of engines holds: an engine is code, so only what the user himself could have put there is loaded."""

from __future__ import annotations

import os
import stat
from io import FileIO
from pathlib import Path

from ...files import UnfitFileError, open_regular

_POSIX = os.name == "posix"


def distrust(folder: Path) -> str:
    """Why nothing is loaded from the folder, as half a sentence; empty where it may be.

    On POSIX it belongs to the user or to root, and nobody else can write into it. Elsewhere, that is on Windows, it lies in the
    user's profile, which others can't write.
    """
    try:
        if not _POSIX:
            return "" if _in_profile(folder) else "is outside your profile, where others may write"
        found = folder.stat()
    except OSError as error:
        return f"can't be looked at ({error.strerror})"
    return "" if stat.S_ISDIR(found.st_mode) and not (why := _distrust(found)) else why or "is no folder"


def open_trusted(path: Path, *, limit_bytes: int) -> FileIO:
    """A file of such a folder, opened if it is the user's own, regular, no link and of bounded size.

    Raises:
        UnfitFileError: with the reason.
        OSError: it can't be opened.
    """
    file = open_regular(path, limit_bytes=limit_bytes, follow=False)
    if _POSIX and (why := _distrust(os.fstat(file.fileno()))):
        file.close()
        raise UnfitFileError(f"it {why}", path)
    return file


def is_regular(path: Path) -> bool:
    """Is it a file itself, and not a link to one?"""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _distrust(found: os.stat_result) -> str:
    user = os.geteuid()
    if found.st_uid not in (user, 0):
        return f"belongs to another user ({found.st_uid}, you are {user})"
    if found.st_mode & stat.S_IWOTH or (found.st_mode & stat.S_IWGRP and not _own_group(found.st_gid)):
        return f"can be written by others (mode {stat.S_IMODE(found.st_mode):o})"
    return ""


def _own_group(group: int) -> bool:
    """Is it the group of this user alone, as many systems make one for each?"""
    import grp
    import pwd

    try:
        user, found = pwd.getpwuid(os.geteuid()), grp.getgrgid(group)
    except KeyError:
        return False
    return found.gr_gid == user.pw_gid and found.gr_name == user.pw_name and set(found.gr_mem) <= {user.pw_name}


def _in_profile(folder: Path) -> bool:
    try:
        home = Path.home()
    except RuntimeError:  # the system names none
        return False
    return Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(home))
