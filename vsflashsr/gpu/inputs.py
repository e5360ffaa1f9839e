"""Frames on their way to a device: page-locked memory that the host fills, and memory there that it is copied to."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .device import Buffer, Device, Event, HostBuffer, Stream


class InputSlot:
    """One place of a ring."""

    def __init__(self, device: Device, size_bytes: int) -> None:
        self.buffer: Buffer = device.alloc(size_bytes)
        self._host: HostBuffer = device.pinned(size_bytes)
        self.copied: Event = device.event()
        """The slot holds what was sent: whoever reads it waits for this."""
        self.read: Event = device.event()
        """To be recorded behind the last work that reads the slot."""

    def send(self, uploader: Stream, size_bytes: int, fill: Callable[[NDArray[np.uint8]], None]) -> None:
        """Queue the copy of `size_bytes` that `fill` writes, behind whatever still reads the slot.

        Waits (on the host) for the copy before, which left from the same memory.
        """
        self.copied.synchronize()
        fill(self._host.array[:size_bytes])
        uploader.wait(self.read)
        uploader.upload(self.buffer, self._host, size_bytes)
        uploader.record(self.copied)
