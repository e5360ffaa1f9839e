"""The stages of FlashVSR that a golden set holds."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from ..stages import StageResult
from . import verify_dit, verify_parts

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


def stages(golden: Path, executor: str, head_dim: int | None) -> Iterator[StageResult]:
    """All stages that are in the folder."""
    return chain(verify_dit.stages(golden, executor, head_dim), verify_parts.stages(golden, executor))
