"""Frames that are on the device before a model reads them and stay there when it has made them.

What goes in are planes of somebody else's frame, in imported memory; what comes out is kept in memory of our own and copied into
the planes of a new frame when it is asked for, as often as it is.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import FlashsrError
from ..geometry import Array
from .device import Buffer, Device, Event, HostBuffer, Stream
from .imports import ExportedPlane, Imports, Planes
from .kernels.kernel import Launch
from .kernels.library import KernelLibrary
from .kernels.planes import PLANES, Levels, Surface, block_means, finite, move
from .memory import Part

_FLOAT = np.dtype(np.float32)
_FLAG_BYTES = 4
_DELIVERIES = 16
"""Frames that may be on their way into planes; whoever delivers one more waits for the first of them."""


@dataclass(frozen=True, slots=True)
class DeviceFrame:
    """A frame for a model to read: float32 planes of somebody else's."""

    found: Planes
    height: int
    width: int
    held: object
    """Keeps the frame alive; let go of with this."""

    @property
    def surfaces(self) -> list[Surface]:
        """Its planes, as kernels see them."""
        return [Surface(plane.address, plane.stride, _FLOAT) for plane in self.found.planes]


class _Kept:
    """Memory for one frame, which serves one after the other."""

    def __init__(self, device: Device, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.buffer: Buffer = device.alloc(size_bytes + _FLAG_BYTES)
        self.flag: Part = self.buffer.part(size_bytes, _FLAG_BYTES)
        self.said: HostBuffer = device.pinned(_FLAG_BYTES)
        self.written: Event = device.event()
        self.read: Event = device.event()


class KeptFrame:
    """A frame that a model has made, or is making. Its memory serves another when nobody holds this any more."""

    def __init__(
        self, device: Device, memory: _Kept, planes: Sequence[Surface], size: tuple[int, int], levels: Levels
    ) -> None:
        self._device, self._memory = device, memory
        self.surfaces, self.levels = planes, levels
        self.size = size
        """(height, width)."""
        self.written, self.read = memory.written, memory.read

    @property
    def nbytes(self) -> int:
        """Of device memory."""
        return self._memory.size_bytes

    def array(self) -> Array:
        """See ``model.Pending.array``: a copy on the host."""
        self._device.make_current()
        host, stream = self._device.pinned(self.nbytes), self._device.stream()
        try:
            stream.wait(self.written)
            stream.download(host, self._memory.buffer, self.nbytes)
            stream.synchronize()
            planes = [
                host.array[surface.address - self._memory.buffer.address :][: self.size[0] * surface.stride].view(
                    surface.dtype
                )
                for surface in self.surfaces
            ]
            made = np.stack([plane.reshape(self.size) for plane in planes]).astype(np.float32)
        finally:
            stream.close()
            host.close()
        if self.levels == Levels():
            return made
        return made * np.float32(self.levels.gain) + np.float32(self.levels.lift)

    def is_finite(self) -> bool:
        """Is every value? Waits for the frame."""
        self._device.make_current()
        self.written.synchronize()
        return not self._memory.said.array.view(np.int32)[0]


class FrameWork:
    """Takes frames in, looks at them, keeps those that are made, and delivers them. Any thread may call.

    Args:
        device: where.
        export_timeline: a new handle of a semaphore of the other API.
        delivers: what frames are delivered in, float32 or float16.

    Raises:
        FlashsrError: there are no kernels for the device.
    """

    def __init__(self, device: Device, export_timeline: Callable[[int], int], delivers: np.dtype[Any] = _FLOAT) -> None:
        self._device, self._delivers = device, delivers
        self._library = KernelLibrary(device, PLANES)
        self.imports = Imports(device, export_timeline)
        self._looker, self._sender = device.stream(), device.stream()
        self._looking, self._sending = threading.Lock(), threading.Lock()
        self._thumbnail: tuple[Buffer, HostBuffer] | None = None
        self._free: deque[_Kept] = deque()
        self._sent = 0
        self._deliveries: deque[tuple[Event, Planes]] = deque()
        self._events = [device.event() for _ in range(_DELIVERIES)]

    def run(self, stream: Stream, *launches: Launch) -> None:
        """Queue them."""
        self._library.run(stream, *launches)

    # In.

    def frame(self, exported: Sequence[ExportedPlane], size: tuple[int, int], held: object) -> DeviceFrame:
        """A frame of ``size`` = (height, width), as its planes are described; their handles are used up."""
        return DeviceFrame(self.imports.planes(exported), *size, held)

    def look(
        self, frame: DeviceFrame, blocks: tuple[int, int, int, int] | None, *, check: bool
    ) -> tuple[NDArray[np.float32] | None, bool]:
        """Means of blocks of a frame, and whether every value is finite. Waits for the frame, and for these two.

        Args:
            blocks: down, across, and rows and columns of each; None: not wanted.
            check: False: not wanted, and true.
        """
        if blocks is None and not check:
            return None, True
        down, across, rows, columns = blocks or (1, 1, 1, 1)
        values = 4 * down * across
        self._device.make_current()
        with self._looking:
            if self._thumbnail is None or self._thumbnail[0].size_bytes < _FLAG_BYTES + values:
                self._thumbnail = self._device.alloc(_FLAG_BYTES + values), self._device.pinned(_FLAG_BYTES + values)
            on_device, on_host = self._thumbnail
            stream = self._looker
            wait_for(stream, frame.found)
            stream.zero(on_device.part(0, _FLAG_BYTES))
            if check:
                size = frame.height, frame.width
                self.run(stream, *(finite(surface, size, on_device.address) for surface in frame.surfaces))
            if blocks is not None:
                means = block_means(frame.surfaces, (rows, columns), (down, across), on_device.address + _FLAG_BYTES)
                self.run(stream, means)
            stream.download(on_host, on_device, _FLAG_BYTES + (values if blocks is not None else 0))
            stream.synchronize()
            seen = on_host.array
            flag = bool(seen[:_FLAG_BYTES].view(np.int32)[0])
            found = seen[_FLAG_BYTES : _FLAG_BYTES + values].view(np.float32).reshape(down, across).copy()
        return (None if blocks is None else found), not flag

    # Out.

    def keep(self, stream: Stream, made: Sequence[Surface], size: tuple[int, int], levels: Levels) -> KeptFrame:
        """A copy of a frame that a model has made, queued on the stream; what it was made in is free once that has run.

        Args:
            made: its planes, of one type.
            size: (height, width) that count; what lies beyond is padding.
            levels: from the model's values to 0..1, made when it is delivered.
        """
        height, width = size
        dtype = made[0].dtype
        size_bytes = kept_bytes(len(made), height, width, dtype)
        memory = self._memory(size_bytes)
        first, plane_bytes = memory.buffer.address, size_bytes // len(made)
        planes = [Surface(first + n * plane_bytes, width * dtype.itemsize, dtype) for n in range(len(made))]
        frame = KeptFrame(self._device, memory, planes, size, levels)
        weakref.finalize(frame, self._free.append, memory).atexit = False
        stream.wait(memory.read)
        stream.zero(memory.flag)
        for source, out in zip(made, planes, strict=True):
            self.run(stream, move(source, out, size, size, flag=memory.flag.address))
        stream.download(memory.said, memory.flag)
        stream.record(memory.written)
        return frame

    def deliver(self, frame: KeptFrame, exported: Sequence[ExportedPlane], semaphore: int) -> int:
        """Write a kept frame into the planes of a new one.

        Args:
            exported: its planes; their handles are used up.
            semaphore: the timeline that says when they are written; 0: there is none, and they are when this returns.

        Returns:
            What the timeline will have reached then; 0 where there is none.
        """
        self._device.make_current()
        with self._sending:
            target = self.imports.planes(exported)
            try:
                value = self._send(frame, target, semaphore)
            except BaseException:
                # Some of it may be queued, and the planes are about to be given back.
                with suppress(FlashsrError):
                    self._sender.synchronize()
                raise
        if not semaphore:
            frame.read.synchronize()
        return value

    def _send(self, frame: KeptFrame, target: Planes, semaphore: int) -> int:
        if len(self._deliveries) == _DELIVERIES:
            self._deliveries.popleft()[0].synchronize()
        event = self._events[self._sent % _DELIVERIES]
        stream = self._sender
        wait_for(stream, target)
        stream.wait(frame.written)
        for source, plane in zip(frame.surfaces, target.planes, strict=True):
            out = Surface(plane.address, plane.stride, self._delivers)
            self.run(stream, move(source, out, frame.size, frame.size, frame.levels))
        stream.record(frame.read)
        stream.record(event)
        self._sent += 1
        self._deliveries.append((event, target))
        if not semaphore:
            return 0
        self.imports.timeline(semaphore).signal(stream, self._sent)
        return self._sent

    def _memory(self, size_bytes: int) -> _Kept:
        try:
            memory = self._free.popleft()
        except IndexError:
            return _Kept(self._device, size_bytes)
        assert memory.size_bytes == size_bytes, "a model makes frames of one size"
        return memory


def kept_bytes(channels: int, height: int, width: int, dtype: np.dtype[Any]) -> int:
    """Of one frame that is kept."""
    return channels * (-(-height * width * dtype.itemsize // 256) * 256)


def planes_of(address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> list[list[Surface]]:
    """The planes of each frame of a tensor (frames, channels, rows, columns)."""
    frames, channels, rows, columns = shape
    stride = columns * dtype.itemsize
    return [
        [Surface(address + (n * channels + c) * rows * stride, stride, dtype) for c in range(channels)]
        for n in range(frames)
    ]


def wait_for(stream: Stream, found: Planes) -> None:
    """What is queued on the stream from now on runs when the planes may be touched."""
    for timeline, value in found.ready:
        timeline.wait(stream, value)
