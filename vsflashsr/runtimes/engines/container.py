"""An engine on disk: one file with what it is, a checksum, and the plan, so that no broken plan reaches TensorRT.

Layout: 16 bytes of magic, 8 of the header's length (little endian), the header (JSON), the plan. One file, because one
`os.replace` then makes all of it appear at once.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from typing import Any

SUFFIX = ".engine"
_MAGIC = b"vsflashsr/engine"
_LONGEST_HEADER_BYTES = 16 << 20
_CHUNK_BYTES = 16 << 20


class CorruptEngineError(Exception):
    """The file is no engine, or not the one that was written."""


@dataclass(frozen=True, slots=True)
class Header:
    """What is known of an engine without TensorRT."""

    label: str
    key: Mapping[str, Any]
    """`EngineKey.to_json`."""
    inputs: tuple[Mapping[str, Any], ...]
    """name, shape (null where free; min, opt, max where a range was given), dtype."""
    outputs: tuple[Mapping[str, Any], ...]
    plan_bytes: int
    crc32: int
    """Of the plan. Against accidents, not against malice: 1.9 GB/s, where sha256 reads 1.0 (one core, 2026-11-22)."""
    built: str
    """ISO 8601, UTC."""
    build_seconds: float
    id: str
    """Random: tells this build from another of the same key."""


def crc32_of(data: memoryview) -> int:
    """Checksum of a plan."""
    return zlib.crc32(data)


def write_engine(path: Path, header: Header, plan: memoryview) -> None:
    """Writes the file; the caller renames it. Raises OSError."""
    text = json.dumps({name: getattr(header, name) for name in Header.__slots__}).encode()
    with path.open("wb", buffering=0) as file:
        write_chunk(file, memoryview(_MAGIC + len(text).to_bytes(8, "little") + text))
        for start in range(0, len(plan), _CHUNK_BYTES):
            write_chunk(file, plan[start : start + _CHUNK_BYTES])


def write_chunk(file: RawIOBase, data: memoryview) -> None:
    """All of `data`; the system may take it in parts."""
    while data:
        data = data[file.write(data) or 0 :]


def read_header(path: Path) -> Header:
    """The header alone. The plan is not read, but its size is checked.

    Raises:
        CorruptEngineError: this is no engine file, or a part of one.
        OSError: it can't be read.
    """
    with path.open("rb") as file:
        start = file.read(len(_MAGIC) + 8)
        header, at = _header(path, start, file.read(min(_header_bytes(start), _LONGEST_HEADER_BYTES)))
    if (size := path.stat().st_size) != at + header.plan_bytes:
        raise CorruptEngineError(f"it has {size} bytes, not {at + header.plan_bytes}")
    return header


def read_engine(path: Path) -> tuple[Header, memoryview]:
    """Header and plan, checked.

    Raises:
        CorruptEngineError, OSError: see `read_header`; or the plan is not what was written.
    """
    data = memoryview(path.read_bytes())
    start = bytes(data[: len(_MAGIC) + 8])
    header, at = _header(path, start, bytes(data[len(start) : len(start) + _header_bytes(start)]))
    plan = data[at:]
    if len(plan) != header.plan_bytes:
        raise CorruptEngineError(f"it has {len(data)} bytes, not {at + header.plan_bytes}")
    if crc32_of(plan) != header.crc32:
        raise CorruptEngineError("its checksum is wrong")
    return header, plan


def _header_bytes(start: bytes) -> int:
    return int.from_bytes(start[len(_MAGIC) :], "little")


def _header(path: Path, start: bytes, text: bytes) -> tuple[Header, int]:
    """The header and where the plan begins."""
    if start[: len(_MAGIC)] != _MAGIC or len(text) != _header_bytes(start):
        raise CorruptEngineError("it doesn't begin like an engine")
    try:
        data = json.loads(text)
        header = Header(**{**data, "inputs": tuple(data["inputs"]), "outputs": tuple(data["outputs"])})
    except (ValueError, TypeError, KeyError) as error:
        raise CorruptEngineError(f"its header can't be read ({error})") from error
    return header, len(start) + len(text)
