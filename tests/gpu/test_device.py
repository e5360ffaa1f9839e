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
from vsflashsr.gpu import driver
from vsflashsr.gpu.device import Buffer, Device, Stream
from vsflashsr.gpu.pipeline import Pipeline, RunState, Stage
from vsflashsr.gpu.results import StepResult

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
        "import sys, vsflashsr.gpu.device, vsflashsr.gpu.pipeline;"
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
        stream.copy(second.part(512, 256), first.part(0, 256))
        stream.copy(second, first, 100)
        stream.download(result, second, 900)
        stream.synchronize()
        expected = np.zeros(1000, np.uint8)
        expected[512:768] = source.array[:256]
        expected[:100] = source.array[:100]
        expected[900:] = 7
        assert np.array_equal(result.array, expected)


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
        (("f16", 1), "is of kind 'f16'; use 'p', 'i32', 'i64', 'f32' or 'map'"),
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
        with pytest.raises(FlashsrError, match="measure a time, got CUDA_ERROR_NOT_READY"):
            end.elapsed_ms(start)
        end.synchronize()
        assert end.elapsed_ms(start) == 10.0  # the mock's clock ticks once for each operation
        with pytest.raises(FlashsrError, match="CUDA_ERROR_INVALID_HANDLE"):
            end.elapsed_ms(device.event())


# Memory.


def test_memory_is_taken_and_given_back_as_it_is_asked_for() -> None:
    with mock_device() as (device, mock):
        buffers = [device.alloc(size) for size in range(1, 2000, 100)]
        assert all(buffer.address % 256 == 0 for buffer in buffers)
        assert mock.used_bytes == sum(range(1, 2000, 100))
        for buffer in buffers:
            assert mock.view(buffer.address, buffer.size_bytes).size == buffer.size_bytes
            buffer.close()
            buffer.close()
        assert mock.used_bytes == 0


def test_without_room_the_error_has_the_numbers_and_the_remedy() -> None:
    with mock_device(total_bytes=10 << 20) as (device, _):
        buffer = device.alloc(6 << 20)
        with pytest.raises(FlashsrError) as caught:
            device.alloc((7 << 20) - 5)
        assert str(caught.value) == (
            "the GPU Mock GPU has no room for 7 MiB more, got 4 of 10 MiB are free; "
            "use a smaller tile= or a smaller model, or close what else uses the GPU"
        )
        buffer.close()
        assert device.alloc(7 << 20).size_bytes == 7 << 20, "it works again once there is room"


def test_page_locked_memory_runs_out_with_a_sentence() -> None:
    with mock_device() as (device, mock):
        mock.fail("cuMemHostAlloc", error="CUDA_ERROR_OUT_OF_MEMORY")
        with pytest.raises(FlashsrError, match=r"page-locked host memory has no room for 3 MiB more, got .*; use"):
            device.pinned(3 << 20)


def test_another_error_than_out_of_memory_is_not_taken_for_it() -> None:
    with mock_device() as (device, mock):
        mock.fail("cuMemAlloc", error="CUDA_ERROR_ILLEGAL_ADDRESS")
        with pytest.raises(FlashsrError, match="allocate GPU memory, got CUDA_ERROR_ILLEGAL_ADDRESS"):
            device.alloc(5)


def test_a_buffer_has_at_least_a_byte() -> None:
    with mock_device() as (device, _):
        for take in (device.alloc, device.pinned):
            with pytest.raises(FlashsrError, match="at least 1 byte, got 0"):
                take(0)


def test_parts_share_the_memory_of_the_whole() -> None:
    with mock_device() as (device, mock):
        stream, buffer = device.stream(), device.alloc(1000)
        part = buffer.part(266, 100)
        assert (part.address, part.size_bytes) == (buffer.address + 266, 100)
        stream.zero(part)
        stream.synchronize()
        zeros = np.flatnonzero(mock.view(buffer.address, 1000) == 0)
        assert (zeros[0], zeros[-1], zeros.size) == (266, 365, 100)
        for offset, size in ((0, 1001), (-1, 5), (1000, 1), (5, 0)):
            with pytest.raises(FlashsrError, match="don't lie in a buffer of 1000"):
                buffer.part(offset, size)
        buffer.close()
        for gone in (part, buffer):
            with pytest.raises(FlashsrError, match="a buffer was used after it, or its device, was closed"):
                stream.zero(gone)


