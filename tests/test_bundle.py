"""Bundles: what is wrong is said in one sentence, and no path leaves the folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vsflashsr.arguments import Arguments
from vsflashsr.bundle import StateSpec, load_bundle, write_manifest
from vsflashsr.errors import FlashsrError
from vsflashsr.files import safe_name
from vsflashsr.models.opening import nearest_scale, read_kind


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "a bundle ñ"))


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "bundle.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")


def test_a_good_bundle_loads(copy: Path) -> None:
    bundle = load_bundle(copy)
    assert (bundle.kind, bundle.channels, sorted(bundle.scales), bundle.preroll) == ("recurrent", "luma", [2, 4], 5)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d.update(format=99), "format 99"),
        (lambda d: d.pop("format"), "'format'"),
        (lambda d: d.update(kind=7), "'kind' should be str, got 7"),
        (lambda d: d.update(name=""), "'name' should be str of length >= 1, got ''"),
        (lambda d: d.update(channels="cmyk"), "'channels'"),
        (lambda d: d.update(max_segment=0), "'max_segment' should be int >= 1, got 0"),
        (lambda d: d.update(max_segment=True), "'max_segment' should be int, got True"),
        (lambda d: d.update(scales={}), "empty 'scales'"),
        (lambda d: d.update(scales={"5": {}}), "a name in 'scales'"),
        (lambda d: d["schedule"].update(reads=2), "read as many frames as they emit"),
        (lambda d: d["files"].update({"x2.onnx": "0" * 64}), "sha256"),
        (lambda d: d["files"].update({"x2.onnx": "nonsense"}), "should be str matching regex"),
        (lambda d: d["files"].pop("x2.onnx"), "no sha256"),
        (lambda d: d["files"].update({"gone.onnx": "0" * 64}), "gone.onnx"),
        (lambda d: d["files"].update({"../x.onnx": "0" * 64}), "outside its folder"),
        (lambda d: d["files"].update({"C:\\x.onnx": "0" * 64}), "outside its folder"),
        (lambda d: d["scales"]["2"]["states"][0].update(shape=["h", "q"]), "no number from 1 to 65536 or h, w expression"),
        (lambda d: d.update(value_range=[1, 0]), "two rising numbers"),
    ],
)
def test_what_is_wrong_is_said(copy: Path, change: Callable[[dict[str, Any]], object], says: str) -> None:
    edit(copy, change)
    with pytest.raises(FlashsrError, match=says):
        load_bundle(copy)


def test_a_kind_that_is_not_known_is_refused(copy: Path) -> None:
    edit(copy, lambda d: d.update(kind="magic"))
    with pytest.raises(FlashsrError, match=r"'kind' is one of recurrent, frame, .*got 'magic'"):
        read_kind(Arguments(model=copy))


def test_a_changed_file_is_refused(copy: Path) -> None:
    load_bundle(copy)
    path = copy / "x2.onnx"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(FlashsrError, match=r"x2\.onnx.*sha256.*get the bundle again"):
        load_bundle(copy)


def test_a_link_out_of_the_folder_is_refused(copy: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.onnx"
    (copy / "x2.onnx").rename(outside)
    try:
        (copy / "x2.onnx").symlink_to(outside)
    except OSError:
        pytest.skip("this account can't make links")
    with pytest.raises(FlashsrError, match="leaves the folder"):
        load_bundle(copy)


@pytest.mark.parametrize(
    "name", ["", "..", "a/../../b", "/etc/passwd", "C:/x", "\\\\server\\share", "a\\b", "a:b", "a\nb"]
)
def test_unsafe_names(name: str) -> None:
    with pytest.raises(FlashsrError, match="outside its folder"):
        safe_name("bundle", name)


@pytest.mark.parametrize("text", ["", "[]", "{", "\x00"])
def test_a_manifest_that_is_no_manifest(tmp_path: Path, text: str) -> None:
    (tmp_path / "bundle.json").write_text(text, encoding="utf-8")
    with pytest.raises(FlashsrError):
        load_bundle(tmp_path)


def test_writing_is_deterministic(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "w.bin").write_bytes(b"123")
        write_manifest(tmp_path / name, {"name": "é"})
    first, second = (tmp_path / n / "bundle.json" for n in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
    assert json.loads(first.read_text(encoding="utf-8"))["files"].keys() == {"sub/w.bin"}


def test_state_shapes() -> None:
    assert StateSpec("s", (1, "2*h", "w/2", "h")).resolve(10, 8) == (1, 20, 4, 10)


@pytest.mark.parametrize(
    ("scales", "wanted", "nearest"),
    [([2, 4], 2, 2), ([2, 4], 1.1, 2), ([2, 4], 2.5, 2), ([2, 4], 3, 4), ([2, 4], 4, 4), ([1, 2], 1.2, 1), ([3], 2, 3)],
)
def test_nearest_scale(scales: list[int], wanted: float, nearest: int) -> None:
    assert nearest_scale(scales, wanted) == nearest
