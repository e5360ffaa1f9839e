"""An engine on disk: one file with what it is, a hash, and the plan, so that no other plan than the written one reaches TensorRT.

Layout: 16 bytes of magic, 8 of the header's length (little endian), 32 of sha256 over all else in the file, the header (JSON),
the plan. One file, because one `os.replace` then makes all of it appear at once.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from ...errors import FlashsrError
from ...typed_json import MalformedError, decode
from .key import EngineKey
from .trust import open_trusted

SUFFIX = ".engine"
DIGEST_BYTES = 32
LARGEST_ENGINE_BYTES = 32 << 30
_MAGIC = b"vsflashsr-engine"
_START_BYTES = len(_MAGIC) + 8
_LONGEST_HEADER_BYTES = 1 << 20
_CHUNK_BYTES = 16 << 20

type Size = Annotated[int, Meta(ge=0, le=1 << 40)]
type Sizes = tuple[Size, ...]
type Name = Annotated[str, Meta(max_length=1000)]


class CorruptEngineError(Exception):
    """The file is no engine, or not the one that was written."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """An input or output, as the graph declares it."""

    name: Name
    shape: tuple[Size | None, ...] | None
    """None where a size is free; None for the whole where TensorRT can't tell."""
    dtype: Name
    """TensorRT's name of it: FLOAT, HALF, BF16, INT64, …"""
    min: Sizes | None = None
    """Of the range it was built for, where one was given."""
    opt: Sizes | None = None
    max: Sizes | None = None


@dataclass(frozen=True, slots=True)
class Header:
    """What is known of an engine without TensorRT."""

    label: Name
    key: EngineKey
    inputs: tuple[StoredTensor, ...]
    outputs: tuple[StoredTensor, ...]
    plan_bytes: Size
    built: Annotated[float, Meta(ge=0, le=1e11)]
    """Seconds since the epoch."""
    build_seconds: Annotated[float, Meta(ge=0, le=1e9)]
    id: Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
    """Random: tells this build from another of the same key."""

    def __post_init__(self) -> None:
        if not math.isfinite(self.built):
            raise FlashsrError(f"an engine was built at some time, got {self.built}; build it anew")


def write_engine(path: Path, header: Header, plan: memoryview) -> None:
    """Writes the file, which the caller renames, so that only the user can write it. Raises OSError."""
    text = msgspec.json.encode(header)
    start = _MAGIC + len(text).to_bytes(8, "little")
    digest = _digest(start, text, plan)
    with path.open("xb", buffering=0) as file:
        path.chmod(0o600)
        write_chunk(file, memoryview(start + digest + text))
        for at in range(0, len(plan), _CHUNK_BYTES):
            write_chunk(file, plan[at : at + _CHUNK_BYTES])


def write_chunk(file: RawIOBase, data: memoryview) -> None:
    """All of `data`; the system may take it in parts."""
    while data:
        data = data[file.write(data) or 0 :]


def read_header(path: Path) -> Header:
    """The header alone. The plan is not read, but its size is checked.

    Raises:
        CorruptEngineError: this is no engine file, or a part of one.
        OSError: it can't be read, or isn't the user's own.
    """
    with open_trusted(path, limit_bytes=LARGEST_ENGINE_BYTES) as file:
        start = file.read(_START_BYTES + DIGEST_BYTES)
        header, at = _header(start, file.read(min(_header_bytes(start), _LONGEST_HEADER_BYTES)))
        size = file.seek(0, 2)
    if size != at + header.plan_bytes:
        raise CorruptEngineError(f"it has {size} bytes, not {at + header.plan_bytes}")
    return header


def read_engine(path: Path) -> tuple[Header, memoryview]:
    """Header and plan, checked.

    Raises:
        CorruptEngineError, OSError: see `read_header`; or the file is not what was written.
    """
    with open_trusted(path, limit_bytes=LARGEST_ENGINE_BYTES) as file:
        data = memoryview(file.readall())
    start = bytes(data[: _START_BYTES + DIGEST_BYTES])
    length = min(_header_bytes(start), _LONGEST_HEADER_BYTES)
    text = bytes(data[len(start) : len(start) + length])
    header, at = _header(start, text)
    plan = data[at:]
    if len(plan) != header.plan_bytes:
        raise CorruptEngineError(f"it has {len(data)} bytes, not {at + header.plan_bytes}")
    if _digest(start[:_START_BYTES], text, plan) != start[_START_BYTES:]:
        raise CorruptEngineError("its checksum is wrong")
    return header, plan


def seal(data: bytes | memoryview) -> bytes:
    """`data` behind its hash: for what lies beside engines and is read by TensorRT as well."""
    return hashlib.sha256(data).digest() + data


def unseal(sealed: bytes) -> bytes:
    """What was sealed; empty where it isn't that any more."""
    data = sealed[DIGEST_BYTES:]
    return data if hashlib.sha256(data).digest() == sealed[:DIGEST_BYTES] else b""


def _digest(start: bytes, text: bytes, plan: memoryview) -> bytes:
    """Against accidents and against files from elsewhere; whoever can write as the user can write the hash as well."""
    digest = hashlib.sha256(start)
    digest.update(text)
    digest.update(plan)
    return digest.digest()


def _header_bytes(start: bytes) -> int:
    return int.from_bytes(start[len(_MAGIC) : _START_BYTES], "little")


def _header(start: bytes, text: bytes) -> tuple[Header, int]:
    """The header and where the plan begins."""
    if start[: len(_MAGIC)] != _MAGIC or len(start) != _START_BYTES + DIGEST_BYTES or len(text) != _header_bytes(start):
        raise CorruptEngineError("it doesn't begin like an engine of this version")
    try:
        header = decode(text, Header)
    except (MalformedError, FlashsrError) as error:
        raise CorruptEngineError(f"its header can't be read ({error})") from error
    return header, len(start) + len(text)
