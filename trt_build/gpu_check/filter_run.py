"""The filter itself on this GPU: any order, threads and split give the same bytes; frames per second at the published size."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

from .filter_frames import Request, rendered
from .settings import Settings
from .step import reduced_bundle


def part(settings: Settings) -> dict[str, Any]:
    """Purity at reduced size; speed at the published size with random weights."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        # The kernels have no other type for a bundle that ONNX Runtime could make as well.
        model = str(reduced_bundle(Path(folder), "tiny", "v1.1", settings.dtype).folder)
        report = purity(Request(model, width=64, height=48, frames=120))
        height, width = (side // 4 for side in settings.sizes[0])
        full = Request(model, width, height, 21 + 8 * settings.steps, full_size=settings.dtype)
        found = rendered(full)
        report["full_size_frames_per_s"] = found.frames_per_s
        report["full_size_frames_differ"] = len(set(found.digests.values())) > 1
    report["passed"] = all(value for value in report.values() if isinstance(value, bool))
    return report


def purity(request: Request) -> dict[str, Any]:
    """The same frames in four ways, each in a process of its own."""
    linear = rendered(dataclasses.replace(request, threads=1))
    middle = request.frames // 2
    halves = [
        rendered(dataclasses.replace(request, first=first, last=last)).digests
        for first, last in ((0, middle), (middle + 1, request.frames - 1))
    ]
    return {
        "linear_frames_per_s": linear.frames_per_s,
        "threads_same": rendered(dataclasses.replace(request, threads=16)).digests == linear.digests,
        "shuffled_same": rendered(dataclasses.replace(request, shuffled=True)).digests == linear.digests,
        "split_same": halves[0] | halves[1] == linear.digests,
    }
