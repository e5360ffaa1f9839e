"""Times on the device, by events: the median of several, after a warm-up."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from vsflashsr.gpu.device import Device, Stream


def median_ms(device: Device, stream: Stream, work: Callable[[], object], repeats: int, warm: int = 2) -> float:
    """Milliseconds of `work`, which queues on `stream`."""
    for _ in range(warm):
        work()
    stream.synchronize()
    times: list[float] = []
    for _ in range(repeats):
        begin, end = device.event(timing=True), device.event(timing=True)
        stream.record(begin)
        work()
        stream.record(end)
        end.synchronize()
        times.append(end.elapsed_ms(begin))
        begin.close()
        end.close()
    return statistics.median(times)
