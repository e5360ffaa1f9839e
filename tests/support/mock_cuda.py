"""A CUDA driver over host memory, for tests: the functions of ``cuda.bindings.driver`` that vsflashsr calls.

Work is queued and run late, or early, as a GPU might: a stream is by turns lazy (nothing of it runs before somebody waits
for it) or eager (it runs at once), drawn anew at each wait from a seeded generator, and what is needed for a wait runs in a
random order that respects nothing but the order within a stream and recorded events. So a missing event shows as wrong
bytes for some seed; and whatever the seed, operations that collide in memory and that nothing orders raise. Memory is filled
with 0xFF (NaN) when it is fresh and when it is freed.

What a GPU would answer with corrupted memory raises ``MockError``; what it refuses returns its error code.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import random
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from vsflashsr.errors import FlashsrError
from vsflashsr.gpu import driver
from vsflashsr.gpu.device import Device

from .mock_memory import DEVICE, IMPORTED, PINNED, MockError, MockMemory, Use
from .mock_queue import Capture, Executable, Node, Operation, Queue, StreamState

__all__ = ["CUresult", "Handle", "MockDriver", "MockError", "image", "mock_device"]

type Range = tuple[int, int]
"""Address and size in bytes."""
type KernelFunction = Callable[[tuple[int, int, int], Sequence[Any], Callable[..., NDArray[Any]]], object]


class CUresult(IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_NOT_INITIALIZED = 3
    CUDA_ERROR_DEINITIALIZED = 4
    CUDA_ERROR_NO_DEVICE = 100
    CUDA_ERROR_INVALID_DEVICE = 101
    CUDA_ERROR_INVALID_IMAGE = 200
    CUDA_ERROR_INVALID_CONTEXT = 201
    CUDA_ERROR_NO_BINARY_FOR_GPU = 209
    CUDA_ERROR_INVALID_HANDLE = 400
    CUDA_ERROR_NOT_FOUND = 500
    CUDA_ERROR_NOT_READY = 600
    CUDA_ERROR_ILLEGAL_ADDRESS = 700
    CUDA_ERROR_LAUNCH_FAILED = 719
    CUDA_ERROR_NOT_SUPPORTED = 801
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900
    CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901
    CUDA_ERROR_STREAM_CAPTURE_UNMATCHED = 903
    CUDA_ERROR_STREAM_CAPTURE_ISOLATION = 905
    CUDA_ERROR_UNKNOWN = 999


class CUevent_flags(IntEnum):
    CU_EVENT_DEFAULT = 0
    CU_EVENT_BLOCKING_SYNC = 1
    CU_EVENT_DISABLE_TIMING = 2


class CUstream_flags(IntEnum):
    CU_STREAM_DEFAULT = 0
    CU_STREAM_NON_BLOCKING = 1


class CUstreamCaptureMode(IntEnum):
    CU_STREAM_CAPTURE_MODE_RELAXED = 2


class CUdevice_attribute(IntEnum):
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76
    CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN = 97
    CU_DEVICE_ATTRIBUTE_TIMELINE_SEMAPHORE_INTEROP_SUPPORTED = 114


class CUexternalMemoryHandleType(IntEnum):
    CU_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD = 1
    CU_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_WIN32 = 2


class CUexternalSemaphoreHandleType(IntEnum):
    CU_EXTERNAL_SEMAPHORE_HANDLE_TYPE_TIMELINE_SEMAPHORE_FD = 9
    CU_EXTERNAL_SEMAPHORE_HANDLE_TYPE_TIMELINE_SEMAPHORE_WIN32 = 10


class CUfunction_attribute(IntEnum):
    CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES = 1
    CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8


@dataclass
class _ImportedHandle:
    fd: int = -1


@dataclass
class CUDA_EXTERNAL_MEMORY_HANDLE_DESC:
    type: CUexternalMemoryHandleType | None = None
    handle: _ImportedHandle = field(default_factory=_ImportedHandle)
    size: int = 0
    flags: int = 0


@dataclass
class CUDA_EXTERNAL_MEMORY_BUFFER_DESC:
    offset: int = 0
    size: int = 0
    flags: int = 0


@dataclass
class CUDA_EXTERNAL_SEMAPHORE_HANDLE_DESC:
    type: CUexternalSemaphoreHandleType | None = None
    handle: _ImportedHandle = field(default_factory=_ImportedHandle)
    flags: int = 0


@dataclass
class _Fence:
    value: int = 0


@dataclass
class _FenceParams:
    fence: _Fence = field(default_factory=_Fence)


@dataclass
class CUDA_EXTERNAL_SEMAPHORE_WAIT_PARAMS:
    params: _FenceParams = field(default_factory=_FenceParams)
    flags: int = 0


@dataclass
class CUDA_EXTERNAL_SEMAPHORE_SIGNAL_PARAMS:
    params: _FenceParams = field(default_factory=_FenceParams)
    flags: int = 0


@dataclass(frozen=True)
class CUuuid:
    bytes: bytes


class Handle:
    """What the driver returns for an object or an address: a number only when asked for it."""

    def __init__(self, value: int) -> None:
        self._value = value

    def __int__(self) -> int:
        return self._value

    def __index__(self) -> int:
        return self._value


class CUexternalSemaphore(Handle):
    pass


class _Status(Exception):
    def __init__(self, code: CUresult) -> None:
        super().__init__(code.name)
        self.code = code


@dataclass(eq=False, slots=True)
class _Event:
    timing: bool
    operation: Operation | None = None
    """Of its last record."""
    time_ms: float = 0.0


@dataclass(eq=False)
class _Function:
    name: str
    allowed_bytes: int = 48 << 10


@dataclass
class _Failure:
    name: str
    after: int
    error: CUresult


def image(*kernels: str) -> bytes:
    """A module for ``Device.load`` that holds these kernels. Real cubins are taken too: their symbols count."""
    return b"MOCK\0" + b"".join(name.encode() + b"\0" for name in kernels)


def _call(
    values: int = 0, *, context: bool = True, late: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., tuple[Any, ...]]]:
    """A function of the driver, which returns a status and ``values`` values (None where it fails).

    ``late``: an error that is injected here is one of earlier work, as CUDA documents for these functions; they do their
    own all the same.
    """

    def wrap(function: Callable[..., Any]) -> Callable[..., tuple[Any, ...]]:
        @functools.wraps(function)
        def call(self: MockDriver, *args: Any) -> tuple[Any, ...]:
            nothing = (None,) * values
            with self._lock:
                self.calls.append((function.__name__, args))
                injected = self._injected(function.__name__)
                if injected is not None and not late:
                    return (injected, *nothing)
                if context and self._current() is None:
                    return (CUresult.CUDA_ERROR_INVALID_CONTEXT, *nothing)
                try:
                    result = function(self, *args)
                except _Status as status:
                    return (status.code, *nothing)
                if injected is not None:
                    if isinstance(result, Handle):  # of a capture that ended, but badly
                        self._graphs.pop(int(result))
                    return (injected, *nothing)
                return (CUresult.CUDA_SUCCESS, *(() if values == 0 else result if values > 1 else (result,)))

        setattr(call, "values", values)  # noqa: B010 (mypy knows no attributes of functions)
        return call

    return wrap


class MockDriver:
    """Stands in for the module ``cuda.bindings.driver``.

    Args:
        seed: of everything that is left open.
        eagerness: share of the streams that run at once rather than late.
        total_bytes: device memory.
        capability: compute capability.
        shared_bytes: shared memory that a block can have at most.
        races: raise where operations collide in memory and nothing orders them.
        uuid: which GPU it is.

    Memory of another API is imported by mapping the file descriptor that stands for it: software Vulkan's is memory of the
    host. A timeline is a file that holds a number, eight bytes.
    """

    CUDA_VERSION = 13000
    CU_MEMHOSTALLOC_PORTABLE = 1

    def __init__(
        self,
        *,
        seed: int = 0,
        eagerness: float = 0.5,
        total_bytes: int = 256 << 20,
        capability: tuple[int, int] = (8, 9),
        shared_bytes: int = 99 << 10,
        races: bool = True,
        uuid: bytes = bytes(range(16)),
    ) -> None:
        rng = random.Random(seed)
        self.uuid = uuid
        self._imports: dict[int, mmap.mmap] = {}
        self._mapped: dict[int, int] = {}
        self._timelines: dict[int, int] = {}
        self._memory = MockMemory(rng)
        self._queue = Queue(rng, eagerness, races=races)
        self._lock = threading.RLock()
        self._thread = threading.local()
        self._failures: list[_Failure] = []
        self._next = 0x1000
        self._started = False
        self._context = 0
        self._retained = 0
        self._streams: dict[int, StreamState] = {}
        self._events: dict[int, _Event] = {}
        self._modules: dict[int, bytes] = {}
        self._functions: dict[int, _Function] = {}
        self._graphs: dict[int, list[Node]] = {}
        self._executables: dict[int, Executable] = {}
        self._attributes = {
            CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: capability[0],
            CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: capability[1],
            CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: shared_bytes,
            CUdevice_attribute.CU_DEVICE_ATTRIBUTE_TIMELINE_SEMAPHORE_INTEROP_SUPPORTED: 1,
        }
        self.total_bytes = total_bytes
        self.driver_version = 13000
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        """Every call, with its arguments."""
        self._lent: dict[int, int] = {}
        self.kernels: dict[str, KernelFunction] = {}
        """What kernels do: ``function(grid, args, view)``; ``view`` is ``MockDriver.view``."""
        self.ran = self._queue.ran
        """Names of the operations that ran, in order."""

    # What tests ask and do.

    def view(self, address: int, count: int, dtype: DTypeLike = np.uint8) -> NDArray[Any]:
        """``count`` elements of live memory, to read and write. Raises ``MockError`` for any other memory."""
        size_bytes = count * np.dtype(dtype).itemsize
        if self.is_lent(address, size_bytes):
            data: Any = (ctypes.c_uint8 * size_bytes).from_address(address)
            return np.frombuffer(data, np.uint8).view(dtype)
        memory = self._memory.view(address, count, dtype)
        self._queue.look(address, memory.view(np.uint8))
        return memory

    def lend(self, address: int, size_bytes: int) -> None:
        """Another library's memory on the device, such as torch's weights, is there to be read."""
        self._lent[address] = max(size_bytes, self._lent.get(address, 0))

    def is_lent(self, address: int, size_bytes: int = 1) -> bool:
        """Is this another library's memory?"""
        return any(first <= address and address + size_bytes <= first + size for first, size in self._lent.items())

    def enqueue(
        self,
        stream: int,
        function: Callable[[], object],
        *,
        reads: Iterable[Range] = (),
        writes: Iterable[Range] = (),
        name: str = "host",
    ) -> None:
        """Queue work of a test's own (an engine, say) on a stream; ``reads`` and ``writes`` is what it touches."""
        with self._lock:
            ours = [(address, size) for address, size in reads if not self.is_lent(address)]
            uses = [self._memory.use(address, size, writes=False) for address, size in ours]
            uses += [self._memory.use(address, size, writes=True) for address, size in writes]
            self._issue(self._stream(stream), name, function, tuple(uses))

    def fail(self, name: str = "*", *, after: int = 0, error: str = "CUDA_ERROR_UNKNOWN") -> None:
        """Let one call of a function (``*``: of any) fail, the one after ``after`` more that succeed."""
        self._failures.append(_Failure(name, after, CUresult[error]))

    def heal(self) -> None:
        """No more failures."""
        self._failures.clear()

    @property
    def used_bytes(self) -> int:
        """Device memory allocated by now."""
        return self._memory.device_bytes

    @property
    def peak_bytes(self) -> int:
        """The most device memory that was allocated at once."""
        return self._memory.peak_bytes

    @property
    def addresses(self) -> list[int]:
        """Of all memory that is allocated, as the driver returned them."""
        return self._memory.addresses

    @property
    def alive(self) -> dict[str, int]:
        """What was made and not yet destroyed, by kind; empty when all is gone."""
        counts = {
            "contexts": self._retained,
            "streams": len(self._streams),
            "events": len(self._events),
            "modules": len(self._modules),
            "captured graphs": len(self._graphs),
            "graphs": len(self._executables),
            "imports": len(self._imports),
            "timelines": len(self._timelines),
        }
        counts |= self._memory.counts
        return {kind: count for kind, count in counts.items() if count}

    def assert_clean(self) -> None:
        """Nothing is alive, nothing was written beside the allocations."""
        self._memory.check_guards()
        if self.alive:
            raise MockError(f"not freed: {self.alive}")

    # What the functions below share.

    def _issue(
        self,
        stream: StreamState,
        name: str,
        run: Callable[[], object],
        uses: tuple[Use, ...] = (),
        after: Sequence[Operation] = (),
    ) -> None:
        """Queue an operation, or capture it."""
        if stream.capture is None:
            self._queue.put(stream, name, run, uses, after)
            return
        self._check_valid(stream.capture)
        if after:
            raise MockError(f"{name!r} waits inside a capture, which only one stream has here")
        stream.capture.nodes.append(Node(name, run, uses))

    def _wait(self, target: Operation | None) -> None:
        """The host waits."""
        self._queue.wait(target)
        self._queue.turn(self._streams.values())

    def _free(self, kind: str, address: int) -> None:
        allocation = self._memory.get(address)
        if allocation is None or allocation.kind != kind:
            raise _Status(CUresult.CUDA_ERROR_INVALID_VALUE)
        self._queue.check_unused(allocation)
        self._memory.drop(allocation)

    def _stream(self, handle: Any) -> StreamState:
        stream = self._streams.get(int(handle))
        if stream is None:
            raise _Status(CUresult.CUDA_ERROR_INVALID_HANDLE)
        return stream

    def _event(self, handle: Any) -> _Event:
        event = self._events.get(int(handle))
        if event is None:
            raise _Status(CUresult.CUDA_ERROR_INVALID_HANDLE)
        return event

    def _check_valid(self, capture: Capture) -> None:
        if not capture.valid:
            raise _Status(CUresult.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED)

    def _injected(self, name: str) -> CUresult | None:
        for failure in self._failures:
            if failure.name in ("*", name):
                if failure.after == 0:
                    self._failures.remove(failure)
                    return failure.error
                failure.after -= 1
        return None

    def _current(self) -> int | None:
        """The calling thread's context, if it is alive."""
        context = getattr(self._thread, "context", 0)
        return context if context and context == self._context and self._retained else None

    def _handle(self) -> int:
        self._next += 0x10
        return self._next

    # The driver's functions, in the order of its documentation.

    def cuGetErrorString(self, error: CUresult) -> tuple[Any, ...]:
        return (CUresult.CUDA_SUCCESS, f"the mock's text of {int(error)}".encode())

    @_call(context=False)
    def cuInit(self, flags: int) -> None:
        if flags != 0:
            raise _Status(CUresult.CUDA_ERROR_INVALID_VALUE)
        self._started = True

    @_call(1)
    def cuImportExternalMemory(self, description: CUDA_EXTERNAL_MEMORY_HANDLE_DESC) -> Handle:
        if description.type != CUexternalMemoryHandleType.CU_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD or description.size < 1:
            raise _Status(CUresult.CUDA_ERROR_INVALID_VALUE)
        try:
            file = description.handle.fd
            # lavapipe's begins with its own size, and where the memory begins (Mesa 25.0, two 64-bit numbers).
            has_head = os.fstat(file).st_size > description.size
            begin = int.from_bytes(os.pread(file, 8, 8), "little") if has_head else 0
            memory = mmap.mmap(file, description.size, offset=begin)
        except (OSError, ValueError) as error:
            raise _Status(CUresult.CUDA_ERROR_INVALID_HANDLE) from error
        os.close(description.handle.fd)
        handle = self._handle()
        self._imports[handle] = memory
        return Handle(handle)

    @_call(1)
    def cuExternalMemoryGetMappedBuffer(self, memory: Any, part: CUDA_EXTERNAL_MEMORY_BUFFER_DESC) -> Handle:
        found = self._imports.get(int(memory))
        if found is None or part.offset + part.size > len(found):
            raise _Status(CUresult.CUDA_ERROR_INVALID_VALUE)
        address = self._memory.take(np.frombuffer(found, np.uint8, part.size, part.offset))
        self._mapped[address] = int(memory)
        return Handle(address)

    @_call(late=True)
    def cuDestroyExternalMemory(self, memory: Any) -> None:
        if int(memory) in self._mapped.values():
            raise MockError("imported memory was let go of while it is mapped")
        if self._imports.pop(int(memory), None) is None:
            raise _Status(CUresult.CUDA_ERROR_INVALID_HANDLE)

    @_call(1)
    def cuImportExternalSemaphore(self, description: CUDA_EXTERNAL_SEMAPHORE_HANDLE_DESC) -> Handle:
        kinds = CUexternalSemaphoreHandleType
        if description.type != kinds.CU_EXTERNAL_SEMAPHORE_HANDLE_TYPE_TIMELINE_SEMAPHORE_FD:
            raise _Status(CUresult.CUDA_ERROR_INVALID_VALUE)
        handle = self._handle()
        self._timelines[handle] = description.handle.fd
        return Handle(handle)

    @_call(late=True)
    def cuDestroyExternalSemaphore(self, timeline: Any) -> None:
        if int(timeline) not in self._timelines:
            raise _Status(CUresult.CUDA_ERROR_INVALID_HANDLE)
        os.close(self._timelines.pop(int(timeline)))

    @_call()
    def cuWaitExternalSemaphoresAsync(self, timelines: list[Any], params: list[Any], count: int, stream: Any) -> None:
        for timeline, reached in zip(timelines[:count], params, strict=True):
            file, value = self._timelines[int(timeline)], reached.params.fence.value

            def wait(file: int = file, value: int = value) -> None:
                if (found := int.from_bytes(os.pread(file, 8, 0), "little")) < value:
                    raise MockError(f"a stream would wait for ever: a timeline is at {found}, not at {value}")

            self._issue(self._stream(stream), "wait for a timeline", wait)

    @_call()
    def cuSignalExternalSemaphoresAsync(self, timelines: list[Any], params: list[Any], count: int, stream: Any) -> None:
        for timeline, reached in zip(timelines[:count], params, strict=True):
            file, value = self._timelines[int(timeline)], reached.params.fence.value

            def signal(file: int = file, value: int = value) -> None:
                if int.from_bytes(os.pread(file, 8, 0), "little") >= value:
                    raise MockError("a timeline goes back")
                os.pwrite(file, value.to_bytes(8, "little"), 0)

            self._issue(self._stream(stream), "signal a timeline", signal)

    @_call(1, context=False)
    def cuDriverGetVersion(self) -> int:
        return self.driver_version

    @_call(1, context=False)
    def cuDeviceGetCount(self) -> int:
        self._check_started()
        return 1

    @_call(1, context=False)
    def cuDeviceGet(self, ordinal: int) -> Handle:
        self._check_started()
        self._check_device(ordinal)
        return Handle(ordinal)

    @_call(1, context=False)
    def cuDeviceGetName(self, length: int, device: Any) -> bytes:
        self._check_device(device)
        return b"Mock GPU\0".ljust(length)

    @_call(1, context=False)
    def cuDeviceGetUuid(self, device: Any) -> CUuuid:
        self._check_device(device)
        return CUuuid(self.uuid)

    @_call(1, context=False)
    def cuDeviceTotalMem(self, device: Any) -> int:
        self._check_device(device)
        return self.total_bytes

    @_call(1, context=False)
    def cuDeviceGetAttribute(self, attribute: CUdevice_attribute, device: Any) -> int:
        self._check_device(device)
        return self._attributes[attribute]

    def _check_started(self) -> None:
        if not self._started:
            raise _Status(CUresult.CUDA_ERROR_NOT_INITIALIZED)

    def _check_device(self, device: Any) -> None:
        if int(device) != 0:
            raise _Status(CUresult.CUDA_ERROR_INVALID_DEVICE)

    @_call(1, context=False)
    def cuDevicePrimaryCtxRetain(self, device: Any) -> Handle:
        self._check_device(device)
        if not self._retained:
            self._context = self._handle()
        self._retained += 1
        return Handle(self._context)

    @_call(context=False, late=True)
    def cuDevicePrimaryCtxRelease(self, device: Any) -> None:
        self._check_device(device)
        if not self._retained:
            raise _Status(CUresult.CUDA_ERROR_INVALID_CONTEXT)
        self._retained -= 1

    @_call(2, context=False)
    def cuDevicePrimaryCtxGetState(self, device: Any) -> tuple[int, int]:
        self._check_device(device)
        return 0, int(self._retained > 0)

    @_call(context=False)
    def cuCtxSetCurrent(self, context: Any) -> None:
        if int(context) not in (0, self._context):
            raise _Status(CUresult.CUDA_ERROR_INVALID_CONTEXT)
        self._thread.context = int(context)

    @_call(1, context=False)
    def cuCtxGetCurrent(self) -> Handle:
        return Handle(getattr(self._thread, "context", 0))

    @_call(1)
    def cuModuleLoadData(self, image: bytes) -> Handle:
        if not image.startswith((b"MOCK\0", b"\x7fELF")):
            raise _Status(CUresult.CUDA_ERROR_INVALID_IMAGE)
        handle = self._handle()
        self._modules[handle] = bytes(image)
        return Handle(handle)

    @_call(late=True)
    def cuModuleUnload(self, module: Any) -> None:
        if self._modules.pop(int(module), None) is None:
            raise _Status(CUresult.CUDA_ERROR_INVALID_HANDLE)

    @_call(1)
    def cuModuleGetFunction(self, module: Any, name: bytes) -> Handle:
        if int(module) not in self._modules:
            raise _Status(CUresult.CUDA_ERROR_INVALID_HANDLE)
        if name + b"\0" not in self._modules[int(module)]:
            raise _Status(CUresult.CUDA_ERROR_NOT_FOUND)
        handle = self._handle()
        self._functions[handle] = _Function(name.decode())
        return Handle(handle)

    @_call(2)
    def cuMemGetInfo(self) -> tuple[int, int]:
        return self.total_bytes - self.used_bytes, self.total_bytes

    @_call(1)
    def cuMemAlloc(self, size_bytes: int) -> Handle:
        if self.used_bytes + size_bytes > self.total_bytes:
            raise _Status(CUresult.CUDA_ERROR_OUT_OF_MEMORY)
        if size_bytes < 1:
            raise _Status(CUresult.CUDA_ERROR_INVALID_VALUE)
        return Handle(self._memory.new(DEVICE, size_bytes))

    @_call(late=True)
    def cuMemFree(self, address: Any) -> None:
        self._free(IMPORTED if int(address) in self._mapped else DEVICE, int(address))
        self._mapped.pop(int(address), None)

    @_call(1)
    def cuMemHostAlloc(self, size_bytes: int, flags: int) -> int:
        if size_bytes < 1:
            raise _Status(CUresult.CUDA_ERROR_INVALID_VALUE)
        return self._memory.new(PINNED, size_bytes)

    @_call(late=True)
    def cuMemFreeHost(self, address: Any) -> None:
        self._free(PINNED, int(address))

    @_call()
    def cuMemcpyHtoDAsync(self, dst: Any, src: Any, size: int, stream: Any) -> None:
        self._copy("upload", stream, (DEVICE, int(dst)), (PINNED, int(src)), size)

    @_call()
    def cuMemcpyDtoHAsync(self, dst: Any, src: Any, size: int, stream: Any) -> None:
        self._copy("download", stream, (PINNED, int(dst)), (DEVICE, int(src)), size)

    @_call()
    def cuMemcpyDtoDAsync(self, dst: Any, src: Any, size: int, stream: Any) -> None:
        self._copy("copy", stream, (DEVICE, int(dst)), (DEVICE, int(src)), size)

    def _copy(
        self, name: str, stream: Any, to: tuple[str, int], source: tuple[str, int], size: int
    ) -> None:
        """Queue a copy; each side is (kind of memory, address)."""
        (kind_to, dst), (kind_from, src) = to, source
        uses = (
            self._memory.use(dst, size, kind_to, writes=True),
            self._memory.use(src, size, kind_from, writes=False),
        )
        if src < dst + size and dst < src + size:
            raise MockError(f"a copy of {size} bytes from {src:#x} to {dst:#x} overlaps itself")

        def run() -> None:
            # Bytes are read when the copy runs, not when it was queued.
            self.view(dst, size)[:] = self.view(src, size).copy()

        self._issue(self._stream(stream), name, run, uses)

    @_call()
    def cuMemsetD8Async(self, address: Any, value: int, size: int, stream: Any) -> None:
        def run() -> None:
            self.view(int(address), size)[:] = value

        self._issue(
            self._stream(stream), "memset", run, (self._memory.use(int(address), size, DEVICE, writes=True),)
        )

    @_call(1)
    def cuStreamCreate(self, flags: int) -> Handle:
        handle = self._handle()
        self._streams[handle] = self._queue.stream(handle)
        return Handle(handle)

    @_call(late=True)
    def cuStreamDestroy(self, stream: Any) -> None:
        state = self._stream(stream)
        if state.capture is not None:
            state.capture.valid = False
        del self._streams[state.handle]

    @_call(late=True)
    def cuStreamSynchronize(self, stream: Any) -> None:
        state = self._stream(stream)
        if state.capture is not None:
            state.capture.valid = False
            raise _Status(CUresult.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED)
        self._wait(state.tail)

    @_call()
    def cuStreamWaitEvent(self, stream: Any, event: Any, flags: int) -> None:
        state, mark = self._stream(stream), self._event(event)
        if state.capture is not None:
            self._check_valid(state.capture)
            state.capture.valid = False
            raise _Status(CUresult.CUDA_ERROR_STREAM_CAPTURE_ISOLATION)
        if mark.operation is not None:
            self._issue(state, "wait", lambda: None, after=[mark.operation])

    @_call()
    def cuStreamBeginCapture(self, stream: Any, mode: CUstreamCaptureMode) -> None:
        state = self._stream(stream)
        if state.capture is not None:
            raise _Status(CUresult.CUDA_ERROR_INVALID_VALUE)
        if mode != CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED:
            raise NotImplementedError("captures in a mode that forbids calls elsewhere")
        state.capture = Capture()

    @_call(1, late=True)
    def cuStreamEndCapture(self, stream: Any) -> Handle:
        state = self._stream(stream)
        capture, state.capture = state.capture, None
        if capture is None:
            raise _Status(CUresult.CUDA_ERROR_STREAM_CAPTURE_UNMATCHED)
        self._check_valid(capture)
        handle = self._handle()
        self._graphs[handle] = capture.nodes
        return Handle(handle)

    @_call(1)
    def cuEventCreate(self, flags: int) -> Handle:
        handle = self._handle()
        self._events[handle] = _Event(timing=not flags & CUevent_flags.CU_EVENT_DISABLE_TIMING)
        return Handle(handle)

    @_call(late=True)
    def cuEventDestroy(self, event: Any) -> None:
        self._event(event)
        del self._events[int(event)]

    @_call()
    def cuEventRecord(self, event: Any, stream: Any) -> None:
        mark, state = self._event(event), self._stream(stream)
        if state.capture is not None:
            raise NotImplementedError("an event recorded inside a capture, as streams that fork would need it")

        def run() -> None:
            mark.time_ms = self._queue.clock_ms

        mark.operation = self._queue.put(state, "event", run)

    @_call(late=True)
    def cuEventSynchronize(self, event: Any) -> None:
        self._wait(self._event(event).operation)

    @_call(late=True)
    def cuEventQuery(self, event: Any) -> None:
        operation = self._event(event).operation
        if operation is not None and not operation.done:
            raise _Status(CUresult.CUDA_ERROR_NOT_READY)
        if operation is not None:
            self._queue.wait(operation)

    @_call(1)
    def cuEventElapsedTime(self, start: Any, end: Any) -> float:
        marks = (self._event(start), self._event(end))
        for mark in marks:
            if not mark.timing or mark.operation is None:
                raise _Status(CUresult.CUDA_ERROR_INVALID_HANDLE)
        for mark in marks:
            if mark.operation is not None and not mark.operation.done:
                raise _Status(CUresult.CUDA_ERROR_NOT_READY)
        return marks[1].time_ms - marks[0].time_ms

    def _function(self, handle: Any) -> _Function:
        function = self._functions.get(int(handle))
        if function is None:
            raise _Status(CUresult.CUDA_ERROR_INVALID_HANDLE)
        return function

    @_call(1)
    def cuFuncGetAttribute(self, attribute: CUfunction_attribute, function: Any) -> int:
        self._function(function)
        if attribute != CUfunction_attribute.CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES:
            raise _Status(CUresult.CUDA_ERROR_INVALID_VALUE)
        return 0

    @_call()
    def cuFuncSetAttribute(self, function: Any, attribute: CUfunction_attribute, value: int) -> None:
        limit = self._attributes[CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN]
        dynamic = CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        if attribute != dynamic or not 0 <= value <= limit:
            raise _Status(CUresult.CUDA_ERROR_INVALID_VALUE)
        self._function(function).allowed_bytes = value

    @_call()
    def cuLaunchKernel(
        self,
        function: Any,
        grid_x: int,
        grid_y: int,
        grid_z: int,
        block_x: int,
        block_y: int,
        block_z: int,
        shared_bytes: int,
        stream: Any,
        params: tuple[tuple[Any, ...], tuple[Any, ...]],
        extra: int,
    ) -> None:
        kernel, state = self._function(function), self._stream(stream)
        threads = block_x * block_y * block_z
        grid = (grid_x, grid_y, grid_z)
        fits = 1 <= threads <= 1024 and min(grid) >= 1 and max(grid_y, grid_z) <= 65535 and grid_x < 2**31
        if not fits or shared_bytes > kernel.allowed_bytes or extra != 0:
            raise _Status(CUresult.CUDA_ERROR_INVALID_VALUE)
        if kernel.name not in self.kernels:
            raise _Status(CUresult.CUDA_ERROR_NOT_FOUND)
        args: list[Any] = []
        uses: list[Use] = []
        for value, ctype in zip(*params, strict=True):
            if ctype is ctypes.c_void_p:
                args.append(int(value))
                if value:
                    uses.append(self._memory.use(int(value), 1, writes=None))
            elif ctype is None:
                args.append(type(value).from_buffer_copy(value))  # a structure, taken as it is now
            else:
                args.append(ctype(value).value)
        # Looked up when it runs would let a test replace the kernel of a captured graph by mistake.
        work = self.kernels[kernel.name]
        self._issue(state, kernel.name, lambda: work(grid, args, self.view), tuple(uses))

    @_call(1)
    def cuGraphInstantiate(self, graph: Any, flags: int) -> Handle:
        if int(graph) not in self._graphs:
            raise _Status(CUresult.CUDA_ERROR_INVALID_VALUE)
        handle = self._handle()
        self._executables[handle] = Executable(list(self._graphs[int(graph)]))
        return Handle(handle)

    @_call(late=True)
    def cuGraphDestroy(self, graph: Any) -> None:
        if self._graphs.pop(int(graph), None) is None:
            raise _Status(CUresult.CUDA_ERROR_INVALID_VALUE)

    @_call(late=True)
    def cuGraphExecDestroy(self, graph: Any) -> None:
        if self._executables.pop(int(graph), None) is None:
            raise _Status(CUresult.CUDA_ERROR_INVALID_VALUE)

    @_call()
    def cuGraphLaunch(self, graph: Any, stream: Any) -> None:
        executable, state = self._executables.get(int(graph)), self._stream(stream)
        if executable is None:
            raise _Status(CUresult.CUDA_ERROR_INVALID_VALUE)
        if state.capture is not None:
            raise NotImplementedError("a graph launched inside a capture")
        self._queue.launch(executable, state)


