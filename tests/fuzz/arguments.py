"""Values of ``flashsr``'s arguments that can't be meant, and some that can."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import vapoursynth as vs

from .filtered import filtered
from .outcome import Case

_NUMBERS: tuple[Any, ...] = (None, "2", b"2", [], {}, (), object(), float("nan"), float("inf"), -1, 10**400, 1j, 2**70, print,
            np.zeros(3), Fraction(-1, 3))  # fmt: skip
_WHOLE: tuple[Any, ...] = (*_NUMBERS[1:], 1.5, True, np.float32(2.5), 10**9)
_NAMES: tuple[Any, ...] = ("", "x", 5, b"x", [1], {}, object(), 1.5, "\x1b[2J", "\0", "é" * 300)

BAD: dict[str, tuple[Any, ...]] = {
    "scale": (*_NUMBERS, 0, 1, 1.0, 4.01, True, "4", 1e-300, 10**30),
    "model": (5, b"x", [1], "~nouser/x", "x" * 5000, "", "\0", "\ud800", {}, 1.5, True, object(), Path("gone"), "gone.onnx",
              "/dev/zero", "/", ".", "\x1b[2J", "builtin\n"),
    "backend": (*_NAMES, None, "TensorRT", ["auto"]),
    "device_id": tuple(value for value in _WHOLE[:-1] if not isinstance(value, str)),
    "precision": (*_NAMES, "FP16"),
    "tile": (*_NUMBERS[1:], 0, 7, 1.5, True, "x", (64,), (64, 64, 64), (0, 64), ("a", "b"), [True, 64]),
    "overlap": (*_WHOLE, 16),
    "color_fix": (*_NAMES, "None"),
    "strength": (*_NUMBERS, -0.1, 1.1, True, "1"),
    "scene_change": (None, "x", 2, -1, [], {}, 0.5, object(), np.zeros(3)),
    "max_segment": (*_WHOLE[:-1], 0, 10**30),
    "preroll": (*_WHOLE[:-1], 10**30),
    "format": (-1, 10**30, "YUV420P8", b"x", [], {}, 1.5, object(), True, 0, 2**31, vs.YUV420P8.real + 7, vs.GRAY32, "x",
               float("nan")),
    "seed": (*_WHOLE[:-1],),
    "engine_dir": (5, b"x", [1], {}, 1.5, object(), "\0", "~nouser/x", True),
    "threads": (*_WHOLE, 0, 2**31),
    "model_options": (5, "ab", [1], {"a": 1}, {1: 2}, object(), [("a", 1)], b"x", 1.5),
    "clip": (None, 5, "clip", [], object()),
}  # fmt: skip
GOOD: dict[str, tuple[Any, ...]] = {
    "scale": (2, 2.0, np.int64(2), np.float32(2), np.float64(1.5), Fraction(3, 2), 1.0001, 4),
    "tile": (8, (16, 8), [16, 8], "auto", np.int64(16), None),
    "scene_change": (True, False, 0, 1, np.True_, np.False_),
    "strength": (0, 1, 0.5, np.float32(0.5), Fraction(1, 2)),
    "max_segment": (1, 10**6, np.int32(7), None),
    "preroll": (0, 3, np.int64(2), None),
    "threads": (1, np.int64(1), None),
    "seed": (0, 5, 2**40, np.int64(3)),
    "format": (None, vs.RGBS, int(vs.YUV444P16), vs.GRAY8),
    "model": ("builtin", None),
    "model_options": (None, {}),
    "engine_dir": (None, "engines", Path("engines")),
}  # fmt: skip


def _clip(format: int = vs.YUV420P8, **properties: Any) -> vs.VideoNode:
    return vs.core.std.BlankClip(format=format, width=32, height=32, length=2).std.SetFrameProps(**properties)


def _coarse() -> vs.VideoNode:
    return _clip(vs.core.query_video_format(vs.YUV, vs.INTEGER, 8, 3, 3).id, _Matrix=1)


CLIPS: dict[str, Callable[[], vs.VideoNode]] = {
    "_Matrix is text": lambda: _clip(_Matrix="x"),
    "_FieldBased is text": lambda: _clip(_Matrix=1, _FieldBased="top"),
    "_Range is text": lambda: _clip(_Matrix=1, _Range="x"),
    "_ChromaLocation is text": lambda: _clip(_Matrix=1, _ChromaLocation="x"),
    "_SceneChangePrev is text": lambda: _clip(_Matrix=1, _SceneChangePrev="x"),
    "_ChromaLocation of 99": lambda: _clip(_Matrix=1, _ChromaLocation=99),
    "_Range of 9": lambda: _clip(_Matrix=1, _Range=9),
    "_FieldBased of 7": lambda: _clip(_Matrix=1, _FieldBased=7),
    "interlaced": lambda: _clip(_Matrix=1, _FieldBased=2),
    "subsampling of three bits": _coarse,
    "RGB tagged as YUV": lambda: _clip(vs.RGB24, _Matrix=1),
    "32 bits": lambda: _clip(vs.GRAY32),
}
"""Inputs that can't be right; "for" asks for an output."""
COARSE = (vs.YUV << 28) | (vs.INTEGER << 24) | (8 << 16) | (3 << 8) | 3


def arguments(_: Path) -> Callable[[int], Case]:
    """One argument each."""
    pairs = [(name, value, True) for name, values in BAD.items() for value in values]
    pairs += [(name, value, False) for name, values in GOOD.items() for value in values]
    pairs += [("clip", made, True) for made in CLIPS.items()]
    pairs += [("format", COARSE, True)]

    def make(seed: int) -> Case:
        name, value, wrong = pairs[seed % len(pairs)]
        if name == "clip" and isinstance(value, tuple):
            label, made = value
            return Case(label, lambda: filtered(clip=made()), wrong)
        what = f"{name} = {value!r:.50}"
        if name == "clip":
            from vsflashsr import flashsr

            return Case(what, lambda: flashsr(value) and None, wrong)
        return Case(what, lambda: _accepted(name, value, wrong), wrong)

    return make


def _accepted(name: str, value: Any, wrong: bool) -> Callable[[], object]:
    """A good one that is refused counts as a raw exception."""
    try:
        return filtered(**{name: value})
    except vs.Error as error:
        if wrong:
            raise
        raise AssertionError(f"refused: {error}") from error
