"""RealViformer on this GPU: right at reduced width in float32, and its speed at the published width with random weights."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from trt_build.random_checkpoint import REALVIFORMER, REALVIFORMER_REDUCED, write_realviformer
from trt_build.realviformer.checkpoint import load_checkpoint
from trt_build.realviformer.export import export_bundle
from trt_build.realviformer.layout import Sizes
from vsflashsr.runtimes.backend import Backend

from .restorers import difference, report, timed
from .settings import Settings

LOWS = ((270, 480), (720, 1280))
LATER_S = 60
"""As for SwiftVR; TensorRT-RTX compiles a size in 40 s (two cores, 2026-11-25)."""
STEPS = 40


def part(settings: Settings) -> dict[str, Any]:
    """By backend: the largest difference from the CPU at reduced width, frames per second of the inputs above."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        small = random_bundle(Path(name, "small"), REALVIFORMER_REDUCED, "fp32")
        full = random_bundle(Path(name, "full"), REALVIFORMER, "fp16")

        def work(backend: Backend, found: dict[str, Any]) -> None:
            measure(backend, found, small, full)

        return report(settings.engines, LATER_S, work)


def measure(backend: Backend, found: dict[str, Any], small: Path, full: Path) -> None:
    """What there is to say of a backend."""
    found["max_difference"] = difference(backend, small, (36, 64), {})
    for height, width in LOWS:
        found[f"{height}x{width} fp16"] = timed(backend, full, (height, width), STEPS)


def random_bundle(folder: Path, sizes: Sizes, precision: str) -> Path:
    """An export of random weights."""
    write_realviformer(folder / "checkpoint", sizes)
    export_bundle(load_checkpoint(folder / "checkpoint"), folder / "bundle", precision=precision, name="realviformer")
    return folder / "bundle"
