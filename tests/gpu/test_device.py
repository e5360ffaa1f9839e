"""The device layer on a mock driver: lifetimes, order, errors, and that nothing is ever left behind."""

from __future__ import annotations

import logging
import re
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from vsflashsr.errors import FlashsrError
from vsflashsr.gpu import device as device_module
from vsflashsr.gpu import driver
from vsflashsr.gpu.device import Buffer, Device, Stream
from vsflashsr.gpu.memory import DeviceMemory, Pool
from vsflashsr.gpu.staging import StagingRing

from ..support.mock_cuda import MockDriver, image, mock_device

SEEDS = range(8)
SENTENCE = re.compile(r".+[,:] .+; .+", re.DOTALL)
"""What is wrong, what was got; what to do."""


def numbers(buffer_or_array: Any, dtype: Any = np.uint8) -> list[Any]:
    """Contents of a host buffer."""
    return list(buffer_or_array.array.view(dtype).tolist())


def add_kernel(device: Device, mock: MockDriver) -> Any:
    """(p x, p y, i32 n, f32 k): y += x + k."""

    def add(grid: tuple[int, int, int], args: Any, view: Any) -> None:
        x, y, n, k = args
        view(y, n, np.float32)[:] += view(x, n, np.float32) + np.float32(k)

    mock.kernels["add"] = add
    return device.load(image("add")).kernel("add")


def launch_add(stream: Stream, kernel: Any, x: Buffer, y: Buffer, n: int, k: float) -> None:
    stream.launch(kernel, (1, 1, 1), 128, 0, [("p", x.address), ("p", y.address), ("i32", n), ("f32", k)])


# What a device is.


def test_a_device_describes_itself() -> None:
    with mock_device(capability=(12, 0), total_bytes=64 << 20) as (device, _):
        assert device.name == "Mock GPU"
        assert device.capability == (12, 0)
        assert device.total_bytes == 64 << 20
        assert device.multiprocessors == 4
        assert device.uuid == "GPU-00010203-0405-0607-0809-0a0b0c0d0e0f"
        assert device.driver_version == 13000
        assert device.shared_bytes == 99 << 10
        device.alloc(1 << 20)
        assert device.free_bytes() == 63 << 20


def test_a_device_that_is_not_there_is_refused() -> None:
    mock = MockDriver()
    for ordinal in (1, -1):
        with driver.use(mock), pytest.raises(FlashsrError, match=rf"no GPU {ordinal}, got 1 .*; choose device_id="):
            Device(ordinal)
    mock.assert_clean()


def test_without_a_driver_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "_module", None)
    monkeypatch.setattr(driver, "device_count", lambda: 0)
    with pytest.raises(FlashsrError, match=r"no NVIDIA GPU was found, got 0 devices .*; install a GPU driver"):
        Device()


def test_without_cuda_python_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "_module", None)
    monkeypatch.setattr(driver, "device_count", lambda: 1)
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", None)
    with pytest.raises(FlashsrError, match=r"need cuda-python, got .*; install it with pip install"):
        Device()
    assert driver._module is None, "a later try may find it installed"


def test_a_driver_older_than_the_bindings_is_mentioned(caplog: pytest.LogCaptureFixture) -> None:
    mock = MockDriver()
    mock.driver_version = 12040
    with driver.use(mock), caplog.at_level(logging.WARNING):
        Device().close()
    assert "supports CUDA 12.4, cuda-python was made for 13.0" in caplog.text


def test_nothing_is_imported_with_the_package() -> None:
    code = (
        "import sys, vsflashsr.gpu.device, vsflashsr.gpu.staging;"
        "sys.exit(any(m.split('.')[0] in ('cuda', 'tensorrt', 'torch', 'triton') for m in sys.modules))"
    )
    import subprocess

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Errors.


def test_a_failed_call_becomes_one_sentence() -> None:
    with mock_device() as (device, mock):
        mock.fail("cuStreamCreate", error="CUDA_ERROR_ILLEGAL_ADDRESS")
        with pytest.raises(FlashsrError) as caught:
            device.stream()
        assert str(caught.value) == (
            "the GPU driver failed to create a stream, got CUDA_ERROR_ILLEGAL_ADDRESS (the mock's text of 700); "
            "run the script again, and report it if it happens twice"
        )
        assert isinstance(caught.value, driver.DriverError)
        assert caught.value.name == "CUDA_ERROR_ILLEGAL_ADDRESS"


def test_an_error_code_without_a_name_is_reported_too() -> None:
    with pytest.raises(FlashsrError, match=r"failed to x, got CUDA_ERROR 4711 .*; update the GPU driver"):
        driver.check((4711, None), "x")


def test_check_unpacks_what_a_call_returned() -> None:
    assert driver.check((0,)) is None
    assert driver.check((0, 5)) == 5
    assert driver.check((0, 5, 6)) == (5, 6)


# Copies and kernels.


