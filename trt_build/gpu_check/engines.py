"""TensorRT and TensorRT-RTX, where they are installed and know this GPU: the built-in model through engines."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from vsflashsr.arguments import Arguments
from vsflashsr.errors import FlashsrError
from vsflashsr.model import fetched
from vsflashsr.models.opening import read_kind
from vsflashsr.runtimes.onnxruntime import CpuBackend
from vsflashsr.runtimes.tensorrt import TensorRTBackend

from .settings import Settings

LOW, SCALE, FRAMES = (270, 480), 4, 200


def part(settings: Settings) -> dict[str, Any]:
    """By module: frames per second and the largest difference from ONNX Runtime, or why it can't be used."""
    report: dict[str, Any] = {}
    for name in ("tensorrt", "tensorrt_rtx"):
        try:
            start = time.perf_counter()
            backend = TensorRTBackend(name, 0, settings.engines)
        except FlashsrError as error:
            report[name] = {"unavailable": str(error)}
            continue
        try:
            report[name] = _builtin(backend, start)
        except FlashsrError as error:
            report[name] = {"error": str(error)}
        finally:
            backend.close()
    report["passed"] = all(
        "unavailable" in found or ("error" not in found and found["max_difference"] < 1e-2) for found in report.values()
    )
    return report


def _builtin(backend: TensorRTBackend, start: float) -> dict[str, Any]:
    kind = read_kind(Arguments(scale=SCALE))
    loaded = kind.load(backend, LOW, tiles=None)
    assert loaded.memory is not None
    model = loaded.model
    opened = time.perf_counter() - start
    host = kind.load(CpuBackend(), LOW, tiles=None).model
    random = np.random.default_rng(1)
    clip = [random.random((1, *LOW), dtype=np.float32) for _ in range(8)]
    state, host_state, worst = None, None, 0.0
    for n in range(8):
        (made,), state = model.step([clip[n]], [n], state)
        (wanted,), host_state = host.step([clip[n]], [n], host_state)
        worst = float(np.maximum(worst, np.abs(fetched(made) - fetched(wanted)).max()))  # lets a NaN through
    begin = time.perf_counter()
    waiting = []
    for n in range(FRAMES):
        (made,), state = model.step([clip[n % 8]], [n], state)
        waiting.append(made)
        if len(waiting) > model.spec.in_flight:
            fetched(waiting.pop(0))
    for frame in waiting:
        fetched(frame)
    seconds = time.perf_counter() - begin
    return {"open_s": opened, "max_difference": worst, "frames_per_s": FRAMES / seconds, "memory": dict(loaded.memory.items)}
