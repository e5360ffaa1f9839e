"""The folder of compiled kernels: its manifest, read and written, and which image fits a GPU."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...errors import FlashsrError

MANIFEST = "manifest.json"
FORMAT = 1
FIRST_CAPABILITY = 80
"""Ampere: older GPUs lack the instructions that kernels are made of (asynchronous copies, bfloat16 products)."""
_ARCHITECTURE_BOUND = 90
"""From here on Triton compiles for sm_90a, sm_120a: images that no other GPU runs, not even one of the same family."""


@dataclass(frozen=True)
class Image:
    """One kernel, compiled for one target."""

    file: str
    """Name in the folder."""
    sha256: str
    entry: str
    """What the kernel is called inside."""
    threads: int
    """Of one block."""
    shared_bytes: int
    """Dynamic shared memory of one block."""
    extra_pointers: int
    """Null pointers that Triton's kernels take after their own arguments."""


@dataclass(frozen=True)
class Manifest:
    """What is in the folder."""

    triton: str
    """Version that compiled it."""
    sources: str
    """`KernelSet.digest` of what was compiled."""
    cubins: Mapping[str, Mapping[int, Image]]
    """By kernel, then by compute capability (10 * major + minor)."""
    ptx: Mapping[str, Image]
    """By kernel, for `FIRST_CAPABILITY`; drivers compile it for any newer GPU."""

    def image(self, kernel: str, capability: int) -> Image | None:
        """What runs best on a GPU of this capability."""
        cubins = self.cubins.get(kernel, {})
        if capability in cubins:
            return cubins[capability]
        fitting = [
            target
            for target in cubins
            if target // 10 == capability // 10 and target < capability < _ARCHITECTURE_BOUND
        ]
        if fitting:
            return cubins[max(fitting)]
        return self.ptx.get(kernel) if capability >= FIRST_CAPABILITY else None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Into the folder that holds the images."""
    document = {"format": FORMAT, **asdict(manifest)}
    (folder / MANIFEST).write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> Manifest | None:
    """None where nothing was compiled.

    Raises:
        FlashsrError: there is a manifest, but it can't be read.
    """
    path = folder / MANIFEST
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FlashsrError(f"the compiled kernels can't be read, got {error}; reinstall vsflashsr") from error
    try:
        return _manifest(json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FlashsrError(
            f"the compiled kernels' list {str(path)!r} is damaged, got {error!r}; reinstall vsflashsr, or run "
            "python -m trt_build.kernels"
        ) from error


def _manifest(document: Any) -> Manifest:
    if document["format"] != FORMAT:
        raise ValueError(f"format {document['format']}")
    return Manifest(
        str(document["triton"]),
        str(document["sources"]),
        {
            str(kernel): {int(target): _image(image) for target, image in images.items()}
            for kernel, images in document["cubins"].items()
        },
        {str(kernel): _image(image) for kernel, image in document["ptx"].items()},
    )


def _image(fields: Mapping[str, Any]) -> Image:
    image = Image(**fields)
    if not isinstance(image.file, str) or Path(image.file).name != image.file:
        raise ValueError(f"file {image.file!r}")
    if not all(
        isinstance(count, int) and count >= 0 for count in (image.threads, image.shared_bytes, image.extra_pointers)
    ):
        raise ValueError(f"numbers of {image.file!r}")
    return image
