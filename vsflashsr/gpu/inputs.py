"""What a step reads: the host fills page-locked memory that is copied to the device, or the frames are there already."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from .device import Buffer, Device, Event, HostBuffer, Stream
from .frames import DeviceFrame, wait_for


class InputSlot:
    """One place of a ring."""

    def __init__(self, device: Device, size_bytes: int) -> None:
        self.buffer: Buffer = device.alloc(size_bytes)
        self._host: HostBuffer = device.pinned(size_bytes)
        self.copied: Event = device.event()
        """The slot holds what was sent: whoever reads it waits for this."""
        self.read: Event = device.event()
        """To be recorded behind the last work that reads the slot."""
        self._held: Sequence[DeviceFrame] = ()

    def send(self, uploader: Stream, size_bytes: int, fill: Callable[[NDArray[np.uint8]], None]) -> None:
        """Queue the copy of `size_bytes` that `fill` writes, behind whatever still reads the slot.

        Waits (on the host) for the copy before, which left from the same memory.
        """
        self.copied.synchronize()
        fill(self._host.array[:size_bytes])
        uploader.wait(self.read)
        uploader.upload(self.buffer, self._host, size_bytes)
        uploader.record(self.copied)

    def receive(self, uploader: Stream, frames: Sequence[DeviceFrame], unpack: Callable[[Stream], None]) -> None:
        """Queue what ``unpack`` queues: the frames into the slot, once they are ready and behind whatever still reads the slot.

        The frames are held until that has run.
        """
        # What went before has run long since: a ring of slots lies between.
        self.copied.synchronize()
        self._held = frames
        uploader.wait(self.read)
        for frame in frames:
            wait_for(uploader, frame.found)
        unpack(uploader)
        uploader.record(self.copied)

    def let_go(self) -> None:
        """Of frames that have been read."""
        if self._held and self.copied.happened:
            self._held = ()
