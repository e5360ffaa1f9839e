"""Fetching a published checkpoint: what it is first, then its files, checked, then the bundle made of them."""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FlashsrError
from ..models.published import Published, Variant

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_REMEDY = "pip install 'vsflashsr[export]'"
_TIMEOUT_S = 60
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository, as the hub describes it."""

    name: str
    size_bytes: int | None
    """None: not said."""
    sha256: str | None
    """Of large files."""
    git_sha1: str | None


@dataclass(frozen=True, slots=True)
class Offer:
    """What would be fetched."""

    revision: str
    """The commit."""
    licence: str
    files: tuple[RemoteFile, ...]

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        return sum(file.size_bytes or 0 for file in self.files)


def hub() -> Any:
    """The module huggingface_hub, which is told to send nothing about its use.

    Raises:
        FlashsrError: it isn't installed.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import huggingface_hub
    except ImportError as error:
        raise FlashsrError(f"checkpoints are fetched with huggingface_hub, got none; {_REMEDY}") from error
    return huggingface_hub


def endpoint() -> str | None:
    """Where the hub is: ``HF_ENDPOINT``, or its own default."""
    return os.environ.get("HF_ENDPOINT")


def look_up(entry: Published, variant: Variant) -> Offer:
    """What the hub says of a release's files, before any of them is fetched.

    Raises:
        FlashsrError: the hub can't be reached, or has no such repository or file.
    """
    wanted = entry.wanted(variant)
    info = _asked(
        f"the repository {entry.repository!r}",
        lambda: hub().HfApi(endpoint=endpoint()).model_info(entry.repository, files_metadata=True, timeout=_TIMEOUT_S),
    )
    known = {sibling.rfilename: sibling for sibling in info.siblings or []}
    missing = [name for name in wanted if name not in known]
    if missing:
        raise FlashsrError(
            f"the repository {entry.repository!r} should have {', '.join(wanted)}, lacks {', '.join(missing)}; "
            "fetch the files by hand and use python -m trt_build export"
        )
    files = tuple(
        RemoteFile(
            name,
            int(known[name].size or 0),
            known[name].lfs.sha256 if known[name].lfs else None,
            None if known[name].lfs else known[name].blob_id,
        )
        for name in wanted
    )
    licence = (info.card_data or {}).get("license") if info.card_data is not None else None
    return Offer(info.sha, str(licence or entry.licence), files)


def fetch(entry: Published, offer: Offer, folder: Path, prompt: Path | None) -> None:
    """Fetch the files into ``folder``; what is there already, whole or in part, isn't fetched again.

    Raises:
        FlashsrError: a file can't be fetched, or isn't what its hash says (it is removed then).
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    folder.mkdir(parents=True, exist_ok=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        for file in offer.files:
            url = hub().hf_hub_url(entry.repository, file.name, revision=offer.revision, endpoint=endpoint())
            bar = bars.add_task(file.name, total=file.size_bytes)
            _fetch_file(file, url, folder / file.name, partial(_moved, bars, bar))
    if entry.prompt is None:
        return
    target = folder / entry.prompt.name
    if prompt is not None:
        shutil.copyfile(prompt, target)
    else:
        blob = RemoteFile(entry.prompt.name, None, None, entry.prompt.git_sha1)
        _fetch_file(blob, entry.prompt.url, target, lambda have: None)


def _moved(bars: Progress, bar: TaskID, have: int) -> None:
    bars.update(bar, completed=have)


def _fetch_file(file: RemoteFile, url: str, target: Path, advance: Callable[[int], object]) -> None:
    """One file, or what is still missing of it."""
    if target.is_file() and is_whole(target, file):
        advance(target.stat().st_size)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    download(url, part, advance)
    if not is_whole(part, file):
        part.unlink()
        raise FlashsrError(
            f"{file.name} isn't the file it should be (its hash differs, so it was removed); run the command again"
        )
    part.replace(target)


def download(url: str, part: Path, advance: Callable[[int], object]) -> None:
    """Fetch the rest of a file behind what ``part`` has of it; a broken connection is made anew while it brings something.

    huggingface_hub 2.4 begins every download anew, which with 5.7 GB on a home line nobody wants.

    Raises:
        FlashsrError: no connection, or none that brings anything.
    """
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            total = _bring(url, part, before, advance)
            reason = "the connection broke"
        except urllib.error.HTTPError as error:
            if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and before:
                return  # all of it is there, and its hash will be asked for
            total, reason = None, f"the server answers {error.code}"
        except (OSError, http.client.HTTPException) as error:
            total, reason = None, _line(error)
        have = part.stat().st_size if part.exists() else 0
        if total is not None and have >= total:
            return
        if have <= before:
            raise FlashsrError(
                f"{url} can't be fetched ({reason}); check the network and run the command again: it goes on where it stopped"
            )


def _bring(url: str, part: Path, have: int, advance: Callable[[int], object]) -> int | None:
    """Append what one connection brings. Returns the whole file's size, if the server says it."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
        if answer.status != HTTPStatus.PARTIAL_CONTENT:
            have = 0
        length = answer.headers.get("Content-Length")
        total = None if length is None else have + int(length)
        with part.open("ab" if have else "wb") as file:
            while chunk := answer.read(_CHUNK_BYTES):
                file.write(chunk)
                have += len(chunk)
                advance(have)
    # Without a length the end of the connection is the end of the file, and the hash tells.
    return have if total is None else total


def is_whole(path: Path, file: RemoteFile) -> bool:
    """Has the file the size and hash it should have?"""
    if file.size_bytes is not None and path.stat().st_size != file.size_bytes:
        return False
    if file.sha256 is not None:
        with path.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest() == file.sha256
    return file.git_sha1 is None or git_sha1(path) == file.git_sha1


def git_sha1(path: Path) -> str:
    """Git's hash of a file."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _asked[T](what: str, ask: Callable[[], T]) -> T:
    """The hub's answer, or what kept it from coming in one sentence."""
    try:
        return ask()
    except (
        Exception
    ) as error:  # the hub's own errors, its HTTP library's and its downloader's: they change with its version
        raise FlashsrError(
            f"{what} can't be fetched ({_line(error)}); check the network and run the command again: it goes on where it stopped"
        ) from error


def convert(entry: Published, checkpoint: Path, out: Path, *, variant: Variant, precision: str) -> None:
    """Make the bundle, in a process of its own: it takes up to 4 GB of memory, which goes back with it.

    Raises:
        FlashsrError: it failed; its own message is on stderr.
    """
    command = [sys.executable, "-m", "trt_build", "export", *entry.export, "--checkpoint", str(checkpoint)]
    command += ["--variant", variant] if entry.variants else []
    command += ["--precision", precision, "--name", out.name, "--out", str(out)]
    status = subprocess.run(command, stdout=sys.stderr, check=False).returncode
    if status != 0:
        raise FlashsrError(
            f"the conversion ended with status {status} (its message is above); the files are kept in {str(checkpoint)!r}: "
            "run the command again when it is mended"
        )


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
