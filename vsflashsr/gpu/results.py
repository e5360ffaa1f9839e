"""Frames that a step has made: on their way to the host they lie in a ring of page-locked memory until they are fetched."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import NDArray

from ..geometry import Made
from .device import Buffer, Device, Event, HostBuffer, Stream

type Unpack = Callable[[NDArray[Any]], Sequence[Made]]
"""Frames, each in memory of its own, from the bytes that came from the device."""


class ResultSlot:
    """One place of the ring: memory on the device that a step writes, and memory of the host that it is copied to."""

    def __init__(self, device: Device, size_bytes: int) -> None:
        self._device = device
        self.buffer: Buffer = device.alloc(size_bytes)
        self._host: HostBuffer = device.pinned(size_bytes)
        self._copied: Event = device.event()
        self._holder: weakref.ref[StepResult] | None = None

    def clear(self, writer: Stream) -> None:
        """Make the slot writable: what still lies in it is fetched for its owner, and `writer` waits for the copy."""
        holder = None if self._holder is None else self._holder()
        if holder is not None:
            holder.fetch()
        writer.wait(self._copied)

    def send(self, made: Event, copier: Stream, size_bytes: int, unpack: Unpack) -> StepResult:
        """Queue the copy of the first `size_bytes` to the host, after `made`."""
        copier.wait(made)
        copier.download(self._host, self.buffer, size_bytes)
        copier.record(self._copied)
        result = StepResult(self._device, self._copied, self._host, size_bytes, unpack)
        self._holder = weakref.ref(result)
        return result

    def keep[Kept](self, made: Event, copier: Stream, copy: Callable[[Stream], Kept]) -> Kept:
        """Queue what ``copy`` queues after ``made``: whatever of the slot is to stay on the device, elsewhere."""
        copier.wait(made)
        kept = copy(copier)
        copier.record(self._copied)
        self._holder = None
        return kept


class StepResult:
    """The frames of one step."""

    def __init__(self, device: Device, copied: Event, host: HostBuffer, size_bytes: int, unpack: Unpack) -> None:
        self._device, self._copied, self._host, self._size, self._unpack = device, copied, host, size_bytes, unpack
        self._frames: Sequence[Made] | None = None
        self._fetching = threading.Lock()

    def fetch(self) -> Sequence[Made]:
        """Waits for the copy, once, and takes the frames out of the ring. From any thread.

        Whoever comes second waits for the first: the ring's memory is written again as soon as this returns.
        """
        with self._fetching:
            if self._frames is None:
                self._device.make_current()
                self._copied.synchronize()
                self._frames = self._unpack(self._host.array[: self._size])
            return self._frames

    def frames(self, count: int, frame_bytes: int) -> list[PendingFrame]:
        """Its `count` frames, each `frame_bytes` when it is fetched."""
        return [PendingFrame(self, index, frame_bytes) for index in range(count)]


class PendingFrame:
    """See ``models.Pending``."""

    def __init__(self, result: StepResult, index: int, nbytes: int) -> None:
        self._result, self._index, self.nbytes = result, index, nbytes

    def array(self) -> Made:
        """See ``models.Pending.array``."""
        return self._result.fetch()[self._index]
