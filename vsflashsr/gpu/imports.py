"""Planes of resident frames, found in imported memory: each allocation is imported once, and not for ever."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .device import Device
from .external import ImportedMemory, Timeline, close_handle

MOST_ALLOCATIONS = 64
"""Imports kept that no frame uses. VapourSynth's allocations are 128 MB: 8 GiB of frames in flight."""
_MOST_TIMELINES = 64


@dataclass(frozen=True, slots=True)
class ExportedPlane:
    """A plane as the plugin describes it (``described`` in ``native/vsflashsr.c``)."""

    memory: int
    """Which allocation it lies in: never used for another."""
    size: int
    """Of the allocation, in bytes."""
    offset: int
    stride: int
    handle: int
    """Of the allocation; a new one for each plane, which whoever has it gives back."""
    semaphore: int
    """What reaches ``value`` when the plane may be touched; 0: it may be now."""
    value: int


class Allocation:
    """An imported allocation. It is closed when nobody holds this any more."""

    def __init__(self, memory: ImportedMemory) -> None:
        self.address, self.size_bytes = memory.address, memory.size_bytes


@dataclass(frozen=True, slots=True)
class Plane:
    """Where a plane lies on the device. Whoever has work on it queued holds this until the work is done."""

    allocation: Allocation
    address: int
    stride: int
    """In bytes."""


@dataclass(frozen=True, slots=True)
class Planes:
    """Those of a frame, and what has to be waited for before they are touched."""

    planes: tuple[Plane, ...]
    ready: tuple[tuple[Timeline, int], ...]


class Imports:
    """What has been imported on a device. Any thread may ask.

    Args:
        device: where.
        export_timeline: a new handle of a semaphore.
    """

    def __init__(self, device: Device, export_timeline: Callable[[int], int]) -> None:
        self._device, self._export_timeline = device, export_timeline
        self._lock = threading.Lock()
        self._allocations: OrderedDict[int, Allocation] = OrderedDict()
        self._timelines: OrderedDict[int, Timeline] = OrderedDict()
        self._alive: weakref.WeakValueDictionary[int, Allocation] = weakref.WeakValueDictionary()
        self._unused: deque[ImportedMemory] = deque()

    def planes(self, exported: Sequence[ExportedPlane]) -> Planes:
        """Of a frame, as its planes are described; the handles are used up, whatever happens.

        Raises:
            FlashsrError: the driver can't import one.
        """
        left = {plane.handle for plane in exported}
        self._device.make_current()
        with self._lock:
            try:
                self._close_unused()
                found: list[Plane] = []
                for plane in exported:
                    left.remove(plane.handle)
                    allocation = self._allocation(plane)
                    found.append(Plane(allocation, allocation.address + plane.offset, plane.stride))
                latest: dict[int, int] = {}
                for plane in exported:
                    if plane.semaphore:
                        latest[plane.semaphore] = max(plane.value, latest.get(plane.semaphore, 0))
                ready = tuple((self._timeline(semaphore), value) for semaphore, value in latest.items())
            finally:
                for handle in left:
                    close_handle(handle)
        return Planes(tuple(found), ready)

    def timeline(self, semaphore: int) -> Timeline:
        """Of a semaphore that is alive."""
        self._device.make_current()
        with self._lock:
            return self._timeline(semaphore)

    @property
    def size_bytes(self) -> int:
        """Of all that is imported."""
        with self._lock:
            return sum(allocation.size_bytes for allocation in self._alive.values())

    def _allocation(self, plane: ExportedPlane) -> Allocation:
        if (known := self._alive.get(plane.memory)) is not None:
            close_handle(plane.handle)
            self._allocations[plane.memory] = known
        else:
            memory = self._device.import_memory(plane.handle, plane.size)
            known = Allocation(memory)
            # From whatever thread, in which the device may not be current: the next that imports closes it.
            weakref.finalize(known, self._unused.append, memory).atexit = False
            self._alive[plane.memory] = self._allocations[plane.memory] = known
        self._allocations.move_to_end(plane.memory)
        while len(self._allocations) > MOST_ALLOCATIONS:
            self._allocations.popitem(last=False)
        return known

    def _timeline(self, semaphore: int) -> Timeline:
        if semaphore not in self._timelines:
            self._timelines[semaphore] = self._device.import_timeline(self._export_timeline(semaphore))
            while len(self._timelines) > _MOST_TIMELINES:
                # Waits that are queued go on: the driver keeps what they wait for.
                self._timelines.popitem(last=False)[1].close()
        self._timelines.move_to_end(semaphore)
        return self._timelines[semaphore]

    def _close_unused(self) -> None:
        while self._unused:
            self._unused.popleft().close()
