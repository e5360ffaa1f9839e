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
import random
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from vsflashsr.errors import FlashsrError
from vsflashsr.gpu import driver
from vsflashsr.gpu.device import Device
from vsflashsr.gpu.memory import Block, Pool
from vsflashsr.gpu.stream import Stream

from .mock_memory import DEVICE, FRESH, PINNED, MockError, MockMemory, Use
from .mock_queue import Capture, Executable, Node, Operation, Queue, StreamState

__all__ = ["CUDA_MEMCPY2D", "CUresult", "Handle", "MockDriver", "MockError", "image", "mock_device"]

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
    CUDA_ERROR_STREAM_CAPTURE_MERGE = 902
    CUDA_ERROR_STREAM_CAPTURE_UNMATCHED = 903
    CUDA_ERROR_STREAM_CAPTURE_UNJOINED = 904
    CUDA_ERROR_STREAM_CAPTURE_ISOLATION = 905
    CUDA_ERROR_CAPTURED_EVENT = 907
    CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD = 908
    CUDA_ERROR_UNKNOWN = 999


class CUevent_flags(IntEnum):
    CU_EVENT_DEFAULT = 0
    CU_EVENT_BLOCKING_SYNC = 1
    CU_EVENT_DISABLE_TIMING = 2


class CUstream_flags(IntEnum):
    CU_STREAM_DEFAULT = 0
    CU_STREAM_NON_BLOCKING = 1


class CUmemorytype(IntEnum):
    CU_MEMORYTYPE_HOST = 1
    CU_MEMORYTYPE_DEVICE = 2


class CUstreamCaptureMode(IntEnum):
    CU_STREAM_CAPTURE_MODE_GLOBAL = 0
    CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1
    CU_STREAM_CAPTURE_MODE_RELAXED = 2


class CUstreamCaptureStatus(IntEnum):
    CU_STREAM_CAPTURE_STATUS_NONE = 0
    CU_STREAM_CAPTURE_STATUS_ACTIVE = 1
    CU_STREAM_CAPTURE_STATUS_INVALIDATED = 2


class CUdevice_attribute(IntEnum):
    CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT = 16
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76
    CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN = 97


class CUfunction_attribute(IntEnum):
    CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES = 1
    CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8


@dataclass
class CUDA_MEMCPY2D:
    WidthInBytes: int = 0
    Height: int = 0
    srcMemoryType: CUmemorytype | None = None
    srcHost: int = 0
    srcDevice: int = 0
    srcPitch: int = 0
    dstMemoryType: CUmemorytype | None = None
    dstHost: int = 0
    dstDevice: int = 0
    dstPitch: int = 0


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


class _Status(Exception):
    def __init__(self, code: CUresult) -> None:
        super().__init__(code.name)
        self.code = code


