"""Mutated ``bundle.json``, and what may lie where a bundle's files should."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from vsflashsr.bundle import MANIFEST, write_manifest

from ..support.tiny import write_frame_graph, write_tiny_bundle
from .filtered import filtered
from .outcome import Case
from .places import replaced

REQUIRED = ("format", "name", "kind", "channels", "schedule", "max_segment", "scales", "files", "step", "shape", "first_reads",
            "first_emits", "reads", "emits")  # fmt: skip
CLOSED = ("kind", "channels", "precision", "color_fix", "dtype", "step", "first")
"""Strings that can't be just any."""
FREE = ("provenance", "licence", "name")

VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, 10**30, 2**63, -(2**63), 1e300, "", "x", "h", "\x1b[31mred", "é" * 300, "../x2.onnx",
    [], [1], [[[]]], {}, {"a": 1}, "9999999999*h", "w/0", "0*h", "h/99999", ["h"] * 40, [9999999999, 1], "C:\\x", "/dev/zero",
)  # fmt: skip

type _Place = tuple[Any, Any, tuple[Any, ...]]


def manifests(folder: Path) -> Callable[[int], Case]:
    """Of three bundles: a recurrent one, one with a graph for its first step, and a single-frame upscaler."""
    write_tiny_bundle(folder / "tiny")
    write_tiny_bundle(folder / "cold", schedule=(25, 21, 8, 8), scales=(2,))
    _frame_bundle(folder / "frame")

    def make(seed: int) -> Case:
        random, bundle = Random(seed), folder / f"case {seed}"
        shutil.copytree(folder / random.choice(("tiny", "cold", "frame")), bundle)
        what, wrong = random.choice((_value, _value, _value, _removed, _text, _file))(random, bundle)
        return Case(what, lambda: filtered(model=bundle), wrong)

    return make


def _frame_bundle(folder: Path) -> None:
    write_frame_graph(folder / "x2.onnx", 2)
    data = {
        "name": "frame", "kind": "frame", "channels": "rgb", "max_segment": 1, "scales": {"2": {"step": "x2.onnx"}},
        "schedule": {"first_reads": 1, "first_emits": 1, "reads": 1, "emits": 1},
    }  # fmt: skip
    write_manifest(folder, data)


def _places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[_Place]:
    """(owner, key, path) of every value."""
    for key in list(data) if isinstance(data, dict) else range(len(data)):
        yield data, key, (*path, key)
        if isinstance(data[key], dict | list):
            yield from _places(data[key], (*path, key))


def _edited(bundle: Path, edit: Callable[[dict[str, Any]], tuple[str, bool]]) -> tuple[str, bool]:
    path = bundle / MANIFEST
    data = json.loads(path.read_text(encoding="utf-8"))
    result = edit(data)
    path.write_text(json.dumps(data), encoding="utf-8")
    return result


def _value(random: Random, bundle: Path) -> tuple[str, bool]:
    def edit(data: dict[str, Any]) -> tuple[str, bool]:
        owner, key, path = random.choice(list(_places(data)))
        old, new = owner[key], random.choice(VALUES)
        owner[key] = new
        return f"{path} = {new!r:.60}", _is_wrong(path, old, new)

    return _edited(bundle, edit)


def _is_wrong(path: tuple[Any, ...], old: Any, new: Any) -> bool:
    """Is it certain? Where a value can be left out, None may mean just that."""
    if path[0] == "provenance" and len(path) > 1:
        return False
    if new is None:
        return path[-1] in REQUIRED or path[0] == "files"
    if isinstance(old, float) and isinstance(new, int | float) and not isinstance(new, bool):
        return False
    if "shape" in path and isinstance(new, str | int) and not isinstance(new, bool):
        return new not in ("h", "w")
    if type(old) is not type(new):
        return True
    if path[0] == "files" or path[-1] in CLOSED or (isinstance(new, int) and path[-1] != "preroll"):
        return bool(new != old)
    if isinstance(new, int):
        return bool(new < 0 or new > 10**9)
    return isinstance(new, list | dict) and path[0] not in FREE and path[-1] not in ("states", "provenance")


def _removed(random: Random, bundle: Path) -> tuple[str, bool]:
    def edit(data: dict[str, Any]) -> tuple[str, bool]:
        owner, key, path = random.choice([p for p in _places(data) if isinstance(p[0], dict)])
        del owner[key]
        return f"{path} removed", path[0] == "files" or (path[0] != "provenance" and key in REQUIRED)

    return _edited(bundle, edit)


def _text(random: Random, bundle: Path) -> tuple[str, bool]:
    path = bundle / MANIFEST
    data = path.read_bytes()
    at = random.randrange(len(data) - 2)
    what, new, wrong = random.choice(
        (
            ("cut", data[:at], True),
            ("nested lists", b"[" * 100_000, True),
            ("nested objects", b'{"a":' * 100_000, True),
            ("nested provenance", data.replace(b'"provenance": {', b'"provenance": {"a": ' + b"[" * 100_000, 1), False),
            ("no text", b"\xff\xfe" + data, True),
            ("zeros", bytes(1000), True),
            ("NaN", data.replace(b'"max_segment": ', b'"max_segment": NaN, "x": ', 1), True),
            ("long number", data.replace(b'"preroll": ', b'"preroll": ' + b"9" * 5000, 1), b'"preroll": ' in data),
            ("byte", data[:at] + bytes([random.randrange(256)]) + data[at + 1 :], False),
            ("twice", data + data, True),
        )
    )
    path.write_bytes(new)
    return what, wrong


def _file(random: Random, bundle: Path) -> tuple[str, bool]:
    path = random.choice(sorted(bundle.iterdir()))
    data = path.read_bytes()
    if path.name != MANIFEST and random.random() < 0.4:
        at = random.randrange(len(data))
        new = random.choice((data[:at], data + b"\0", data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]))
        path.write_bytes(new)
        return f"{path.name} changed at {at}", True
    return replaced(random, path), True
