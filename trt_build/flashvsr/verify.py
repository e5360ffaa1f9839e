"""Holds a port against a golden set: one line per fixture, and whether all are within tolerance."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import torch

from vsflashsr.errors import FlashsrError

from . import verify_dit, verify_parts
from .verify_types import StageResult

FIXTURES = (
    "constants",
    "rope_full_128",
    "local_masks",
    "dit_sparse",
    "dit_dense",
    "dit_dense_taps",
    "dit_empty_rows",
    "dit_kv2",
    "dit_kv5",
    "lq_proj",
    "tcdecoder",
    "color_fix",
    "wan_vae_decoder",
    "e2e_tiny",
)
"""The published fixtures, each one file; a folder may hold fewer, or further DiT runs its info describes."""


def verify(golden: Path, executor: str, head_dim: int | None, write: Callable[[str], object]) -> bool:
    """Runs all stages with "torch" or "onnxruntime" and writes a line for each; True if all pass and there was one.

    Raises:
        FlashsrError: the folder or its checkpoint can't be read.
    """
    # Fixtures are small, and torch's threads wait by spinning: on a busy machine more of them take fifty times as long.
    torch.set_num_threads(1)
    if not golden.is_dir():
        raise FlashsrError(f"there is no folder {str(golden)!r}; give one with fixtures such as dit_sparse.npz")
    passed, seen = True, set[str]()
    for result in _results(golden, executor, head_dim):
        write(_line(result) + "\n")
        passed &= result.passed
        seen.add(result.name.split()[0])
    for name in FIXTURES:
        if not (golden / f"{name}.npz").is_file():
            write(f"skip  {name:<40} {name}.npz is not in the folder\n")
        elif name not in seen:
            write(f"skip  {name:<40} its checkpoint or description is not in the folder\n")
    return passed and bool(seen)


def _results(golden: Path, executor: str, head_dim: int | None) -> Iterator[StageResult]:
    return chain(verify_dit.stages(golden, executor, head_dim), verify_parts.stages(golden, executor))


def _line(result: StageResult) -> str:
    masks = {None: "", True: "  masks identical", False: "  masks DIFFER"}[result.masks_identical]
    note = f"  ({result.note})" if result.note else ""
    verdict = "ok  " if result.passed else "FAIL"
    return f"{verdict}  {result.name:<40} error {result.max_error:.3g} (tolerance {result.tolerance:g}){masks}{note}"
