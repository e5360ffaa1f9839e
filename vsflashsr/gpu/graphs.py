"""CUDA graphs: work that was captured once and is launched as a whole."""

from __future__ import annotations

from typing import Any

from . import driver
from .handles import Handle, Handles


class Graph(Handle):
    """Made by ``Stream.capture``, run by ``Stream.replay``.

    A launch that is under way when it is closed runs to its end. It keeps addresses: memory that it uses has to live as
    long as it is launched.

    Args:
        owner: closes it at the latest.
        template: what was captured.
    """

    what = "a captured graph"

    def __init__(self, owner: Handles, template: Any) -> None:
        super().__init__(owner, int(driver.check(driver.api().cuGraphInstantiate(template, 0), "prepare a captured graph")))

    def _destroy(self, value: int) -> None:
        driver.check(driver.api().cuGraphExecDestroy(value), "destroy a graph")
