"""What this GPU can do at most, measured now: 16-bit matrix products and copies within its memory, by torch."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from .settings import Settings


def part(settings: Settings) -> dict[str, Any]:
    """TFLOP/s of an 8192 x 8192 x 8192 product of random numbers, GB/s of a copy (bytes read and written)."""
    found: dict[str, Any] = {}
    for name, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16)):
        a, b = (torch.randn(8192, 8192, device="cuda", dtype=dtype) for _ in range(2))
        out = torch.empty_like(a)
        found[f"{name}_tflop_per_s"] = 2 * 8192**3 / 1e12 / _seconds(lambda a=a, b=b, out=out: torch.mm(a, b, out=out))
    source = torch.randn(1 << 30, device="cuda")
    target = torch.empty_like(source)
    found["copy_gb_per_s"] = 2 * source.nbytes / 1e9 / _seconds(lambda: target.copy_(source))
    return found


def _seconds(work: Any) -> float:
    for _ in range(3):
        work()
    times: list[float] = []
    for _ in range(10):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(5):
            work()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) / 5)
    return statistics.median(times)
