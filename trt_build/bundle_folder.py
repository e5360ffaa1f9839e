"""What every exporter does: a bundle's folder that is complete or not there, progress, weights in another precision."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vsflashsr.bundle import write_manifest
from vsflashsr.errors import FlashsrError
from vsflashsr.files import sha256_of
from vsflashsr.version import __version__

Progress = Callable[[str, int], None]
"""Told what was written, and how many bytes of it."""

LARGEST_CHECKPOINT_BYTES = 64 << 30
"""Of one published file; SwiftVR's has 20 GB."""
_SPARE_BYTES = 64 << 20


def silent(_what: str, _bytes: int) -> None:
    """No progress."""


@contextmanager
def all_or_nothing(out: Path, size_bytes: int) -> Iterator[Path]:
    """A folder beside `out` that takes its name if all goes well and is removed if not."""
    if out.exists():
        raise FlashsrError(f"{str(out)!r} is there already; give another --out or remove it first")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(out.parent).free
    except OSError as error:
        raise FlashsrError(f"can't write to {str(out.parent)!r} ({error.strerror}); give another --out") from error
    if free < size_bytes + _SPARE_BYTES:
        raise FlashsrError(
            f"the bundle takes about {size_bytes / 1e9:.1f} GB and {str(out.parent)!r} has {free / 1e9:.1f} GB free; make room "
            "or give another --out"
        )
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        yield partial
        partial.rename(out)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise FlashsrError(
                f"the disk of {str(out.parent)!r} is full, nothing was kept; make room or give another --out"
            ) from error
        raise FlashsrError(f"writing the bundle failed ({error}), nothing was kept; give another --out") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_bundle(
    out: Path,
    *,
    size_bytes: int,
    name: str | None,
    precision: str,
    files: Mapping[str, Path],
    progress: Progress,
    write: Callable[[Path], Mapping[str, Any]],
) -> None:
    """The folder `out`, which must not exist: complete, or not at all. The same checkpoint and arguments give the same bytes.

    Args:
        out: the bundle.
        size_bytes: about what it takes.
        name: of the bundle; None: that of the folder.
        precision: of its graphs.
        files: the checkpoint's, by what they are.
        progress: told what is done.
        write: writes graphs and weights into the folder it is given, and returns what the manifest says beyond what all say.

    Raises:
        FlashsrError: `out` exists, the disk is full, or a file can't be read.
    """
    with all_or_nothing(out, size_bytes) as folder:
        hashes: dict[str, dict[str, str]] = {}
        for part, path in files.items():
            progress(f"hashing {path.name}", 0)
            hashes[part] = {"name": path.name, "sha256": sha256_of(path, limit_bytes=LARGEST_CHECKPOINT_BYTES)}
        own = dict(write(folder))
        provenance = {"exporter": f"vsflashsr {__version__}", "files": hashes, **own.pop("provenance", {})}
        common = {
            "name": name or out.name,
            "channels": "rgb",
            "precision": precision,
            "value_range": [0.0, 1.0],
            "size_multiple": 1,
            "color_fix": "none",
            "provenance": provenance,
        }
        write_manifest(folder, common | own)


def converted(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight in another precision; `FlashsrError` where it isn't finite there."""
    out = tensor.detach().to(dtype)
    if not torch.isfinite(out).all():
        if not torch.isfinite(tensor).all():
            raise FlashsrError(
                f"the weight {name!r} isn't finite in the checkpoint; the file is damaged: download it again"
            )
        raise FlashsrError(
            f"the weight {name!r} doesn't fit {dtype}, largest value {tensor.abs().max():g}; export as bf16 or fp32"
        )
    return out
