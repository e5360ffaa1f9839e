#!/usr/bin/env python3
"""Counts what a steady FlashVSR step (8 frames) does in backend "torch": kernels launched, bytes read and written.

    python scripts/count_step.py [--size 768x1408] [--dtype bf16]

Nothing is computed: modules run on torch's meta device, and the step's own queue on a device that only counts. A count is no
time: operations are counted one by one as torch calls them, each reading its inputs and writing its outputs once. Bytes of our
kernels (attention, pre-upscale, colour fix) aren't counted, their launches are.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from trt_build.gpu_check.random_flashvsr import random_graphs, section_of
from vsflashsr.gpu.pipeline import RunState
from vsflashsr.models.flashvsr.device.model import step_shape
from vsflashsr.models.flashvsr.device.step import DeviceStep
from vsflashsr.models.flashvsr.network.config import FlashVSRConfig
from vsflashsr.models.flashvsr.options import Options
from vsflashsr.runtimes.torch import TorchGraph

SCALE = 4
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "convolution")


@dataclass
class Counted:
    """What was called."""

    launches: Counter[str] = field(default_factory=Counter)
    moved: Counter[str] = field(default_factory=Counter)
    """Bytes."""

    def add(self, other: Counted) -> None:
        self.launches += other.launches
        self.moved += other.moved


class Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch says no types of it
    """Counts the operations that launch a kernel: not views, and not memory that is only taken."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found = Counted()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if not func.is_view and name not in ("empty", "empty_like", "_unsafe_view", "detach", "empty_strided"):
            tensors = [t for t in torch.utils._pytree.tree_leaves((args, kwargs, made)) if isinstance(t, torch.Tensor)]
            self.found.launches[name] += 1
            self.found.moved[name] += sum(t.numel() * t.element_size() for t in tensors)
        return made


class CountedGraph(TorchGraph):
    """A module of which each call is counted, its results' way into our buffers with it."""

    def prepare(self, shapes: Mapping[str, tuple[int, ...]]) -> Any:
        prepared = super().prepare(shapes)
        with Counting() as counting:
            given = [torch.empty(shapes[name], dtype=dtype, device="meta") for name, dtype in self._inputs]
            made = self._module(*given)
            made = made if isinstance(made, tuple) else (made,)
            for (_, dtype), part in zip(self._outputs, made, strict=True):
                torch.empty(part.shape, dtype=dtype, device="meta").copy_(part)
        return Prepared(prepared.outputs, counting.found)


@dataclass
class Prepared:
    outputs: Any
    counted: Counted
    scratch_bytes: int = 0
    held_bytes: int = 0

    def enqueue(self, stream: CountingStream, addresses: Any, scratch: int) -> None:
        stream.counted.add(self.counted)


class Memory:
    """An address and a size, and nothing behind them."""

    _next = itertools.count(1 << 20, 1 << 40)

    def __init__(self, size_bytes: int, address: int | None = None) -> None:
        self.size_bytes, self.address = size_bytes, next(self._next) if address is None else address

    def part(self, offset: int, size_bytes: int) -> Memory:
        return Memory(size_bytes, self.address + offset)


class CountingStream:
    """A stream that counts what is queued."""

    def __init__(self) -> None:
        self.counted = Counted()

    def _queue(self, name: str, size: int) -> None:
        self.counted.launches[name] += 1
        self.counted.moved[name] += size

    def copy(self, dst: Memory, src: Memory, size: int | None = None) -> None:
        self._queue("copy", 2 * (size or src.size_bytes))

    def zero(self, buffer: Memory) -> None:
        self._queue("memset", buffer.size_bytes)


class CountingDevice:
    """Stands in for a ``Device`` and its kernels."""

    name = "a device that counts"

    def make_current(self) -> None: ...

    def free_bytes(self) -> int:
        return 1 << 50

    def alloc(self, size_bytes: int) -> Memory:
        return Memory(size_bytes)

    pinned = alloc

    def constant(self, size_bytes: int, fill: Any) -> Memory:
        return Memory(size_bytes)

    def event(self) -> None: ...

    def stream(self) -> CountingStream:
        return CountingStream()

    def run(self, stream: CountingStream, *launches: Any) -> None:
        """As ``KernelLibrary.run``."""
        for launch in launches:
            stream.counted.launches[f"ours: {launch.kernel.partition('.')[0]}"] += 1


def counted(size: tuple[int, int], dtype: str, config: FlashVSRConfig) -> dict[str, Counted]:
    """By stage, in a steady step."""
    device: Any = CountingDevice()
    section, options = section_of(config), Options()
    graphs = random_graphs(config, dtype, "meta", lambda module, i, o: CountedGraph(module, i, o, "meta"))
    low = (size[0] // SCALE, size[1] // SCALE)
    shape = step_shape(section, options, dtype=dtype, low=low, scale=SCALE)
    step = DeviceStep(device, device, graphs, section, shape, captured=False)
    state: RunState = step._pipeline.cold()
    state.steps = 4
    plan = step.plan(state)
    found: dict[str, Counted] = {}
    for name, queue in (("projector and DiT", step._queue_dit), ("decoder and colours", step._queue_decode)):
        stream: Any = CountingStream()
        queue(stream, state.memory, plan, 0)
        found[name] = stream.counted
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", default="768x1408", help="HEIGHTxWIDTH of the output (default: %(default)s)")
    parser.add_argument("--dtype", choices=("fp16", "bf16", "fp32"), default="bf16")
    given = parser.parse_args()
    height, width = map(int, given.size.split("x"))
    both = Counted()
    for stage, found in counted((height, width), given.dtype, FlashVSRConfig()).items():
        both.add(found)
        print(f"{stage}:")
        for name, count in sorted(found.launches.items(), key=lambda item: -found.moved[item[0]]):
            size = found.moved[name]
            print(f"  {name:<28} {count:6d} launches" + (f" {size / 1e9:9.2f} GB" if size else ""))
    products = sum(both.moved[name] for name in PRODUCTS)
    print(
        f"a step of 8 frames at {given.size} in {given.dtype}: {both.launches.total()} launches, "
        f"{both.moved.total() / 1e9:.1f} GB, of which elementwise {(both.moved.total() - products) / 1e9:.1f} GB in "
        f"{both.launches.total() - sum(both.launches[name] for name in PRODUCTS)} launches"
    )


if __name__ == "__main__":
    main()
