"""The folder of engines, with real engines: what is in it is whole or is not used, whatever happens to who writes it."""

from __future__ import annotations

import _thread
import dataclasses
import errno
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx: pip install tensorrt-rtx")
pytest.importorskip("filelock", reason="needs the extra 'rtx'")

from filelock import FileLock

from vsflashsr.errors import FlashsrError
from vsflashsr.runtimes.engines import container
from vsflashsr.runtimes.engines import store as store_module
from vsflashsr.runtimes.engines.build import PATIENCE_S, builds_left_behind
from vsflashsr.runtimes.engines.container import read_engine, read_header, seal
from vsflashsr.runtimes.engines.key import EngineRequest, key_of
from vsflashsr.runtimes.engines.progress import BuildStatus
from vsflashsr.runtimes.engines.store import EngineRejectedError, EngineStore

from ...support.held_build import HeldBuild
from ...support.models import engines_of
from ...support.pipe import VSPIPE, environment
from ...support.rtx_engines import BUILTIN, small_request


class Built:
    """Counts builds."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, status: BuildStatus) -> None:
        self.count += status.finished


@pytest.fixture
def built() -> Built:
    return Built()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "an engine folder ü"


def files(folder: Path) -> list[str]:
    """What lies there besides locks."""
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def stored(folder: Path, request: EngineRequest) -> Path:
    return EngineStore(folder).path_of(key_of(request))


@pytest.fixture(scope="module")
def engine_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of `small_request`'s engine."""
    folder = tmp_path_factory.mktemp("engine")
    request = small_request(folder)
    EngineStore(folder).get(request)
    return stored(folder, request).read_bytes()


def builtin_request() -> EngineRequest:
    """The built-in model: two seconds, of which 1.6 without a word from TensorRT."""
    from vsflashsr.runtimes.engines.modules import target_without_gpu

    request, _ = engines_of(BUILTIN, [(96, 64)], target_without_gpu("tensorrt_rtx", (8, 9)))
    return request


def test_an_engine_is_built_once_and_then_read(tmp_path: Path, folder: Path, built: Built) -> None:
    request = small_request(tmp_path / "a model ü")
    plan = bytes(EngineStore(folder).get(request, built))
    again = EngineStore(folder)
    assert again.has(request)
    assert bytes(again.get(request, built)) == plan
    assert built.count == 1
    assert files(folder) == [stored(folder, request).name]
    header = read_header(stored(folder, request))
    assert (header.label, header.plan_bytes, header.key.capability) == ("blur 16", len(plan), (8, 9))
    assert [(t.name, t.shape, t.opt) for t in header.inputs] == [("input", (1, 3, None, None), (1, 3, 16, 16))]
    assert [t.name for t in header.outputs] == ["output"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:10],
        lambda data: data[:100],
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: data[:-5000] + bytes([data[-5000] ^ 1]) + data[-4999:],
        lambda data: data[:30] + b"\xff" + data[31:],
        lambda data: data[:16] + b"\xff" * 8 + data[24:],
        lambda data: b"\0" * len(data),
    ],
    ids=["empty", "in magic", "in header", "half", "a byte less", "a byte more", "bit", "header", "length", "zeros"],
)
def test_a_damaged_engine_is_built_anew_with_one_line(
    damage: Callable[[bytes], bytes],
    engine_file: bytes,
    tmp_path: Path,
    folder: Path,
    built: Built,
    caplog: pytest.LogCaptureFixture,
) -> None:
    request = small_request(tmp_path)
    path = stored(folder, request)
    path.write_bytes(damage(engine_file))
    seen: list[bytes] = []
    with caplog.at_level("INFO"):
        EngineStore(folder).load(request, lambda plan: seen.append(bytes(plan)), built)
    # The opener saw no damaged plan, and the folder is whole again.
    assert built.count == 1 and len(seen) == 1
    assert [record.message for record in caplog.records if "built anew" in record.message] == [caplog.messages[0]]
    assert read_engine(path)[1] == seen[0]
    assert files(folder) == [path.name]


