"""What may lie where a file should."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from random import Random


def _directory(path: Path) -> None:
    path.mkdir()


def _self_link(path: Path) -> None:
    path.symlink_to(path.name)


def _dangling_link(path: Path) -> None:
    path.symlink_to("nothing")


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 42)


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _link_out(path: Path) -> None:
    outside = path.parent.parent / f"outside {path.parent.name} {path.name}"
    outside.write_bytes(path.read_bytes() if path.is_file() else b"{}")
    path.unlink(missing_ok=True)
    path.symlink_to(outside)


def _gone(_: Path) -> None:
    pass


def _empty(path: Path) -> None:
    path.touch()


PLACES: tuple[Callable[[Path], None], ...] = (_directory, _self_link, _dangling_link, _sparse, _device, _gone, _empty)
if hasattr(os, "mkfifo"):
    PLACES = (*PLACES, _pipe)


def replaced(random: Random, path: Path) -> str:
    """Puts something else in the file's place; says what."""
    place = random.choice((*PLACES, _link_out))
    if place is not _link_out:
        path.unlink()
    place(path)
    return f"{path.name} is now {place.__name__.strip('_')}"
