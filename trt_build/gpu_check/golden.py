"""The golden DiT runs on this GPU in 16 bit, our attention kernel in the middle, with the reference's masks injected.

Selection is a hard threshold, so a rounding can move it; with the masks given, what is left is the precision of the arithmetic:
50 dB of signal to noise in fp16 and 38 dB in bf16 are what a correct port reaches at this size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from trt_build.flashvsr.checkpoint import Checkpoint
from trt_build.flashvsr.fused_executor import FusedExecutor
from trt_build.flashvsr.verify_dit import dit_fixtures, golden_masks, golden_steps, open_golden
from vsflashsr.gpu.device import Device
from vsflashsr.gpu.kernels.kernel import Launch
from vsflashsr.gpu.kernels.library import KernelLibrary
from vsflashsr.models.flashvsr.host.attention import AttentionPlan
from vsflashsr.models.flashvsr.kernels import launches
from vsflashsr.models.flashvsr.kernels.table import KERNELS
from vsflashsr.models.flashvsr.network.place import CudaPlace, Place
from vsflashsr.models.flashvsr.rope import slice_positions
from vsflashsr.models.wan.network.precision import PRECISIONS

from .settings import Settings

LIMITS_DB = {"fp16": 50.0, "bf16": 38.0}


class Run(Protocol):
    """Runs a launch, and returns when it is done."""

    def __call__(self, launch: Launch) -> None: ...


def part(settings: Settings) -> dict[str, Any]:
    """Signal to noise in dB of every DiT fixture, in both types."""
    if settings.golden is None:
        return {"skipped": "no --golden folder was given"}
    checkpoint = open_golden(settings.golden)
    device = Device()
    try:
        library, stream = KernelLibrary(device, KERNELS), device.stream()

        def run(launch: Launch) -> None:
            torch.cuda.synchronize()
            library.run(stream, launch)
            stream.synchronize()

        report: dict[str, Any] = {}
        for dtype in LIMITS_DB:
            for name, info in dit_fixtures(settings.golden).items():
                with np.load(settings.golden / f"{name}.npz") as data:
                    place = CudaPlace(library, "cuda:0")
                    report[f"{name} {dtype}"] = signal_to_noise(checkpoint, data, info, place, dtype, run, stream)
        report["passed"] = all(value >= LIMITS_DB[name.split()[-1]] for name, value in report.items())
        return report
    finally:
        device.close()


def signal_to_noise(
    checkpoint: Checkpoint,
    data: Mapping[str, Any],
    info: Mapping[str, Any],
    place: Place,
    dtype: str,
    run: Run,
    stream: Any = None,
) -> float:
    """Of all steps' predictions together, in dB."""
    executor = _Injected(checkpoint, place, dtype, run, stream, lambda step: golden_masks(data, step))
    signal = noise = 0.0
    for step in golden_steps(data, info, executor):
        wanted = data[f"c{step.index}_pred"][0].astype(np.float64)
        signal += float(np.square(wanted).sum())
        noise += float(np.square(step.velocity - wanted).sum())
    return 10 * float(np.log10(signal / max(noise, 1e-300)))


class _Injected(FusedExecutor):
    """The pieces that backend "torch" runs and our kernel, told which pairs to keep."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        place: Place,
        dtype: str,
        run: Run,
        stream: Any,
        masks: Callable[[int], np.ndarray],
    ) -> None:
        settle = torch.cuda.synchronize if place.device.type == "cuda" else lambda: None
        super().__init__(checkpoint, place, stream=stream, settle=settle, dtype=PRECISIONS[dtype])
        self._name, self._run_launch, self._masks = dtype, run, masks
        self._calls = 0

    def attend(
        self, layer: int, q: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor], plan: AttentionPlan
    ) -> Tensor:
        kept = torch.from_numpy(self._masks(self._calls // self.layers)[layer]).to(self.device)
        self._calls += 1
        positions = slice_positions(len(keys))
        slices = len(q) // plan.grid.slice_tokens
        turned = self._rotated(q, plan, positions[-slices:]).to(self.dtype).contiguous()
        ring = self._rotated(torch.cat(list(keys)), plan, positions).to(self.dtype).contiguous()
        held = torch.cat(list(values)).contiguous()
        out = torch.full_like(q, torch.nan)
        shape = launches.Attention(plan.grid, plan.heads, plan.head_dim, self._name, slices, len(keys), 1, plan.budget)
        places = launches.attention_scratch(shape)
        scratch = torch.zeros(places.size_bytes + 512, dtype=torch.uint8, device=self.device)
        first = -scratch.data_ptr() % 512

        def put(offset: int, numbers: Tensor) -> None:
            flat = numbers.to(torch.int32).contiguous().flatten().view(torch.uint8)
            scratch[first + offset : first + offset + len(flat)] = flat

        counts = kept.sum(-1)
        # The kept ones first, in order: a stable sort of "is it left out".
        put(places.lists, (~kept).to(torch.int8).sort(dim=-1, stable=True).indices)
        put(places.counts, counts)
        put(places.order, counts.argsort(dim=-1, descending=True, stable=True))
        unused = scratch.data_ptr() + first
        at = launches.AttentionAddresses(
            q=turned.data_ptr(),
            k=unused,
            keys=ring.data_ptr(),
            values=held.data_ptr(),
            key_means=unused,
            cosine=unused,
            sine=unused,
            out=out.data_ptr(),
            scratch=unused,
        )
        self._run_launch(launches.attend(shape, turned.data_ptr(), at, unused))
        return out
