"""The mock driver does what CUDA documents, catches what CUDA would let pass, and fits the real module."""

from __future__ import annotations

import ctypes
import dataclasses
import importlib
import inspect
import os
import re
import tempfile
from collections.abc import Callable
from enum import IntEnum
from typing import Any

import numpy as np
import pytest

from vsflashsr.gpu.device import Buffer, Device, HostBuffer, Stream
from vsflashsr.gpu.probe import device_count

from ..support.mock_cuda import CUexternalSemaphore, CUresult, Handle, MockDriver, MockError, image, mock_device

SEEDS = range(12)
SUCCESS = CUresult.CUDA_SUCCESS
FUNCTIONS = sorted(name for name in dir(MockDriver) if re.fullmatch(r"cu[A-Z]\w+", name))


def filled(buffer: HostBuffer, value: int) -> HostBuffer:
    buffer.array[:] = value
    return buffer


def outcome(
    program: Callable[[Device, MockDriver], bytes], seed: int, eagerness: float = 0.5, *, races: bool = False
) -> bytes | str:
    """What a program put out, or how the mock caught it."""
    try:
        with mock_device(seed=seed, eagerness=eagerness, races=races) as (device, mock):
            return program(device, mock)
    except MockError as error:
        return str(error)


def test_work_runs_no_earlier_than_somebody_waits_for_it() -> None:
    with mock_device(eagerness=0) as (device, mock):
        a, b = device.stream(), device.stream()
        first, second = device.alloc(4), device.alloc(4)
        a.zero(first)
        b.zero(second)
        assert mock.ran == []
        b.synchronize()
        assert mock.ran == ["memset"]
        assert mock.view(first.address, 4).tolist() == [0xFF] * 4
        assert mock.view(second.address, 4).tolist() == [0] * 4


def test_the_same_seed_gives_the_same_order() -> None:
    def order(seed: int) -> list[str]:
        with mock_device(seed=seed, eagerness=0) as (device, mock):
            streams = [device.stream() for _ in range(4)]
            for place, stream in enumerate(streams):
                for step in range(4):
                    mock.enqueue(stream.handle, lambda: None, name=f"{place}.{step}")
            done = device.event()
            for stream in streams[1:]:
                stream.record(done)
                streams[0].wait(done)
            streams[0].synchronize()
            return mock.ran

    assert order(3) == order(3)
    assert len({tuple(order(seed)) for seed in SEEDS}) > len(SEEDS) // 2


def two_streams(device: Device, mock: MockDriver, *, wait_for_upload: bool, wait_for_use: bool) -> bytes:
    """Uploads on one stream, reads on another, five times over one buffer: sums that tell every slip."""

    def add(grid: tuple[int, int, int], args: Any, view: Any) -> None:
        view(args[1], 8, np.int32)[:] = view(args[1], 8, np.int32) * 3 + view(args[0], 8, np.int32)

    mock.kernels["add"] = add
    kernel = device.load(image("add")).kernel("add")
    copies, compute = device.stream(), device.stream()
    uploaded, used = device.event(), device.event()
    frame, total, out = device.alloc(32), device.alloc(32), device.pinned(32)
    compute.zero(total)
    for n in range(5):
        if wait_for_use:
            copies.wait(used)
        source = filled(device.pinned(32), n + 1)
        copies.upload(frame, source)
        copies.record(uploaded)
        if wait_for_upload:
            compute.wait(uploaded)
        compute.launch(kernel, (1, 1, 1), 32, 0, [("p", frame.address), ("p", total.address)])
        compute.record(used)
        if n % 2:
            compute.synchronize()
    compute.download(out, total)
    compute.synchronize()
    return out.array.tobytes()


@pytest.mark.parametrize("races", [False, True])
def test_declared_dependencies_are_respected_for_every_seed(races: bool) -> None:
    results = {
        outcome(lambda d, m: two_streams(d, m, wait_for_upload=True, wait_for_use=True), seed, eagerness, races=races)
        for seed in SEEDS
        for eagerness in (0, 0.5, 1)
    }
    expected = 0
    for n in range(1, 6):
        expected = expected * 3 + n
    assert results == {np.full(32, expected, np.uint8).tobytes()}, "no byte of the sum overflows"


