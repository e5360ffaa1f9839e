"""What the parts are told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

type Part = Callable[[Settings], dict[str, Any]]


@dataclass(frozen=True)
class Settings:
    """The command line, as the parts see it."""

    sizes: tuple[tuple[int, int], ...]
    """(height, width) of the output."""
    dtype: str
    steps: int
    """Steady steps that are timed."""
    repeats: int
    """Times that each kernel and stage is timed; the median counts."""
    engines: Path
    """Where engines are built; kept, so that a second run finds them."""
    golden: Path | None = None
    """Folder with reference numbers."""
