"""FlashVSR at full size on this GPU, torch between our kernels, at every size that was asked for."""

from __future__ import annotations

import contextlib
from typing import Any

from vsflashsr.errors import FlashsrError
from vsflashsr.gpu.device import Device
from vsflashsr.models.flashvsr.kernels.library import KernelLibrary
from vsflashsr.models.flashvsr.network.config import FlashVSRConfig
from vsflashsr.runtimes.torch import TorchGraph

from .flashvsr import Given, measured
from .random_flashvsr import random_graphs
from .settings import Settings


def part(settings: Settings) -> dict[str, Any]:
    """By size, and the first size with steps replayed as CUDA graphs too."""
    import torch

    config = FlashVSRConfig()
    where = "cuda:0"
    graphs = random_graphs(
        config, settings.dtype, where, lambda module, inputs, outputs: TorchGraph(module, inputs, outputs, where)
    )
    report: dict[str, Any] = {"dtype": settings.dtype}
    # A capture that goes wrong may leave the device unusable for the rest of the process: it comes last.
    ways = [*((size, False) for size in settings.sizes), (settings.sizes[0], True)]
    for size, captured in ways:
        device = Device()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        name = f"{size[0]}x{size[1]}{', captured' if captured else ''}"
        try:
            given = Given(device, KernelLibrary(device), graphs, config, settings.dtype)
            found = measured(given, size, captured=captured, steps=settings.steps, repeats=settings.repeats)
            found["memory"]["torch_peak_bytes"] = torch.cuda.max_memory_allocated()
            report[name] = found
        except (FlashsrError, RuntimeError) as error:
            # One size or way that fails says so, and doesn't take the others' figures with it.
            report[name] = {"error": str(error).splitlines()[0]}
        finally:
            with contextlib.suppress(FlashsrError):  # what failed above may fail again here
                device.close()
    report["passed"] = not any("error" in found for found in report.values() if isinstance(found, dict))
    return report
