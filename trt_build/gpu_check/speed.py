"""FlashVSR at full size on this GPU, torch between our kernels, at every size that was asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial
from typing import Any

from vsflashsr.errors import FlashsrError
from vsflashsr.gpu.device import Device
from vsflashsr.gpu.kernels.library import KernelLibrary
from vsflashsr.models.flashvsr.kernels.table import KERNELS
from vsflashsr.models.flashvsr.network.config import FlashVSRConfig
from vsflashsr.models.flashvsr.network.graphs import graph_on
from vsflashsr.models.flashvsr.network.place import CudaPlace

from .flashvsr import Given, measured
from .random_flashvsr import random_graphs
from .settings import Settings


def part(settings: Settings) -> dict[str, Any]:
    """By size in the type that was asked for; the first size in the other type, and replayed as CUDA graphs, too."""
    report: dict[str, Any] = {}
    other = "fp16" if settings.dtype == "bf16" else "bf16"
    first = settings.sizes[0]
    _measure(report, settings, settings.dtype, settings.sizes)
    _measure(report, settings, other, [first])
    found = list(report.values())
    report["passed"] = not any("error" in one or not one["finite"] for one in found)
    # The filter doesn't capture torch's work. A capture that goes wrong may leave the device unusable for the rest of the
    # process, so this comes last, and says nothing about the rest.
    _measure(report, settings, settings.dtype, [first], captured=True)
    return report


def _measure(
    report: dict[str, Any],
    settings: Settings,
    dtype: str,
    sizes: Sequence[tuple[int, int]],
    *,
    captured: bool = False,
) -> None:
    import torch

    config = FlashVSRConfig()
    where = "cuda:0"
    pool = torch.cuda.MemPool() if captured else None
    for size in sizes:
        device = Device()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        name = f"{size[0]}x{size[1]} {dtype}{', captured' if captured else ''}"
        try:
            library = KernelLibrary(device, KERNELS)
            # Anew for each size, with the device that their kernels belong to: a second on the GPU.
            graphs = random_graphs(config, dtype, where, partial(graph_on, CudaPlace(library, where), pool=pool))
            given = Given(device, library, graphs, config, dtype)
            report[name] = measured(given, size, captured=captured, steps=settings.steps, repeats=settings.repeats)
            report[name]["memory"]["torch_peak_bytes"] = torch.cuda.max_memory_allocated()
        except (FlashsrError, RuntimeError) as error:
            # One size or way that fails says so, and doesn't take the others' figures with it.
            report[name] = {"error": str(error).splitlines()[0]}
        finally:
            with contextlib.suppress(FlashsrError):  # what failed above may fail again here
                device.close()
