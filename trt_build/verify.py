"""Holds a port against a golden set: one line per fixture, and whether all are within tolerance."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import torch

from vsflashsr.errors import FlashsrError

from .stages import StageResult

type Model = Literal["flashvsr", "realviformer", "swiftvr"]


def verify(golden: Path, executor: str, head_dim: int | None, write: Callable[[str], object]) -> bool:
    """Runs all stages with "torch" or "onnxruntime" and writes a line for each; True if all pass and there was one.

    Raises:
        FlashsrError: the folder or its checkpoint can't be read.
    """
    # Fixtures are small, and torch's threads wait by spinning: on a busy machine more of them take fifty times as long.
    torch.set_num_threads(1)
    if not golden.is_dir():
        raise FlashsrError(f"there is no folder {str(golden)!r}; give one with fixtures such as dit_sparse.npz")
    fixtures, results = _stages(golden, executor, head_dim)
    passed, seen = True, set[str]()
    for result in results:
        write(_line(result) + "\n")
        passed &= result.passed
        seen.add(result.name.split()[0])
    for name in fixtures:
        if not (golden / f"{name}.npz").is_file():
            write(f"skip  {name:<40} {name}.npz is not in the folder\n")
        elif name not in seen:
            write(f"skip  {name:<40} its checkpoint or description is not in the folder\n")
    return passed and bool(seen)


def model_of(golden: Path) -> Model:
    """Which model a golden set is of: by the sizes in its ``info.json``. FlashVSR's has none of that name.

    Raises:
        FlashsrError: the file can't be read, or is of none of them.
    """
    path = golden / "info.json"
    if not path.is_file():
        return "flashvsr"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))["config"]
        names = set(config)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FlashsrError(f"can't read {str(path)!r} ({error}); give a golden set as it was made") from error
    if "num_feat" in names:
        return "realviformer"
    if {"e_enc", "win"} <= names:
        return "swiftvr"
    raise FlashsrError(f"{str(path)!r} is of no model known here, got the sizes {sorted(names)}; update vsflashsr")


def _stages(golden: Path, executor: str, head_dim: int | None) -> tuple[Sequence[str], Iterator[StageResult]]:
    """Names of the published fixtures, and the stages in the folder."""
    match model_of(golden):
        case "flashvsr":
            from .flashvsr import verify as flashvsr

            return flashvsr.FIXTURES, flashvsr.stages(golden, executor, head_dim)
        case "realviformer":
            from .realviformer import verify as realviformer

            return realviformer.FIXTURES, realviformer.stages(golden, executor)
        case "swiftvr":
            from .swiftvr import verify as swiftvr

            return swiftvr.FIXTURES, swiftvr.stages(golden, executor, head_dim)


def _line(result: StageResult) -> str:
    masks = {None: "", True: "  masks identical", False: "  masks DIFFER"}[result.masks_identical]
    note = f"  ({result.note})" if result.note else ""
    verdict = "ok  " if result.passed else "FAIL"
    return f"{verdict}  {result.name:<40} error {result.max_error:.3g} (tolerance {result.tolerance:g}){masks}{note}"
