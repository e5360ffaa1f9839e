"""What is opened is a regular file of its folder, and a changed file has another hash."""

from __future__ import annotations

import os
import time
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto

from vsflashsr import files
from vsflashsr.bundle import load_bundle, write_manifest
from vsflashsr.errors import FlashsrError
from vsflashsr.files import UnfitFileError, open_regular, sha256_of

from .support.tiny import write_frame_graph

posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no such thing")


@posix
@pytest.mark.parametrize("made", ["pipe", "directory", "device", "socket name"])
def test_only_regular_files_are_opened_and_nothing_is_waited_for(tmp_path: Path, made: str) -> None:
    path = tmp_path / "ü x"
    match made:
        case "pipe":
            os.mkfifo(path)
        case "directory":
            path.mkdir()
        case "device":
            path.symlink_to("/dev/zero")
        case _:
            path = tmp_path / "a\0b"
    with pytest.raises(UnfitFileError):
        open_regular(path)


def test_sizes_are_bounded_before_anything_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with path.open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(UnfitFileError, match="more than the 1000 there may be"):
        open_regular(path, limit_bytes=1000)


def test_the_same_size_and_a_time_set_back_make_no_other_file_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_SETTLED_S", 0.0)  # so that the hash is remembered at once
    path = tmp_path / "x"
    path.write_bytes(b"good" * 1000)
    before = sha256_of(path)
    assert sha256_of(path) == before
    stat = path.stat()
    time.sleep(0.02)  # a tick of the system's clock for files
    path.write_bytes(b"evil" * 1000)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_mtime_ns == stat.st_mtime_ns
    assert sha256_of(path) != before


@posix
def test_a_settled_file_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"good" * 1000)
    monkeypatch.setattr(files, "_SETTLED_S", 0.0)
    before = sha256_of(path)

    def refuse(*_: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr("hashlib.file_digest", refuse)
    assert sha256_of(path) == before
    monkeypatch.setattr(files, "_SETTLED_S", 1e9)  # one that was changed just now is always read
    with pytest.raises(AssertionError, match="read again"):
        sha256_of(path)


# Weights beside their graph


def with_weights(folder: Path, location: str = "good.bin") -> Path:
    """An upscaler whose kernel lies in another file."""
    path = write_frame_graph(folder / "x2.onnx", 2)
    model = onnx.load(path)
    kernel = next(t for t in model.graph.initializer if t.name == "kernel")
    (folder / location).write_bytes(kernel.raw_data)
    kernel.ClearField("raw_data")
    kernel.data_location = TensorProto.EXTERNAL
    kernel.external_data.add(key="location", value=location)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    with_weights(folder)
    data = {"name": "x", "kind": "frame", "channels": "rgb", "max_segment": 1, "scales": {"2": {"step": "x2.onnx"}}}
    write_manifest(folder, data | {"schedule": {"first_reads": 1, "first_emits": 1, "reads": 1, "emits": 1}})
    return folder


def test_weights_beside_a_graph_are_listed_and_hashed(bundle: Path) -> None:
    assert sorted(load_bundle(bundle).files) == ["good.bin", "x2.onnx"]
    weights = bundle / "good.bin"
    weights.write_bytes(b"\1" + weights.read_bytes()[1:])
    with pytest.raises(FlashsrError, match=r"'good\.bin' has the sha256"):
        load_bundle(bundle)


def test_weights_that_are_not_listed_are_refused(bundle: Path) -> None:
    path = bundle / "bundle.json"
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if "good.bin" not in line]
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(FlashsrError, match=r"'x2\.onnx' reads the file 'good\.bin', which has no sha256"):
        load_bundle(bundle)
