"""A FlashVSR of toy width with random weights: its checkpoint, and bundles the exporter makes of it."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from trt_build.flashvsr.checkpoint import Checkpoint, load_checkpoint
from trt_build.flashvsr.export import export_bundle
from trt_build.random_checkpoint import REDUCED, write_checkpoint

# Threads of torch wait by spinning: on a busy machine more of them make toy sizes fifty times slower (2026-11-22).
torch.set_num_threads(1)

ROOT = Path(__file__).parents[2]

@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="vsflashsr-tests-", ignore_cleanup_errors=True)


@cache
def small_folder(variant: str = "tiny", seed: int = 0) -> Path:
    """The published files at toy width."""
    folder = Path(_folder().name, f"checkpoint {variant} {seed}")
    write_checkpoint(folder, REDUCED, variant=variant, seed=seed)
    return folder


def small_checkpoint(variant: str = "tiny", version: str = "v1.1") -> Checkpoint:
    """The opened checkpoint."""
    return load_checkpoint(small_folder(variant), version=version, variant=variant, head_dim=REDUCED.head_dim)


def small_bundle(variant: str = "tiny", version: str = "v1.1", precision: str = "fp32") -> Path:
    """A bundle of 1.3 MB, made by the exporter. Don't write to it: all tests share it."""
    out = Path(_folder().name, f"bundle {variant} {version} {precision}")
    if not out.exists():
        export_bundle(small_checkpoint(variant, version), out, precision=precision, name="small")
    return out


def frames(count: int, height: int, width: int, seed: int = 0) -> list[npt.NDArray[np.float32]]:
    """Noise in 0..1 whose brightness wanders."""
    random = np.random.default_rng(seed)
    level = 0.3 + 0.2 * np.sin(np.arange(count) / 5)
    return [(random.random((3, height, width)) * 0.4 + at).astype(np.float32) for at in level]
