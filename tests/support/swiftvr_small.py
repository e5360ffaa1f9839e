"""A SwiftVR of toy width with random weights: its checkpoint, and bundles the exporter makes of it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

from trt_build.random_checkpoint import SWIFTVR_REDUCED, write_swiftvr
from trt_build.swiftvr.checkpoint import Checkpoint, load_checkpoint
from trt_build.swiftvr.export import export_bundle

from .flashvsr_small import _folder

torch.set_num_threads(1)

WINDOW = (2, 2)
"""Tokens: pictures of 96 pixels have windows that overlap, and shift."""


@cache
def small_folder() -> Path:
    """The published files at toy width."""
    folder = Path(_folder().name, "swiftvr")
    write_swiftvr(folder, SWIFTVR_REDUCED)
    return folder


@cache
def small_checkpoint() -> Checkpoint:
    """The opened checkpoint, with small windows."""
    return load_checkpoint(small_folder(), window=WINDOW)


def small_bundle(precision: str = "fp32") -> Path:
    """A bundle of 1 MB, made by the exporter. Don't write to it: all tests share it."""
    out = Path(_folder().name, f"swiftvr bundle {precision}")
    if not out.exists():
        export_bundle(small_checkpoint(), out, precision=precision, name="small")
    return out
