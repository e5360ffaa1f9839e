"""Streams: what is queued on the device, in which order, and how the host waits for it."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from ..errors import FlashsrError
from . import driver
from .events import Event
from .graphs import Graph
from .handles import Handle, Handles
from .memory import Buffer, HostBuffer, Part
from .modules import Kernel, Value, packed


class Stream(Handle):
    """A queue of the device. Everything but ``synchronize`` returns at once; the order within a stream is kept.

    Streams are ordered among each other by events alone: not even the legacy default stream waits for them.
    """

    what = "a stream"

    def __init__(self, owner: Handles) -> None:
        api = driver.api()
        flag = int(api.CUstream_flags.CU_STREAM_NON_BLOCKING)
        super().__init__(owner, int(driver.check(api.cuStreamCreate(flag), "create a stream")))

    def upload(self, dst: Buffer | Part, src: HostBuffer, size: int | None = None) -> None:
        """Copy ``size`` bytes to the device. The host must leave ``src`` alone until that has run.

        ``size`` None: both are of one size.
        """
        driver.check(
            driver.api().cuMemcpyHtoDAsync(dst.address, src.address, _size(dst, src, size), self.handle),
            "queue an upload",
        )

    def download(self, dst: HostBuffer, src: Buffer | Part, size: int | None = None) -> None:
        """Copy ``size`` bytes to the host; they are there once an event behind this has happened."""
        driver.check(
            driver.api().cuMemcpyDtoHAsync(dst.address, src.address, _size(dst, src, size), self.handle),
            "queue a download",
        )

    def copy(self, dst: Buffer | Part, src: Buffer | Part, size: int | None = None) -> None:
        """Copy ``size`` bytes within the device; the two must not overlap."""
        driver.check(
            driver.api().cuMemcpyDtoDAsync(dst.address, src.address, _size(dst, src, size), self.handle),
            "queue a copy",
        )

    def zero(self, buffer: Buffer | Part) -> None:
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
        args: Sequence[tuple[str, Value]],
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

    def capture(self) -> Capture:
        """``with stream.capture() as capture:`` queue work; it is recorded, not run. Then ``capture.graph``."""
        return Capture(self._owner, self)

    def replay(self, graph: Graph) -> None:
        """Queue all of a graph. Two launches of one graph never overlap: the second waits for the first."""
        driver.check(driver.api().cuGraphLaunch(graph.handle, self.handle), "launch a graph")

    def _destroy(self, value: int) -> None:
        # Memory that is freed later must not be in use.
        api = driver.api()
        try:
            driver.check(api.cuStreamSynchronize(value), "run what was queued")
        finally:
            driver.check(api.cuStreamDestroy(value), "destroy a stream")


class Capture:
    """Work of one stream, recorded into a graph. Inside, nothing may wait for the device."""

    def __init__(self, owner: Handles, stream: Stream) -> None:
        self._owner = owner
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
        # Relaxed: other models may allocate meanwhile, in this thread or another.
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
            self._graph = Graph(self._owner, template)
        finally:
            driver.check(api.cuGraphDestroy(template), "destroy a captured graph")


def _size(dst: Buffer | Part | HostBuffer, src: Buffer | Part | HostBuffer, size: int | None) -> int:
    """How many bytes to copy, checked."""
    if size is None:
        if dst.size_bytes != src.size_bytes:
            raise FlashsrError(f"a copy from {src.size_bytes} to {dst.size_bytes} bytes needs a size; say how many bytes")
        return src.size_bytes
    if not 1 <= size <= min(dst.size_bytes, src.size_bytes):
        raise FlashsrError(f"{size} bytes can't be copied from {src.size_bytes} to {dst.size_bytes} bytes; copy fewer")
    return size
