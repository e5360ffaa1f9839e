"""One GPU: the way in to its memory, streams, kernels and graphs, and their end."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import FlashsrError
from . import driver
from .events import Event
from .external import ImportedMemory, Timeline
from .graphs import Graph
from .handles import Handles
from .memory import Buffer, HostBuffer
from .modules import Module
from .stream import Stream

__all__ = ["Buffer", "Device", "Event", "Graph", "HostBuffer", "Module", "Stream"]

_log = logging.getLogger(__name__)


class Device:
    """A CUDA device, through its primary context, which is the one that TensorRT and torch use too.

    Methods may be called from any thread; work on streams and buffers needs ``make_current`` in the thread before it.

    Args:
        ordinal: which GPU, as in ``flashsr(device_id=)``.

    Raises:
        FlashsrError: there is no such GPU, or no driver.
    """

    def __init__(self, ordinal: int = 0) -> None:
        api = driver.api()
        driver.check(api.cuInit(0), "start")
        count = int(driver.check(api.cuDeviceGetCount(), "count the GPUs"))
        if not 0 <= ordinal < count:
            raise FlashsrError(
                f"there is no GPU {ordinal}, got {count} from the driver; choose device_id= below {count}"
            )
        self.ordinal = ordinal
        self._device = int(driver.check(api.cuDeviceGet(ordinal), f"open GPU {ordinal}"))
        self._lock = threading.Lock()
        self._handles = Handles()
        self._describe(api)
        self._context: int | None = int(driver.check(api.cuDevicePrimaryCtxRetain(self._device), f"use GPU {ordinal}"))

    def _describe(self, api: Any) -> None:
        """Fill in what never changes. Needs no context, so a failure leaves nothing behind."""
        attributes = api.CUdevice_attribute

        def ask(attribute: Any) -> int:
            return int(driver.check(api.cuDeviceGetAttribute(attribute, self._device), "describe the GPU"))

        name = driver.check(api.cuDeviceGetName(256, self._device), "name the GPU")
        self.name: str = name.split(b"\0")[0].decode(errors="replace").strip()
        self.capability: tuple[int, int] = (
            ask(attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR),
            ask(attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR),
        )
        self.shared_bytes: int = ask(attributes.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)
        """The most shared memory that one block can have."""
        self.timelines: bool = bool(ask(attributes.CU_DEVICE_ATTRIBUTE_TIMELINE_SEMAPHORE_INTEROP_SUPPORTED))
        """Can it wait for, and set, timelines of another API?"""
        self.total_bytes: int = int(driver.check(api.cuDeviceTotalMem(self._device), "say how much memory it has"))
        digits = driver.check(api.cuDeviceGetUuid(self._device), "identify the GPU").bytes.hex()
        self.uuid: str = f"GPU-{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
        self.driver_version: int = int(driver.check(api.cuDriverGetVersion(), "say its version"))
        """The CUDA version that the driver supports: 1000 * major + 10 * minor."""
        if self.driver_version // 1000 < api.CUDA_VERSION // 1000:
            _log.warning(
                "the GPU driver supports CUDA %d.%d, cuda-python was made for %d.%d: update the driver, or "
                "pip install 'cuda-python<%d'",
                self.driver_version // 1000,
                self.driver_version % 1000 // 10,
                api.CUDA_VERSION // 1000,
                api.CUDA_VERSION % 1000 // 10,
                api.CUDA_VERSION // 1000,
            )

    @property
    def closed(self) -> bool:
        """Was ``close`` called?"""
        return self._context is None

    def make_current(self) -> None:
        """Make this the device of the calling thread: at the start of every public entry."""
        if self._context is None:
            raise FlashsrError(f"GPU {self.ordinal} was used after it was closed; open it again")
        driver.check(driver.api().cuCtxSetCurrent(self._context), "use the GPU in this thread")

    def free_bytes(self) -> int:
        """Device memory that the driver could still give, to anybody."""
        self.make_current()
        free, _ = driver.check(driver.api().cuMemGetInfo(), "say how much memory is free")
        return int(free)

    # All that is made here lives until it, or the device, is closed.

    def stream(self) -> Stream:
        """A queue for work."""
        self.make_current()
        return Stream(self._handles)

    def event(self, *, timing: bool = False) -> Event:
        """A mark for streams. ``timing``: it can measure; the host then spins while it waits, rather than sleeps."""
        self.make_current()
        return Event(self._handles, timing=timing)

    def load(self, image: bytes) -> Module:
        """Load a cubin, or PTX."""
        self.make_current()
        return Module(self._handles, image, self.shared_bytes)

    def alloc(self, size_bytes: int) -> Buffer:
        """Device memory, at a multiple of 256 bytes, contents undefined.

        Raises:
            FlashsrError: there is no room; with what is needed, what is free, and what to do.
        """
        self.make_current()
        return Buffer(self._handles, self.name, size_bytes)

    def pinned(self, size_bytes: int) -> HostBuffer:
        """Page-locked host memory, contents undefined. Raises ``FlashsrError`` where the system refuses."""
        self.make_current()
        return HostBuffer(self._handles, size_bytes)

    def constant(self, size_bytes: int, fill: Callable[[NDArray[np.uint8]], None]) -> Buffer:
        """Device memory with the bytes that ``fill`` writes. Waits until they are there."""
        buffer, host, stream = self.alloc(size_bytes), self.pinned(size_bytes), self.stream()
        try:
            fill(host.array)
            stream.upload(buffer, host)
        finally:
            stream.close()
            host.close()
        return buffer

    def constant_array(self, values: NDArray[Any]) -> Buffer:
        """Device memory with these values, in C order. Waits until they are there."""

        def fill(raw: NDArray[np.uint8]) -> None:
            np.copyto(raw.view(values.dtype).reshape(values.shape), values)

        return self.constant(values.nbytes, fill)

    def import_memory(self, handle: int, size_bytes: int) -> ImportedMemory:
        """Memory of another API; see ``ImportedMemory``."""
        self.make_current()
        return ImportedMemory(self._handles, handle, size_bytes)

    def import_timeline(self, handle: int) -> Timeline:
        """A timeline of another API; see ``Timeline``."""
        self.make_current()
        return Timeline(self._handles, handle)

    def close(self) -> None:
        """Wait for the streams, then free everything, from the newest to the oldest, and let go of the context.

        Idempotent; fit for ``register_on_destroy``. Whatever fails, the rest is freed too; then the first failure is raised.
        """
        with self._lock:
            context, self._context = self._context, None
        if context is None:
            return
        api = driver.api()
        errors: list[FlashsrError] = []

        def attempt(call: Callable[[], object]) -> None:
            try:
                call()
            except FlashsrError as error:
                errors.append(error)

        before = api.cuCtxGetCurrent()
        attempt(lambda: driver.check(api.cuCtxSetCurrent(context), "use the GPU in this thread"))
        things = self._handles.newest_first()
        for thing in things:
            if isinstance(thing, Stream):
                attempt(thing.synchronize)
        for thing in things:
            attempt(thing.close)
        attempt(lambda: driver.check(api.cuDevicePrimaryCtxRelease(self._device), "let go of the GPU"))
        # A thread isn't left with a context that has ended with the release; but another model may be at work with it in this
        # very thread, where the garbage of one is collected in the middle of the other's step.
        state = api.cuDevicePrimaryCtxGetState(self._device)
        alive = int(state[0]) == 0 and bool(state[2])
        other = int(before[1]) if int(before[0]) == 0 and (int(before[1]) != context or alive) else 0
        attempt(lambda: driver.check(api.cuCtxSetCurrent(other), "leave the GPU in this thread"))
        # At the end of the process the driver may be gone before us; then nothing was left to free.
        errors = [e for e in errors if not (isinstance(e, driver.DriverError) and e.name == "CUDA_ERROR_DEINITIALIZED")]
        for error in errors[1:]:
            _log.warning("while closing GPU %d: %s", self.ordinal, error)
        if errors:
            raise errors[0]
