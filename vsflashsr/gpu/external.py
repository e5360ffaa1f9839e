"""Memory and timelines of another API (Vulkan's, which VapourSynth keeps frames with), imported by their handles."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any

from . import driver
from .handles import Handle, Handles

_WINDOWS = sys.platform == "win32"


def close_handle(handle: int) -> None:
    """Give back a handle that won't be imported: a file descriptor, or on Windows an NT handle."""
    if sys.platform == "win32":
        ctypes.windll.kernel32.CloseHandle(ctypes.c_void_p(handle))
    else:
        os.close(handle)


def _described(description: Any, handle: int) -> Any:
    if _WINDOWS:
        description.handle.win32.handle = handle
    else:
        description.handle.fd = handle
    return description


def _imported(result: tuple[Any, ...], action: str, handle: int) -> int:
    """What a call that imports a handle returned. A file descriptor is the driver's once that has worked; an NT handle never."""
    failed = int(result[0]) != 0
    if failed or _WINDOWS:
        close_handle(handle)
    return int(driver.check(result, action))


class ImportedMemory(Handle):
    """A whole allocation. The work that uses it has to have run before it is closed.

    Args:
        owner: closes it at the latest.
        handle: of the allocation; it is used up, whatever happens.
        size_bytes: of the allocation.
    """

    what = "imported memory"

    def __init__(self, owner: Handles, handle: int, size_bytes: int) -> None:
        api = driver.api()
        kinds = api.CUexternalMemoryHandleType
        description = _described(api.CUDA_EXTERNAL_MEMORY_HANDLE_DESC(), handle)
        description.type = (
            kinds.CU_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_WIN32
            if _WINDOWS
            else kinds.CU_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD
        )
        description.size = size_bytes
        value = _imported(api.cuImportExternalMemory(description), "import the memory of a resident frame", handle)
        part = api.CUDA_EXTERNAL_MEMORY_BUFFER_DESC()
        part.offset, part.size = 0, size_bytes
        try:
            mapped = driver.check(
                api.cuExternalMemoryGetMappedBuffer(value, part), "map the memory of a resident frame"
            )
        except driver.DriverError:
            api.cuDestroyExternalMemory(value)
            raise
        super().__init__(owner, value)
        self.address = int(mapped)
        """Where it begins."""
        self.size_bytes = size_bytes

    def _destroy(self, value: int) -> None:
        api = driver.api()
        try:
            driver.check(api.cuMemFree(self.address), "unmap the memory of a resident frame")
        finally:
            driver.check(api.cuDestroyExternalMemory(value), "let go of the memory of a resident frame")


class Timeline(Handle):
    """A timeline semaphore: a number that only grows, which streams wait for and set.

    Args:
        owner: closes it at the latest.
        handle: of the semaphore; it is used up, whatever happens.
    """

    what = "an imported timeline"

    def __init__(self, owner: Handles, handle: int) -> None:
        api = driver.api()
        kinds = api.CUexternalSemaphoreHandleType
        description = _described(api.CUDA_EXTERNAL_SEMAPHORE_HANDLE_DESC(), handle)
        description.type = (
            kinds.CU_EXTERNAL_SEMAPHORE_HANDLE_TYPE_TIMELINE_SEMAPHORE_WIN32
            if _WINDOWS
            else kinds.CU_EXTERNAL_SEMAPHORE_HANDLE_TYPE_TIMELINE_SEMAPHORE_FD
        )
        super().__init__(owner, _imported(api.cuImportExternalSemaphore(description), "import a timeline", handle))

    def wait(self, stream: Handle, value: int) -> None:
        """What is queued on the stream from now on runs once the timeline has reached the value."""
        api = driver.api()
        reached = api.CUDA_EXTERNAL_SEMAPHORE_WAIT_PARAMS()
        reached.params.fence.value = value
        driver.check(
            api.cuWaitExternalSemaphoresAsync([api.CUexternalSemaphore(self.handle)], [reached], 1, stream.handle),
            "queue a wait for a timeline",
        )

    def signal(self, stream: Handle, value: int) -> None:
        """The timeline reaches the value behind everything that is queued on the stream by now."""
        api = driver.api()
        reached = api.CUDA_EXTERNAL_SEMAPHORE_SIGNAL_PARAMS()
        reached.params.fence.value = value
        driver.check(
            api.cuSignalExternalSemaphoresAsync([api.CUexternalSemaphore(self.handle)], [reached], 1, stream.handle),
            "queue a timeline's signal",
        )

    def _destroy(self, value: int) -> None:
        driver.check(driver.api().cuDestroyExternalSemaphore(value), "let go of a timeline")