@pytest.mark.parametrize("missing", ["wait_for_upload", "wait_for_use"])
def test_a_missing_event_shows_as_wrong_bytes_for_some_seeds(missing: str) -> None:
    right = outcome(lambda d, m: two_streams(d, m, wait_for_upload=True, wait_for_use=True), 0)
    flags = {"wait_for_upload": True, "wait_for_use": True} | {missing: False}
    wrong = [outcome(lambda d, m: two_streams(d, m, **flags), seed) != right for seed in SEEDS]
    assert sum(wrong) >= len(SEEDS) // 3, wrong


@pytest.mark.parametrize("missing", ["wait_for_upload", "wait_for_use"])
@pytest.mark.parametrize("eagerness", [0, 0.5, 1])
def test_a_missing_event_is_named_whatever_the_seed(missing: str, eagerness: float) -> None:
    flags = {"wait_for_upload": True, "wait_for_use": True} | {missing: False}
    for seed in SEEDS:
        caught = str(outcome(lambda d, m: two_streams(d, m, **flags), seed, eagerness, races=True))
        assert re.fullmatch(r"'(add|upload)' on .* what '(add|upload)' on .*, and nothing orders them", caught), caught


def test_order_between_launches_of_a_graph_and_what_is_around_it_is_known() -> None:
    for seed in SEEDS:
        with mock_device(seed=seed) as (device, mock):
            main, side, event, buffer = device.stream(), device.stream(), device.event(), device.alloc(64)
            memory = [(buffer.address, 64)]
            with main.capture() as capture:
                mock.enqueue(main.handle, lambda: None, writes=memory, name="writer")
                mock.enqueue(main.handle, lambda: None, reads=memory, name="reader")
            for stream in (main, side, main):  # the launches wait for each other by themselves
                stream.replay(capture.graph)
            main.record(event)
            side.wait(event)
            side.zero(buffer)
            side.synchronize()
        what = r"'(memset|reader)' on .* what '(memset|reader)'"
        with pytest.raises(MockError, match=what), mock_device(seed=seed) as (device, mock):
            main, side, buffer = device.stream(), device.stream(), device.alloc(64)
            with main.capture() as capture:
                mock.enqueue(main.handle, lambda: None, reads=[(buffer.address, 64)], name="reader")
            main.replay(capture.graph)
            side.zero(buffer)
            main.synchronize()
            side.synchronize()


def test_a_wait_for_something_that_has_run_already_counts() -> None:
    with mock_device(eagerness=1) as (device, mock):
        a, b, event, buffer = device.stream(), device.stream(), device.event(), device.alloc(64)
        a.zero(buffer)
        a.record(event)
        assert mock.ran == ["memset", "event"]
        b.wait(event)
        b.zero(buffer)
        with pytest.raises(MockError, match="nothing orders them"):
            a.zero(buffer)


def test_parts_of_one_buffer_do_not_collide() -> None:
    with mock_device() as (device, _):
        a, b, buffer = device.stream(), device.stream(), device.alloc(512)
        a.zero(buffer.part(0, 100))
        b.zero(buffer.part(100, 412))
        a.synchronize()
        b.synchronize()


def test_a_write_is_remembered_behind_those_who_waited_for_it() -> None:
    with pytest.raises(MockError, match=r"'late' on .* reads what 'memset' on"), mock_device(eagerness=0) as (device, mock):
        a, b, c, event, buffer = device.stream(), device.stream(), device.stream(), device.event(), device.alloc(64)
        memory = [(buffer.address, 64)]
        a.zero(buffer)
        a.record(event)
        b.wait(event)
        mock.enqueue(b.handle, lambda: None, reads=memory, name="waited")
        mock.enqueue(c.handle, lambda: None, reads=memory, name="late")
        for stream in (a, b, c):
            stream.synchronize()