# The types are found in the module, as in the real one.
for _kind in (
    CUresult,
    CUevent_flags,
    CUstream_flags,
    CUstreamCaptureMode,
    CUdevice_attribute,
    CUfunction_attribute,
    CUexternalMemoryHandleType,
    CUexternalSemaphoreHandleType,
    CUDA_EXTERNAL_MEMORY_HANDLE_DESC,
    CUDA_EXTERNAL_MEMORY_BUFFER_DESC,
    CUDA_EXTERNAL_SEMAPHORE_HANDLE_DESC,
    CUDA_EXTERNAL_SEMAPHORE_WAIT_PARAMS,
    CUDA_EXTERNAL_SEMAPHORE_SIGNAL_PARAMS,
    CUexternalSemaphore,
):
    setattr(MockDriver, _kind.__name__, _kind)


@contextmanager
def mock_device(
    *,
    seed: int = 0,
    eagerness: float = 0.5,
    total_bytes: int = 256 << 20,
    capability: tuple[int, int] = (8, 9),
    shared_bytes: int = 99 << 10,
    races: bool = True,
) -> Iterator[tuple[Device, MockDriver]]:
    """A ``Device`` on a mock driver, current in this thread; arguments as for ``MockDriver``.

    At the end the device is closed, and nothing may be left.
    """
    mock = MockDriver(
        seed=seed,
        eagerness=eagerness,
        total_bytes=total_bytes,
        capability=capability,
        shared_bytes=shared_bytes,
        races=races,
    )
    with driver.use(mock):
        device = Device()
        device.make_current()
        try:
            yield device, mock
        except BaseException:
            mock.heal()
            with suppress(FlashsrError, MockError):
                device.close()
            raise
        mock.heal()
        device.close()
        mock.assert_clean()
