"""What the user asked for: ``flashsr``'s arguments, checked once. Pure.

From here on every value has its type: whoever takes ``Arguments`` checks nothing again. What only a model or the core can judge
(is there such a model, backend or format, does the kind of model have such an option) is judged where that is known.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from .bundle import ColorFix, Precision
from .colour_names import MATRIX, matrix_number
from .errors import FlashsrError, shown

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

type Tile = int | tuple[int, int] | Literal["auto"] | None
"""Side, or (width, height), in input pixels; None: the whole frame; "auto": the fewest that fit."""
type OptionValue = bool | int | float | str

LARGEST_SCALE = 4
SMALLEST_TILE = 8
MOST_THREADS = 1024
_MOST = 2**31 - 1
_MOST_SEED = 2**64 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """``flashsr``'s arguments but the clip: same names, same defaults, same meaning."""

    scale: float = 4.0
    model: str | Path | None = None
    backend: str = "auto"
    device_id: int | str = 0
    """Number, or part of its name."""
    precision: Precision | None = None
    tile: Tile = None
    overlap: int | None = None
    color_fix: ColorFix | None = None
    matrix: int | None = None
    """By its number in ITU-T H.273."""
    strength: float = 1.0
    scene_change: bool = True
    max_segment: int | None = None
    preroll: int | None = None
    format: object = None
    """As the user named it: only the core knows which formats there are (``formats.wanted_format``)."""
    seed: int | None = None
    engine_dir: Path | None = None
    threads: int | None = None
    resident: bool | None = None
    model_options: Mapping[str, OptionValue] = field(default_factory=dict)
    """By name; each kind of model makes its own typed options of them."""


def read_arguments(given: Mapping[str, object]) -> Arguments:
    """What the user gave, by name, checked.

    Numbers may be NumPy's, or fractions; whole numbers that are written as 2.0 are refused.

    Raises:
        FlashsrError: a value is of the wrong kind or out of range.
    """
    return Arguments(
        scale=_scale(given["scale"]),
        model=_model(given["model"]),
        backend=_word("backend", given["backend"]),
        device_id=_device(given["device_id"]),
        precision=_optional_choice("precision", given["precision"], get_args(Precision.__value__)),
        tile=_tile(given["tile"]),
        overlap=_optional_whole("overlap", given["overlap"], 0),
        color_fix=_optional_choice("color_fix", given["color_fix"], get_args(ColorFix.__value__)),
        matrix=_matrix(given["matrix"]),
        strength=_strength(given["strength"]),
        scene_change=_flag("scene_change", given["scene_change"]),
        max_segment=_optional_whole("max_segment", given["max_segment"], 1),
        preroll=_optional_whole("preroll", given["preroll"], 0),
        format=given["format"],
        seed=_optional_whole("seed", given["seed"], 0, _MOST_SEED),
        engine_dir=_folder("engine_dir", given["engine_dir"]),
        threads=_optional_whole("threads", given["threads"], 1, MOST_THREADS),
        resident=None if given["resident"] is None else _flag("resident", given["resident"]),
        model_options=_options(given["model_options"]),
    )


def _scale(value: object) -> float:
    scale = _number("scale", value)
    if not 1 <= scale <= LARGEST_SCALE:
        raise FlashsrError(f"scale is at least 1 and at most {LARGEST_SCALE}, got {scale:g}; for more, call flashsr twice")
    return scale


def _strength(value: object) -> float:
    strength = _number("strength", value)
    if not 0 <= strength <= 1:
        raise FlashsrError(f"strength is from 0 to 1, got {strength:g}; give 1 for the model, 0 for plain Lanczos")
    return strength


def _matrix(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, str):
        return matrix_number(value)
    if isinstance(value, Integral) and _is_whole(value, 1) and int(value) in MATRIX:
        return int(value)
    raise FlashsrError(
        f"matrix is one of {', '.join(MATRIX.values())} or its number in H.273, got {shown(value)}; choose one, or leave it out"
    )


def _number(name: str, value: object) -> float:
    if not isinstance(value, bool) and isinstance(value, Real):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
    raise FlashsrError(f"{name} is a number, got {shown(value)}; give one like 2 or 1.5")


def _is_whole(value: object, least: int, most: int = _MOST) -> bool:
    return not isinstance(value, bool) and isinstance(value, Integral) and least <= int(value) <= most


def _whole(name: str, value: object, least: int, most: int = _MOST) -> int:
    if not (isinstance(value, Integral) and _is_whole(value, least, most)):
        raise FlashsrError(
            f"{name} is a whole number from {least} to {most}, got {shown(value)}; give one, or leave it out"
        )
    return int(value)


def _optional_whole(name: str, value: object, least: int, most: int = _MOST) -> int | None:
    return None if value is None else _whole(name, value, least, most)


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool | np.bool_ | Integral) or value not in (0, 1):
        raise FlashsrError(f"{name} is True or False, got {shown(value)}; give one of them")
    return bool(value)


