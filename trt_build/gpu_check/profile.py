"""One FlashVSR step by kernel: torch's profiler over what the device did (CUPTI), grouped by the step's stages.

Where CUPTI isn't allowed, as in some containers, one line says so and nothing fails.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch.profiler

from vsflashsr.gpu.device import Device
from vsflashsr.gpu.kernels.library import KernelLibrary
from vsflashsr.models.flashvsr.kernels.table import KERNELS
from vsflashsr.models.flashvsr.network.config import FlashVSRConfig
from vsflashsr.models.flashvsr.network.graphs import graph_on
from vsflashsr.models.flashvsr.network.place import CudaPlace

from .by_kernel import Ran, tabulated
from .flashvsr import Given, Running
from .random_flashvsr import random_graphs
from .settings import Settings


def recorded(work: Callable[[], object]) -> list[Ran] | str:
    """What the device did for `work`, which waits for it; or why nobody can tell."""
    torchs: Any = torch.profiler
    cuda = torchs.ProfilerActivity.CUDA
    if cuda not in torchs.supported_activities():
        return "torch's profiler knows no CUDA activities here (CUPTI is missing)"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        profiler = torchs.profile(activities=[cuda])
        try:
            profiler.start()
        except (RuntimeError, AssertionError) as error:
            return f"torch's profiler can't record here: {str(error).splitlines()[0][:200]}"
        try:
            work()
        finally:
            profiler.stop()
        events = list(profiler.events() or ())
    ran = [
        Ran(event.name, event.device_resource_id, event.time_range.start, event.time_range.end)
        for event in events
        if event.device_type.name == "CUDA" and not event.is_user_annotation
    ]
    if not ran:
        why = f": {str(said[-1].message).splitlines()[0][:200]}" if said else ""
        return f"torch's profiler saw nothing on the device, CUPTI isn't allowed here{why}"
    return ran


def part(settings: Settings) -> dict[str, Any]:
    """A steady step at the first size, random weights, in the type that was asked for; torch between our kernels."""
    config, where, device = FlashVSRConfig(), "cuda:0", Device()
    try:
        library = KernelLibrary(device, KERNELS)
        graphs = random_graphs(config, settings.dtype, where, partial(graph_on, CudaPlace(library, where)))
        given = Given(device, library, graphs, config, settings.dtype)
        return profiled(given, settings.sizes[0], settle=torch.cuda.synchronize)
    finally:
        device.close()


def profiled(given: Given, size: tuple[int, int], settle: Callable[[], object]) -> dict[str, Any]:
    """Of one steady step, whose frames are fetched. `settle` waits for the device."""
    running = Running(given, size, captured=False)
    running.warm()
    settle()

    def step() -> None:
        running.submit().fetch()
        settle()

    # The profiler's own start is dear and comes in its first record.
    first = recorded(step)
    found = first if isinstance(first, str) else recorded(step)
    named = {"size": list(size), "dtype": given.dtype}
    return named | ({"left_out": found} if isinstance(found, str) else tabulated(found))
