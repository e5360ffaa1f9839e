"""SwiftVR on this GPU: right at reduced size in float32, and its speed at the published width with random weights.

The bundle is one of three layers that says it has thirty: the middle ones read the same two files. Engines and torch do the same
work for each layer whatever its weights are, and a gigabyte is written instead of nine.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from trt_build.random_checkpoint import SWIFTVR_REDUCED, write_swiftvr
from trt_build.swiftvr.checkpoint import load_checkpoint
from trt_build.swiftvr.export import export_bundle
from vsflashsr.bundle import MANIFEST
from vsflashsr.models.swiftvr.network.config import SwiftVRConfig
from vsflashsr.models.swiftvr.options import LONGEST_CLIP
from vsflashsr.models.swiftvr.step import FRAMES_PER_LATENT, grid_of
from vsflashsr.runtimes.backend import Backend

from .restorers import difference, report, timed
from .settings import Settings
from .work import swiftvr_step_flop

SCALE = 4
LATER_S = 90
"""Engines come second: they are left out where torch has taken so long."""


def part(settings: Settings) -> dict[str, Any]:
    """By backend: the largest difference from the CPU at reduced size, frames per second at every size."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        small = random_bundle(folder / "small", SWIFTVR_REDUCED, "fp32", layers=SWIFTVR_REDUCED.dit.layers)
        full = random_bundle(folder / "full", SwiftVRConfig(), settings.dtype, layers=SwiftVRConfig().dit.layers)

        def work(backend: Backend, found: dict[str, Any]) -> None:
            measure(backend, found, small, full, settings)

        return report(settings.engines, LATER_S, work)


def measure(backend: Backend, found: dict[str, Any], small: Path, full: Path, settings: Settings) -> None:
    """What there is to say of a backend."""
    found["max_difference"] = difference(backend, small, (40, 64), {"clip_len": 8})
    for height, width in settings.sizes:
        one = timed(backend, full, (height // SCALE, width // SCALE), settings.steps)
        flop = swiftvr_step_flop(SwiftVRConfig(), grid_of(height, width), LONGEST_CLIP // FRAMES_PER_LATENT)
        one["tflop_per_s"] = sum(flop.values()) / 1e12 * one["frames_per_s"] / LONGEST_CLIP
        found[f"{height}x{width} {settings.dtype}"] = one


def random_bundle(folder: Path, config: SwiftVRConfig, precision: str, *, layers: int) -> Path:
    """A bundle of so many layers, of which at most three are written: two in the middle, which the others are read from."""
    written = dataclasses.replace(config, dit=dataclasses.replace(config.dit, layers=min(3, layers)))
    write_swiftvr(folder / "checkpoint", written)
    bundle = folder / "bundle"
    checkpoint = load_checkpoint(folder / "checkpoint", layers=written.dit.layers)
    export_bundle(checkpoint, bundle, precision=precision, name="swiftvr")
    path = bundle / MANIFEST
    manifest = json.loads(path.read_text(encoding="utf-8"))
    section = manifest["swiftvr"]
    section["layers"] = section["config"]["dit"]["layers"] = layers
    middle = section["middle"]
    for part in ("weights", "constant"):
        middle[part] = [str(name) for name in np.resize(middle[part], layers - 1)]
    path.write_text(json.dumps(manifest), encoding="utf-8")
    return bundle
