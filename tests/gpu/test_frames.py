"""Resident frames whose timelines the device itself waits for and signals, which software Vulkan can't share and the mock can."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vsflashsr.gpu import frames
from vsflashsr.gpu.device import Device, Stream
from vsflashsr.gpu.frames import DeviceFrame, FrameWork, KeptFrame, wait_for
from vsflashsr.gpu.imports import ExportedPlane
from vsflashsr.gpu.kernels.planes import AS_THEY_ARE, Levels, Surface, move

from ..support.host_planes import HostPlanes
from ..support.mock_cuda import MockDriver, MockError, mock_device

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="the mock's timelines are files that are read at an offset"
)
HEIGHT, WIDTH, STRIDE = 5, 7, 64
PLANE_BYTES = HEIGHT * STRIDE


class Other:
    """The other API: an allocation with room for a few frames of three planes, and timelines, which are files."""

    def __init__(self, slots: int = 4) -> None:
        self.memory = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as this
        self.memory.truncate(slots * 3 * PLANE_BYTES)
        self.timelines: dict[int, Any] = {}

    def timeline(self, semaphore: int) -> int:
        """A handle of it."""
        if semaphore not in self.timelines:
            self.timelines[semaphore] = tempfile.TemporaryFile()  # noqa: SIM115  # likewise
        return os.dup(self.timelines[semaphore].fileno())

    def reach(self, semaphore: int, value: int) -> None:
        os.close(self.timeline(semaphore))
        os.pwrite(self.timelines[semaphore].fileno(), value.to_bytes(8, "little"), 0)

    def reached(self, semaphore: int) -> int:
        return int.from_bytes(os.pread(self.timelines[semaphore].fileno(), 8, 0), "little")

    def exported(self, slot: int, semaphore: int = 0, value: int = 0) -> list[ExportedPlane]:
        return [
            ExportedPlane(
                memory=1,
                size=os.fstat(self.memory.fileno()).st_size,
                offset=(3 * slot + plane) * PLANE_BYTES,
                stride=STRIDE,
                handle=os.dup(self.memory.fileno()),
                semaphore=semaphore,
                value=value,
            )
            for plane in range(3)
        ]

    def write(self, slot: int, picture: NDArray[np.float32]) -> None:
        rows = np.zeros((3, HEIGHT, STRIDE // 4), np.float32)
        rows[:, :, :WIDTH] = picture
        os.pwrite(self.memory.fileno(), rows.tobytes(), 3 * slot * PLANE_BYTES)

    def read(self, slot: int, dtype: Any = np.float32) -> NDArray[Any]:
        raw = np.frombuffer(os.pread(self.memory.fileno(), 3 * PLANE_BYTES, 3 * slot * PLANE_BYTES), dtype)
        return raw.reshape(3, HEIGHT, -1)[:, :, :WIDTH]


class Case:
    """A device with the work that is tested, and a model that hands on what it is given, doubled."""

    def __init__(self, device: Device, delivers: Any = np.float32) -> None:
        self.other, self.device = Other(), device
        self.work = FrameWork(device, self.other.timeline, np.dtype(delivers))
        self.stream: Stream = device.stream()
        self.made = device.alloc(3 * HEIGHT * WIDTH * 4)

    def step(self, frame: DeviceFrame) -> KeptFrame:
        """Queued, not waited for."""
        wait_for(self.stream, frame.found)
        size, row = (HEIGHT, WIDTH), WIDTH * 4
        made = [Surface(self.made.address + p * HEIGHT * row, row, np.dtype(np.float32)) for p in range(3)]
        for source, out in zip(frame.surfaces, made, strict=True):
            self.work.run(self.stream, move(source, out, size, size, Levels(2.0, 0.0)))
        return self.work.keep(self.stream, made, size, AS_THEY_ARE)


@pytest.fixture
def cases(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Devices that put off what they are given, each with a seed of its own."""

    def opened(seed: int, eagerness: float = 0.0) -> Any:
        return mock_device(seed=seed, eagerness=eagerness)

    def library(device: Device, kernels: Any) -> HostPlanes:
        return HostPlanes(mocks[device])

    mocks: dict[Device, MockDriver] = {}
    monkeypatch.setattr(frames, "KernelLibrary", library)

    def make(seed: int, delivers: Any = np.float32, eagerness: float = 0.0) -> Iterator[Case]:
        with opened(seed, eagerness) as (device, mock):
            mocks[device] = mock
            yield Case(device, delivers)

    yield make


def picture(seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random((3, HEIGHT, WIDTH), np.float32)


@pytest.mark.parametrize("delivers", [np.float32, np.float16])
def test_a_frame_is_read_once_its_timeline_says_so_and_its_result_signals_another(cases: Any, delivers: Any) -> None:
    for case in cases(1, delivers):
        other = case.other
        other.reach(5, 0)
        kept = case.step(case.work.frame(other.exported(0, semaphore=5, value=3), (HEIGHT, WIDTH), None))
        value = case.work.deliver(kept, other.exported(1), semaphore=9)
        assert (value, other.reached(9)) == (1, 0), "nobody waited"
        # Only now is the frame there: what was queued has to have been put behind the timeline, not behind the call.
        other.write(0, picture(1))
        other.reach(5, 3)
        case.stream.synchronize()
        again = case.work.deliver(kept, other.exported(2, semaphore=9, value=1), semaphore=9)
        case.device.make_current()
        assert kept.is_finite()
        case.work.deliver(kept, other.exported(3), semaphore=0)
        assert (again, other.reached(9)) == (2, 2), "one that is waited for is behind those that aren't"
        wanted = (2 * picture(1)).astype(delivers)
        for slot in (1, 2, 3):
            np.testing.assert_array_equal(other.read(slot, delivers), wanted)


def test_what_isn_t_ready_is_never_read_early(cases: Any) -> None:
    for case in cases(2):
        case.other.reach(5, 2)
        case.step(case.work.frame(case.other.exported(0, semaphore=5, value=3), (HEIGHT, WIDTH), None))
        with pytest.raises(MockError, match="a timeline is at 2, not at 3"):
            case.stream.synchronize()
        case.other.reach(5, 3)


def test_planes_that_are_still_in_use_aren_t_written_early(cases: Any) -> None:
    for case in cases(3):
        kept = case.step(case.work.frame(case.other.exported(0), (HEIGHT, WIDTH), None))
        case.other.reach(6, 0)
        case.work.deliver(kept, case.other.exported(1, semaphore=6, value=1), semaphore=9)
        with pytest.raises(MockError, match="a timeline is at 0, not at 1"):
            case.work._sender.synchronize()
        case.other.reach(6, 1)


@pytest.mark.parametrize("seed", range(6))
def test_memory_of_a_frame_is_used_again_behind_whoever_still_reads_it(cases: Any, seed: int) -> None:
    """The mock raises where two streams collide in memory and nothing orders them."""
    for case in cases(seed, eagerness=0.5):
        other, addresses = case.other, set()
        for n in range(3):
            other.write(0, picture(n))
            kept = case.step(case.work.frame(other.exported(0), (HEIGHT, WIDTH), None))
            addresses.add(kept.surfaces[0].address)
            assert case.work.deliver(kept, other.exported(1 + n), semaphore=9) == n + 1
            case.stream.synchronize()  # the model is done with the input's memory, not the delivery with the frame's
            del kept
        assert len(addresses) == 1
        case.work._sender.synchronize()
        for n in range(3):
            np.testing.assert_array_equal(other.read(1 + n), 2 * picture(n))
        assert other.reached(9) == 3
