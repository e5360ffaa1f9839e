"""Bundles: a folder with ``bundle.json`` (what the model is, how to call it) and the files it names. Read, check, write."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal, get_args

from .errors import FlashsrError
from .model import Channels, ModelSpec
from .schedule import Schedule

FORMAT = 1
MANIFEST = "bundle.json"

type Kind = Literal["recurrent", "frame", "flashvsr"]
type Precision = Literal["fp32", "fp16", "bf16"]
type ColorFix = Literal["none", "adain", "wavelet"]

_SIZE = re.compile(r"(?:(\d+)\*)?([hw])(?:/(\d+))?")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class StateSpec:
    """One tensor that is carried from step to step."""

    name: str
    shape: tuple[int | str, ...]
    """Numbers, or ``h``/``w`` expressions of the padded low-resolution size: ``h``, ``w/2``, ``2*h``."""
    dtype: str = "float32"

    def resolve(self, height: int, width: int) -> tuple[int, ...]:
        """The shape for frames of ``height`` x ``width`` pixels."""
        return tuple(_evaluate(size, height, width) for size in self.shape)


@dataclass(frozen=True, slots=True)
class ScaleSpec:
    """The graphs that make one scale."""

    step: str
    first: str | None
    """Graph of step 0, without state inputs; where None, ``step`` runs with zeros for its state."""
    states: tuple[StateSpec, ...]


@dataclass(frozen=True, slots=True)
class Bundle:
    """A checked ``bundle.json``. Its files exist, lie in its folder and have the hashes it names."""

    folder: Path
    name: str
    kind: Kind
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


class _Fields:
    """Typed access to a JSON object; what is missing or of another type is one clear sentence."""

    def __init__(self, where: str, data: object) -> None:
        if not isinstance(data, dict):
            raise FlashsrError(f"{where} should be a JSON object, got {type(data).__name__}; export the bundle again")
        self._where = where
        self._data: dict[str, Any] = data

    def get[T](self, key: str, kind: type[T], default: T | None = None) -> T:
        value = self._data.get(key, default)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            got = repr(value) if key in self._data else "nothing"
            raise FlashsrError(f"{self._where}: {key!r} should be {kind.__name__}, got {got}; export the bundle again")
        return value

    def one_of(self, key: str, choices: tuple[str, ...], default: str | None = None) -> Any:
        value = self.get(key, str, default)
        if value not in choices:
            raise FlashsrError(
                f"{self._where}: {key!r} is one of {', '.join(choices)}, got {value!r}; correct the bundle"
            )
        return value

    def at_least(self, key: str, least: int, default: int | None = None) -> int:
        value = self.get(key, int, default)
        if value < least:
            raise FlashsrError(f"{self._where}: {key!r} is {least} or more, got {value}; correct the bundle")
        return value

    def optional(self, key: str) -> str | None:
        return None if self._data.get(key) is None else self.get(key, str)


def safe_name(where: str, name: str) -> str:
    """``name`` if it is a plain relative path that stays inside the bundle on every system, else an error."""
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    inside = name and not (posix.is_absolute() or windows.drive or windows.root or "\\" in name)
    if not inside or ".." in posix.parts or name == MANIFEST:
        raise FlashsrError(f"{where} names a file outside its folder, got {name!r}; don't use this bundle")
    return name


def _states(where: str, items: list[Any]) -> tuple[StateSpec, ...]:
    states: list[StateSpec] = []
    for item in items:
        fields = _Fields(f"{where}: a state", item)
        name = fields.get("name", str)
        shape = fields.get("shape", list)
        for size in shape:
            good = size > 0 if isinstance(size, int) else isinstance(size, str) and _SIZE.fullmatch(size)
            if not good:
                raise FlashsrError(
                    f"{where}: state {name!r} has a size that is no number or h, w expression, got {size!r}"
                )
        states.append(StateSpec(name, tuple(shape), fields.one_of("dtype", ("float32", "float16"), "float32")))
    return tuple(states)


def _scales(where: str, data: dict[str, Any]) -> dict[int, ScaleSpec]:
    scales: dict[int, ScaleSpec] = {}
    for key, value in data.items():
        if key not in ("1", "2", "3", "4"):
            raise FlashsrError(f"{where}: a scale is 1, 2, 3 or 4, got {key!r}; correct the bundle")
        fields = _Fields(f"{where}: scale {key}", value)
        states = _states(where, fields.get("states", list, []))
        scales[int(key)] = ScaleSpec(fields.get("step", str), fields.optional("first"), states)
    if not scales:
        raise FlashsrError(f"{where}: 'scales' is empty; export the bundle again")
    return scales


@lru_cache(maxsize=4096)
def _sha256(path: Path, _size_bytes: int, _mtime_ns: int) -> str:
    """Hash of a file; asked again only when its size or time has changed."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of(path: Path) -> str:
    """The file's sha256, in hexadecimal."""
    stat = path.stat()
    return _sha256(path, stat.st_size, stat.st_mtime_ns)


