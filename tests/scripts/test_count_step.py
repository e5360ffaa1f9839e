"""scripts/count_step.py: a whole step is counted, and a step of more layers by as much more."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="modules run on its meta device")

from vsflashsr.models.flashvsr.network.config import FlashVSRConfig

SCRIPT: dict[str, Any] = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "count_step.py"))


def test_a_step_is_counted_by_its_layers() -> None:
    launches = []
    for layers in (2, 3, 4):
        found = SCRIPT["counted"]((128, 256), "bf16", FlashVSRConfig(layers=layers))
        assert sum(stage.launches["ours: attend"] for stage in found.values()) == layers
        launches.append(sum(sum(stage.launches.values()) for stage in found.values()))
    assert launches[2] - launches[1] == launches[1] - launches[0] > 10