def test_an_undamaged_engine_is_taken_from_another_folder(
    engine_file: bytes, tmp_path: Path, folder: Path, built: Built
) -> None:
    """The same request has the same key everywhere; and the damage above is what has the engines built anew."""
    request = small_request(tmp_path)
    stored(folder, request).write_bytes(engine_file)
    EngineStore(folder).get(request, built)
    assert built.count == 0


def test_an_engine_under_the_name_of_another_is_not_used(tmp_path: Path, folder: Path, built: Built) -> None:
    small, large = small_request(tmp_path), small_request(tmp_path, size=24)
    for request in (small, large):
        EngineStore(folder).get(request)
    stored(folder, small).write_bytes(stored(folder, large).read_bytes())
    EngineStore(folder).get(small, built)
    assert built.count == 1
    assert read_header(stored(folder, small)).label == "blur 16"


def test_an_engine_that_is_rejected_is_built_anew_once_and_then_is_an_error(
    tmp_path: Path, folder: Path, built: Built
) -> None:
    request = small_request(tmp_path)
    EngineStore(folder).get(request)
    calls: list[int] = []

    def rejecting(times: int) -> Callable[[memoryview], str]:
        def opener(plan: memoryview) -> str:
            calls.append(len(plan))
            if len(calls) <= times:
                raise EngineRejectedError("made for another driver")
            return "opened"

        return opener

    assert EngineStore(folder).load(request, rejecting(1), built) == "opened"
    assert (built.count, len(calls)) == (1, 2)
    calls.clear()
    with pytest.raises(FlashsrError, match=r"built but doesn't load \(made for another driver\); update the driver"):
        EngineStore(folder).load(request, rejecting(9), built)
    assert (built.count, len(calls)) == (2, 2)
    assert files(folder) == []


def test_an_engine_that_another_process_built_anew_meanwhile_is_taken(
    tmp_path: Path, folder: Path, built: Built
) -> None:
    request = small_request(tmp_path)
    EngineStore(folder).get(request)
    path = stored(folder, request)
    fresh = tmp_path / "fresh"
    EngineStore(fresh).get(request)
    opened: list[int] = []

    def opener(plan: memoryview) -> str:
        opened.append(len(plan))
        if len(opened) == 1:
            stored(fresh, request).replace(path)
            raise EngineRejectedError("made for another driver")
        return "opened"

    assert EngineStore(folder).load(request, opener, built) == "opened"
    assert built.count == 0 and len(opened) == 2


# Other processes

CHILD = """
    import logging, sys, time, zlib
    from pathlib import Path
    from vsflashsr.runtimes.engines import container, store
    from tests.runtimes.engines.test_engine_store import builtin_request, small_request
    from tests.support.held_build import HeldBuild
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    def say(text):
        sys.stderr.write(text + "\\n")
        sys.stderr.flush()
"""


