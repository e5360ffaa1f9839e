"""Memory of the mock driver: allocations of host memory that stand for device memory and page-locked memory."""

from __future__ import annotations

import bisect
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

if TYPE_CHECKING:
    from .mock_queue import Operation

GUARD_BYTES = 512
GUARD = 0xA5
FRESH = 0xFF
"""Of this byte, every float of any width is NaN."""
DEVICE, PINNED, IMPORTED = "device memory", "pinned memory", "imported memory"


class MockError(AssertionError):
    """The program did what would silently go wrong on a GPU."""


@dataclass(frozen=True, slots=True)
class Access:
    """That an operation read or wrote the bytes [start, stop)."""

    start: int
    stop: int
    writes: bool
    operation: Operation


@dataclass(eq=False, slots=True)
class Allocation:
    kind: str
    address: int
    size_bytes: int
    raw: NDArray[np.uint8]
    """The memory with what guards it on both sides."""
    freed: bool = False
    accesses: list[Access] = field(default_factory=list)
    """The latest, as far as they can still collide with new ones."""

    @property
    def bytes(self) -> NDArray[np.uint8]:
        start = self.address - self.raw.ctypes.data
        return self.raw[start : start + self.size_bytes]

    def check_guards(self) -> None:
        start = self.address - self.raw.ctypes.data
        if not ((self.raw[:start] == GUARD).all() and (self.raw[start + self.size_bytes :] == GUARD).all()):
            raise MockError(f"something wrote beside {self.kind} of {self.size_bytes} bytes")


@dataclass(frozen=True, slots=True)
class Use:
    """That an operation will read or write [start, stop) of an allocation."""

    allocation: Allocation
    start: int
    stop: int
    writes: bool | None
    """None: it isn't known before the operation has run."""


class MockMemory:
    """All allocations, by address."""

    def __init__(self, rng: random.Random) -> None:
        self._random = rng
        self._addresses: list[int] = []
        self._allocations: dict[int, Allocation] = {}
        self.peak_bytes = 0

    @property
    def device_bytes(self) -> int:
        return sum(a.size_bytes for a in self._allocations.values() if a.kind == DEVICE)

    @property
    def addresses(self) -> list[int]:
        """Of all allocations, as the driver returned them."""
        return list(self._addresses)

    @property
    def counts(self) -> Counter[str]:
        """How many allocations of which kind."""
        return Counter(a.kind for a in self._allocations.values())

    def check_guards(self) -> None:
        for allocation in self._allocations.values():
            allocation.check_guards()

    def new(self, kind: str, size_bytes: int) -> int:
        """The address of fresh memory, filled with NaN. It is a multiple of 256, and of no more."""
        raw = np.full(size_bytes + 2 * GUARD_BYTES + 1024, GUARD, np.uint8)
        address = -(-(raw.ctypes.data + GUARD_BYTES) // 512) * 512 + self._random.choice((0, 256))
        allocation = Allocation(kind, address, size_bytes, raw)
        allocation.bytes[:] = FRESH
        self._allocations[address] = allocation
        bisect.insort(self._addresses, address)
        self.peak_bytes = max(self.peak_bytes, self.device_bytes)
        return address

    def take(self, raw: NDArray[np.uint8]) -> int:
        """The address of memory that another API has allocated: nothing guards it, and it stays as it is."""
        address = int(raw.ctypes.data)
        self._allocations[address] = Allocation(IMPORTED, address, raw.size, raw)
        bisect.insort(self._addresses, address)
        return address

    def get(self, address: int) -> Allocation | None:
        """The allocation that begins there."""
        return self._allocations.get(address)

    def drop(self, allocation: Allocation) -> None:
        """It is freed: nothing may find it any more."""
        allocation.check_guards()
        if allocation.kind != IMPORTED:
            allocation.bytes[:] = FRESH
        allocation.freed = True
        del self._allocations[allocation.address]
        self._addresses.remove(allocation.address)

    def at(self, address: int, size_bytes: int) -> Allocation:
        """The allocation that these bytes lie in. Raises ``MockError`` where they don't."""
        place = bisect.bisect_right(self._addresses, address) - 1
        if place >= 0:
            allocation = self._allocations[self._addresses[place]]
            if address + size_bytes <= allocation.address + allocation.size_bytes:
                return allocation
            if address < allocation.address + allocation.size_bytes:
                raise MockError(
                    f"{size_bytes} bytes at {address:#x} go beyond {allocation.kind} of {allocation.size_bytes} bytes"
                    f" at {allocation.address:#x}"
                )
        raise MockError(f"{address:#x} is in no memory that is allocated")

    def use(self, address: int, size_bytes: int, kind: str | None = None, *, writes: bool | None) -> Use:
        """That an operation is about to be queued on these bytes. ``kind``: which memory it has to be."""
        allocation = self.at(address, size_bytes)
        if kind not in (None, allocation.kind):
            raise MockError(f"{address:#x} is {allocation.kind}, not {kind}")
        return Use(allocation, address, address + size_bytes, writes)

    def view(self, address: int, count: int, dtype: DTypeLike) -> NDArray[Any]:
        """See ``MockDriver.view``."""
        kind = np.dtype(dtype)
        allocation = self.at(address, max(1, count * kind.itemsize))
        if address % kind.itemsize:
            raise MockError(f"{address:#x} is no address of {kind}")
        start = address - allocation.address
        return allocation.bytes[start : start + count * kind.itemsize].view(kind)
