"""A ring of page-locked buffers between the host's arrays and the device."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from ..errors import FlashsrError
from .memory import HostBuffer
from .stream import Event, Stream

if TYPE_CHECKING:
    from .device import Device


@dataclass(eq=False, slots=True)
class _Place:
    """A buffer of the ring and the event behind its last use."""

    buffer: HostBuffer
    event: Event
    used: bool = False
    """Was the event recorded?"""


class Slot:
    """A buffer of the ring, from ``take`` to ``release``.

    Upload: ``with ring.take(stream) as slot:`` fill ``slot.array``, ``stream.upload(buffer, slot.buffer)``.
    Download: ``slot = ring.take(stream)``, ``stream.download(slot.buffer, buffer)``, ``slot.mark()``; later
    ``slot.wait()``, read ``slot.array``, ``slot.release()``.
    """

    def __init__(self, ring: StagingRing, place: _Place, stream: Stream) -> None:
        self._ring = ring
        self._place = place
        self._stream = stream
        self._marked = False
        self._released = False

    @property
    def buffer(self) -> HostBuffer:
        """For ``Stream.upload`` and ``download``, until ``release``."""
        if self._released:
            raise FlashsrError("a staging buffer was used after its release; take another one")
        return self._place.buffer

    @property
    def array(self) -> NDArray[np.uint8]:
        """(size_bytes,) view of the buffer, not to be kept beyond ``release``."""
        return self.buffer.array

    def mark(self) -> None:
        """Everything that uses the buffer is queued by now."""
        if self._released:
            raise FlashsrError("a staging buffer was used after its release; take another one")
        self._stream.record(self._place.event)
        self._place.used = self._marked = True

    def wait(self) -> None:
        """Wait (on the host) until what was queued before ``mark`` has run: before reading what was downloaded."""
        if not self._marked:
            self.mark()
        self._place.event.synchronize()

    def release(self) -> None:
        """Back into the ring. Marks where ``mark`` wasn't called."""
        if not self._marked:
            self.mark()
        if self._released:
            raise FlashsrError("a staging buffer was released twice; release it once")
        self._released = True
        self._ring._put(self._place)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()


class StagingRing:
    """``count`` page-locked buffers of ``size_bytes``, used in turn. For one thread at a time."""

    def __init__(self, device: Device, size_bytes: int, count: int) -> None:
        if count < 1:
            raise FlashsrError(f"a staging ring has at least 1 buffer, got {count}; ask for 2")
        self.size_bytes = size_bytes
        self._places: list[_Place] = []
        self._free: deque[_Place] = deque()
        self._taken: dict[_Place, Stream] = {}
        try:
            for _ in range(count):
                event = device.event()
                try:
                    self._places.append(_Place(device.pinned(size_bytes), event))
                except BaseException:
                    event.close()
                    raise
        except BaseException:
            self.close()
            raise
        self._free.extend(self._places)

    def take(self, stream: Stream) -> Slot:
        """The buffer that was released longest ago, after its use has run (other work isn't waited for).

        Args:
            stream: where the buffer will be used.

        Raises:
            FlashsrError: all are taken, or the stream is being captured.
        """
        if stream.capturing:
            raise FlashsrError(
                "a staging ring can't be used on a stream that is being captured, since a graph keeps one address; "
                "capture with a buffer of its own"
            )
        if not self._free:
            raise FlashsrError(f"the staging ring has no buffer left, got {len(self._taken)} taken; release one first")
        if self._free[0].used:
            self._free[0].event.synchronize()
        place = self._free.popleft()
        self._taken[place] = stream
        return Slot(self, place, stream)

    def close(self) -> None:
        """Free the buffers, after their last use has run. Idempotent."""
        for stream in self._taken.values():
            stream.synchronize()
        self._taken.clear()
        self._free.clear()
        while self._places:
            place = self._places[-1]
            if place.used:
                place.event.synchronize()
            self._places.pop()
            place.buffer.free()
            place.event.close()

    def _put(self, place: _Place) -> None:
        # A ring that was closed in between has no places left.
        if self._taken.pop(place, None) is not None:
            self._free.append(place)