def _device(value: object) -> int | str:
    if isinstance(value, str) and value.strip():
        return value
    return _whole("device_id", value, 0)


def numbered_device(arguments: Arguments) -> int:
    """The device, for backends that know numbers only.

    Raises:
        FlashsrError: the user gave a name.
    """
    if isinstance(arguments.device_id, int):
        return arguments.device_id
    raise FlashsrError(
        f"backend {arguments.backend!r} takes a device's number, got device_id={shown(arguments.device_id)}; give e.g. 0"
    )


def device_number(backend: str, wanted: int | str, names: Sequence[str]) -> int:
    """Which of a backend's devices, called ``names``, is the one of that number or, the first, of that (part of a) name.

    Raises:
        FlashsrError: there is none.
    """
    for number, name in enumerate(names):
        if number == wanted if isinstance(wanted, int) else wanted.casefold() in name.casefold():
            return number
    listed = ", ".join(f"{number}: {name}" for number, name in enumerate(names))
    raise FlashsrError(f"there is no such device for {backend!r}, got device_id={shown(wanted)}; choose of {listed}")


def _word(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise FlashsrError(f"{name} is a name, got {shown(value)}; give one such as 'auto'")
    return value


def _optional_choice[Choice: str](name: str, value: object, choices: tuple[Choice, ...]) -> Choice | None:
    if value is None:
        return None
    for choice in choices:
        if isinstance(value, str) and value == choice:
            return choice
    raise FlashsrError(f"{name} is one of {', '.join(map(repr, choices))}, got {shown(value)}; choose one of them")


def _tile(value: object) -> Tile:
    if value is None:
        return None
    if isinstance(value, str) and value == "auto":
        return "auto"
    if isinstance(value, Integral) and _is_whole(value, SMALLEST_TILE):
        return int(value)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes) and len(value) == 2:
        width, height = value
        if _is_whole(width, SMALLEST_TILE) and _is_whole(height, SMALLEST_TILE):
            return int(width), int(height)
    raise FlashsrError(
        f"tile is a side or (width, height) in input pixels, each {SMALLEST_TILE} or more, or 'auto', got {shown(value)}; "
        "give e.g. 256"
    )


def _model(value: object) -> str | Path | None:
    if value is None or (isinstance(value, str) and value.strip()):
        return value
    if isinstance(value, os.PathLike) and isinstance(path := os.fspath(value), str):
        return Path(path)
    raise FlashsrError(
        f"model is a built-in name, a bundle's folder or an .onnx file, got {shown(value)}; give one, or leave it out"
    )


def _folder(name: str, value: object) -> Path | None:
    if value is None:
        return None
    path = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(path, str) or not path.strip() or "\0" in path:
        raise FlashsrError(f"{name} is a folder, got {shown(value)}; give its path, or leave it out")
    return home_expanded(name, Path(path))


def home_expanded(name: str, path: Path) -> Path:
    """The path with ``~`` replaced.

    Raises:
        FlashsrError: there is no such user.
    """
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise FlashsrError(
            f"{name} begins with a user that isn't known here, got {shown(str(path))}; write it out"
        ) from error


def _options(value: object) -> dict[str, OptionValue]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise FlashsrError(
            f"model_options is a dict of a model's options by name, got {shown(value)}; give e.g. {{'kv_ratio': 2}}"
        )
    return {_option_name(key): _option_value(key, item) for key, item in value.items()}


def _option_name(key: object) -> str:
    if not isinstance(key, str):
        raise FlashsrError(f"model_options has names for keys, got {shown(key)}; give e.g. {{'kv_ratio': 2}}")
    return key


def _option_value(name: object, value: object) -> OptionValue:
    if isinstance(value, bool | str):
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, Integral) and _is_whole(value, -_MOST_SEED, _MOST_SEED):
        return int(value)
    if isinstance(value, Real):
        try:
            return float(value)
        except OverflowError:
            return math.inf
    raise FlashsrError(
        f"model_options has numbers, words and flags for values, got {shown(value)} for {shown(name)}; give one of those"
    )


def changed[Options: DataclassInstance](options: Options, changes: Mapping[str, OptionValue], owner: str) -> Options:
    """A model's options (a dataclass that checks its values as it is made) with the user's changes.

    Raises:
        FlashsrError: ``owner`` has no such option, or its value makes no sense.
    """
    known = [field.name for field in dataclasses.fields(options)]
    if unknown := sorted(set(changes) - set(known)):
        word = "option" if len(known) == 1 else "options"
        raise FlashsrError(
            f"{owner} has the {word} {', '.join(known)}, but no option {shown(unknown[0])}; correct model_options"
        )
    return dataclasses.replace(options, **changes)