@pytest.mark.parametrize("eagerness", [0, 1])
def test_a_constant_is_there_when_it_is_handed_out(eagerness: float) -> None:
    with mock_device(eagerness=eagerness) as (device, mock):

        def fill(raw: Any) -> None:
            raw[:] = range(100)

        buffer = device.constant(100, fill)
        assert mock.view(buffer.address, 100).tolist() == list(range(100))
        assert mock.alive == {"contexts": 1, "device memory": 1}
        with pytest.raises(ZeroDivisionError):
            device.constant(100, lambda raw: 1 / 0)  # type: ignore[arg-type]
        assert "pinned memory" not in mock.alive


# Steps.

SIZE = 16 * 4


class Sums:
    """A model whose state is the sum of all it was given: stage one adds to it, stage two puts it out, and doubles it."""

    def __init__(self, device: Device, mock: MockDriver, *, runs: int = 2, captured: bool = True) -> None:
        self.kernel = add_kernel(device, mock)
        self.between = [device.alloc(SIZE) for _ in range(3)]
        self.pipeline = Pipeline(
            device,
            in_flight=2,
            in_bytes=SIZE,
            out_bytes=SIZE,
            run_bytes={"sum": SIZE},
            runs=runs,
            stages=2,
            captured=captured,
        )

    def step(self, number: float, state: RunState | None) -> tuple[StepResult, RunState]:
        pipeline, slot = self.pipeline, self.pipeline.slot
        first = state is None
        if state is None:
            state = pipeline.cold()
        total, between = state.memory.buffers["sum"], self.between[slot]

        def add(stream: Stream) -> None:
            if first:
                stream.zero(total)
            launch_add(stream, self.kernel, pipeline.given(slot), total, 16, 0)
            stream.copy(between, total)

        def put_out(stream: Stream) -> None:
            stream.copy(pipeline.makes(slot), between)
            launch_add(stream, self.kernel, between, pipeline.makes(slot), 16, 0)

        def fill(raw: Any) -> None:
            raw.view(np.float32)[:] = number

        result = pipeline.submit(
            state,
            [Stage(first, add), Stage("out", put_out)],
            give=lambda place, uploader: place.send(uploader, SIZE, fill),
            take=lambda place, made, copier: place.send(
                made, copier, SIZE, lambda raw: [raw.view(np.float32).copy()]
            ),
        )
        return result, state


@pytest.mark.parametrize("captured", [True, False])
@pytest.mark.parametrize("seed", SEEDS)
def test_steps_of_two_runs_come_out_as_they_went_in(seed: int, captured: bool) -> None:
    """Whatever is under way, however late it is fetched: the mock raises where nothing orders what collides."""
    with mock_device(seed=seed) as (device, mock):
        model = Sums(device, mock, captured=captured)
        states: list[RunState | None] = [None, None]
        waiting: list[tuple[float, StepResult]] = []
        sums = [0.0, 0.0]
        for n in range(24):
            run = n % 3 % 2
            if n == 12:
                states[run], sums[run] = None, 0.0  # a new run
            sums[run] += n
            result, states[run] = model.step(n, states[run])
            waiting.append((2 * sums[run], result))
            if n % 5 == 4:
                while len(waiting) > 1:
                    wanted, oldest = waiting.pop(0)
                    assert oldest.fetch()[0].tolist() == [wanted] * 16
        for wanted, left in waiting:
            assert left.fetch()[0].tolist() == [wanted] * 16


def test_a_step_waits_for_nothing_but_the_upload_that_used_its_memory() -> None:
    with mock_device(eagerness=0) as (device, mock):
        model = Sums(device, mock)
        state = None
        held = []
        for n in range(3):
            result, state = model.step(n, state)
            held.append(result)
        assert mock.ran == []
        model.step(3, state)
        assert mock.ran[:2] == ["upload", "event"]
        assert "download" in mock.ran, "what lay in the slot was fetched for who holds it"


def test_what_is_sent_lies_still_until_it_was_sent() -> None:
    """Nobody fetches, so nobody but the slot itself waits for its upload."""
    with mock_device(eagerness=0) as (device, mock):
        model, state = Sums(device, mock), None
        for n in range(8):
            result, state = model.step(n, state)
        assert result.fetch()[0][0] == 2 * sum(range(8))


def test_a_run_that_is_let_go_leaves_its_memory_to_the_next() -> None:
    with mock_device() as (device, mock):
        model = Sums(device, mock, runs=1)
        taken = mock.used_bytes
        for _ in range(3):
            _, state = model.step(1, None)
            _, state = model.step(1, state)
            del state
        assert mock.used_bytes == taken
        _, first = model.step(1, None)
        _, second = model.step(1, None)
        assert mock.used_bytes == taken + SIZE
        assert first.memory is not second.memory


