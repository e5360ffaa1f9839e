"""The device layer on a real GPU, where there is one: what the mock driver takes for granted."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from vsflashsr.errors import FlashsrError
from vsflashsr.gpu.device import Buffer, Device, Stream
from vsflashsr.gpu.inputs import InputSlot
from vsflashsr.gpu.probe import device_count

pytestmark = pytest.mark.skipif(device_count() == 0, reason="needs an NVIDIA GPU")

ADD = b"""
.version 7.0
.target sm_70
.address_size 64
// y[i] += x[i + offset] + k for i < n; one value goes through dynamic shared memory.
.extern .shared .align 16 .b8 buffer[];
.visible .entry add(.param .u64 x, .param .u64 y, .param .s32 n, .param .s64 offset, .param .f32 k)
{
    .reg .pred %p<2>;
    .reg .f32 %f<6>;
    .reg .b32 %r<8>;
    .reg .b64 %rd<10>;
    ld.param.u64 %rd1, [x];
    ld.param.u64 %rd2, [y];
    ld.param.s32 %r1, [n];
    ld.param.s64 %rd3, [offset];
    ld.param.f32 %f1, [k];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.s32 %r5, %r2, %r3, %r4;
    setp.ge.s32 %p1, %r5, %r1;
    @%p1 bra DONE;
    mul.wide.s32 %rd4, %r5, 4;
    shl.b64 %rd5, %rd3, 2;
    add.s64 %rd6, %rd1, %rd4;
    add.s64 %rd6, %rd6, %rd5;
    add.s64 %rd7, %rd2, %rd4;
    ld.global.f32 %f2, [%rd6];
    ld.global.f32 %f3, [%rd7];
    mov.u32 %r6, buffer;
    shl.b32 %r7, %r4, 2;
    add.s32 %r6, %r6, %r7;
    st.shared.f32 [%r6], %f1;
    ld.shared.f32 %f4, [%r6];
    add.f32 %f5, %f2, %f3;
    add.f32 %f5, %f5, %f4;
    st.global.f32 [%rd7], %f5;
DONE:
    ret;
}
"""


@pytest.fixture
def device() -> Iterator[Device]:
    device = Device()
    device.make_current()
    yield device
    device.close()


def add(stream: Stream, kernel: Any, x: Buffer, y: Buffer, n: int, k: float, *, shared: int = 1024, at: int = 0) -> None:
    args = [("p", x.address), ("p", y.address), ("i32", n), ("i64", at), ("f32", k)]
    stream.launch(kernel, (-(-n // 128), 1, 1), 128, shared, args)


def test_the_gpu_describes_itself(device: Device) -> None:
    assert device.name
    assert "\0" not in device.name
    assert device.capability >= (7, 0)
    assert 48 << 10 <= device.shared_bytes <= 1 << 20
    assert 0 < device.free_bytes() <= device.total_bytes
    assert len(device.uuid) == 40
    assert device.uuid.startswith("GPU-")
    assert device.driver_version >= 12000


@pytest.mark.parametrize("shared", [1024, 64 << 10])
def test_kernels_get_their_arguments(device: Device, shared: int) -> None:
    kernel, stream = device.load(ADD).kernel("add"), device.stream()
    n = 1000
    host, x, y = device.pinned(4 * (n + 7)), device.alloc(4 * (n + 7)), device.alloc(4 * n)
    host.array.view(np.float32)[:] = np.arange(n + 7)
    stream.upload(x, host)
    stream.zero(y)
    add(stream, kernel, x, y, n, 0.25, shared=shared, at=7)
    out = device.pinned(4 * n)
    stream.download(out, y)
    done = device.event()
    stream.record(done)
    done.synchronize()
    assert np.array_equal(out.array.view(np.float32), np.arange(n) + np.float32(7.25))


def test_a_capture_is_replayed(device: Device) -> None:
    kernel, stream = device.load(ADD).kernel("add"), device.stream()
    n = 1 << 16
    one, a, b, out = (device.alloc(4 * n), device.alloc(4 * n), device.alloc(4 * n), device.pinned(4 * n))
    out.array.view(np.float32)[:] = 1
    stream.upload(one, out)
    for buffer in (a, b):
        stream.zero(buffer)
    add(stream, kernel, one, a, n, -1)  # loads the kernel; a stays 0
    stream.synchronize()
    with stream.capture() as capture:
        device.alloc(4096)  # another model may take memory meanwhile
        add(stream, kernel, one, a, n, 0)
        add(stream, kernel, a, b, n, 0)
        add(stream, kernel, b, a, n, 10)
    expected_a, expected_b = 0.0, 0.0
    for _ in range(3):
        stream.replay(capture.graph)
        expected_a += 1
        expected_b += expected_a
        expected_a += expected_b + 10
    stream.download(out, a)
    stream.synchronize()
    assert (out.array.view(np.float32) == expected_a).all()
    capture.graph.close()


def test_a_wait_inside_a_capture_is_refused_and_the_stream_stays_usable(device: Device) -> None:
    stream, buffer = device.stream(), device.alloc(16)
    with pytest.raises(FlashsrError, match="CUDA_ERROR_STREAM_CAPTURE"), stream.capture():
        stream.zero(buffer)
        stream.synchronize()
    with pytest.raises(KeyError), stream.capture():
        stream.zero(buffer)
        raise KeyError
    stream.zero(buffer)
    stream.synchronize()


def test_times_are_measured(device: Device) -> None:
    stream, buffer = device.stream(), device.alloc(64 << 20)
    start, end = device.event(timing=True), device.event(timing=True)
    stream.record(start)
    for _ in range(10):
        stream.zero(buffer)
    stream.record(end)
    end.synchronize()
    assert end.elapsed_ms(start) > 0


def test_a_slot_carries_every_frame(device: Device) -> None:
    kernel = device.load(ADD).kernel("add")
    copies, compute, n = device.stream(), device.stream(), 1 << 18
    total, out, slots = device.alloc(4 * n), device.pinned(4 * n), [InputSlot(device, 4 * n) for _ in range(2)]
    compute.zero(total)
    for number in range(20):
        slot = slots[number % 2]

        def fill(raw: Any, number: int = number) -> None:
            raw.view(np.float32)[:] = number

        slot.send(copies, 4 * n, fill)
        compute.wait(slot.copied)
        add(compute, kernel, slot.buffer, total, n, 0)
        compute.record(slot.read)
    compute.download(out, total)
    compute.synchronize()
    assert (out.array.view(np.float32) == 190).all()


def test_running_out_of_memory_is_a_sentence_and_no_end(device: Device) -> None:
    kept = device.alloc(1 << 20)
    with pytest.raises(FlashsrError, match=r"has no room for \d+ MiB more, got \d+ of \d+ MiB are free; use a smaller tile="):
        device.alloc(device.total_bytes * 2)
    stream = device.stream()
    stream.zero(kept)
    stream.synchronize()


def test_close_gives_the_memory_back_and_the_gpu_opens_again() -> None:
    first = Device()
    before = first.free_bytes()
    first.alloc(256 << 20)
    assert first.free_bytes() <= before - (255 << 20)
    first.close()
    second = Device()
    assert second.free_bytes() > before - (64 << 20)
    second.close()


def test_every_thread_can_make_it_current_and_close_it() -> None:
    device = Device()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            device.make_current()
            stream, buffer = device.stream(), device.alloc(4096)
            stream.zero(buffer)
            stream.synchronize()
            stream.close()
            buffer.close()
        except BaseException as error:  # noqa: BLE001 (reported below, in the test's thread)
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    last = threading.Thread(target=device.close)
    last.start()
    last.join()
    assert device.closed