def test_what_a_kernel_writes_is_found_out() -> None:
    def write(grid: tuple[int, int, int], args: Any, view: Any) -> None:
        view(args[0], 4)[:] = 1

    for seed in SEEDS:
        with pytest.raises(MockError, match="nothing orders them"), mock_device(seed=seed) as (device, mock):
            mock.kernels["write"] = write
            kernel = device.load(image("write")).kernel("write")
            a, b, buffer = device.stream(), device.stream(), device.alloc(4)
            a.launch(kernel, (1, 1, 1), 32, 0, [("p", buffer.address)])
            b.download(device.pinned(4), buffer)
            a.synchronize()
            b.synchronize()


def test_what_the_host_waited_for_is_ordered_before_all_that_follows() -> None:
    with mock_device(eagerness=0) as (device, _):
        a, b, event, buffer = device.stream(), device.stream(), device.event(), device.alloc(64)
        a.zero(buffer)
        a.record(event)
        event.synchronize()
        b.zero(buffer)
        b.synchronize()


def test_reading_before_the_download_ran_shows() -> None:
    def program(device: Device, mock: MockDriver) -> bytes:
        stream, buffer, out = device.stream(), device.alloc(4), filled(device.pinned(4), 7)
        stream.zero(buffer)
        stream.download(out, buffer)
        return out.array.tobytes()

    assert {outcome(program, seed) for seed in SEEDS} == {bytes(4), b"\7" * 4}


def test_a_source_that_is_overwritten_before_its_upload_ran_shows() -> None:
    def program(device: Device, mock: MockDriver) -> bytes:
        stream, buffer, source = device.stream(), device.alloc(4), filled(device.pinned(4), 1)
        stream.upload(buffer, source)
        source.array[:] = 2
        stream.synchronize()
        return mock.view(buffer.address, 4).tobytes()

    assert {outcome(program, seed) for seed in SEEDS} == {b"\1" * 4, b"\2" * 4}


def test_fresh_memory_is_nan() -> None:
    with mock_device() as (device, mock):
        buffer = device.alloc(64)
        for kind in (np.float16, np.float32, np.float64):
            assert np.isnan(mock.view(buffer.address, 4, kind)).all()


def test_only_live_memory_can_be_viewed() -> None:
    with mock_device() as (device, mock):
        buffer = device.alloc(100)
        block = 100
        assert mock.view(buffer.address, block).size == block
        for address, count, kind in (
            (buffer.address, block + 1, np.uint8),
            (buffer.address + block, 1, np.uint8),
            (buffer.address - 1, 1, np.uint8),
            (buffer.address + 2, 1, np.float32),
            (64, 1, np.uint8),
        ):
            with pytest.raises(MockError):
                mock.view(address, count, kind)
        address = buffer.address
        buffer.close()
        with pytest.raises(MockError, match="in no memory"):
            mock.view(address, 1)


def free_in_use(device: Device, mock: MockDriver, stream: Stream, buffer: Buffer) -> None:
    assert mock.cuMemFree(buffer.address) is None


def launch_on_freed(device: Device, mock: MockDriver, stream: Stream, buffer: Buffer) -> None:
    address = buffer.address
    stream.synchronize()
    buffer.close()
    mock.cuMemsetD8Async(address, 0, 4, stream.handle)


def freed_unknowing(device: Device, mock: MockDriver, stream: Stream, buffer: Buffer) -> None:
    """It has run by chance, which nobody could know."""
    eager, other = device.stream(), device.alloc(512)
    mock._streams[eager.handle].eager = True
    eager.zero(other)
    other.close()


def looks_elsewhere(device: Device, mock: MockDriver, stream: Stream, buffer: Buffer) -> None:
    """A kernel that reads memory to which it was given no pointer."""
    other = device.alloc(512)
    mock.kernels["k"] = lambda grid, args, view: view(other.address, 4)
    stream.launch(device.load(image("k")).kernel("k"), (1, 1, 1), 32, 0, [("p", buffer.address)])
    stream.synchronize()