@pytest.mark.parametrize("seed", SEEDS)
def test_bytes_travel_up_across_and_down(seed: int) -> None:
    with mock_device(seed=seed) as (device, _):
        stream = device.stream()
        source, result = device.pinned(1000), device.pinned(1000)
        first, second = device.alloc(1000), device.alloc(1000)
        source.array[:] = np.arange(1000) % 251
        result.array[:] = 7
        stream.upload(first, source)
        stream.zero(second)
        stream.copy(second.view(512, 256), first.view(0, 256))
        stream.copy(second, first, 100)
        stream.download(result, second, 900)
        stream.synchronize()
        expected = np.zeros(1000, np.uint8)
        expected[512:768] = source.array[:256]
        expected[:100] = source.array[:100]
        expected[900:] = 7
        assert np.array_equal(result.array, expected)


@pytest.mark.parametrize(("kind", "there", "back"), [("rows", "h2d", "d2h")])
def test_rows_are_copied_with_both_pitches(kind: str, there: Any, back: Any) -> None:
    with mock_device() as (device, mock):
        stream = device.stream()
        host, plane, packed, out = device.pinned(40 * 5), device.alloc(64 * 5), device.alloc(24 * 5), device.pinned(30 * 5)
        host.array[:] = np.arange(200)
        out.array[:] = 99
        stream.copy_2d(plane.address, 64, host.address, 40, 24, 5, there)
        stream.copy_2d(packed.address, 24, plane.address, 64, 24, 5, "d2d")
        stream.copy_2d(out.address, 30, packed.address, 24, 24, 5, back)
        stream.synchronize()
        expected = np.full((5, 30), 99, np.uint8)
        expected[:, :24] = np.arange(200).reshape(5, 40)[:, :24]
        assert np.array_equal(out.array.reshape(5, 30), expected)
        assert (mock.view(plane.address, 64 * 5).reshape(5, 64)[:, 24:] == 0xFF).all(), "between the rows is untouched"


@pytest.mark.parametrize(
    ("arguments", "what"),
    [((10, 20, 11, 3), "rows of 11 bytes with pitches of 20 and 10"), ((20, 20, 0, 3), "0 bytes"), ((20, 20, 5, 0), "0 rows")],
)
def test_impossible_rows_are_refused(arguments: tuple[int, int, int, int], what: str) -> None:
    with mock_device() as (device, _):
        host, buffer = device.pinned(100), device.alloc(100)
        dst_pitch, src_pitch, width, rows = arguments
        with pytest.raises(FlashsrError, match=what):
            device.stream().copy_2d(buffer.address, dst_pitch, host.address, src_pitch, width, rows, "h2d")


def test_a_copy_is_checked_against_both_sides() -> None:
    with mock_device() as (device, _):
        stream, host, buffer = device.stream(), device.pinned(100), device.alloc(50)
        for size, what in ((51, "51 bytes can't be copied"), (0, "0 bytes"), (None, "from 100 to 50 bytes needs a size")):
            with pytest.raises(FlashsrError, match=what):
                stream.upload(buffer, host, size)
            with pytest.raises(FlashsrError, match=r"can't be copied|needs a size"):
                stream.download(host, buffer, size)


def test_kernels_get_their_arguments_as_typed() -> None:
    with mock_device() as (device, mock):
        got: list[Any] = []
        mock.kernels["k"] = lambda grid, args, view: got.append((grid, args))
        kernel = device.load(image("other", "k")).kernel("k")
        buffer, stream = device.alloc(4), device.stream()
        args = [("p", buffer.address), ("p", 0), ("i32", -(2**31)), ("i64", -(2**63)), ("f32", 0.1), ("f32", 2)]
        stream.launch(kernel, (2**20, 3, 2), 256, 0, args)
        stream.synchronize()
        assert got == [((2**20, 3, 2), [buffer.address, 0, -(2**31), -(2**63), float(np.float32(0.1)), 2.0])]


@pytest.mark.parametrize(
    ("arg", "what"),
    [
        (("i32", 2**31), "argument 1 of kernel 'k' is of kind 'i32', got 2147483648"),
        (("i64", 2**63), "'i64', got"),
        (("p", -1), "'p', got -1"),
        (("i32", 1.5), "'i32', got 1.5"),
        (("f16", 1), "is of kind 'f16'; use 'p', 'i32', 'i64' or 'f32'"),
    ],
)
def test_an_argument_that_does_not_fit_is_refused(arg: tuple[str, Any], what: str) -> None:
    with mock_device() as (device, mock):
        mock.kernels["k"] = lambda grid, args, view: None
        kernel = device.load(image("k")).kernel("k")
        with pytest.raises(FlashsrError, match=re.escape(what)):
            device.stream().launch(kernel, (1, 1, 1), 32, 0, [("i32", 0), arg])


def test_an_empty_grid_is_refused_by_name() -> None:
    with mock_device() as (device, mock):
        kernel = add_kernel(device, mock)
        with pytest.raises(FlashsrError, match=r"kernel 'add' was launched on a grid of \(1, 0, 1\)"):
            device.stream().launch(kernel, (1, 0, 1), 32, 0, [])