def _check_files(where: str, folder: Path, files: Mapping[str, Any]) -> dict[str, str]:
    root = folder.resolve()
    for name, expected in files.items():
        path = folder / safe_name(where, name)
        if not isinstance(expected, str) or not _SHA256.fullmatch(expected):
            raise FlashsrError(f"{where}: the sha256 of {name!r} should be 64 hexadecimal digits, got {expected!r}")
        if not path.is_file():
            raise FlashsrError(
                f"{where} needs the file {name!r}, which is not in {str(folder)!r}; get the bundle again"
            )
        if not path.resolve().is_relative_to(root):
            raise FlashsrError(f"{where}: {name!r} is a link that leaves the folder; don't use this bundle")
        if (got := sha256_of(path)) != expected:
            raise FlashsrError(
                f"{where}: {name!r} has the sha256 {got[:12]}…, not the expected {expected[:12]}…: "
                "it was changed or cut short; get the bundle again"
            )
    return dict(files)


def load_bundle(folder: Path) -> Bundle:
    """Read and check the bundle in ``folder``.

    Raises:
        FlashsrError: what is missing, malformed, outside the folder, or not what its hash says.
    """
    manifest = folder / MANIFEST
    where = f"bundle {str(folder)!r}"
    try:
        data = json.loads(manifest.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FlashsrError(f"no {MANIFEST} in {str(folder)!r}; give a bundle's folder or an .onnx file") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise FlashsrError(f"can't read {str(manifest)!r} ({error}); export the bundle again") from error
    fields = _Fields(where, data)
    version = fields.get("format", int)
    if version != FORMAT:
        raise FlashsrError(f"{where} has format {version}, this vsflashsr reads {FORMAT}; export it again or update")
    kind = fields.one_of("kind", get_args(Kind.__value__))
    numbers = _Fields(f"{where}: schedule", fields.get("schedule", dict))
    low, high = (float(v) for v in _pair(where, fields.get("value_range", list, [0.0, 1.0])))
    bundle = Bundle(
        folder=folder,
        name=fields.get("name", str),
        kind=kind,
        channels=fields.one_of("channels", get_args(Channels.__value__)),
        precision=fields.one_of("precision", get_args(Precision.__value__), "fp32"),
        value_range=(low, high),
        size_multiple=fields.at_least("size_multiple", 1, 1),
        schedule=Schedule(*(numbers.at_least(k, 1) for k in ("first_reads", "first_emits", "reads", "emits"))),
        preroll=fields.at_least("preroll", 0, 0),
        max_segment=fields.at_least("max_segment", 1),
        scales=_scales(where, fields.get("scales", dict)),
        color_fix=fields.one_of("color_fix", get_args(ColorFix.__value__), "none"),
        files=_check_files(where, folder, fields.get("files", dict)),
        licence=fields.get("licence", str, ""),
        provenance=fields.get("provenance", dict, {}),
        section=fields.get(kind, dict, {}),
    )
    for scale in bundle.scales.values():
        for name in filter(None, (scale.step, scale.first)):
            if name not in bundle.files:
                raise FlashsrError(f"{where}: {name!r} has no sha256 under 'files'; export the bundle again")
    return bundle


def _pair(where: str, value: list[Any]) -> tuple[float, float]:
    match value:
        case [int() | float() as low, int() | float() as high] if low < high:
            return float(low), float(high)
    raise FlashsrError(f"{where}: 'value_range' is two rising numbers, got {value!r}; correct the bundle")


def write_manifest(folder: Path, data: Mapping[str, Any]) -> None:
    """Write ``bundle.json`` into ``folder``, with the hash of every file that lies there. Same content, same bytes."""
    files = {
        path.relative_to(folder).as_posix(): sha256_of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST and path.suffix not in (".md", ".txt")
    }
    text = json.dumps({"format": FORMAT, **data, "files": files}, indent=1, ensure_ascii=False) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8", newline="\n")
