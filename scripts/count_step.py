#!/usr/bin/env python3
"""Counts what a steady FlashVSR step (8 frames) does in backend "torch": kernels launched, bytes read and written.

    python scripts/count_step.py [--size 768x1408] [--dtype bf16] [--plain]

Nothing is computed: modules run on torch's meta device, and the step's own queue on a device that only counts. A count is no
time: operations are counted one by one as torch calls them, and our kernels as they are launched, each reading its inputs and
writing its outputs once. Of the sparse attention itself only launches are counted. `--plain`: the networks as they are
exported, by torch alone, as where a size has no kernels.
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
from vsflashsr.gpu.kernels.kernel import Launch
from vsflashsr.gpu.pipeline import RunState
from vsflashsr.models.flashvsr.device.model import step_shape
from vsflashsr.models.flashvsr.device.step import DeviceStep
from vsflashsr.models.flashvsr.kernels.table import kernels
from vsflashsr.models.flashvsr.network.config import FlashVSRConfig
from vsflashsr.models.flashvsr.network.graphs import graph_on
from vsflashsr.models.flashvsr.options import Options
from vsflashsr.runtimes.torch import TorchGraph

SCALE = 4
PRODUCTS = (
    *("mm", "addmm", "bmm", "baddbmm", "convolution", "addmm_gelu", "convolution_relu"),
    *(f"ours: {name}" for name in ("attend", "cross_attend", "scores")),
)
ITEMS = {"fp32": 4, "i32": 4, "i64": 8, "fp16": 2, "bf16": 2}


@dataclass
class Counted:
    """What was called."""

    launches: Counter[str] = field(default_factory=Counter)
    moved: Counter[str] = field(default_factory=Counter)
    """Bytes."""

    def count(self, name: str, *tensors: Any) -> None:
        """One launch that reads or writes each of the tensors."""
        self.launches[name] += 1
        self.moved[name] += sum(t.numel() * t.element_size() for t in tensors if isinstance(t, torch.Tensor))

    def ours(self, launch: Launch) -> None:
        """A launch of a kernel of ours."""
        name = f"ours: {launch.kernel.partition('.')[0]}"
        self.launches[name] += 1
        self.moved[name] += moved_bytes(launch)

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
            # What is only written is named twice, as an argument and as the result.
            read = args[1:] if name == "copy_" else (args, {k: v for k, v in (kwargs or {}).items() if k != "out"})
            self.found.count(name, *torch.utils._pytree.tree_leaves((read, made)))
        return made


def moved_bytes(launch: Launch) -> int:
    """What a launch reads and writes; small tables aside, and nothing where it depends on the picture."""
    kernel = kernels()[launch.kernel]
    a = {name: int(value) for (name, _), (_, value) in zip(kernel.arguments, launch.args, strict=True)}
    size = {name: ITEMS[type_[1:]] for name, type_ in kernel.arguments if type_.startswith("*")}
    x, y, z = launch.grid
    match kernel.function:
        case "residual_norm":
            return a["rows"] * a["dim"] * sum(size[name] for name in ("x", "y", "x_out", "out"))
        case "rms_scales":
            return y * a["rows"] * (a["dim"] * size["first"] + 4)
        case "rotate":
            return x * 128 * a["heads"] * int(str(kernel.constants["HEAD_DIM"])) * 4 * size["q"]
        case "cross_attend":
            return a["heads"] * int(str(kernel.constants["HEAD_DIM"])) * size["q"] * 2 * (x * 128 + a["padded"])
        case "pack_condition":
            return y * x * 16 * 784 * (4 + size["out"])
        case "unpack_frame":
            return 3 * a["pixels"] * (size["source"] + 4)
        case "pack_clip":
            return 6 * 768 * a["rows"] * a["cols"] * 4 + 2 * 3072 * (a["rows"] + 2) * (a["cols"] + 2) * size["out"]
        case "norm_silu":
            return 2 * a["rows"] * 8 * a["eighths"] * size["out"]
        case "pad_maps":
            return 4 * 16 * a["quarters"] * (a["rows"] * a["cols"] + (a["rows"] + 2) * (a["cols"] + 2))
        case "softmax":
            return 2 * 4 * x * a["keys"]
        case "tally":
            return 4 * y * a["count"]
        case "kept_lists":
            return 4 * x * y * a["keys"]
        case "noise":
            return 4 * 16 * a["latents"] * a["plane"]
        case "gather_latent":
            return 2 * 4 * a["rows"] * a["cols"] * 64 * a["words"]
        case "to_patches" | "from_patches":
            return 2 * 4 * x * 64 * 64
        case "resize_columns":
            return 4 * z * a["height"] * (a["width"] + a["target"])
        case "resize_rows":
            return 4 * z * (a["height"] * a["width"] + a["padded_height"] * a["padded_width"])
        case "moments" | "adain" | "finish" | "wavelet_difference" | "wavelet_blur" | "wavelet_finish":
            frames = sum(name in ("source", "made", "before", "low", "out") for name in size)
            return 4 * frames * y * a["height"] * a["width"]
    return 0


class CountingPlace:
    """See ``Place``: memory without contents."""

    device = torch.device("meta")

    def __init__(self) -> None:
        self._counting: Counted | None = None

    def tensor(self, address: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    def address(self, tensor: torch.Tensor) -> int:
        return 1 << 16  # memory of the meta device has none

    def queue(self, stream: Any, work: Any) -> None:
        counted: Counted = stream.counted
        with torch.no_grad(), Counting() as counting:
            self._counting = counting.found
            work(counted.ours)
        counted.add(counting.found)

    def product_gelu(self, linear: Any, x: torch.Tensor, out: torch.Tensor) -> None:
        assert self._counting is not None
        self._counting.count("addmm_gelu", linear.weight, linear.bias, x, out)

    def conv_relu(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, added: torch.Tensor, share: float
    ) -> torch.Tensor:
        assert self._counting is not None
        out = torch.empty_like(added)
        self._counting.count("convolution_relu", x, weight, bias, added, out)
        return out


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

    def constant_array(self, values: Any) -> Memory:
        return Memory(values.nbytes)

    def event(self) -> None: ...

    def stream(self) -> CountingStream:
        return CountingStream()

    def made_bytes(self, output_bytes: int) -> int:
        """As ``KernelLibrary.made_bytes``."""
        return 0

    def run(self, stream: CountingStream, *launches: Any) -> None:
        """As ``KernelLibrary.run``."""
        for launch in launches:
            stream.counted.ours(launch)


def counted(size: tuple[int, int], dtype: str, config: FlashVSRConfig, *, plain: bool = False) -> dict[str, Counted]:
    """By stage, in a steady step; `plain`: networks by torch alone."""
    device: Any = CountingDevice()
    section, options = section_of(config), Options()
    place = CountingPlace()

    def loaded(module: Any, inputs: Any, outputs: Any) -> Any:
        graph = None if plain else graph_on(place, module, inputs, outputs)
        return CountedGraph(module, inputs, outputs, "meta") if graph is None or isinstance(graph, TorchGraph) else graph

    graphs = random_graphs(config, dtype, "meta", loaded)
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
    parser.add_argument("--plain", action="store_true", help="the networks by torch alone")
    given = parser.parse_args()
    height, width = map(int, given.size.split("x"))
    both = Counted()
    for stage, found in counted((height, width), given.dtype, FlashVSRConfig(), plain=given.plain).items():
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