def test_large_shared_memory_is_asked_for_once() -> None:
    with mock_device(shared_bytes=100 << 10) as (device, mock):
        mock.kernels["k"] = lambda grid, args, view: None
        kernel, stream = device.load(image("k")).kernel("k"), device.stream()
        for size in (48 << 10, 100 << 10, 90 << 10, 100 << 10):
            stream.launch(kernel, (1, 1, 1), 32, size, [])
        asked = [args[2] for called, args in mock.calls if called == "cuFuncSetAttribute"]
        assert asked == [100 << 10]
        with pytest.raises(FlashsrError, match=r"kernel 'k' needs 102401 bytes of shared memory, got a GPU with 102400"):
            stream.launch(kernel, (1, 1, 1), 32, (100 << 10) + 1, [])


def test_a_kernel_that_is_missing_is_named() -> None:
    with mock_device() as (device, _):
        module = device.load(image("k"))
        with pytest.raises(FlashsrError, match=r"find the kernel 'q', got CUDA_ERROR_NOT_FOUND"):
            module.kernel("q")
        with pytest.raises(FlashsrError, match=r"launch the kernel 'k' on a grid .*NOT_FOUND"):
            device.stream().launch(module.kernel("k"), (1, 1, 1), 32, 0, [])
        with pytest.raises(FlashsrError, match="load compiled kernels, got CUDA_ERROR_INVALID_IMAGE"):
            device.load(b"nonsense")


def test_times_are_those_of_the_device() -> None:
    with mock_device(eagerness=0) as (device, _):
        stream, buffer = device.stream(), device.alloc(4)
        start, end = device.event(timing=True), device.event(timing=True)
        stream.record(start)
        for _ in range(9):
            stream.zero(buffer)
        stream.record(end)
        before = end.done
        with pytest.raises(FlashsrError, match="measure a time, got CUDA_ERROR_NOT_READY"):
            end.elapsed_ms(start)
        end.synchronize()
        assert (before, end.done) == (False, True)
        assert end.elapsed_ms(start) == 10.0  # the mock's clock ticks once for each operation
        with pytest.raises(FlashsrError, match="CUDA_ERROR_INVALID_HANDLE"):
            end.elapsed_ms(device.event())


# The pool.