def write_beside(device: Device, mock: MockDriver, stream: Stream, buffer: Buffer) -> None:
    memory = np.ctypeslib.as_array((ctypes.c_uint8 * 513).from_address(buffer.address))
    memory[512] = 1
    stream.synchronize()
    buffer.close()


def pageable_upload(device: Device, mock: MockDriver, stream: Stream, buffer: Buffer) -> None:
    array = np.zeros(4, np.uint8)
    mock.cuMemcpyHtoDAsync(buffer.address, array.ctypes.data, 4, stream.handle)


def copy_beyond(device: Device, mock: MockDriver, stream: Stream, buffer: Buffer) -> None:
    mock.cuMemsetD8Async(buffer.address, 0, 513, stream.handle)


def copy_onto_itself(device: Device, mock: MockDriver, stream: Stream, buffer: Buffer) -> None:
    stream.copy(buffer.part(0, 100), buffer.part(99, 100))


def unknown_pointer(device: Device, mock: MockDriver, stream: Stream, buffer: Buffer) -> None:
    mock.kernels["k"] = lambda grid, args, view: None
    kernel = device.load(image("k")).kernel("k")
    stream.launch(kernel, (1, 1, 1), 32, 0, [("p", 12345)])


def graph_on_freed(device: Device, mock: MockDriver, stream: Stream, buffer: Buffer) -> None:
    with stream.capture() as capture:
        stream.zero(buffer)
    stream.synchronize()
    buffer.close()
    stream.replay(capture.graph)


@pytest.mark.parametrize(
    ("program", "what"),
    [
        (free_in_use, "was freed while 'memset'"),
        (launch_on_freed, "in no memory"),
        (freed_unknowing, "was freed, but nobody waited for 'memset'"),
        (looks_elsewhere, "to which it has no pointer"),
        (write_beside, "wrote beside"),
        (pageable_upload, "in no memory"),
        (copy_beyond, "go beyond"),
        (copy_onto_itself, "overlaps itself"),
        (unknown_pointer, "in no memory"),
        (graph_on_freed, "a graph was launched after memory that its 'memset' uses was freed"),
    ],
)
def test_what_a_gpu_would_answer_with_corruption_is_caught(
    program: Callable[[Device, MockDriver, Stream, Buffer], None], what: str
) -> None:
    with pytest.raises(MockError, match=what), mock_device(eagerness=0) as (device, mock):
        stream, buffer = device.stream(), device.alloc(512)
        stream.zero(buffer)
        program(device, mock, stream, buffer)


def test_what_is_left_is_named() -> None:
    with mock_device() as (_, mock):
        (_, handle) = mock.cuStreamCreate(1)
        with pytest.raises(MockError, match="'contexts': 1, 'streams': 1"):
            mock.assert_clean()
        mock.cuStreamDestroy(handle)


def test_a_host_operation_runs_in_stream_order_and_is_captured() -> None:
    with mock_device() as (device, mock):
        stream, buffer = device.stream(), device.alloc(4)

        def double() -> None:
            mock.view(buffer.address, 1, np.int32)[:] = mock.view(buffer.address, 1, np.int32) * 2 + 1

        stream.zero(buffer)
        with stream.capture() as capture:
            mock.enqueue(stream.handle, double, reads=[(buffer.address, 4)], writes=[(buffer.address, 4)])
        for _ in range(3):
            stream.replay(capture.graph)
        stream.synchronize()
        assert mock.view(buffer.address, 1, np.int32)[0] == 7


