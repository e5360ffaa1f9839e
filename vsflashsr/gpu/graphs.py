"""CUDA graphs: work that was captured once and is launched as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import FlashsrError
from . import driver

if TYPE_CHECKING:
    from .device import Device
    from .stream import Stream


class Graph:
    """Made by ``Stream.capture``. Two launches of one graph never overlap: the second waits for the first."""

    def __init__(self, device: Device, template: Any) -> None:
        self._device = device
        self._handle: int | None = int(
            driver.check(driver.api().cuGraphInstantiate(template, 0), "prepare a captured graph")
        )

    def launch(self, stream: Stream) -> None:
        """Queue all of it on a stream, behind what is there."""
        if self._handle is None:
            raise FlashsrError("a graph was launched after it, or its device, was closed; capture it again")
        driver.check(driver.api().cuGraphLaunch(self._handle, stream.handle), "launch a graph")

    def close(self) -> None:
        """Idempotent. A launch that is under way runs to its end."""
        handle, self._handle = self._handle, None
        if handle is not None:
            self._device.forget(self)
            driver.check(driver.api().cuGraphExecDestroy(handle), "destroy a graph")