def test_addresses_are_aligned_even_where_the_drivers_are_not() -> None:
    with mock_device(alignment=256) as (device, mock):
        buffers = [device.alloc(size) for size in range(1, 2000, 100)]
        assert all(buffer.address % 512 == 0 for buffer in buffers)
        assert any(address % 512 for address in mock.addresses), "the test needs such addresses"
        assert device.memory.in_use_bytes == sum(-(-size // 512) * 512 for size in range(1, 2000, 100))
        for buffer in buffers:
            assert mock.view(buffer.address, buffer.size_bytes).size == buffer.size_bytes
            buffer.free()


def test_freed_memory_is_used_again_for_the_same_size() -> None:
    with mock_device() as (device, mock):
        first = device.alloc(1000)
        address = first.address
        first.free()
        assert device.alloc(1024).address == address
        assert device.alloc(1024).address != address
        assert mock.used_bytes == 2048


def test_freed_memory_is_used_again_only_after_what_was_queued_on_it() -> None:
    with mock_device(eagerness=0) as (device, _):
        a, b, c = device.stream(), device.stream(), device.stream()
        buffer = device.alloc(512)
        address = buffer.address
        a.download(device.pinned(512), buffer)
        b.download(device.pinned(512), buffer)
        c.zero(device.alloc(4096))
        buffer.free(a, b)
        other = device.alloc(512)
        assert other.address != address
        a.synchronize()
        assert device.alloc(512).address != address, "b still uses it"
        b.synchronize()
        assert device.alloc(512).address == address, "what c does is of no interest"


@pytest.mark.parametrize("seed", range(20))
def test_the_pool_never_hands_out_memory_in_use(seed: int) -> None:
    """Random programs on four streams; the mock raises where a block comes back too early."""
    rng = np.random.default_rng(seed)
    with mock_device(seed=seed) as (device, mock):
        streams = [device.stream() for _ in range(4)]
        held: list[tuple[Buffer, set[int]]] = []
        for _ in range(150):
            kind = rng.integers(10)
            if kind < 4 or not held:
                held.append((device.alloc(int(rng.choice([100, 600, 5000]))), set()))
            elif kind < 8:
                buffer, used = held[rng.integers(len(held))]
                place = int(rng.integers(4))
                used.add(place)
                mock.enqueue(streams[place].handle, lambda: None, reads=[(buffer.address, buffer.size_bytes)], name="use")
            elif kind < 9:
                buffer, used = held.pop(rng.integers(len(held)))
                buffer.free(*(streams[place] for place in used))
            else:
                streams[rng.integers(4)].synchronize()
        blocks = len(mock.addresses)
        assert len(held) <= blocks < 60
        assert device.memory.in_use_bytes == sum(-(-b.size_bytes // 512) * 512 for b, _ in held)


def test_idle_memory_is_bounded_and_the_oldest_goes_first() -> None:
    with mock_device() as (device, _):
        pool = Pool(DeviceMemory("the GPU"), device.event, idle_bytes=2048)
        blocks = [pool.take(1024) for _ in range(4)]
        for block in blocks:
            pool.give(block, ())
            pool.shrink()
        assert pool.use.idle_bytes == 2048
        assert pool.use.peak_bytes == 4096
        assert {pool.take(1024), pool.take(1024)} == {blocks[2], blocks[3]}
        assert pool.close() == []


def test_freeing_and_allocating_keep_to_the_bound_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_module, "IDLE_BYTES", 1024)
    with mock_device(eagerness=0) as (device, mock):
        stream = device.stream()
        for buffer in [device.alloc(1024) for _ in range(3)]:
            buffer.free()
        assert mock.used_bytes == 1024
        busy = [device.alloc(2048), device.alloc(4096)]
        for buffer in busy:
            stream.zero(buffer)
            buffer.free(stream)
        assert mock.ran == []
        assert device.memory.idle_bytes == 2048 + 4096, "what is being used stays"
        stream.synchronize()
        device.alloc(512)
        assert device.memory.idle_bytes == 0


def test_a_buffer_that_is_freed_while_memory_is_given_back_does_no_harm() -> None:
    """As the garbage collector may do at any moment."""
    released: list[int] = []

    class Source:
        name = "memory"

        def allocate(self, size_bytes: int) -> int:
            return 4096 * (1 + len(blocks))

        def release(self, address: int) -> None:
            released.append(address)
            if len(released) == 1:
                pool.give(blocks[2], ())
                pool.shrink()

        def room(self) -> str:
            return "none"

    with mock_device() as (device, mock), pytest.MonkeyPatch.context() as patch:
        patch.setattr(mock, "pool_took", lambda block: None)
        patch.setattr(mock, "pool_got", lambda block: None)
        pool = Pool(Source(), device.event, idle_bytes=0)
        blocks: list[Any] = []
        for _ in range(3):
            blocks.append(pool.take(512))
        for block in blocks[:2]:
            pool.give(block, ())
        pool.shrink()
        assert sorted(released) == [4096, 8192, 12288]
        assert pool.use.idle_bytes == pool.use.in_use_bytes == 0


def test_beyond_the_bound_an_allocation_waits_rather_than_takes() -> None:
    with mock_device(eagerness=0) as (device, mock):
        pool, stream = Pool(DeviceMemory("the GPU"), device.event, idle_bytes=2048), device.stream()
        addresses = []
        for _ in range(3):
            block = pool.take(1024)
            addresses.append(block.address)
            mock.enqueue(stream.handle, lambda: None, writes=[(block.address, 1024)])
            pool.give(block, (stream,))
        assert addresses[0] != addresses[1], "below the bound it doesn't wait"
        assert addresses[2] == addresses[0], "the one that was freed first"
        assert mock.ran == ["host", "event"]
        stream.synchronize()
        assert pool.close() == []


def test_events_of_the_pool_are_used_again() -> None:
    with mock_device(eagerness=0) as (device, mock):
        stream = device.stream()
        for size in (512, 1024) * 10:
            buffer = device.alloc(size)
            buffer.free(stream)
            stream.synchronize()
            device.trim()
        assert mock.alive["events"] == 1
        for size in (512, 512, 512):
            buffer = device.alloc(size)
            buffer.free(stream)
            stream.synchronize()
        assert mock.alive["events"] == 1
        kept = device.alloc(512)
        for _ in range(3):
            mock.fail("cuEventRecord")
            with pytest.raises(FlashsrError, match="queue an event"):
                kept.free(stream)
        assert mock.alive["events"] == 1
        kept.free(stream)


def test_trim_gives_back_what_is_idle_and_waits_for_it() -> None:
    with mock_device(eagerness=0) as (device, mock):
        stream = device.stream()
        kept, buffer, host = device.alloc(100), device.alloc(5000), device.pinned(5000)
        stream.download(host, buffer)
        buffer.free(stream)
        host.free(stream)
        assert device.trim() == 5120
        assert mock.ran[0] == "download"
        assert mock.used_bytes == 512
        assert device.pinned_memory.idle_bytes == 0
        assert kept.address


def test_without_room_idle_memory_is_given_back_and_the_allocation_tried_again() -> None:
    with mock_device(total_bytes=10 << 20, eagerness=0) as (device, mock):
        stream, buffer = device.stream(), device.alloc(6 << 20)
        stream.zero(buffer)
        buffer.free(stream)
        assert device.alloc(7 << 20).size_bytes == 7 << 20
        assert mock.peak_bytes == 7 << 20
        assert device.memory.peak_bytes == 7 << 20


def test_without_room_at_all_the_error_has_the_numbers_and_the_remedy() -> None:
    with mock_device(total_bytes=10 << 20) as (device, _):
        buffer = device.alloc(6 << 20)
        with pytest.raises(FlashsrError) as caught:
            device.alloc((7 << 20) - 5)
        assert str(caught.value) == (
            "the GPU Mock GPU has no room for 7 MiB more, got 4 of 10 MiB are free; "
            "use a smaller tile= or a smaller model, or close what else uses the GPU"
        )
        buffer.free()
        assert device.alloc(7 << 20).size_bytes == 7 << 20, "it works again once there is room"


def test_page_locked_memory_runs_out_with_a_sentence() -> None:
    with mock_device() as (device, mock):
        mock.fail("cuMemHostAlloc", error="CUDA_ERROR_OUT_OF_MEMORY")
        mock.fail("cuMemHostAlloc", error="CUDA_ERROR_OUT_OF_MEMORY")
        with pytest.raises(FlashsrError, match=r"page-locked host memory has no room for 3 MiB more, got .*; use"):
            device.pinned(3 << 20)


def test_another_error_than_out_of_memory_is_not_taken_for_it() -> None:
    with mock_device() as (device, mock):
        mock.fail("cuMemAlloc", error="CUDA_ERROR_ILLEGAL_ADDRESS")
        with pytest.raises(FlashsrError, match="allocate GPU memory, got CUDA_ERROR_ILLEGAL_ADDRESS"):
            device.alloc(5)


def test_a_buffer_has_at_least_a_byte() -> None:
    with mock_device() as (device, _), pytest.raises(FlashsrError, match="at least 1 byte, got 0"):
        device.alloc(0)


def test_views_share_the_memory_and_are_not_freed() -> None:
    with mock_device() as (device, mock):
        stream, buffer = device.stream(), device.alloc(1000)
        view = buffer.view(256, 700).view(10, 100)
        assert (view.address, view.size_bytes) == (buffer.address + 266, 100)
        stream.zero(view)
        stream.synchronize()
        zeros = np.flatnonzero(mock.view(buffer.address, 1000) == 0)
        assert (zeros[0], zeros[-1], zeros.size) == (266, 365, 100)
        with pytest.raises(FlashsrError, match="a view of 100 bytes can't be freed"):
            view.free()
        for offset, size in ((0, 1001), (-1, 5), (1000, 1), (5, 0)):
            with pytest.raises(FlashsrError, match="don't lie in a buffer of 1000"):
                buffer.view(offset, size)
        buffer.free(stream)
        for gone in (view, buffer):
            with pytest.raises(FlashsrError, match="after it was freed"):
                stream.zero(gone)
        with pytest.raises(FlashsrError, match="freed twice"):
            buffer.free()


def test_host_views_are_the_memory_itself() -> None:
    with mock_device() as (device, _):
        host = device.pinned(16)
        host.array[:] = 1
        host.view(4, 8).array.view(np.int32)[:] = 0
        assert numbers(host) == [1] * 4 + [0] * 8 + [1] * 4


def test_memory_of_a_graph_is_not_freed_inside_its_capture() -> None:
    with mock_device() as (device, _):
        stream, buffer = device.stream(), device.alloc(16)
        with pytest.raises(FlashsrError, match="can't be freed on a stream that is being captured"), stream.capture():
            stream.zero(buffer)
            buffer.free(stream)
        assert not stream.capturing
        buffer.free(stream)


def test_the_pool_works_while_another_stream_is_captured() -> None:
    with mock_device(eagerness=0) as (device, mock):
        stream, other = device.stream(), device.stream()
        buffer, kept = device.alloc(512), device.alloc(512)
        other.zero(buffer)
        buffer.free(other)
        with stream.capture() as capture:
            device.alloc(512)
            device.alloc(4096)
            stream.zero(kept)
        capture.graph.launch(stream)
        stream.synchronize()
        assert mock.view(kept.address, 1)[0] == 0


# The staging ring.


@pytest.mark.parametrize("seed", SEEDS)
def test_a_ring_carries_every_frame_unharmed(seed: int) -> None:
    with mock_device(seed=seed) as (device, mock):
        kernel = add_kernel(device, mock)
        copies, compute = device.stream(), device.stream()
        uploaded, used = device.event(), device.event()
        frame, total = device.alloc(64), device.alloc(64)
        up, down = StagingRing(device, 64, 2), StagingRing(device, 64, 3)
        compute.zero(total)
        late: list[Any] = []
        sums: list[float] = []
        for n in range(9):
            with up.take(copies) as slot:
                slot.array.view(np.float32)[:] = n
                copies.wait(used)
                copies.upload(frame, slot.buffer)
            copies.record(uploaded)
            compute.wait(uploaded)
            launch_add(compute, kernel, frame, total, 16, 0.5)
            compute.record(used)
            result = down.take(compute)
            compute.download(result.buffer, total)
            result.mark()
            late.append(result)
            if len(late) == 3:
                first = late.pop(0)
                first.wait()
                sums.append(float(first.array.view(np.float32)[15]))
                first.release()
        assert sums == [n * (n + 1) / 2 + 0.5 * (n + 1) for n in range(7)]
        for slot in late:
            slot.release()
        up.close()
        down.close()
        down.close()
        assert device.pinned_memory.in_use_bytes == 0


def test_a_ring_waits_for_its_oldest_use_alone() -> None:
    with mock_device(eagerness=0) as (device, mock):
        stream, other, buffer = device.stream(), device.stream(), device.alloc(8)
        ring = StagingRing(device, 8, 2)
        other.zero(device.alloc(8))
        for _ in range(2):
            with ring.take(stream) as slot:
                stream.upload(buffer, slot.buffer)
        stream.zero(buffer)
        assert mock.ran == []
        ring.take(stream)
        assert mock.ran == ["upload", "event"], "one upload, not the next, nor what followed, nor the other stream"


def test_a_ring_is_strict_about_who_holds_what() -> None:
    with mock_device() as (device, _):
        stream, ring = device.stream(), StagingRing(device, 8, 2)
        first, _second = ring.take(stream), ring.take(stream)
        with pytest.raises(FlashsrError, match="no buffer left, got 2 taken"):
            ring.take(stream)
        first.release()
        for use in (lambda: first.buffer, lambda: first.array, first.release):
            with pytest.raises(FlashsrError, match=r"after its release|twice"):
                use()
        again = ring.take(stream)
        with pytest.raises(FlashsrError, match="twice"):
            first.release()
        again.release()
        with pytest.raises(FlashsrError, match="being captured"), stream.capture():
            ring.take(stream)
        with pytest.raises(FlashsrError, match="at least 1 buffer, got 0"):
            StagingRing(device, 8, 0)
        ring.close()


@pytest.mark.parametrize("marked", [True, False])
def test_a_download_is_there_after_the_slots_wait(marked: bool) -> None:
    with mock_device(eagerness=0) as (device, mock):
        stream, buffer, ring = device.stream(), device.alloc(8), StagingRing(device, 8, 2)
        stream.zero(buffer)
        slot = ring.take(stream)
        stream.download(slot.buffer, buffer)
        if marked:
            slot.mark()
            mock.enqueue(stream.handle, lambda: None, name="later")
        slot.wait()
        assert slot.array.tolist() == [0] * 8
        assert "later" not in mock.ran
        slot.release()


@pytest.mark.parametrize("released", [True, False])
def test_a_ring_that_is_closed_waits_for_its_last_uses(released: bool) -> None:
    with mock_device(eagerness=0) as (device, _):
        stream, buffer, ring = device.stream(), device.alloc(8), StagingRing(device, 8, 1)
        slot = ring.take(stream)
        stream.upload(buffer, slot.buffer)
        if released:
            slot.release()
        ring.close()
        device.pinned(8)  # the same memory: the mock raises where it is still read


def test_a_ring_that_cannot_be_made_leaves_nothing() -> None:
    with mock_device() as (device, mock):
        for function in ("cuMemHostAlloc", "cuEventCreate"):
            for after in range(3):
                mock.fail(function, after=after)
                before = len(mock._events)
                with pytest.raises(FlashsrError):
                    StagingRing(device, 8, 3)
                assert device.pinned_memory.in_use_bytes == 0
                assert len(mock._events) == before
                device.trim()


# Graphs.


@pytest.mark.parametrize("seed", SEEDS)
def test_a_captured_fork_and_join_is_replayed(seed: int) -> None:
    with mock_device(seed=seed) as (device, mock):
        kernel = add_kernel(device, mock)
        main, side = device.stream(), device.stream()
        forked, joined = device.event(), device.event()
        one, a, b, out = device.alloc(4), device.alloc(4), device.alloc(4), device.pinned(4)
        source = device.pinned(4)
        source.array.view(np.float32)[:] = 1
        main.upload(one, source)
        for buffer in (a, b):
            main.zero(buffer)
        main.synchronize()
        mock.ran.clear()
        with main.capture() as capture:
            launch_add(main, kernel, one, a, 1, 0)  # a += 1
            main.record(forked)
            side.wait(forked)
            inside = side.capturing
            launch_add(side, kernel, a, b, 1, 0)  # b += a
            side.record(joined)
            main.wait(joined)
            launch_add(main, kernel, b, a, 1, 10)  # a += b + 10
        assert (inside, side.capturing) == (True, False)
        assert mock.ran == [], "a capture runs nothing"
        expected_a, expected_b = 0.0, 0.0
        for place in range(4):
            capture.graph.launch(side if place % 2 else main)
            expected_a += 1
            expected_b += expected_a
            expected_a += expected_b + 10
        side.synchronize()
        main.download(out, a)
        main.synchronize()
        assert numbers(out, np.float32) == [expected_a]
        capture.graph.close()
        capture.graph.close()
        with pytest.raises(FlashsrError, match="a graph was launched after it, or its device, was closed"):
            capture.graph.launch(main)


def test_a_capture_that_fails_inside_leaves_nothing_and_the_stream_usable() -> None:
    with mock_device() as (device, mock):
        stream, buffer = device.stream(), device.alloc(4)
        with pytest.raises(KeyError), stream.capture() as capture:
            stream.zero(buffer)
            raise KeyError
        with pytest.raises(FlashsrError, match="capture has not ended"):
            _ = capture.graph
        stream.zero(buffer)
        stream.synchronize()
        assert mock.ran == ["memset"]
        assert not {"graphs", "captured graphs"} & set(mock.alive)


def test_a_wait_inside_a_capture_is_reported_as_such() -> None:
    with mock_device() as (device, mock):
        stream, buffer = device.stream(), device.alloc(4)
        with pytest.raises(FlashsrError, match="CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"), stream.capture():
            stream.zero(buffer)
            stream.synchronize()
        side, event = device.stream(), device.event()
        with pytest.raises(FlashsrError, match="capture a stream, got CUDA_ERROR_STREAM_CAPTURE_UNJOINED"), stream.capture():
            stream.record(event)
            side.wait(event)
            side.zero(buffer)
        assert not stream.capturing
        assert not side.capturing
        assert "captured graphs" not in mock.alive


# The end.


def everything(device: Device, mock: MockDriver) -> None:
    """A run as models make it, which holds some of everything when it ends."""
    kernel = add_kernel(device, mock)
    copies, compute = device.stream(), device.stream()
    uploaded, used = device.event(), device.event(timing=True)
    frame, total = device.alloc(64), device.alloc(64)
    ring = StagingRing(device, 64, 2)
    compute.zero(total)
    for n in range(3):
        with ring.take(copies) as slot:
            slot.array.view(np.float32)[:] = n
            copies.wait(used)
            copies.upload(frame, slot.buffer)
        copies.record(uploaded)
        compute.wait(uploaded)
        launch_add(compute, kernel, frame, total, 16, 0.5)
        compute.record(used)
        temporary = device.alloc(4096)
        compute.copy_2d(temporary.address, 64, total.address, 16, 16, 4, "d2d")
        temporary.free(compute)
    with compute.capture() as capture:
        launch_add(compute, kernel, frame, total, 16, 0)
    capture.graph.launch(compute)
    with pytest.raises(ZeroDivisionError), compute.capture():
        compute.zero(total)
        _ = 1 / 0
    out = device.pinned(64)
    compute.download(out, total)
    compute.synchronize()
    device.trim()
    assert out.array.view(np.float32)[3] == 0 + 1 + 2 + 3 * 0.5 + 2
    ring.close()
    used.close()
    compute.zero(total)


def test_close_frees_everything_in_order_and_leaves_the_thread_alone() -> None:
    mock = MockDriver()
    with driver.use(mock):
        device = Device()
        assert mock.alive == {"contexts": 1}
        everything(device, mock)
        mock.calls.clear()
        device.close()
        mock.assert_clean()
        assert device.closed
        ends = [called for called, _ in mock.calls if re.search("Destroy|Free|Unload|Release|Synchronize", called)]
        order = list(dict.fromkeys(ends))
        assert order == [
            "cuStreamSynchronize",
            "cuGraphExecDestroy",
            "cuModuleUnload",
            "cuStreamDestroy",
            "cuEventDestroy",
            "cuMemFree",
            "cuMemFreeHost",
            "cuDevicePrimaryCtxRelease",
        ]
        assert int(mock.cuCtxGetCurrent()[1]) == 0
        count = len(mock.calls)
        device.close()
        assert len(mock.calls) == count, "closed once"


def test_close_waits_for_what_is_still_queued() -> None:
    mock = MockDriver(eagerness=0)
    with driver.use(mock):
        device = Device()
        stream, buffer = device.stream(), device.alloc(4)
        stream.zero(buffer)
        device.close()
        assert mock.ran == ["memset"]
        mock.assert_clean()


def test_closing_a_stream_waits_for_what_is_queued() -> None:
    with mock_device(eagerness=0) as (device, mock):
        stream, buffer = device.stream(), device.alloc(4)
        stream.zero(buffer)
        stream.close()
        stream.close()
        assert mock.ran == ["memset"]
        buffer.free()
        device.trim()


def test_what_was_closed_is_forgotten() -> None:
    with mock_device() as (device, mock):
        stream, buffer = device.stream(), device.alloc(4)
        alive = mock.alive
        for _ in range(3):
            module, event, other = device.load(image("k")), device.event(), device.stream()
            with stream.capture() as capture:
                stream.zero(buffer)
            for thing in (module, event, other, capture.graph):
                thing.close()
        assert mock.alive == alive
        assert sum(len(things) for things in device._things.values()) == 1


def test_close_works_from_a_thread_that_never_saw_the_device() -> None:
    mock = MockDriver()
    with driver.use(mock):
        device = Device()
        everything(device, mock)
        with ThreadPoolExecutor(1) as threads:
            threads.submit(device.close).result()
    mock.assert_clean()


def test_close_goes_on_where_something_fails_and_reports_it(caplog: pytest.LogCaptureFixture) -> None:
    mock = MockDriver()
    with driver.use(mock):
        device = Device()
        everything(device, mock)
        mock.fail("cuStreamSynchronize", error="CUDA_ERROR_ILLEGAL_ADDRESS")
        mock.fail("cuMemFree", error="CUDA_ERROR_UNKNOWN")
        with caplog.at_level(logging.WARNING), pytest.raises(FlashsrError, match="CUDA_ERROR_ILLEGAL_ADDRESS"):
            device.close()
        assert "while closing GPU 0: the GPU driver failed to free GPU memory" in caplog.text
        device.close()


def test_a_driver_that_is_already_gone_is_no_failure() -> None:
    mock = MockDriver()
    with driver.use(mock):
        device = Device()
        device.alloc(4)
        for function in ("cuCtxSetCurrent", "cuMemFree", "cuCtxSetCurrent", "cuDevicePrimaryCtxRelease"):
            mock.fail(function, error="CUDA_ERROR_DEINITIALIZED")
        device.close()


def test_another_user_of_the_context_keeps_it() -> None:
    mock = MockDriver()
    with driver.use(mock):
        first, second = Device(), Device()
        buffer = second.alloc(4)
        first.close()
        assert mock.alive == {"contexts": 1, "device memory": 1}
        second.make_current()
        second.stream().zero(buffer)
        second.close()
        mock.assert_clean()


def test_what_is_used_after_the_end_says_so() -> None:
    mock = MockDriver()
    with driver.use(mock):
        device = Device()
        stream, event, buffer, host = device.stream(), device.event(), device.alloc(4), device.pinned(4)
        module = device.load(image("k"))
        kernel = module.kernel("k")
        with stream.capture() as capture:
            stream.zero(buffer)
        device.close()
        uses: list[Callable[[], object]] = [
            device.make_current,
            device.stream,
            device.free_bytes,
            lambda: device.alloc(4),
            lambda: device.pinned(4),
            lambda: buffer.address,
            lambda: host.array,
            stream.synchronize,
            lambda: stream.handle,
            lambda: event.done,
            lambda: module.kernel("k"),
            lambda: kernel.handle,
            lambda: capture.graph.launch(stream),
        ]
        for use in uses:
            with pytest.raises(FlashsrError, match="closed"):
                use()
        for closing in (stream.close, event.close, module.close, capture.graph.close, buffer.free, host.free):
            closing()


@pytest.mark.parametrize("seed", SEEDS)
def test_threads_share_a_device(seed: int) -> None:
    with mock_device(seed=seed) as (device, mock):
        kernel = add_kernel(device, mock)
        barrier = threading.Barrier(4)

        def work(number: int) -> list[float]:
            device.make_current()
            stream, host = device.stream(), device.pinned(64)
            barrier.wait()
            results = []
            for n in range(8):
                frame, total = device.alloc(64), device.alloc(64)
                host.array.view(np.float32)[:] = number * 100 + n
                stream.upload(frame, host)
                stream.zero(total)
                launch_add(stream, kernel, frame, total, 16, 0.25)
                stream.download(host, total)
                frame.free(stream)
                total.free(stream)
                stream.synchronize()
                results.append(float(host.array.view(np.float32)[7]))
            host.free(stream)
            stream.close()
            return results

        with ThreadPoolExecutor(4) as threads:
            got = list(threads.map(work, range(4)))
        assert got == [[number * 100 + n + 0.25 for n in range(8)] for number in range(4)]
        assert device.memory.in_use_bytes == 0
        assert set(mock.alive) <= {"contexts", "modules", "events", "device memory", "pinned memory"}


def test_a_thread_without_the_device_gets_a_sentence() -> None:
    with mock_device() as (device, _):
        stream = device.stream()
        with ThreadPoolExecutor(1) as threads, pytest.raises(FlashsrError, match="CUDA_ERROR_INVALID_CONTEXT"):
            threads.submit(stream.synchronize).result()


@pytest.mark.parametrize(
    "method",
    [
        Device.stream,
        Device.event,
        lambda device: device.load(image("k")),
        lambda device: device.alloc(4),
        lambda device: device.pinned(4),
        Device.free_bytes,
        Device.trim,
    ],
)
def test_the_devices_own_methods_work_in_every_thread(method: Callable[[Device], object]) -> None:
    with mock_device() as (device, _):
        device.alloc(5000).free()
        with ThreadPoolExecutor(1) as threads:
            threads.submit(method, device).result()


def failing_calls() -> Iterator[int]:
    mock = MockDriver()
    with driver.use(mock):
        device = Device()
        everything(device, mock)
        device.close()
    yield from range(len(mock.calls) + 1)


@pytest.mark.parametrize("error", ["CUDA_ERROR_UNKNOWN", "CUDA_ERROR_OUT_OF_MEMORY"])
def test_a_failure_anywhere_is_an_error_and_never_a_leak(error: str) -> None:
    """The n-th call of the driver fails, for every n of a whole life."""
    succeeded = 0
    for n in failing_calls():
        mock = MockDriver(seed=n)
        mock.fail("*", after=n, error=error)
        device: Device | None = None
        with driver.use(mock):
            try:
                device = Device()
                everything(device, mock)
                succeeded += 1
            except FlashsrError as failure:
                assert SENTENCE.fullmatch(str(failure)), failure
            finally:
                if device is not None:
                    with suppress(FlashsrError):
                        device.close()
        called = mock.calls[n][0] if n < len(mock.calls) else "nothing"
        assert mock.alive == {}, f"call {n}, {called}"
    assert succeeded > 1


def test_the_default_bounds_are_stated_in_bytes() -> None:
    assert device_module.IDLE_BYTES == 1 << 30
    assert device_module.IDLE_PINNED_BYTES == 256 << 20