def test_an_injected_failure_hits_the_call_that_was_meant() -> None:
    with mock_device() as (_, mock):
        mock.fail("cuStreamCreate", after=1, error="CUDA_ERROR_OUT_OF_MEMORY")
        status, first = mock.cuStreamCreate(1)
        assert status == SUCCESS
        assert mock.cuStreamCreate(1) == (CUresult.CUDA_ERROR_OUT_OF_MEMORY, None)
        status, second = mock.cuStreamCreate(1)
        assert status == SUCCESS
        mock.fail("cuStreamDestroy")
        assert mock.cuStreamDestroy(first) == (CUresult.CUDA_ERROR_UNKNOWN,)
        assert mock.cuStreamDestroy(first) == (CUresult.CUDA_ERROR_INVALID_HANDLE,), "it was destroyed all the same"
        assert mock.cuStreamDestroy(second) == (SUCCESS,)


# Rules of capture, as the programming guide and the header state them; one stream, relaxed mode.


@pytest.fixture
def capturing() -> Any:
    """(mock, capturing stream, other stream, event) as handles; lazy."""
    with mock_device(eagerness=0) as (device, mock):
        stream, other, event = device.stream(), device.stream(), device.event()
        assert mock.cuStreamBeginCapture(stream.handle, 2) == (SUCCESS,)
        yield mock, stream.handle, other.handle, event.handle
        mock.cuStreamEndCapture(stream.handle)
        for graph in list(mock._graphs):
            assert mock.cuGraphDestroy(graph) == (SUCCESS,)


def name(result: tuple[Any, ...]) -> str:
    return str(result[0].name).removeprefix("CUDA_ERROR_")


def test_waiting_for_a_capturing_stream_invalidates_the_capture(capturing: Any) -> None:
    mock, stream, _, _ = capturing
    assert name(mock.cuStreamSynchronize(stream)) == "STREAM_CAPTURE_UNSUPPORTED"
    assert mock.cuStreamEndCapture(stream) == (CUresult.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, None)
    assert mock.cuStreamSynchronize(stream) == (SUCCESS,)


def test_a_captured_stream_cannot_wait_for_the_world_outside(capturing: Any) -> None:
    mock, stream, other, event = capturing
    mock.cuEventRecord(event, other)
    assert name(mock.cuStreamWaitEvent(stream, event, 0)) == "STREAM_CAPTURE_ISOLATION"
    assert name(mock.cuStreamEndCapture(stream)) == "STREAM_CAPTURE_INVALIDATED"


def test_a_capture_ends_on_the_stream_where_it_began(capturing: Any) -> None:
    mock, _, other, _ = capturing
    assert name(mock.cuStreamEndCapture(other)) == "STREAM_CAPTURE_UNMATCHED"


def test_what_is_never_done_here_is_not_mocked(capturing: Any) -> None:
    mock, stream, other, event = capturing
    with pytest.raises(NotImplementedError):
        mock.cuEventRecord(event, stream)
    with pytest.raises(NotImplementedError):
        mock.cuStreamBeginCapture(other, 0)


def test_calls_need_a_current_context() -> None:
    with mock_device() as (device, mock):
        stream = device.stream()
        mock.cuCtxSetCurrent(0)
        assert name(mock.cuStreamSynchronize(stream.handle)) == "INVALID_CONTEXT"
        device.make_current()
        assert mock.cuStreamSynchronize(stream.handle) == (SUCCESS,)


# Against the real module.


@pytest.fixture(scope="module")
def real() -> Any:
    pytest.importorskip("cuda.bindings")
    return importlib.import_module("cuda.bindings.driver")


@pytest.mark.parametrize("function", FUNCTIONS)
def test_functions_have_the_parameters_and_results_of_the_real_ones(real: Any, function: str) -> None:
    mocked, there = getattr(MockDriver, function), getattr(real, function)
    assert len(inspect.signature(mocked).parameters) - 1 == len(inspect.signature(there).parameters)
    lines = [line.strip() for line in there.__doc__.splitlines()]
    results = lines[lines.index("Returns") + 2 :]
    assert results[0] == "CUresult"
    end = results.index("See Also") if "See Also" in results else None
    values = [line for line in results[:end] if re.match(r"\w+ : ", line)]
    assert getattr(mocked, "values", 1) == len(values), values


