"""A RealViformer of toy width with random weights: its checkpoint, and bundles the exporter makes of it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

from trt_build.random_checkpoint import write_realviformer
from trt_build.realviformer.checkpoint import Checkpoint, load_checkpoint
from trt_build.realviformer.export import export_bundle
from trt_build.realviformer.layout import Sizes

from .flashvsr_small import _folder

torch.set_num_threads(1)

SMALL = Sizes(features=12, blocks=(1, 1, 2, 1), heads=(1, 3, 2), merge_heads=3, squeeze=(2, 4, 2), expansion=1.7)
"""Nothing of it is like the golden set; its feed-forwards are 20, 40 and 81 wide."""


@cache
def small_folder(seed: int = 0) -> Path:
    """The published file at toy width."""
    folder = Path(_folder().name, f"realviformer {seed}")
    write_realviformer(folder, SMALL, seed=seed)
    return folder


@cache
def small_checkpoint(seed: int = 0) -> Checkpoint:
    """The opened checkpoint."""
    return load_checkpoint(small_folder(seed))


def small_bundle(precision: str = "fp32") -> Path:
    """A bundle of 6 MB, made by the exporter. Don't write to it: all tests share it."""
    out = Path(_folder().name, f"realviformer bundle {precision}")
    if not out.exists():
        export_bundle(small_checkpoint(), out, precision=precision, name="small")
    return out