@dataclass(eq=False, slots=True)
class _Event:
    timing: bool
    operation: Operation | None = None
    """Of its last record, unless that was captured."""
    captured: tuple[Capture, frozenset[Node]] | None = None
    time_ms: float = 0.0
    queries: int = 0


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
        alignment: of addresses; 256 gives some that are no multiple of 512.
        capability: compute capability.
        shared_bytes: shared memory that a block can have at most.
        races: raise where operations collide in memory and nothing orders them.
    """

    CUDA_VERSION = 13000
    CU_MEMHOSTALLOC_PORTABLE = 1

    def __init__(
        self,
        *,
        seed: int = 0,
        eagerness: float = 0.5,
        total_bytes: int = 256 << 20,
        alignment: int = 512,
        capability: tuple[int, int] = (8, 9),
        shared_bytes: int = 99 << 10,
        races: bool = True,
    ) -> None:
        rng = random.Random(seed)
        self._memory = MockMemory(rng, alignment)
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
        self._captures: list[Capture] = []
        self._attributes = {
            CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: 4,
            CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: capability[0],
            CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: capability[1],
            CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: shared_bytes,
        }
        self.total_bytes = total_bytes
        self.driver_version = 13000
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        """Every call, with its arguments."""
        self.kernels: dict[str, KernelFunction] = {}
        """What kernels do: ``function(grid, args, view)``; ``view`` is ``MockDriver.view``."""
        self.ran = self._queue.ran
        """Names of the operations that ran, in order."""

    # What tests ask and do.

    def view(self, address: int, count: int, dtype: DTypeLike = np.uint8) -> NDArray[Any]:
        """``count`` elements of live memory, to read and write. Raises ``MockError`` for any other memory."""
        memory = self._memory.view(address, count, dtype)
        self._queue.look(address, memory.view(np.uint8))
        return memory

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
            uses = [self._memory.use(address, size, writes=False) for address, size in reads]
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
        }
        counts |= self._memory.counts
        return {kind: count for kind, count in counts.items() if count}

    def assert_clean(self) -> None:
        """Nothing is alive, nothing was written beside the allocations."""
        self._memory.check_guards()
        if self.alive:
            raise MockError(f"not freed: {self.alive}")

    def pool_took(self, block: Block) -> None:
        """The pool hands out a block: whatever used it must have run, and its contents are gone."""
        with self._lock:
            allocation = self._memory.at(block.base, 1)
            self._queue.check_unused(allocation, "was handed out again")
            allocation.generation += 1
            allocation.idle = False
            allocation.bytes[:] = FRESH

    def pool_got(self, block: Block) -> None:
        """A buffer was freed into the pool: no new work may use it."""
        with self._lock:
            self._memory.at(block.base, 1).idle = True

    # What the functions below share.

    def _issue(
        self,
        stream: StreamState,
        name: str,
        run: Callable[[], object],
        uses: tuple[Use, ...] = (),
        after: Iterable[Operation] = (),
    ) -> None:
        """Queue an operation, or capture it."""
        if stream.capture is None:
            self._queue.put(stream, name, run, uses, after)
            return
        self._check_valid(stream.capture)
        node = Node(name, run, uses, stream.captured_tail)
        stream.capture.nodes.append(node)
        stream.captured_tail = frozenset({node})

    def _wait(self, target: Operation | None) -> None:
        """The host waits."""
        self._queue.wait(target)
        self._queue.turn(self._streams.values())

    def _free(self, kind: str, address: int) -> None:
        self._unsafe()
        allocation = self._memory.get(address)
        if allocation is None or allocation.kind != kind:
            raise _Status(CUresult.CUDA_ERROR_INVALID_VALUE)
        self._queue.check_unused(allocation, "was freed")
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

    def _unsafe(self) -> None:
        """A call that a capture in another mode than relaxed forbids."""
        for capture in self._captures:
            mine = capture.thread == threading.get_ident() and capture.mode != (
                CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
            )
            if mine or capture.mode == CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_GLOBAL:
                capture.valid = False
                raise _Status(CUresult.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED)

    def _not_captured(self, event: _Event) -> None:
        if event.captured is not None:
            event.captured[0].valid = False
            raise _Status(CUresult.CUDA_ERROR_CAPTURED_EVENT)

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
        return CUuuid(bytes(range(16)))

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
        self._unsafe()
        if self.used_bytes + size_bytes > self.total_bytes:
            raise _Status(CUresult.CUDA_ERROR_OUT_OF_MEMORY)
        if size_bytes < 1:
            raise _Status(CUresult.CUDA_ERROR_INVALID_VALUE)
        return Handle(self._memory.new(DEVICE, size_bytes))

    @_call(late=True)
    def cuMemFree(self, address: Any) -> None:
        self._free(DEVICE, int(address))

    @_call(1)
    def cuMemHostAlloc(self, size_bytes: int, flags: int) -> int:
        self._unsafe()
        if size_bytes < 1:
            raise _Status(CUresult.CUDA_ERROR_INVALID_VALUE)
        return self._memory.new(PINNED, size_bytes)

    @_call(late=True)
    def cuMemFreeHost(self, address: Any) -> None:
        self._free(PINNED, int(address))

    @_call()
    def cuMemcpyHtoDAsync(self, dst: Any, src: Any, size: int, stream: Any) -> None:
        self._copy("upload", stream, (DEVICE, int(dst), size), (PINNED, int(src), size), size, 1)

    @_call()
    def cuMemcpyDtoHAsync(self, dst: Any, src: Any, size: int, stream: Any) -> None:
        self._copy("download", stream, (PINNED, int(dst), size), (DEVICE, int(src), size), size, 1)

    @_call()
    def cuMemcpyDtoDAsync(self, dst: Any, src: Any, size: int, stream: Any) -> None:
        self._copy("copy", stream, (DEVICE, int(dst), size), (DEVICE, int(src), size), size, 1)

    @_call()
    def cuMemcpy2DAsync(self, copy: CUDA_MEMCPY2D, stream: Any) -> None:
        sides = []
        for kind, host, device, pitch in (
            (copy.dstMemoryType, copy.dstHost, copy.dstDevice, copy.dstPitch),
            (copy.srcMemoryType, copy.srcHost, copy.srcDevice, copy.srcPitch),
        ):
            if kind is None or copy.WidthInBytes > pitch:
                raise _Status(CUresult.CUDA_ERROR_INVALID_VALUE)
            on_host = kind == CUmemorytype.CU_MEMORYTYPE_HOST
            sides.append((PINNED, int(host), pitch) if on_host else (DEVICE, int(device), pitch))
        self._copy("copy_2d", stream, sides[0], sides[1], copy.WidthInBytes, copy.Height)

    def _copy(
        self, name: str, stream: Any, to: tuple[str, int, int], source: tuple[str, int, int], width: int, rows: int
    ) -> None:
        """Queue a copy of rows; each side is (kind of memory, address, pitch). Between the rows counts as touched."""
        (kind_to, dst, dst_pitch), (kind_from, src, src_pitch) = to, source
        uses = (
            self._memory.use(dst, dst_pitch * (rows - 1) + width, kind_to, writes=True),
            self._memory.use(src, src_pitch * (rows - 1) + width, kind_from, writes=False),
        )

        if rows == 1 and src < dst + width and dst < src + width:
            raise MockError(f"a copy of {width} bytes from {src:#x} to {dst:#x} overlaps itself")

        def run() -> None:
            # Bytes are read when the copy runs, not when it was queued.
            for row in range(rows):
                self.view(dst + row * dst_pitch, width)[:] = self.view(src + row * src_pitch, width).copy()

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
        if mark.captured is not None:
            capture, nodes = mark.captured
            if capture.ended:
                raise _Status(CUresult.CUDA_ERROR_CAPTURED_EVENT)
            self._check_valid(capture)
            if state.capture is None:
                state.capture, state.captured_tail = capture, nodes
                capture.streams.add(state)
            elif state.capture is capture:
                state.captured_tail |= nodes
            else:
                state.capture.valid = capture.valid = False
                raise _Status(CUresult.CUDA_ERROR_STREAM_CAPTURE_MERGE)
        elif state.capture is not None:
            self._check_valid(state.capture)
            state.capture.valid = False
            raise _Status(CUresult.CUDA_ERROR_STREAM_CAPTURE_ISOLATION)
        elif mark.operation is not None:
            self._issue(state, "wait", lambda: None, after=[mark.operation])

    @_call()
    def cuStreamBeginCapture(self, stream: Any, mode: CUstreamCaptureMode) -> None:
        state = self._stream(stream)
        if state.capture is not None:
            raise _Status(CUresult.CUDA_ERROR_INVALID_VALUE)
        state.capture = Capture(state, mode, threading.get_ident(), {state})
        state.captured_tail = frozenset()
        self._captures.append(state.capture)

    @_call(1, late=True)
    def cuStreamEndCapture(self, stream: Any) -> Handle:
        state = self._stream(stream)
        capture = state.capture
        if capture is None or capture.origin is not state:
            raise _Status(CUresult.CUDA_ERROR_STREAM_CAPTURE_UNMATCHED)
        relaxed = capture.mode == CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
        if not relaxed and capture.thread != threading.get_ident():
            raise _Status(CUresult.CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD)
        joined = capture.joined
        for member in capture.streams:
            member.capture, member.captured_tail = None, frozenset()
        capture.ended = True
        self._captures.remove(capture)
        self._check_valid(capture)
        if not joined:
            raise _Status(CUresult.CUDA_ERROR_STREAM_CAPTURE_UNJOINED)
        handle = self._handle()
        self._graphs[handle] = capture.nodes
        return Handle(handle)

    @_call(1)
    def cuStreamIsCapturing(self, stream: Any) -> CUstreamCaptureStatus:
        capture = self._stream(stream).capture
        if capture is None:
            return CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_NONE
        if capture.valid:
            return CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_ACTIVE
        return CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_INVALIDATED

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
            self._check_valid(state.capture)
            mark.captured, mark.operation = (state.capture, state.captured_tail), None
            return

        def run() -> None:
            mark.time_ms = self._queue.clock_ms

        mark.captured, mark.queries = None, 0
        mark.operation = self._queue.put(state, "event", run)

    @_call()
    def cuEventQuery(self, event: Any) -> None:
        self._unsafe()
        mark = self._event(event)
        self._not_captured(mark)
        # Who asks again and again is answered at last, as on a GPU, even when everything is lazy.
        mark.queries += 1
        if mark.operation is not None and not mark.operation.done and mark.queries < 4 and not self._queue.chance():
            raise _Status(CUresult.CUDA_ERROR_NOT_READY)
        self._wait(mark.operation)

    @_call(late=True)
    def cuEventSynchronize(self, event: Any) -> None:
        mark = self._event(event)
        self._not_captured(mark)
        self._wait(mark.operation)

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
    CUmemorytype,
    CUstreamCaptureMode,
    CUstreamCaptureStatus,
    CUdevice_attribute,
    CUfunction_attribute,
    CUDA_MEMCPY2D,
):
    setattr(MockDriver, _kind.__name__, _kind)


@contextmanager
def mock_device(
    *,
    seed: int = 0,
    eagerness: float = 0.5,
    total_bytes: int = 256 << 20,
    alignment: int = 512,
    capability: tuple[int, int] = (8, 9),
    shared_bytes: int = 99 << 10,
    races: bool = True,
) -> Iterator[tuple[Device, MockDriver]]:
    """A ``Device`` on a mock driver, current in this thread; arguments as for ``MockDriver``.

    The pool tells the mock what it keeps, so that a use after ``Buffer.free`` is caught too. At the end the device is
    closed, and nothing may be left.
    """
    mock = MockDriver(
        seed=seed,
        eagerness=eagerness,
        total_bytes=total_bytes,
        alignment=alignment,
        capability=capability,
        shared_bytes=shared_bytes,
        races=races,
    )
    with driver.use(mock), _watched_pool(mock):
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


@contextmanager
def _watched_pool(mock: MockDriver) -> Iterator[None]:
    take, give = Pool.take, Pool.give

    def watched_take(self: Pool, size_bytes: int) -> Block:
        with self._lock:
            block = take(self, size_bytes)
            mock.pool_took(block)
        return block

    def watched_give(self: Pool, block: Block, after: tuple[Stream, ...]) -> None:
        with self._lock:
            give(self, block, after)
            if not self.closed:
                mock.pool_got(block)

    setattr(Pool, "take", watched_take)  # noqa: B010 (mypy doesn't let a method be assigned)
    setattr(Pool, "give", watched_give)  # noqa: B010
    try:
        yield
    finally:
        setattr(Pool, "take", take)  # noqa: B010
        setattr(Pool, "give", give)  # noqa: B010