def test_constants_have_the_values_of_the_real_ones(real: Any) -> None:
    kinds = [v for v in vars(MockDriver).values() if isinstance(v, type) and issubclass(v, IntEnum)]
    assert len(kinds) >= 6
    for kind in kinds:
        for member in kind:
            assert int(getattr(getattr(real, kind.__name__), member.name)) == member, member
    assert real.CU_MEMHOSTALLOC_PORTABLE == MockDriver.CU_MEMHOSTALLOC_PORTABLE
    assert real.CUDA_VERSION // 1000 in (12, 13)


def typical(device: Device, mock: MockDriver) -> None:
    """Calls everything that the device layer calls."""
    mock.kernels["k"] = lambda grid, args, view: None
    stream, start, end = device.stream(), device.event(timing=True), device.event(timing=True)
    buffer, other, host = device.alloc(4096), device.alloc(4096), device.pinned(4096)
    stream.record(start)
    stream.upload(buffer, host)
    stream.copy(other, buffer)
    stream.zero(other)
    module = device.load(image("k"))
    kernel = module.kernel("k")
    args = [("p", buffer.address), ("p", 0), ("i32", -(2**31)), ("i64", 2**63 - 1), ("f32", 0.5)]
    stream.launch(kernel, (3, 2, 1), 128, 96 << 10, args)
    stream.download(host, buffer)
    stream.record(end)
    stream.wait(end)
    stream.synchronize()
    assert end.elapsed_ms(start) > 0
    with stream.capture() as capture:
        stream.zero(other)
    stream.replay(capture.graph)
    with pytest.raises(RuntimeError), stream.capture():
        stream.zero(other)
        raise RuntimeError
    assert device.free_bytes() < device.total_bytes
    end.synchronize()
    assert end.happened
    with tempfile.TemporaryFile() as file:
        file.write(bytes(4096))
        file.flush()
        memory = device.import_memory(os.dup(file.fileno()), 4096)
        timeline = device.import_timeline(os.dup(file.fileno()))
        timeline.signal(stream, 5)
        timeline.wait(stream, 5)
        stream.synchronize()
        assert int(mock.view(memory.address, 1, np.uint64)[0]) == 5
        memory.close()
        timeline.close()


def test_the_real_module_takes_the_arguments_that_are_passed(real: Any) -> None:
    """Arguments are converted before the driver is looked for: a wrong type shows where there is no driver, too."""
    if device_count():
        pytest.skip("a driver would follow the mock's addresses")
    with mock_device() as (device, mock):
        typical(device, mock)
    with pytest.raises(TypeError):
        real.cuGraphLaunch("no graph", 5)
    calls = [*mock.calls, ("cuGetErrorString", (CUresult.CUDA_ERROR_OUT_OF_MEMORY,))]
    assert {called for called, _ in calls} == set(FUNCTIONS)
    for called, args in calls:
        with pytest.raises(RuntimeError, match=r"(?i)driver|libcuda|nvcuda"):
            getattr(real, called)(*(translated(real, arg) for arg in args))


def translated(real: Any, arg: Any) -> Any:
    """The real module's object for one of the mock's."""
    if isinstance(arg, IntEnum):
        return getattr(getattr(real, type(arg).__name__), arg.name)
    if isinstance(arg, CUexternalSemaphore):
        return real.CUexternalSemaphore(int(arg))
    if isinstance(arg, Handle):
        return int(arg)
    if isinstance(arg, list):
        return [translated(real, item) for item in arg]
    if dataclasses.is_dataclass(arg):
        found = getattr(real, type(arg).__name__)()
        set_all(real, found, arg)
        return found
    return arg


def set_all(real: Any, found: Any, description: Any) -> None:
    """The fields of one of the mock's descriptions, in the real module's."""
    for field in dataclasses.fields(description):
        value = getattr(description, field.name)
        if dataclasses.is_dataclass(value):
            set_all(real, getattr(found, field.name), value)
        else:
            setattr(found, field.name, translated(real, value))
            assert getattr(found, field.name) == value