def child(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A Python that runs `code` on these arguments; it says on stderr how far it is."""
    text = textwrap.dedent(CHILD) + textwrap.dedent(code)
    command = [sys.executable, "-c", text, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    """Until the process says `text`."""
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(f"the process ended without saying {text!r}")


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_a_build_that_is_killed_leaves_a_folder_in_which_the_next_one_works(
    tmp_path: Path, folder: Path, built: Built
) -> None:
    """Once while TensorRT is at work, and once while the file is being written."""
    request = small_request(tmp_path)
    building = child(
        """
        def progress(status):
            say("building")
            time.sleep(60)
        store.EngineStore(Path(sys.argv[1])).get(small_request(Path(sys.argv[2])), progress)
        """,
        folder, tmp_path,
    )  # fmt: skip
    wait_for(building, "building")
    kill(building)
    assert files(folder) == []
    writing = child(
        """
        whole = container.write_chunk
        def write_chunk(file, data):
            whole(file, data[: len(data) // 2])
            if len(data) > 100_000:
                say("writing")
                time.sleep(60)
            whole(file, data[len(data) // 2 :])
        container.write_chunk = write_chunk
        store.EngineStore(Path(sys.argv[1])).get(small_request(Path(sys.argv[2])))
        """,
        folder, tmp_path,
    )  # fmt: skip
    wait_for(writing, "writing")
    assert [name.endswith(".partial") for name in files(folder)] == [True]
    # While the writer lives, nobody clears up behind it.
    EngineStore(folder).prune()
    assert len(files(folder)) == 1
    kill(writing)
    assert not EngineStore(folder).has(request)
    EngineStore(folder).get(request, built)
    assert built.count == 1
    assert files(folder) == [stored(folder, request).name]
    read_engine(stored(folder, request))


def test_two_processes_that_want_the_same_engine_build_it_once(tmp_path: Path, folder: Path) -> None:
    small_request(tmp_path)  # writes the graph
    code = """
        builds = []
        def progress(status):
            if status.finished:
                builds.append(status)
            while not waiting.exists():  # the other one: the build is over when it has been waited for
                time.sleep(0.01)
        waiting = Path(sys.argv[4])
        log = logging.Handler()
        log.emit = lambda record: waiting.touch() if "waiting for it" in record.getMessage() else None
        logging.getLogger().addHandler(log)
        say("ready")
        while not Path(sys.argv[3]).exists():
            time.sleep(0.01)
        plan = store.EngineStore(Path(sys.argv[1])).get(small_request(Path(sys.argv[2])), progress)
        say(f"builds {len(builds)} bytes {len(plan)} crc {zlib.crc32(plan)}")
    """
    go = tmp_path / "go"
    both = [child(code, folder, tmp_path, go, tmp_path / "waiting") for _ in range(2)]
    for process in both:
        wait_for(process, "ready")
    go.touch()
    said = [process.communicate()[1].splitlines() for process in both]
    counts = [line.split()[1] for lines in said for line in lines if line.startswith("builds")]
    sizes = {line.partition("bytes")[2] for lines in said for line in lines if line.startswith("builds")}
    assert sorted(counts) == ["0", "1"] and len(sizes) == 1, said
    waits = [line for lines in said for line in lines if "waiting for it" in line]
    assert waits == ["another process is building the engine 'blur 16': waiting for it"]


# Disks

@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_on_a_full_disk_engines_are_used_from_memory(
    code: int, tmp_path: Path, folder: Path, built: Built, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = container.write_chunk

    def half(file: Any, data: memoryview) -> None:
        whole(file, data[: len(data) // 2])
        if len(data) > 100_000:
            raise OSError(code, os.strerror(code))
        whole(file, data[len(data) // 2 :])

    store = EngineStore(folder)
    with monkeypatch.context() as patch:
        patch.setattr(container, "write_chunk", half)
        for size in (16, 24):
            assert len(store.get(small_request(tmp_path, size=size), built)) > 100_000
    assert files(folder) == []
    said = [record for record in caplog.records if record.levelname == "WARNING"]
    assert [os.strerror(code) in record.message for record in said] == [True]  # once, though two were not kept
    store.get(small_request(tmp_path), built)
    assert built.count == 3 and len(files(folder)) == 1


def test_a_read_only_folder_is_read_and_not_written(
    tmp_path: Path, folder: Path, built: Built, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    there, missing = small_request(tmp_path), small_request(tmp_path, size=24)
    EngineStore(folder).get(there)
    before = files(folder)
    fault = OSError(errno.EROFS, os.strerror(errno.EROFS))

    def refuse(*_: object, **__: object) -> None:
        raise fault

    # Root may write anywhere, so what the system would refuse is refused here.
    monkeypatch.setattr(store_module, "write_engine", refuse)
    monkeypatch.setattr(store_module, "_acquired", refuse)
    monkeypatch.setattr(os, "utime", refuse)
    store = EngineStore(folder)
    store.get(there, built)
    assert built.count == 0 and caplog.records == []
    assert len(store.get(missing, built)) > 0
    assert built.count == 1 and files(folder) == before
    assert [r.levelname for r in caplog.records] == ["WARNING"] and "can't be written (Read-only" in caplog.text


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="permissions don't bind this user")
def test_a_folder_without_permission_to_write(tmp_path: Path, folder: Path, built: Built) -> None:
    folder.mkdir()
    folder.chmod(0o555)
    try:
        assert len(EngineStore(folder).get(small_request(tmp_path), built)) > 0
        assert list(folder.iterdir()) == []
    finally:
        folder.chmod(0o755)


def test_a_folder_that_cannot_be_made_is_an_error_if_the_user_named_it(
    tmp_path: Path, built: Built, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    impossible = tmp_path / "file" / "engines"
    with pytest.raises(FlashsrError, match=r"engine folder '.*engines' can't be made \(.+\); give another"):
        EngineStore(impossible)
    monkeypatch.setattr(store_module, "default_folder", lambda: impossible)
    store = EngineStore()
    for _ in range(2):
        assert len(store.get(small_request(tmp_path), built)) > 0
    assert built.count == 2
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1


# Interruptions


@pytest.fixture
def held() -> Iterator[Callable[[bool], HeldBuild]]:
    """A build that presses Ctrl-C at its first step, and stands still there."""
    # A shell's background job, and so what it starts, ignores the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    holds: list[HeldBuild] = []

    def hold(deaf: bool) -> HeldBuild:
        holds.append(HeldBuild(_thread.interrupt_main, deaf).take_over())
        return holds[-1]

    yield hold
    mock.patch.stopall()
    for one in holds:
        one.released.set()
    signal.signal(signal.SIGINT, before)
    end_builds()  # so that no build runs on into the next test


def end_builds() -> None:
    """Until no build is left behind."""
    while builds_left_behind():
        time.sleep(0.05)


@pytest.mark.parametrize("deaf", [False, True])
def test_ctrl_c_stops_a_build(deaf: bool, folder: Path, built: Built, held: Callable[[bool], HeldBuild]) -> None:
    """While TensorRT takes step after step, and in the time in which it makes none: that one isn't waited for."""
    assert PATIENCE_S < 1
    request, store, build = builtin_request(), EngineStore(folder), held(deaf)
    with pytest.raises(KeyboardInterrupt):
        store.get(request, built)
    assert built.count == 0 and files(folder) == []
    assert not deaf or (builds_left_behind() and build.answers == [])
    FileLock(folder / "locks" / f"{key_of(request).digest}.lock").acquire(timeout=0)  # nobody holds it
    build.released.set()
    end_builds()
    assert build.answers and not any(build.answers)
    assert built.count == 0 and files(folder) == []


def test_ctrl_c_stops_waiting_for_another_process(
    tmp_path: Path, folder: Path, held: Callable[[bool], HeldBuild], caplog: pytest.LogCaptureFixture
) -> None:
    request, store = small_request(tmp_path), EngineStore(folder)
    said: list[str] = []

    def press(record: logging.LogRecord) -> bool:
        said.append(record.getMessage())
        _thread.interrupt_main()
        return True

    logger = logging.getLogger(store_module.__name__)
    logger.addFilter(press)
    try:
        lock = FileLock(folder / "locks" / f"{key_of(request).digest}.lock")
        with lock, caplog.at_level("INFO"), pytest.raises(KeyboardInterrupt):
            store.get(request)
    finally:
        logger.removeFilter(press)
    assert said == ["another process is building the engine 'blur 16': waiting for it"]


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C can't be sent to one process there")
def test_ctrl_c_under_vspipe_ends_a_build_and_leaves_nothing(tmp_path: Path, folder: Path, built: Built) -> None:
    """vspipe ends the process itself: no Python runs any more that could clear up."""
    script = tmp_path / "build.vpy"
    script.write_text(
        textwrap.dedent(CHILD)
        + textwrap.dedent(
            f"""
            HeldBuild(lambda: say("building"), deaf=True).take_over()
            store.EngineStore(Path({str(folder)!r})).get(builtin_request())
            """
        ),
        encoding="utf-8",
    )
    command = [str(VSPIPE), str(script), "."]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    )
    wait_for(process, "building")
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)  # it doesn't wait for the build, which never ends
    assert out == "" and process.returncode not in (0, None)
    assert files(folder) == []
    FileLock(folder / "locks" / f"{key_of(builtin_request()).digest}.lock").acquire(timeout=0)  # nobody holds it


def test_stdout_stays_empty(tmp_path: Path, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    request = small_request(tmp_path)
    EngineStore(folder).get(request)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(request.graph.read_bytes().replace(b"Conv", b"Cnov"))
    with pytest.raises(FlashsrError):
        EngineStore(folder).get(dataclasses.replace(request, graph=broken))
    assert capfd.readouterr().out == ""


# Bounds


def fill(folder: Path, tmp_path: Path, sizes: tuple[int, ...]) -> list[EngineRequest]:
    """Engines, each used an hour after the one before, the last an hour ago."""
    requests = [small_request(tmp_path, size=size) for size in sizes]
    for age, request in enumerate(reversed(requests), 1):
        EngineStore(folder).get(request)
        path = stored(folder, request)
        os.utime(path, (time.time() - 3600 * age,) * 2)
    return requests


def test_what_was_longest_not_used_makes_room(tmp_path: Path, folder: Path) -> None:
    oldest, older, newest = fill(folder, tmp_path, (8, 16, 24))
    size = stored(folder, oldest).stat().st_size
    EngineStore(folder).get(oldest)  # now the newest
    EngineStore(folder, limit_bytes=int(3.5 * size)).get(small_request(tmp_path, size=32))
    assert [EngineStore(folder).has(r) for r in (oldest, older, newest)] == [True, False, True]
    # What this process uses stays, though it is over the bound.
    store = EngineStore(folder, limit_bytes=int(1.5 * size))
    store.get(newest)
    store.get(small_request(tmp_path, size=40))
    assert [store.has(r) for r in (oldest, newest, small_request(tmp_path, size=40))] == [False, True, True]


def test_prune_by_size_age_and_everything(tmp_path: Path, folder: Path) -> None:
    requests = fill(folder, tmp_path, (8, 16, 24, 32))

    def left() -> list[bool]:
        return [EngineStore(folder).has(request) for request in requests]

    size = stored(folder, requests[0]).stat().st_size
    store = EngineStore(folder)
    assert store.prune().engines == ()
    other = dataclasses.replace(requests[0].target, gpu="GPU of old")
    for target, hours in ((requests[0].target, 9), (other, 9)):
        store.write_cache("kernels", target, b"")
        (path,) = (path for path in folder.glob("*.cache") if ("old" in path.name) == (target is other))
        os.utime(path, (time.time() - 3600 * hours,) * 2)
    store.read_cache("kernels", requests[0].target)  # in use
    removed = store.prune(older_than_s=3.5 * 3600)
    assert left() == [False, True, True, True] and removed.freed_bytes == size + len(seal(b""))
    assert [engine.header.label for engine in removed.engines if engine.header] == ["blur 8"]
    assert [("old" in path.name) for path in folder.glob("*.cache")] == [False]
    with FileLock(folder / "locks" / f"{key_of(requests[1]).digest}.lock"):  # somebody builds it anew just now
        store.prune(max_bytes=2 * size + 4096)
        assert left() == [False, True, False, True]
    store.prune(everything=True)
    assert left() == [False] * 4
    assert files(folder) == [] and list((folder / "locks").iterdir()) == []


def test_leftovers_of_killed_builds_are_removed_and_those_of_living_ones_are_not(tmp_path: Path, folder: Path) -> None:
    store = EngineStore(folder)
    dead, alive = (folder / f".{letter * 32}-1234.partial" for letter in "ab")
    for path in (dead, alive):
        path.write_bytes(b"half an engine")
    with FileLock(folder / "locks" / f"{'b' * 32}.lock"):
        store.get(small_request(tmp_path))
        assert (dead.exists(), alive.exists()) == (False, True)
    store.prune()
    assert not alive.exists()


def test_engines_are_listed_with_what_is_damaged(tmp_path: Path, folder: Path) -> None:
    first, second = fill(folder, tmp_path, (8, 16))
    stored(folder, first).write_bytes(b"nothing")
    listed = EngineStore(folder).engines()
    assert [engine.header.label if engine.header else None for engine in listed] == ["blur 16", None]
    assert listed[0].path == stored(folder, second) and listed[0].size_bytes > 100_000
