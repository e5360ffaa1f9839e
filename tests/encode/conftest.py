"""Fixtures of the tests of files."""

from __future__ import annotations

import pytest

from .files import Case, cases


@pytest.fixture(scope="session")
def awkward(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    return cases(tmp_path_factory.mktemp("awkward"))
