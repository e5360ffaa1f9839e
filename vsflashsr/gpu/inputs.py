"""Frames on their way to a device: a ring of buffers there, each filled through page-locked memory while others are worked on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from .device import Buffer, Device, Event, Stream
    from .staging import StagingRing


class InputSlot:
    """One place of the ring."""

    def __init__(self, device: Device, size_bytes: int) -> None:
        self.buffer: Buffer = device.alloc(size_bytes)
        self.copied: Event = device.event()
        """The slot holds what was sent: whoever reads it waits for this."""
        self.read: Event = device.event()
        """To be recorded behind the last work that reads the slot."""

    def send(
        self, staging: StagingRing, uploader: Stream, size_bytes: int, fill: Callable[[NDArray[np.uint8]], None]
    ) -> None:
        """Queue the copy of `size_bytes` that `fill` writes, behind whatever still reads the slot."""
        with staging.take(uploader) as staged:
            fill(staged.array[:size_bytes])
            uploader.wait(self.read)
            uploader.upload(self.buffer, staged.buffer, size_bytes)
        uploader.record(self.copied)
