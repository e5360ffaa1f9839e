"""Chunks on a Ray cluster: one task a chunk, run again where its worker or its node dies.

Either every node sees the work folder and the input under the same path, or both are streamed: the input's bytes go into Ray's
object store once, and what a node makes comes back as the task's result.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock

from ..errors import FlashsrError
from .encoders import ENCODERS
from .plan import Plan, from_json
from .render import Clips, encode, open_script
from .work import PART, Record, WorkFolder, flush, write_durably

TRIES = 3
"""How often a task is run again whose worker died."""
_PIECE = 64 << 20


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where the tasks run."""

    address: str
    """As for ``ray.init``: "auto", "local" for a cluster of this machine alone, or host:port."""
    local_cpus: int = 1
    """Of a cluster of this machine alone: how many tasks of one CPU run at a time."""
    cpus: float = 1
    """CPUs that a task takes; a model on the CPU runs with as many threads."""
    gpus: float = 0
    stream: bool = False
    """Nodes don't see the folders: the input and the chunks travel through Ray."""


def encode_on_ray(
    folder: WorkFolder,
    plan: Plan,
    chunks: Sequence[int],
    report: Callable[[int, int, int], None],
    *,
    cluster: Cluster,
    input: Path,
) -> None:
    """Encode chunks as Ray tasks. Each finished one lies in the folder.

    Args:
        report: told of chunk, frames and bytes when a chunk is finished.

    Raises:
        FlashsrError: Ray is missing or can't be reached, or a chunk failed.
    """
    # Ray sends statistics unless it is told not to; who has set the variable himself keeps his choice.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise FlashsrError('--ray needs Ray, got none; pip install "vsflashsr[cluster]"') from error
    _connect(cluster)
    try:
        task: Any = ray.remote(num_cpus=cluster.cpus, num_gpus=cluster.gpus, max_retries=TRIES)(
            _streamed if cluster.stream else _shared
        )
        if cluster.stream:
            pieces = [ray.put(piece) for piece in _pieces(input)]
            waiting = {task.remote(plan.to_json(), str(input), pieces, number): number for number in chunks}
        else:
            waiting = {task.remote(str(folder.path), number): number for number in chunks}
        while waiting:
            ready, _ = ray.wait(list(waiting), num_returns=1)
            number = waiting.pop(ready[0])
            try:
                record, data = ray.get(ready[0])
            except ray.exceptions.RayTaskError as error:
                raise FlashsrError(f"chunk {number} failed: {error.cause}") from error
            except ray.exceptions.RayError as error:
                raise FlashsrError(
                    f"chunk {number} failed, got {type(error).__name__} after {TRIES} tries; what is finished is kept"
                ) from error
            if data is not None:
                _keep(folder, plan, record, data)
            report(number, record.shown, record.bytes)
    finally:
        ray.shutdown()


def _connect(cluster: Cluster) -> None:
    import ray

    local = cluster.address == "local"
    own: dict[str, Any] = {"num_cpus": cluster.local_cpus, "include_dashboard": False} if local else {}
    # Ray gives a node of its own 30 s to start, which a busy machine has been seen to exceed.
    for left in reversed(range(3 if local else 1)):
        try:
            ray.init(address=cluster.address, logging_level=logging.ERROR, log_to_driver=False, **own)
            return
        except Exception as error:
            ray.shutdown()
            if not left:
                raise FlashsrError(
                    f"the Ray cluster can be reached, got {cluster.address} ({error}); see ray status"
                ) from error


def _pieces(input: Path) -> Any:
    with input.open("rb") as file:
        while piece := file.read(_PIECE):
            yield piece


def _keep(folder: WorkFolder, plan: Plan, record: Record, data: bytes) -> None:
    chunk = plan.chunks[record.index]
    part = folder.path / f"chunk-{record.index:05}.{os.getpid()}{PART}"
    try:
        with part.open("wb") as file:
            file.write(data)
            flush(file)
        folder.keep(chunk, ENCODERS[plan.settings.encoder].suffix, part, record)
    except OSError as error:
        raise FlashsrError(
            f"a chunk can't be kept, got {error.strerror} in {folder.path}; make room and run it again"
        ) from error


def _shared(folder: str, number: int) -> tuple[Record, None]:
    """A task that reads and writes the work folder itself."""
    from .worker import encode_into, warnings_only

    work = WorkFolder(Path(folder))
    plan = work.plan()
    if plan is None:
        raise FlashsrError(f"a node sees the work folder, got none at {folder}; share it, or give --ray-stream")
    done = work.finished(plan, ENCODERS[plan.settings.encoder].suffix)
    if number not in done:
        with warnings_only():
            clips = _clips(str(work.path / "script.vpy"), str(work.index))
            encode_into(work, plan, clips, number, report=lambda frames, size: None)
        done = work.finished(plan, ENCODERS[plan.settings.encoder].suffix)
    return done[number], None


def _streamed(plan_json: str, input: str, pieces: Sequence[Any], number: int) -> tuple[Record, bytes]:
    """A task that gets the input from Ray and gives the chunk back."""
    from .worker import warnings_only

    plan = from_json(plan_json)
    script, index = _settle(plan, input, pieces)
    sink = io.BytesIO()
    with warnings_only():
        record = encode(plan, _clips(str(script), str(index)), plan.chunks[number], sink, lambda frames, size: None)
    return record, sink.getvalue()


def _settle(plan: Plan, input: str, pieces: Sequence[Any]) -> tuple[Path, Path]:
    """The script and the input on this node, laid down by the first task that comes here."""
    import ray

    name = hashlib.sha256(plan.request.encode()).hexdigest()[:20]
    place = Path(tempfile.gettempdir()) / f"vsflashsr-{name}"
    place.mkdir(mode=0o700, exist_ok=True)
    copy = place / Path(input).name
    script = place / "script.vpy"
    with FileLock(place / "lock"):
        if not script.exists():
            part = copy.with_name(copy.name + PART)
            with part.open("wb") as file:
                for piece in pieces:
                    file.write(ray.get(piece))
            part.replace(copy)
            write_durably(script, plan.script.replace(repr(input), repr(str(copy)), 1).encode())
    return script, place / "source.bsindex"


@cache
def _clips(script: str, index: str) -> Clips:
    """A worker's process keeps the model from one task to the next."""
    import ray

    context: Any = ray.get_runtime_context()
    cpus = context.get_assigned_resources().get("CPU", 1)
    return open_script(Path(script), {"index": index, "threads": max(1, round(cpus))})