def test_stages_are_captured_once_and_replayed() -> None:
    with mock_device() as (device, mock):
        model, state = Sums(device, mock), None
        for n in range(20):
            _, state = model.step(n, state)
        # The first step's stage, and two for each of three slots, the first time of which ran plainly.
        assert len([called for called, _ in mock.calls if called == "cuStreamBeginCapture"]) == 2 * 3
        launched = len([called for called, _ in mock.calls if called == "cuGraphLaunch"])
        assert launched == 2 * 20 - 1 - 2 * 3


# Graphs.


@pytest.mark.parametrize("seed", SEEDS)
def test_a_capture_is_replayed_on_any_stream(seed: int) -> None:
    with mock_device(seed=seed) as (device, mock):
        kernel = add_kernel(device, mock)
        main, side = device.stream(), device.stream()
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
            launch_add(main, kernel, a, b, 1, 0)  # b += a
            launch_add(main, kernel, b, a, 1, 10)  # a += b + 10
        assert mock.ran == [], "a capture runs nothing"
        expected_a, expected_b = 0.0, 0.0
        for place in range(4):
            (side if place % 2 else main).replay(capture.graph)
            expected_a += 1
            expected_b += expected_a
            expected_a += expected_b + 10
        side.synchronize()
        main.download(out, a)
        main.synchronize()
        assert numbers(out, np.float32) == [expected_a]
        capture.graph.close()
        capture.graph.close()
        with pytest.raises(FlashsrError, match="a captured graph was used after it, or its device, was closed"):
            main.replay(capture.graph)


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
        assert "captured graphs" not in mock.alive
        stream.zero(buffer)
        stream.synchronize()


# The end.


def everything(device: Device, mock: MockDriver) -> None:
    """A run as models make it, which holds some of everything when it ends."""
    model, state = Sums(device, mock), None
    sums = []
    for n in range(5):
        result, state = model.step(n, state)
        sums.append(result.fetch()[0][3])
    assert sums == [0, 2, 6, 12, 20]
    stream, start, end = device.stream(), device.event(timing=True), device.event(timing=True)
    stream.record(start)
    with pytest.raises(ZeroDivisionError), stream.capture():
        stream.zero(model.between[0])
        _ = 1 / 0
    stream.record(end)
    stream.synchronize()
    start.close()
    device.constant(4, lambda raw: None)
    stream.zero(model.between[0])


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
        called = [name for name, _ in mock.calls]
        ends = [name for name in called if re.search("Destroy|Free|Unload|Release", name)]
        # The memory of work that is under way stays until it has run; graphs end before the kernels that they launch.
        streams = sum(name == "cuStreamDestroy" for name in called)
        assert [n for n in called if n.startswith("cuStream") or n in ends][:streams] == ["cuStreamSynchronize"] * streams
        assert max(n for n, name in enumerate(ends) if "Graph" in name) < ends.index("cuModuleUnload")
        assert {*ends} >= {"cuEventDestroy", "cuMemFree", "cuMemFreeHost"} and ends[-1] == "cuDevicePrimaryCtxRelease"
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
        buffer.close()


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
        assert len(device._handles.newest_first()) == 2


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
            event.synchronize,
            lambda: module.kernel("k"),
            lambda: kernel.handle,
            lambda: stream.replay(capture.graph),
        ]
        for use in uses:
            with pytest.raises(FlashsrError, match="closed"):
                use()
        for closing in (stream.close, event.close, module.close, capture.graph.close, buffer.close, host.close):
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
                stream.synchronize()
                frame.close()
                total.close()
                results.append(float(host.array.view(np.float32)[7]))
            host.close()
            stream.close()
            return results

        with ThreadPoolExecutor(4) as threads:
            got = list(threads.map(work, range(4)))
        assert got == [[number * 100 + n + 0.25 for n in range(8)] for number in range(4)]
        assert mock.alive == {"contexts": 1, "modules": 1}


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
    ],
)
def test_the_devices_own_methods_work_in_every_thread(method: Callable[[Device], object]) -> None:
    with mock_device() as (device, _), ThreadPoolExecutor(1) as threads:
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


def test_a_device_that_is_closed_leaves_another_model_s_alone() -> None:
    """Garbage is collected in any thread, in the middle of another model's step too."""
    with mock_device() as (device, _):
        stream, other = device.stream(), Device()
        other.close()
        stream.synchronize()  # without make_current, as in the middle of a step
