"""Bundles: a folder with ``bundle.json`` (what the model is, how to call it) and the files it names. Read, check, write."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from msgspec import Meta

from .errors import FlashsrError
from .files import UnfitFileError, leaves, read_regular, safe_name, sha256_of
from .model import Channels, ModelSpec
from .onnx_file import read_onnx
from .schedule import Schedule
from .typed_json import MalformedError, decode

FORMAT = 1
MANIFEST = "bundle.json"

type Precision = Literal["fp32", "fp16", "bf16"]
type ColorFix = Literal["none", "adain", "wavelet"]

_SIZE = re.compile(r"(?:([1-9]\d{0,3})\*)?([hw])(?:/([1-9]\d{0,3}))?")
_LARGEST_MANIFEST_BYTES = 16 << 20
_LARGEST_SIZE = 1 << 16
LARGEST_STATE_BYTES = 64 << 30
"""Of all states of a model at the size it is opened for: more than any machine has for one."""


@dataclass(frozen=True, slots=True)
class StateSpec:
    """One tensor that is carried from step to step."""

    name: str
    shape: tuple[int | str, ...]
    """Numbers, or ``h``/``w`` expressions of the padded low-resolution size: ``h``, ``w/2``, ``2*h``."""
    dtype: Literal["float32", "float16"] = "float32"

    def __post_init__(self) -> None:
        for size in self.shape:
            good = 0 < size <= _LARGEST_SIZE if isinstance(size, int) else _SIZE.fullmatch(size)
            if not good:
                raise FlashsrError(
                    f"state {self.name[:100]!r} has a size that is no number from 1 to {_LARGEST_SIZE} or h, w expression, "
                    f"got {str(size)[:60]!r}; correct the bundle"
                )
        if not 0 < len(self.shape) <= 8:
            raise FlashsrError(f"state {self.name[:100]!r} has 1 to 8 sizes, got {len(self.shape)}; correct the bundle")

    def resolve(self, height: int, width: int) -> tuple[int, ...]:
        """The shape for frames of ``height`` x ``width`` pixels."""
        return tuple(_evaluate(size, height, width) for size in self.shape)


@dataclass(frozen=True, slots=True)
class ScaleSpec:
    """The graphs that make one scale."""

    step: str
    first: str | None = None
    """Graph of step 0, without state inputs; where None, ``step`` runs with zeros for its state."""
    states: tuple[StateSpec, ...] = ()
    chroma: str | None = None
    """Graph that predicts chroma from the luma that was made; where None, chroma is resized."""

    def check_states(self, height: int, width: int) -> None:
        """Can there be states for frames of this (padded) size?

        Raises:
            FlashsrError: they would be empty, or take more than ``LARGEST_STATE_BYTES``.
        """
        shapes = {state.name: state.resolve(height, width) for state in self.states}
        size = 4 * sum(math.prod(shape) for shape in shapes.values())
        if size > LARGEST_STATE_BYTES or any(min(shape) < 1 for shape in shapes.values()):
            raise FlashsrError(
                f"the states that bundle.json declares can't be for {width}x{height}, got {size} bytes in {shapes}; "
                "correct the bundle"
            )


@dataclass(frozen=True, slots=True)
class Bundle:
    """A checked ``bundle.json``. Its files exist, lie in its folder and have the hashes it names."""

    folder: Path
    name: str
    kind: str
    """Who makes a model of it (``models.opening.KINDS``)."""
    channels: Channels
    precision: Precision
    value_range: tuple[float, float]
    """What the model calls black and white; the filter's own is 0..1."""
    size_multiple: int
    schedule: Schedule
    preroll: int
    max_segment: int
    scales: Mapping[int, ScaleSpec]
    color_fix: ColorFix
    files: Mapping[str, str]
    """Relative path → sha256 of every file but the manifest."""
    licence: str
    provenance: Mapping[str, Any]
    section: Mapping[str, Any]
    """What is particular to the kind: the object under the kind's name."""

    def spec(self, scale: int) -> ModelSpec:
        """What the filter has to know of the bundle's model at one of its scales."""
        return ModelSpec(scale, self.channels, self.schedule, self.preroll, self.max_segment)

    def path(self, name: str) -> Path:
        """Where a file of the bundle lies. It was checked when the bundle was loaded."""
        return self.folder / name


def _evaluate(size: int | str, height: int, width: int) -> int:
    if isinstance(size, int):
        return size
    match = _SIZE.fullmatch(size)
    assert match is not None, "checked in _states"
    factor, axis, divisor = match.groups()
    return int(factor or 1) * (height if axis == "h" else width) // int(divisor or 1)


