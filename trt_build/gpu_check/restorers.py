"""What the parts of the other restorers share: the product's own way to a model, on each backend that there is, timed."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from vsflashsr.arguments import Arguments, OptionValue
from vsflashsr.errors import FlashsrError
from vsflashsr.model import Frame, Model, fetched
from vsflashsr.models.opening import read_kind
from vsflashsr.runtimes.backend import Backend
from vsflashsr.runtimes.onnxruntime import CpuBackend
from vsflashsr.runtimes.tensorrt import TensorRTBackend
from vsflashsr.runtimes.torch import TorchBackend

type Size = tuple[int, int]
"""(height, width) of input frames."""

WARM = 3
"""Steps before the timed ones: a stage is run plainly, captured, and replayed."""


def backends(engines: Path) -> dict[str, Callable[[], Backend]]:
    """What opens each, torch first: it needs no compiler."""
    return {
        "torch": lambda: TorchBackend(0),
        "tensorrt": lambda: TensorRTBackend("tensorrt", 0, engines),
        "tensorrt_rtx": lambda: TensorRTBackend("tensorrt_rtx", 0, engines),
    }


@contextmanager
def opened(open_backend: Callable[[], Backend]) -> Iterator[Backend]:
    """A backend, closed at the end."""
    backend = open_backend()
    try:
        yield backend
    finally:
        backend.close()


def timed(backend: Backend, bundle: Path, low: Size, steps: int) -> dict[str, Any]:
    """A bundle at x4: frames per second as the filter takes them, the next steps submitted before this one's are fetched."""
    start = time.perf_counter()
    loaded = read_kind(Arguments(model=bundle, scale=4)).load(backend, low, tiles=None)
    model, found = loaded.model, {"open_s": time.perf_counter() - start}
    state, finite = None, True
    waiting: deque[list[Frame]] = deque()
    began, frames = 0.0, 0
    clip = noise(model.spec.schedule.first_reads, low)
    for n in range(WARM + steps):
        if n == WARM:
            # What was submitted to warm up doesn't count.
            finite &= all(np.isfinite(fetched(frame)).all() for made in waiting for frame in made)
            waiting.clear()
            began = time.perf_counter()
        reads = model.spec.schedule.step(min(n, 1)).reads
        made, state = model.step(clip[: len(reads)], range(len(reads)), state)
        waiting.append(list(made))
        frames += len(made) if n >= WARM else 0
        if len(waiting) > model.spec.in_flight:
            last = [fetched(frame) for frame in waiting.popleft()]
    while waiting:
        last = [fetched(frame) for frame in waiting.popleft()]
    found["frames_per_s"] = frames / (time.perf_counter() - began)
    finite &= all(np.isfinite(frame).all() for frame in last)
    memory = {} if loaded.memory is None else dict(loaded.memory.items)
    return {**found, "memory": memory, "finite": bool(finite)}


def difference(backend: Backend, bundle: Path, low: Size, options: dict[str, OptionValue]) -> float:
    """The largest, over three steps, from the frames of the CPU."""
    kind = read_kind(Arguments(model=bundle, scale=4, model_options=options))
    models: list[Model[Any]] = [kind.load(where, low, tiles=None).model for where in (backend, CpuBackend())]
    states: list[Any] = [None, None]
    worst = 0.0
    schedule = models[0].spec.schedule
    for n in range(3):
        reads = schedule.step(n).reads
        clip = noise(len(reads), low, seed=n)
        made: list[list[np.ndarray]] = []
        for place, model in enumerate(models):
            out, states[place] = model.step(clip, reads, states[place])
            made.append([fetched(frame) for frame in out])
        # Unlike max, this lets a NaN through.
        worst = float(np.max([worst, *(np.abs(a - b).max() for a, b in zip(*made, strict=True))]))
    return worst


def noise(count: int, low: Size, seed: int = 0) -> list[np.ndarray]:
    """Frames that aren't alike."""
    random = np.random.default_rng(seed)
    return [random.random((3, *low), dtype=np.float32) for _ in range(count)]


def report(
    engines: Path,
    limit_s: float,
    work: Callable[[Backend, dict[str, Any]], None],
    ways: dict[str, Callable[[], Backend]] | None = None,
) -> dict[str, Any]:
    """`work` on every backend, by name; it fills in what it finds.

    A backend that isn't there, or whose turn comes after `limit_s`, says so.
    """
    found: dict[str, Any] = {}
    start = time.monotonic()
    for name, open_backend in (ways or backends(engines)).items():
        own: dict[str, Any] = {}
        found[name] = own
        if time.monotonic() - start > limit_s:
            own["skipped"] = f"{limit_s:.0f} s were over"
            continue
        try:
            with opened(open_backend) as backend:
                work(backend, own)
        except (FlashsrError, RuntimeError) as error:
            # TensorRT may not be installed, or not know this GPU; torch has to work.
            own["error" if own or name == "torch" else "unavailable"] = str(error).splitlines()[0]
    found["passed"] = all(_right(own) for own in found.values())
    return found


def _right(own: dict[str, Any]) -> bool:
    if "error" in own or not own.get("max_difference", 0) < 1e-2:  # a NaN is no less
        return False
    return all(one["finite"] for one in own.values() if isinstance(one, dict))
