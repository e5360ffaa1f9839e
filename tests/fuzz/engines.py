"""Mutated engine files and folders of engines, given to the store and to the commands that look at it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

from trt_build import cli
from vsflashsr.errors import FlashsrError
from vsflashsr.runtimes.engines import container, store
from vsflashsr.runtimes.engines.build import Plan, TensorRecord
from vsflashsr.runtimes.engines.key import EngineRequest, ShapeRange, Target, key_of
from vsflashsr.runtimes.engines.store import EngineStore

from ..support.tiny import write_frame_graph
from .manifests import VALUES
from .outcome import Case
from .places import PLACES, replaced

FIRST, ANEW = b"the first plan" * 200, b"the plan built anew" * 200


def engines(folder: Path) -> Callable[[int], Case]:
    """Of one stored engine. No TensorRT is asked: a plan is bytes here, and what is built is known by them."""
    graph = write_frame_graph(folder / "x2.onnx", 2)
    target = Target("tensorrt_rtx", "1.7.1", (8, 9), "A GPU")
    request = EngineRequest(graph, {"input": ShapeRange.fixed((1, 3, 16, 16))}, target, "an engine 16x16")
    good = folder / "good"
    with _builds(FIRST):
        EngineStore(good).get(request)
    name = EngineStore(good).path_of(key_of(request)).name

    def make(seed: int) -> Case:
        random, own = Random(seed), folder / f"case {seed}"
        shutil.copytree(good, own)
        own.chmod(0o700)
        change = random.choice((_bytes, _bytes, _header, _header, _header, _neighbour, _itself, _trust))
        what = change(random, own / name)
        return Case(what, lambda: _used(own, request), wrong=False)

    return make


@contextlib.contextmanager
def _builds(data: bytes) -> Any:
    record = (TensorRecord("input", (1, 3, None, None), "FLOAT"),)
    plan = Plan(memoryview(data), record, record, 0.1, None)
    with mock.patch.object(store, "build_plan", lambda *_, **__: plan):
        yield


def _used(folder: Path, request: EngineRequest) -> None:
    """A start, another one, and every command. No damaged plan is taken, and the second start builds nothing."""
    with _builds(ANEW):
        try:
            plan = bytes(EngineStore(folder).get(request))
        except FlashsrError as error:
            raise FlashsrError(f"flashsr: {error}") from error
    if plan not in (FIRST, ANEW):
        raise AssertionError("a damaged plan was taken")
    if plan == FIRST and folder.with_suffix(".untrusted").exists():
        raise AssertionError("a plan was taken from where others can write")
    built: list[int] = []
    with mock.patch.object(store, "build_plan", lambda *_, **__: built.append(1)), contextlib.suppress(AttributeError):
        EngineStore(folder).get(request)
    if built and not folder.with_suffix(".untrusted").exists():
        raise AssertionError("every start builds")
    for command in (["list"], ["inspect", "an engine 16x16"], ["prune"], ["prune", "--all"], ["list"]):
        _says(command, folder)


def _says(command: list[str], folder: Path) -> None:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        cli.main([*command, "--engine-dir", str(folder)])
    said = out.getvalue() + err.getvalue()
    if any(not (c.isprintable() or c == "\n") for c in said):
        raise AssertionError(f"control characters on the terminal: {said!r:.100}")


def _bytes(random: Random, path: Path) -> str:
    data = bytearray(path.read_bytes())
    at = random.randrange(len(data))
    match random.randrange(5):
        case 0:
            del data[at:]
            what = f"cut at {at}"
        case 1:
            data[at] ^= 1 << random.randrange(8)
            what = f"a bit at {at}"
        case 2:
            data[at:at] = b"more"
            what = f"more at {at}"
        case 3:
            data[16:24] = struct.pack("<Q", random.choice((0, 1, 2**63, 2**64 - 1, 2**40, 1 << 24)))
            what = "another length"
        case _:
            data[:] = random.choice((b"", b"\0" * 5000, os.urandom(3000), b"[" * 200_000))
            what = "something else"
    path.write_bytes(data)
    return what


def _header(random: Random, path: Path) -> str:
    """Another header, with its checksum: typed wrongly, deep, or with control characters."""
    data = path.read_bytes()
    magic = data[:16]
    length = int.from_bytes(data[16:24], "little")
    begin = 24 + container.DIGEST_BYTES
    header, plan = json.loads(data[begin : begin + length]), data[begin + length :]
    owners = [header, header["key"], header["inputs"][0]]
    owner = random.choice(owners)
    key = random.choice(list(owner))
    if random.random() < 0.2:
        del owner[key]
        what = f"{key} removed"
    else:
        owner[key] = random.choice(VALUES)
        what = f"{key} = {owner[key]!r:.50}"
    text = json.dumps(header).encode()
    if random.random() < 0.05:
        text, what = b'{"label":' + b"[" * 100_000, "nested lists"
    rest = len(text).to_bytes(8, "little")
    digest = hashlib.sha256(magic + rest + text + plan).digest()[: container.DIGEST_BYTES]
    path.write_bytes(magic + rest + digest + text + plan)
    return what


def _neighbour(random: Random, path: Path) -> str:
    """Something that is no engine beside it."""
    other = path.parent / random.choice(("x.engine", ".x-1.partial", "timings-x.cache", "locks/x.lock", "\x1b[31m.engine"))
    other.parent.mkdir(exist_ok=True)
    place = random.choice(PLACES)
    place(other)
    return f"{other.name!r} is {place.__name__}"


def _itself(random: Random, path: Path) -> str:
    """Something else in its place, or in that of its lock."""
    if random.random() < 0.3:
        lock = path.parent / "locks" / f"{path.stem}.lock"
        lock.parent.mkdir(exist_ok=True)
        lock.unlink(missing_ok=True)
        place = random.choice(PLACES)
        place(lock)
        return f"its lock is {place.__name__}"
    return replaced(random, path)


def _trust(random: Random, path: Path) -> str:
    """Others may write the folder or the file, or it is another's."""
    if os.name == "nt":
        return "nothing"
    what = random.choice(("folder", "file", "owner", "folder's owner"))
    match what:
        case "folder":
            path.parent.chmod(0o777)
        case "file":
            path.chmod(0o666)
        case "owner" if os.geteuid() == 0:
            os.chown(path, 1234, 1234)
        case "folder's owner" if os.geteuid() == 0:
            os.chown(path.parent, 1234, 1234)
        case _:
            return "nothing"
    path.parent.with_suffix(".untrusted").touch()
    return f"not trusted: {what}"
