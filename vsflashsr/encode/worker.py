"""A worker's process: ``python -m vsflashsr.encode.worker FOLDER``. It reads numbers of chunks and writes what becomes of them.

One JSON object a line on stdout: ``{"at": [chunk, frames, bytes]}``, ``{"done": chunk}``, ``{"failed": sentence}``. When stdin
ends, the one who started it is gone or wants no more: the encoder is killed and the process ends.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..commands.host import binary_stdout
from ..errors import FlashsrError
from .encoders import ENCODERS
from .plan import Plan
from .render import Clips, encode, open_script
from .work import PART, WorkFolder


class _Encoder:
    """The encoder that runs, so that it can be ended with the process."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def started(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._process = process

    def end(self) -> None:
        with self._lock:
            if self._process is not None:
                self._process.kill()


@contextmanager
def warnings_only() -> Iterator[None]:
    """What the core and its filters warn of goes to stderr; what else they say was said when the job was planned."""
    import vapoursynth as vs

    def tell(kind: int, message: str) -> None:
        if kind not in (vs.MESSAGE_TYPE_DEBUG, vs.MESSAGE_TYPE_INFORMATION):
            sys.stderr.write(f"{message}\n")

    core = vs.core.core
    handler = core.add_log_handler(tell)
    try:
        yield
    finally:
        core.remove_log_handler(handler)


def encode_into(folder: WorkFolder, plan: Plan, clips: Clips, number: int, **told: Any) -> None:
    """Encode a chunk and keep it in the folder. ``told``: as for ``render.encode``."""
    chunk = plan.chunks[number]
    suffix = ENCODERS[plan.settings.encoder].suffix
    part = folder.path / f"chunk-{number:05}.{os.getpid()}{PART}"
    try:
        with part.open("wb") as sink:
            record = encode(plan, clips, chunk, sink, **told)
        folder.keep(chunk, suffix, part, record)
    except OSError as error:
        raise FlashsrError(
            f"an encoded chunk can't be kept, got {error.strerror} in {folder.path}; make room and run the same command again"
        ) from error
    finally:
        part.unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device-id", type=int)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one who started it decides
    encoder = _Encoder()
    wanted: queue.SimpleQueue[int | None] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin:
            wanted.put(int(line))
        encoder.end()
        os._exit(0)

    with binary_stdout() as out:

        def say(**what: Any) -> None:
            out.write((json.dumps(what) + "\n").encode())

        threading.Thread(target=listen, daemon=True).start()
        try:
            with warnings_only():
                _serve(WorkFolder(arguments.folder), arguments, wanted, encoder, say)
        except FlashsrError as error:
            say(failed=str(error))
        except BrokenPipeError:
            pass
        out.flush()
        encoder.end()
        os._exit(1)


def _serve(
    folder: WorkFolder,
    arguments: argparse.Namespace,
    wanted: queue.SimpleQueue[int | None],
    encoder: _Encoder,
    say: Any,
) -> None:
    plan = folder.plan()
    if plan is None:
        raise FlashsrError(f"the work folder has no plan, got {folder.path}; start again")
    variables = {name: value for name in ("device_id", "threads") if (value := getattr(arguments, name)) is not None}
    clips = open_script(folder.path / "script.vpy", {"index": str(folder.index), **variables})
    while (number := wanted.get()) is not None:
        encode_into(
            folder,
            plan,
            clips,
            number,
            report=lambda frames, size, number=number: say(at=[number, frames, size]),
            started=encoder.started,
        )
        say(done=number)


if __name__ == "__main__":
    main()
