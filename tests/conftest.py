"""Options and fixtures of all tests."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

# Tests start some hundred Pythons. Where none may keep its bytecode, each compiles the package and its runtimes anew: 3.3 CPU
# seconds for an upscale of 20 tiny frames instead of 1.8 (2026-11-25). Here they keep it, in a folder that is no one else's.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ.setdefault("PYTHONPYCACHEPREFIX", str(Path(__file__).parents[1] / ".cache" / "bytecode"))
sys.dont_write_bytecode, sys.pycache_prefix = False, os.environ["PYTHONPYCACHEPREFIX"]

from .support.tiny import write_tiny_bundle  # noqa: E402


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="also run the tests that take minutes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--long"):
        return
    skip = pytest.mark.skip(reason="takes minutes: run with --long")
    for item in items:
        if "long" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose every pixel tells the whole history of its state; 1 → 1."""
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="session")
def tiny_chroma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As ``tiny``, and predicts chroma: U is luma."""
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny chroma", chroma=True)


@pytest.fixture(scope="session")
def tiny_25_21(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same on FlashVSR's schedule: 25 → 21, then 8 → 8."""
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny 25 21 ü", schedule=(25, 21, 8, 8))
