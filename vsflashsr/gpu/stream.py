"""Streams and events: what is queued on the device, in which order, and how the host waits for it."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from ..errors import FlashsrError
from . import driver
from .graphs import Graph
from .memory import Buffer, HostBuffer, Memory
from .modules import Kernel, packed

if TYPE_CHECKING:
    from .device import Device

type CopyKind = Literal["h2d", "d2h", "d2d"]
"""Host to device, device to host, device to device."""


class Event:
    """A mark on a stream, set by ``Stream.record``. Before the first record it counts as happened."""

    def __init__(self, device: Device, *, timing: bool) -> None:
        api = driver.api()
        flags = api.CUevent_flags
        self._device = device
        # The host sleeps in a wait rather than spinning, which would take a core from the encoder. Timing events are
        # for benchmarks, where the wait is the last thing to disturb.
        flag = flags.CU_EVENT_DEFAULT if timing else flags.CU_EVENT_DISABLE_TIMING | flags.CU_EVENT_BLOCKING_SYNC
        self._handle: int | None = int(driver.check(api.cuEventCreate(int(flag)), "create an event"))

    @property
    def handle(self) -> int:
        if self._handle is None:
            raise FlashsrError("an event was used after it, or its device, was closed; make another one")
        return self._handle

    @property
    def done(self) -> bool:
        """Has what was queued before the last record run?"""
        api = driver.api()
        result = api.cuEventQuery(self.handle)
        if result[0] == api.CUresult.CUDA_ERROR_NOT_READY:
            return False
        driver.check(result, "run what was queued")
        return True

    def synchronize(self) -> None:
        """Wait (on the host) until it has happened."""
        driver.check(driver.api().cuEventSynchronize(self.handle), "run what was queued")

    def elapsed_ms(self, since: Event) -> float:
        """Milliseconds of device time from ``since``; both are timing events that have happened."""
        return float(driver.check(driver.api().cuEventElapsedTime(since.handle, self.handle), "measure a time"))

    def close(self) -> None:
        """Idempotent."""
        handle, self._handle = self._handle, None
        if handle is not None:
            self._device.forget(self)
            driver.check(driver.api().cuEventDestroy(handle), "destroy an event")


class Stream:
    """A queue of the device. Everything but ``synchronize`` returns at once; the order within a stream is kept.

    Streams are ordered among each other by events alone: not even the legacy default stream waits for them.
    """

    def __init__(self, device: Device) -> None:
        api = driver.api()
        self._device = device
        self._handle: int | None = int(
            driver.check(api.cuStreamCreate(int(api.CUstream_flags.CU_STREAM_NON_BLOCKING)), "create a stream")
        )

    @property
    def handle(self) -> int:
        """The CUstream, for TensorRT and torch."""
        if self._handle is None:
            raise FlashsrError("a stream was used after it, or its device, was closed; make another one")
        return self._handle

    def upload(self, dst: Buffer, src: HostBuffer, size: int | None = None) -> None:
        """Copy ``size`` bytes to the device. The host must leave ``src`` alone until that has run.

        ``size`` None: both are of one size.
        """
        driver.check(
            driver.api().cuMemcpyHtoDAsync(dst.address, src.address, _size(dst, src, size), self.handle),
            "queue an upload",
        )

    def download(self, dst: HostBuffer, src: Buffer, size: int | None = None) -> None:
        """Copy ``size`` bytes to the host; they are there once an event behind this has happened."""
        driver.check(
            driver.api().cuMemcpyDtoHAsync(dst.address, src.address, _size(dst, src, size), self.handle),
            "queue a download",
        )

    def copy(self, dst: Buffer, src: Buffer, size: int | None = None) -> None:
        """Copy ``size`` bytes within the device; the two must not overlap."""
        driver.check(
            driver.api().cuMemcpyDtoDAsync(dst.address, src.address, _size(dst, src, size), self.handle),
            "queue a copy",
        )

    def copy_2d(
        self,
        dst_address: int,
        dst_pitch: int,
        src_address: int,
        src_pitch: int,
        width_bytes: int,
        rows: int,
        kind: CopyKind,
    ) -> None:
        """Copy ``rows`` rows of ``width_bytes``; pitches are bytes from row to row.

        CUDA's documentation reserves the right to refuse device-to-device copies with a pitch that it didn't choose.
        """
        if width_bytes < 1 or rows < 1 or width_bytes > min(dst_pitch, src_pitch):
            raise FlashsrError(
                f"a copy of {rows} rows of {width_bytes} bytes with pitches of {src_pitch} and {dst_pitch} is impossible; "
                "use pitches of at least the width"
            )
        api = driver.api()
        host, device = api.CUmemorytype.CU_MEMORYTYPE_HOST, api.CUmemorytype.CU_MEMORYTYPE_DEVICE
        copy = api.CUDA_MEMCPY2D()
        copy.WidthInBytes, copy.Height = width_bytes, rows
        copy.srcPitch, copy.dstPitch = src_pitch, dst_pitch
        if kind == "h2d":
            copy.srcMemoryType, copy.srcHost = host, src_address
        else:
            copy.srcMemoryType, copy.srcDevice = device, src_address
        if kind == "d2h":
            copy.dstMemoryType, copy.dstHost = host, dst_address
        else:
            copy.dstMemoryType, copy.dstDevice = device, dst_address
        driver.check(api.cuMemcpy2DAsync(copy, self.handle), "queue a copy of rows")

    def zero(self, buffer: Buffer) -> None:
        """Fill it with zero bytes."""
        driver.check(
            driver.api().cuMemsetD8Async(buffer.address, 0, buffer.size_bytes, self.handle), "queue clearing a buffer"
        )

    def record(self, event: Event) -> None:
        """Set the event behind everything that is queued by now."""
        driver.check(driver.api().cuEventRecord(event.handle, self.handle), "queue an event")

    def wait(self, event: Event) -> None:
        """What is queued from now on runs after the event's last record (as of now)."""
        driver.check(driver.api().cuStreamWaitEvent(self.handle, event.handle, 0), "queue a wait")

    def launch(
        self,
        kernel: Kernel,
        grid: tuple[int, int, int],
        threads: int,
        shared_bytes: int,
        args: Sequence[tuple[str, int | float]],
    ) -> None:
        """Run a kernel.

        Args:
            kernel: of a module of the same device.
            grid: blocks in x, y and z, each at least 1.
            threads: in a block.
            shared_bytes: dynamic shared memory of a block.
            args: (kind, value) in the kernel's order; kinds as in ``modules.Kind``.

        Raises:
            FlashsrError: an argument doesn't fit its kind, or the driver refuses the launch.
        """
        if min(grid) < 1:
            raise FlashsrError(f"kernel {kernel.name!r} was launched on a grid of {grid}; leave out what has no work")
        kernel.allow_shared(shared_bytes)
        result = driver.api().cuLaunchKernel(
            kernel.handle, *grid, threads, 1, 1, shared_bytes, self.handle, packed(kernel.name, args), 0
        )
        if int(result[0]) != 0:
            how = f"on a grid of {grid} with {threads} threads and {shared_bytes} bytes of shared memory"
            driver.check(result, f"launch the kernel {kernel.name!r} {how}")

    def synchronize(self) -> None:
        """Wait (on the host) until everything queued by now has run."""
        driver.check(driver.api().cuStreamSynchronize(self.handle), "run what was queued")

    @property
    def capturing(self) -> bool:
        """Is what is queued recorded into a graph, here or through a wait on a stream that is captured?"""
        api = driver.api()
        status = driver.check(api.cuStreamIsCapturing(self.handle), "say whether a stream is being captured")
        return bool(status != api.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_NONE)

    def capture(self) -> Capture:
        """``with stream.capture() as capture:`` queue work; it is recorded, not run. Then ``capture.graph``."""
        return Capture(self._device, self)

    def close(self) -> None:
        """Wait for what is queued, then destroy it: memory that is freed later must not be in use. Idempotent."""
        handle, self._handle = self._handle, None
        if handle is not None:
            self._device.forget(self)
            api = driver.api()
            try:
                driver.check(api.cuStreamSynchronize(handle), "run what was queued")
            finally:
                driver.check(api.cuStreamDestroy(handle), "destroy a stream")


