"""Device memory and page-locked host memory: each buffer an allocation of the driver, there until it or the device is closed.

Models take what they have stated when they are opened, and nothing after that: there is nothing to pool.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import FlashsrError
from . import driver
from .handles import Handle, Handles


class Buffer(Handle):
    """Device memory; its contents are undefined at first. Its address is a multiple of 256 (CUDA programming guide, device
    memory accesses), which is what TensorRT asks of its bindings.

    Args:
        owner: closes it at the latest.
        name: of the device, for errors.
        size_bytes: at least 1.

    Raises:
        FlashsrError: there is no room.
    """

    what = "a buffer"

    def __init__(self, owner: Handles, name: str, size_bytes: int) -> None:
        _at_least_a_byte(size_bytes)
        api = driver.api()
        try:
            address = int(driver.check(api.cuMemAlloc(size_bytes), "allocate GPU memory"))
        except driver.DriverError as error:
            free, total = driver.check(api.cuMemGetInfo(), "say how much memory is free")
            _refuse(error, f"the GPU {name}", size_bytes, f"{_mib(free)} of {_mib(total)} MiB are free")
        super().__init__(owner, address)
        self.size_bytes = size_bytes

    @property
    def address(self) -> int:
        """Where it is."""
        return self.handle

    def part(self, offset: int, size_bytes: int) -> Part:
        """Some of it."""
        if offset < 0 or size_bytes < 1 or offset + size_bytes > self.size_bytes:
            raise FlashsrError(
                f"bytes {offset}..{offset + size_bytes} don't lie in a buffer of {self.size_bytes}; ask for a part of it"
            )
        return Part(self, offset, size_bytes)

    def _destroy(self, value: int) -> None:
        driver.check(driver.api().cuMemFree(value), "free GPU memory")


@dataclass(frozen=True, slots=True)
class Part:
    """Some of a buffer, there as long as the whole."""

    whole: Buffer
    offset: int
    size_bytes: int

    @property
    def address(self) -> int:
        """Where it is."""
        return self.whole.address + self.offset


class HostBuffer(Handle):
    """Page-locked memory of the host, which copies from and to run beside compute. Arguments and errors as for ``Buffer``."""

    what = "a page-locked buffer"

    def __init__(self, owner: Handles, size_bytes: int) -> None:
        _at_least_a_byte(size_bytes)
        api = driver.api()
        try:
            address = driver.check(
                api.cuMemHostAlloc(size_bytes, api.CU_MEMHOSTALLOC_PORTABLE), "allocate page-locked host memory"
            )
        except driver.DriverError as error:
            _refuse(error, "page-locked host memory", size_bytes, "the system refuses to lock more")
        super().__init__(owner, int(address))
        self.size_bytes = size_bytes

    @property
    def address(self) -> int:
        """Where it is."""
        return self.handle

    @property
    def array(self) -> NDArray[np.uint8]:
        """(size_bytes,) view of the memory; not to be kept longer than the buffer."""
        data: Any = (ctypes.c_uint8 * self.size_bytes).from_address(self.address)
        return np.frombuffer(data, np.uint8)

    def _destroy(self, value: int) -> None:
        driver.check(driver.api().cuMemFreeHost(value), "free page-locked host memory")


def _at_least_a_byte(size_bytes: int) -> None:
    if size_bytes < 1:
        raise FlashsrError(f"a buffer has at least 1 byte, got {size_bytes}; ask for more")


def _refuse(error: driver.DriverError, name: str, size_bytes: int, room: str) -> None:
    """Where memory ran out, with the numbers; else as the driver says."""
    if error.name != "CUDA_ERROR_OUT_OF_MEMORY":
        raise error
    raise FlashsrError(
        f"{name} has no room for {_mib(size_bytes)} MiB more, got {room}; "
        "use a smaller tile= or a smaller model, or close what else uses the GPU"
    ) from error


def _mib(size_bytes: int) -> int:
    """Rounded up, as errors state it."""
    return -(-size_bytes >> 20)
