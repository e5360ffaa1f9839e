"""Chunks on this machine, by one or several worker processes; on several GPUs one after the other gets a worker."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import FlashsrError
from .programs import own_group
from .work import WorkFolder

_TRIES = 2
"""Of a chunk whose worker dies without a word: the machine's memory may have been short for a moment."""
_END_S = 5.0


class _Worker:
    def __init__(
        self, folder: WorkFolder, device: int | None, threads: int | None, told: queue.SimpleQueue[Any]
    ) -> None:
        command = [sys.executable, "-m", "vsflashsr.encode.worker", str(folder.path)]
        if device is not None:
            command += ["--device-id", str(device)]
        if threads is not None:
            command += ["--threads", str(threads)]
        path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]))
        self.arguments = (folder, device, threads, told)
        self.chunk: int | None = None
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": path},
            **own_group(),  # type: ignore[call-overload]  # keywords that differ by system
        )
        threading.Thread(target=self._listen, args=(told,), daemon=True).start()

    def _listen(self, told: queue.SimpleQueue[Any]) -> None:
        for line in self.process.stdout:
            with suppress(ValueError):
                told.put((self, json.loads(line)))
        told.put((self, {"ended": self.process.wait()}))

    def give(self, chunk: int) -> None:
        self.chunk = chunk
        with suppress(OSError):  # it has just died, and says so by itself
            self.process.stdin.write(f"{chunk}\n")
            self.process.stdin.flush()

    def end(self) -> None:
        with suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def encode_locally(
    folder: WorkFolder,
    chunks: Sequence[int],
    report: Callable[[int, int, int], None],
    *,
    workers: int,
    devices: Sequence[int],
    threads: int | None,
) -> None:
    """Encode chunks by ``workers`` processes. Each finished one lies in the folder.

    Args:
        report: told of chunk, frames and bytes, a few times a second.
        devices: GPUs that the workers take turns at; empty: the script's own.
        threads: CPU threads of each worker's model; None: the script's own.

    Raises:
        FlashsrError: a chunk failed.
    """
    told: queue.SimpleQueue[tuple[_Worker, dict[str, Any]]] = queue.SimpleQueue()
    waiting = deque(chunks)
    tries: dict[int, int] = {}
    with _crew(min(workers, len(waiting)), folder, devices, threads, told) as crew:
        for worker in crew:
            worker.give(waiting.popleft())
        left = len(chunks)
        while left:
            worker, what = told.get()
            if "at" in what:
                report(*what["at"])
            elif "done" in what:
                left -= 1
                worker.chunk = None
                if waiting:
                    worker.give(waiting.popleft())
            elif "failed" in what:
                raise FlashsrError(what["failed"])
            elif worker.chunk is not None:
                number = worker.chunk
                tries[number] = tries.get(number, 1) + 1
                if tries[number] > _TRIES:
                    raise FlashsrError(
                        f"chunk {number} failed, got a worker that died {_TRIES} times (exit code {what['ended']}); "
                        "is there enough memory? what is finished is kept"
                    )
                crew.remove(worker)
                crew.append(_Worker(*worker.arguments))
                crew[-1].give(number)


@contextmanager
def _crew(
    count: int, folder: WorkFolder, devices: Sequence[int], threads: int | None, told: queue.SimpleQueue[Any]
) -> Iterator[list[_Worker]]:
    crew: list[_Worker] = []
    try:
        for i in range(count):
            crew.append(_Worker(folder, devices[i % len(devices)] if devices else None, threads, told))
        yield crew
    finally:
        for worker in crew:
            with suppress(OSError):
                worker.process.stdin.close()
        for worker in crew:
            worker.end()
        folder.sweep()