class Capture:
    """Work of one stream, and of those that it forks to and joins by events, recorded into a graph.

    Inside, nothing may wait for the device, query an event of the capture, or wait for an event from outside it. The
    graph keeps the addresses: memory that it uses has to live as long as it is launched.
    """

    def __init__(self, device: Device, stream: Stream) -> None:
        self._device = device
        self._stream = stream
        self._graph: Graph | None = None

    @property
    def graph(self) -> Graph:
        """What was recorded, ready to launch. Raises ``FlashsrError`` before the capture has ended well."""
        if self._graph is None:
            raise FlashsrError("a captured graph was asked for, but its capture has not ended; ask after the with block")
        return self._graph

    def __enter__(self) -> Self:
        api = driver.api()
        # Relaxed: the pool may allocate and query events of its own meanwhile, and other models other streams.
        mode = api.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
        driver.check(api.cuStreamBeginCapture(self._stream.handle, mode), "begin to capture a stream")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        api = driver.api()
        result = api.cuStreamEndCapture(self._stream.handle)
        if error is not None:
            # What the driver says of the capture now follows from the error that is under way.
            if int(result[0]) == 0:
                api.cuGraphDestroy(result[1])
            return
        template = driver.check(result, "capture a stream")
        try:
            self._graph = self._device.graph(template)
        finally:
            driver.check(api.cuGraphDestroy(template), "destroy a captured graph")


def _size(dst: Memory, src: Memory, size: int | None) -> int:
    """How many bytes to copy, checked."""
    if size is None:
        if dst.size_bytes != src.size_bytes:
            raise FlashsrError(f"a copy from {src.size_bytes} to {dst.size_bytes} bytes needs a size; say how many bytes")
        return src.size_bytes
    if not 1 <= size <= min(dst.size_bytes, src.size_bytes):
        raise FlashsrError(f"{size} bytes can't be copied from {src.size_bytes} to {dst.size_bytes} bytes; copy fewer")
    return size
