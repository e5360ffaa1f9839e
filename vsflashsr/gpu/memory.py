"""Device memory and page-locked host memory, pooled: a block is used again only after what was queued on it has run."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from ..errors import FlashsrError
from . import driver

if TYPE_CHECKING:
    from .stream import Event, Stream

ALIGNMENT = 512
"""Bytes. Of every address and every block's size; enough for any vector load, TMA and TensorRT's bindings (256)."""


class Source(Protocol):
    """Where a pool's blocks come from and go back to."""

    @property
    def name(self) -> str:
        """What errors call it."""

    def allocate(self, size_bytes: int) -> int:
        """The address of new memory. Raises ``DriverError``."""

    def release(self, address: int) -> None:
        """Give back what ``allocate`` returned."""

    def room(self) -> str:
        """How much there still is, for an error."""


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Memory of the device that is current."""

    name: str

    def allocate(self, size_bytes: int) -> int:
        return int(driver.check(driver.api().cuMemAlloc(size_bytes), "allocate GPU memory"))

    def release(self, address: int) -> None:
        driver.check(driver.api().cuMemFree(address), "free GPU memory")

    def room(self) -> str:
        free, total = driver.check(driver.api().cuMemGetInfo(), "say how much memory is free")
        return f"{mib(free)} of {mib(total)} MiB are free"


@dataclass(frozen=True, slots=True)
class PinnedMemory:
    """Page-locked memory of the host: copies from and to it run beside compute."""

    name: str = "page-locked host memory"

    def allocate(self, size_bytes: int) -> int:
        api = driver.api()
        return int(
            driver.check(api.cuMemHostAlloc(size_bytes, api.CU_MEMHOSTALLOC_PORTABLE), "allocate page-locked host memory")
        )

    def release(self, address: int) -> None:
        driver.check(driver.api().cuMemFreeHost(address), "free page-locked host memory")

    def room(self) -> str:
        return "the system refuses to lock more"


def mib(size_bytes: int) -> int:
    """Mebibytes, rounded up, as errors state them."""
    return -(-size_bytes >> 20)


@dataclass(eq=False, slots=True)
class Block:
    """One allocation of the driver, in use or idle."""

    base: int
    """What the driver returned."""
    address: int
    """The first multiple of ``ALIGNMENT`` in it."""
    size_bytes: int
    after: list[Event] = field(default_factory=list)
    """An idle block may be used again when all of these have happened."""


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """What a pool holds of the driver, in bytes."""

    in_use_bytes: int
    idle_bytes: int
    peak_bytes: int
    """The most that was held at once, in use and idle."""


class Pool:
    """Blocks of exact sizes (rounded up to ``ALIGNMENT``), so that what is stated before it is taken is what is taken.

    Safe for several threads. The device must be current in the calling thread.

    Args:
        source: the driver's memory.
        new_event: makes an event; the pool keeps it for good.
        idle_bytes: idle blocks are kept up to this many bytes. Beyond it, blocks that are finished go back to the
            driver, and an allocation waits for a block of its size that is still being used rather than taking more.
    """

    def __init__(self, source: Source, new_event: Callable[[], Event], *, idle_bytes: int) -> None:
        self._source = source
        self._new_event = new_event
        self._idle_limit = idle_bytes
        self._lock = threading.RLock()
        self._used: set[Block] = set()
        self._idle: list[Block] = []
        """In the order in which they were freed."""
        self._spare: list[Event] = []
        # Counted, not summed up: the garbage collector may free a buffer, in this thread, in the middle of anything here.
        self._used_bytes = self._idle_bytes = self._peak_bytes = 0
        self._closed = False

    @property
    def use(self) -> MemoryUse:
        with self._lock:
            return MemoryUse(self._used_bytes, self._idle_bytes, self._peak_bytes)

    def take(self, size_bytes: int) -> Block:
        """A block of at least ``size_bytes``; its contents are undefined.

        Raises:
            FlashsrError: there is no room, even after everything idle was given back.
        """
        if size_bytes < 1:
            raise FlashsrError(f"{self._source.name}: a buffer has at least 1 byte, got {size_bytes}; ask for more")
        size = -(-size_bytes // ALIGNMENT) * ALIGNMENT
        with self._lock:
            if self._closed:
                raise FlashsrError(f"{self._source.name} was asked for after its device was closed; open it again")
            block = self._reusable(size) or self._allocate(size)
            self._used.add(block)
            self._used_bytes += size
            self._peak_bytes = max(self._peak_bytes, self._used_bytes + self._idle_bytes)
            return block

    def give(self, block: Block, after: tuple[Stream, ...]) -> None:
        """Take a block back; it is used again only after what is queued on the streams ``after`` by now."""
        with self._lock:
            if self._closed:
                return
            for stream in after:
                if stream.capturing:
                    raise FlashsrError(
                        f"{self._source.name} can't be freed on a stream that is being captured: the graph reads and writes "
                        "it whenever it is launched; free it after the graph was closed"
                    )
            events: list[Event] = []
            try:
                for stream in after:
                    events.append(self._spare.pop() if self._spare else self._new_event())
                    stream.record(events[-1])
            except BaseException:
                self._spare += events
                raise
            self._used.remove(block)
            self._used_bytes -= block.size_bytes
            block.after = events
            self._idle.append(block)
            self._idle_bytes += block.size_bytes

    def shrink(self) -> None:
        """Keep the idle blocks within the limit where that takes no waiting; the longest idle go first."""
        with self._lock:
            for block in list(self._idle):
                if self._idle_bytes <= self._idle_limit:
                    return
                if self._finished(block) and self._leave(block):
                    self._source.release(block.base)

    def trim(self) -> int:
        """Give idle blocks back to the driver, waiting for those that are still being used; how many bytes that was."""
        freed = 0
        with self._lock:
            while self._idle:
                block = self._idle[0]
                self._wait(block)
                if self._leave(block):
                    self._source.release(block.base)
                    freed += block.size_bytes
        return freed

    def close(self) -> list[FlashsrError]:
        """Give everything back, used or not; nothing may be running any more. What the driver objected to is returned."""
        errors: list[FlashsrError] = []
        with self._lock:
            for block in [*self._used, *self._idle]:
                try:
                    self._source.release(block.base)
                except FlashsrError as error:
                    errors.append(error)
            self._used.clear()
            self._idle.clear()
            self._spare.clear()
            self._used_bytes = self._idle_bytes = 0
            self._closed = True
        return errors

    @property
    def closed(self) -> bool:
        return self._closed

    def _reusable(self, size: int) -> Block | None:
        """An idle block of this size. One that isn't finished only where taking more would pass the limit."""
        same = [block for block in self._idle if block.size_bytes == size]
        for block in same:
            if self._finished(block) and self._leave(block):
                return block
        if same and self._idle_bytes + size > self._idle_limit:
            self._wait(same[0])
            if self._leave(same[0]):
                return same[0]
        return None

    def _allocate(self, size: int) -> Block:
        self.shrink()
        try:
            return self._aligned(size)
        except driver.DriverError as error:
            if error.name != "CUDA_ERROR_OUT_OF_MEMORY":
                raise
        self.trim()
        try:
            return self._aligned(size)
        except driver.DriverError as error:
            if error.name != "CUDA_ERROR_OUT_OF_MEMORY":
                raise
            raise FlashsrError(
                f"{self._source.name} has no room for {mib(size)} MiB more, got {self._source.room()}; "
                "use a smaller tile= or a smaller model, or close what else uses the GPU"
            ) from error

    def _aligned(self, size: int) -> Block:
        base = self._source.allocate(size)
        if base % ALIGNMENT == 0:
            return Block(base, base, size)
        # The driver promises 256 bytes only.
        self._source.release(base)
        base = self._source.allocate(size + ALIGNMENT)
        return Block(base, -(-base // ALIGNMENT) * ALIGNMENT, size)

    def _leave(self, block: Block) -> bool:
        """It is idle no more. False where it wasn't: a buffer that the garbage collector freed came in between."""
        try:
            self._idle.remove(block)
        except ValueError:
            return False
        self._idle_bytes -= block.size_bytes
        return True

    def _finished(self, block: Block) -> bool:
        while block.after:
            if not block.after[-1].done:
                return False
            self._spare.append(block.after.pop())
        return True

    def _wait(self, block: Block) -> None:
        while block.after:
            block.after[-1].synchronize()
            self._spare.append(block.after.pop())


class Memory:
    """A buffer: a block of a pool, or a part of one. Made by the device."""

    def __init__(self, pool: Pool, block: Block, offset: int, size_bytes: int, whole: Self | None = None) -> None:
        self._pool = pool
        self._block = block
        self._offset = offset
        self._whole = self if whole is None else whole
        self._freed = False
        self.size_bytes = size_bytes

    @property
    def address(self) -> int:
        """Where it is. Raises ``FlashsrError`` once it was freed, or the device closed."""
        if self._pool.closed:
            raise FlashsrError(f"a buffer of {self.size_bytes} bytes was used after its device was closed; open it again")
        if self._whole._freed:
            raise FlashsrError(f"a buffer of {self.size_bytes} bytes was used after it was freed; free it later")
        return self._block.address + self._offset

    def view(self, offset: int, size_bytes: int) -> Self:
        """A part of it, which lives as long as the whole and is never freed itself."""
        if offset < 0 or size_bytes < 1 or offset + size_bytes > self.size_bytes:
            raise FlashsrError(
                f"bytes {offset}..{offset + size_bytes} don't lie in a buffer of {self.size_bytes}; ask for a part of it"
            )
        return type(self)(self._pool, self._block, self._offset + offset, size_bytes, self._whole)

    def free(self, *after: Stream) -> None:
        """Give it back. The memory is used again only after what is queued by now on the streams named.

        Without streams the caller vouches that nothing uses it any more. Does nothing once the device is closed.

        Raises:
            FlashsrError: freed twice, only a view, or a stream is being captured.
        """
        if self._whole is not self:
            raise FlashsrError(f"a view of {self.size_bytes} bytes can't be freed; free the buffer that it is a part of")
        if self._freed:
            raise FlashsrError(f"a buffer of {self.size_bytes} bytes was freed twice; free it once")
        self._pool.give(self._block, after)
        self._freed = True
        self._pool.shrink()


class Buffer(Memory):
    """Device memory."""


class HostBuffer(Memory):
    """Page-locked host memory."""

    @property
    def array(self) -> NDArray[np.uint8]:
        """(size_bytes,) view of the memory; not to be kept longer than the buffer."""
        data: Any = (ctypes.c_uint8 * self.size_bytes).from_address(self.address)
        return np.frombuffer(data, np.uint8)
