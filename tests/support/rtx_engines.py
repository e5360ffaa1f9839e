"""Requests for small engines that the real TensorRT-RTX builds in a tenth of a second, without a GPU."""

from __future__ import annotations

from pathlib import Path

from vsflashsr.runtimes.engines.key import EngineRequest, ShapeRange
from vsflashsr.runtimes.engines.modules import target_without_gpu

from .tiny import write_frame_graph

BUILTIN = Path(__file__).parents[2] / "vsflashsr" / "bundles" / "builtin"


def small_request(folder: Path, *, size: int = 16, capability: tuple[int, int] = (8, 9)) -> EngineRequest:
    """Of a blur; `size` makes another engine of the same graph."""
    path = folder / "x2.onnx"
    if not path.exists():
        write_frame_graph(path, 2)
    target = target_without_gpu("tensorrt_rtx", capability)
    return EngineRequest(path, {"input": ShapeRange.fixed((1, 3, size, size))}, target, f"blur {size}")
