"""Engines are code: only the user's own are loaded, and what else lies in their folder is in nobody's way. Without TensorRT."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest

from vsflashsr.runtimes.engines import store, trust
from vsflashsr.runtimes.engines.build import Plan, TensorRecord
from vsflashsr.runtimes.engines.container import read_header, seal, unseal
from vsflashsr.runtimes.engines.key import EngineRequest, ShapeRange, Target, key_of
from vsflashsr.runtimes.engines.store import EngineStore
from vsflashsr.runtimes.engines.trust import distrust

from ...support.tiny import write_frame_graph

posix = pytest.mark.skipif(os.name == "nt", reason="permissions are POSIX's")


@pytest.fixture
def request_(tmp_path: Path) -> EngineRequest:
    graph = write_frame_graph(tmp_path / "x2.onnx", 2)
    return EngineRequest(graph, {"input": ShapeRange.fixed((1, 3, 16, 16))}, Target("tensorrt_rtx", "1", (8, 9)), "blur")


@contextmanager
def builds(data: bytes) -> Iterator[list[int]]:
    """What is built is these bytes; the list grows with each build."""
    built: list[int] = []

    def build(*_: object, **__: object) -> Plan:
        built.append(1)
        return Plan(memoryview(data), (TensorRecord("input", None, "FLOAT"),), (), 0.1, None)

    with mock.patch.object(store, "build_plan", build):
        yield built


@pytest.fixture
def folder(tmp_path: Path, request_: EngineRequest) -> Path:
    """With an engine whose plan is b"stored"."""
    with builds(b"stored"):
        EngineStore(tmp_path / "engines ü").get(request_)
    return tmp_path / "engines ü"


def plan_of(folder: Path, request: EngineRequest) -> bytes:
    with builds(b"anew"):
        return bytes(EngineStore(folder).get(request))


def test_the_folder_and_its_files_are_the_users_alone(folder: Path, request_: EngineRequest) -> None:
    assert plan_of(folder, request_) == b"stored" and distrust(folder) == ""
    if os.name == "posix":
        modes = [path.stat().st_mode & 0o777 for path in (folder, EngineStore(folder).path_of(key_of(request_)))]
        assert modes == [0o700, 0o600]


@posix
def test_nothing_is_loaded_from_a_folder_that_others_can_write(
    folder: Path, request_: EngineRequest, caplog: pytest.LogCaptureFixture
) -> None:
    folder.chmod(0o777)
    assert plan_of(folder, request_) == b"anew"
    said = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(said) == 1 and "can be written by others (mode 777); chmod" in said[0]
    folder.chmod(0o755)
    assert plan_of(folder, request_) == b"stored"


@posix
def test_a_file_that_others_can_write_is_built_anew(folder: Path, request_: EngineRequest) -> None:
    EngineStore(folder).path_of(key_of(request_)).chmod(0o666)
    assert plan_of(folder, request_) == b"anew"
    with builds(b"again"):
        assert bytes(EngineStore(folder).get(request_)) == b"anew"


@posix
def test_a_file_or_folder_of_another_user(folder: Path, request_: EngineRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4321)
    if os.getuid() == 0:
        assert distrust(folder) == ""  # root may do anything, here as there
        os.chown(folder, 1234, -1)
    assert "belongs to another user" in distrust(folder)


@posix
def test_a_link_to_an_engine_elsewhere_is_not_followed(folder: Path, request_: EngineRequest, tmp_path: Path) -> None:
    path = EngineStore(folder).path_of(key_of(request_))
    elsewhere = tmp_path / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    assert plan_of(folder, request_) == b"anew"
    assert not path.is_symlink() and elsewhere.exists()


def test_elsewhere_than_on_posix_the_folder_lies_in_the_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "_POSIX", False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "mine")
    said = [distrust(tmp_path / name) for name in ("mine/engines", "other")]
    assert said[0] == "" and "is outside your profile" in said[1]


def test_a_folder_with_the_name_of_an_engine_is_moved_aside(folder: Path, request_: EngineRequest) -> None:
    path = EngineStore(folder).path_of(key_of(request_))
    path.unlink()
    (path / "something of somebody").mkdir(parents=True)
    assert plan_of(folder, request_) == b"anew"
    with builds(b"again") as built:
        assert bytes(EngineStore(folder).get(request_)) == b"anew" and built == []
    assert len(list(folder.glob("*.aside/something*"))) == 1


@posix
def test_foreign_entries_are_passed_over_with_one_line(
    folder: Path, request_: EngineRequest, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "x.engine").mkdir()
    (folder / "self.engine").symlink_to("self.engine")
    os.mkfifo(folder / "pipe.cache")
    engines = EngineStore(folder)
    assert [e.header is not None and e.header.label for e in engines.engines()] == ["blur"]
    assert len(engines.prune(everything=True).engines) == 1
    assert engines.engines() == []
    said = [record.message for record in caplog.records]
    assert len(said) == 3 and all("is no file of ours: it is passed over" in line for line in said)


def test_the_hash_is_over_the_whole_file(folder: Path, request_: EngineRequest) -> None:
    path = EngineStore(folder).path_of(key_of(request_))
    data = path.read_bytes()
    label = data.index(b"blur")
    for at in (label, len(data) - 1, 40):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert plan_of(folder, request_) == b"anew", at
    path.write_bytes(data)
    assert read_header(path).label == "blur" and plan_of(folder, request_) == b"stored"


def test_caches_are_sealed() -> None:
    assert unseal(seal(b"kernels")) == b"kernels"
    assert unseal(seal(b"kernels")[:-1]) == unseal(b"kernels") == unseal(b"") == b""