@dataclass(frozen=True, slots=True)
class _Manifest:
    """``bundle.json`` as it is written; see ``Bundle``."""

    format: Literal[1]
    name: Annotated[str, Meta(min_length=1, max_length=200)]
    kind: Annotated[str, Meta(min_length=1, max_length=100)]
    channels: Channels
    schedule: Schedule
    max_segment: Annotated[int, Meta(ge=1, le=1_000_000)]
    scales: dict[Annotated[int, Meta(ge=1, le=4)], ScaleSpec]
    files: dict[str, Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]]
    precision: Precision = "fp32"
    value_range: tuple[float, float] = (0.0, 1.0)
    size_multiple: Annotated[int, Meta(ge=1, le=4096)] = 1
    preroll: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    color_fix: ColorFix = "none"
    licence: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)
    section: dict[str, Any] = field(default_factory=dict)
    """Stands under the kind's name."""

    def __post_init__(self) -> None:
        if not self.scales:
            raise FlashsrError("a bundle has a scale, got an empty 'scales'; export the bundle again")
        if not self.value_range[0] < self.value_range[1]:
            raise FlashsrError(f"'value_range' is two rising numbers, got {list(self.value_range)}; correct the bundle")
        if not self.name.isprintable():
            raise FlashsrError(f"'name' is printable, got {self.name!r}; correct the bundle")


def _check_files(where: str, folder: Path, files: Mapping[str, str]) -> None:
    """Each is there, regular, inside the folder and what its hash says; so is what the graphs among them read."""
    for name, expected in files.items():
        path = folder / safe_name(where, name)
        if name == MANIFEST:
            raise FlashsrError(f"{where}: the manifest can't list itself, got {name!r}; export the bundle again")
        try:
            if leaves(path, folder):
                raise FlashsrError(f"{where}: {name!r} is a link that leaves the folder; don't use this bundle")
            got = sha256_of(path)
        except OSError as error:
            raise FlashsrError(
                f"{where} needs the file {name!r}, which can't be read there ({error.strerror}); get the bundle again"
            ) from error
        if got != expected:
            raise FlashsrError(
                f"{where}: {name!r} has the sha256 {got[:12]}…, not the expected {expected[:12]}…: "
                "it was changed or cut short; get the bundle again"
            )
    for name in files:
        if PurePosixPath(name).suffix.lower() == ".onnx":
            for read in read_onnx(folder / name).external:
                if (beside := (PurePosixPath(name).parent / read).as_posix()) not in files:
                    raise FlashsrError(
                        f"{where}: {name!r} reads the file {beside!r}, which has no sha256 under 'files'; export the bundle again"
                    )


def load_bundle(folder: Path) -> Bundle:
    """Read and check the bundle in ``folder``.

    Raises:
        FlashsrError: what is missing, malformed, outside the folder, or not what its hash says.
    """
    where = f"bundle {str(folder)!r}"
    manifest = _read_manifest(where, folder)
    _check_files(where, folder, manifest.files)
    for scale in manifest.scales.values():
        for name in (scale.step, scale.first, scale.chroma):
            if name is not None and name not in manifest.files:
                raise FlashsrError(f"{where}: {name[:100]!r} has no sha256 under 'files'; export the bundle again")
    return Bundle(
        folder=folder,
        name=manifest.name,
        kind=manifest.kind,
        channels=manifest.channels,
        precision=manifest.precision,
        value_range=manifest.value_range,
        size_multiple=manifest.size_multiple,
        schedule=manifest.schedule,
        preroll=manifest.preroll,
        max_segment=manifest.max_segment,
        scales=manifest.scales,
        color_fix=manifest.color_fix,
        files=manifest.files,
        licence=manifest.licence,
        provenance=manifest.provenance,
        section=manifest.section,
    )


def _read_manifest(where: str, folder: Path) -> _Manifest:
    path = folder / MANIFEST
    try:
        if leaves(path, folder):
            raise UnfitFileError("it is a link that leaves the folder", path)
        data = read_regular(path, limit_bytes=_LARGEST_MANIFEST_BYTES)
    except FileNotFoundError:
        raise FlashsrError(f"no {MANIFEST} in {str(folder)!r}; give a bundle's folder or an .onnx file") from None
    except OSError as error:
        raise FlashsrError(f"can't read {str(path)!r} ({error.strerror}); get the bundle again") from error
    try:
        if (version := decode(data, _Version).format) != FORMAT:
            raise FlashsrError(f"it has format {version}, this vsflashsr reads {FORMAT}; export it again or update")
        manifest = decode(data, _Manifest)
        section = decode(data, dict[str, Any]).get(manifest.kind, {})
        if not isinstance(section, dict):
            raise MalformedError(f"{manifest.kind!r} should be object, got {type(section).__name__}")
        return replace(manifest, section=section)
    except MalformedError as error:
        raise FlashsrError(f"{where}: {error}; export the bundle again") from error
    except FlashsrError as error:
        raise FlashsrError(f"{where}: {error}") from error


@dataclass(frozen=True, slots=True)
class _Version:
    """What is looked at first, as all else may differ with it."""

    format: int


def write_manifest(folder: Path, data: Mapping[str, Any]) -> None:
    """Write ``bundle.json`` into ``folder``, with the hash of every file that lies there. Same content, same bytes."""
    files = {
        path.relative_to(folder).as_posix(): sha256_of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST and path.suffix not in (".md", ".txt")
    }
    text = json.dumps({"format": FORMAT, **data, "files": files}, indent=1, ensure_ascii=False) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8", newline="\n")
