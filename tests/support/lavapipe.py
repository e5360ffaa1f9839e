"""Software Vulkan for tests, where scripts/setup_lavapipe.sh has put it; else a reason to skip."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .pipe import ROOT

FOLDER = Path(os.environ.get("VSFLASHSR_LAVAPIPE") or ROOT / ".cache" / "lavapipe")


def lavapipe_environment() -> dict[str, str]:
    """The environment of a process that is to find software Vulkan only."""
    driver = FOLDER / "lvp_icd.json"
    if not driver.is_file():
        pytest.skip(f"no software Vulkan in {FOLDER}: run scripts/setup_lavapipe.sh")
    libraries = os.pathsep.join(filter(None, [str(FOLDER / "lib"), os.environ.get("LD_LIBRARY_PATH", "")]))
    return {
        **os.environ,
        "VK_DRIVER_FILES": str(driver),
        "LD_LIBRARY_PATH": libraries,
        "ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER": "1",
    }
