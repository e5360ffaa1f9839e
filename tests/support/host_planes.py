"""What the kernels of ``gpu/kernels/planes.py`` do, in NumPy; and a library that runs them on the mock device."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vsflashsr.gpu.device import Stream
from vsflashsr.gpu.kernels.kernel import Launch
from vsflashsr.gpu.kernels.planes import kernels

from .mock_cuda import MockDriver

type View = Callable[..., NDArray[Any]]
type Range = tuple[int, int]
_TYPES: dict[str, Any] = {"fp16": np.float16, "fp32": np.float32}


def _plane(view: View, address: int, stride: int, height: int, width: int, dtype: Any) -> NDArray[Any]:
    """(height, width) of it; the stride counts values."""
    flat = view(address, (height - 1) * stride + width, dtype)
    return np.lib.stride_tricks.as_strided(flat, (height, width), (stride * flat.itemsize, flat.itemsize))


def move(view: View, types: list[str], a: dict[str, Any], checked: bool) -> None:
    source = _plane(view, a["source"], a["source_stride"], a["height"], a["width"], _TYPES[types[0]])
    out = _plane(view, a["out"], a["out_stride"], a["rows"], a["columns"], _TYPES[types[1]])
    part = source[: a["rows"], : a["columns"]].astype(np.float32)
    if checked and not np.isfinite(part).all():
        view(a["flag"], 1, np.int32)[0] = 1
    missing = ((0, a["rows"] - part.shape[0]), (0, a["columns"] - part.shape[1]))
    value = np.pad(part, missing, mode="edge") * np.float32(a["gain"]) + np.float32(a["lift"])
    out[...] = value.astype(out.dtype)


def finite(view: View, types: list[str], a: dict[str, Any]) -> None:
    source = _plane(view, a["source"], a["stride"], a["height"], a["width"], _TYPES[types[0]])
    if not np.isfinite(source).all():
        view(a["flag"], 1, np.int32)[0] = 1


def block_means(view: View, types: list[str], a: dict[str, Any], grid: tuple[int, int, int], channels: int) -> None:
    across, down, _ = grid
    planes = [
        _plane(view, a[name], a["stride"], down * a["rows"], across * a["columns"], _TYPES[types[0]])
        for name in ("first", "second", "third")[:channels]
    ]
    grey = np.stack(planes).mean(axis=0, dtype=np.float32)
    means = grey.reshape(down, a["rows"], across, a["columns"]).mean(axis=(1, 3), dtype=np.float32)
    view(a["out"], down * across, np.float32)[:] = means.ravel()


def values_of(launch: Launch) -> dict[str, Any]:
    """A launch's arguments by name."""
    return {name: value for (name, _), (_, value) in zip(kernels()[launch.kernel].arguments, launch.args, strict=True)}


def run_on_host(launch: Launch, view: View) -> None:
    """One launch; ``view(address, count, dtype)`` gives memory."""
    function, *types = launch.kernel.split(".")
    a = values_of(launch)
    with np.errstate(invalid="ignore", over="ignore"):
        match function:
            case "move":
                move(view, types, a, "checked" in types)
            case "finite":
                finite(view, types, a)
            case "block_means":
                block_means(view, types, a, launch.grid, int(types[1][1:]))


def _touched(launch: Launch) -> tuple[list[Range], list[Range]]:
    """(address, bytes) of what a launch reads and writes."""
    function, *types = launch.kernel.split(".")
    a = values_of(launch)
    item = np.dtype(_TYPES[types[0]]).itemsize
    match function:
        case "move":
            rows, columns = min(a["rows"], a["height"]), min(a["columns"], a["width"])
            read = (a["source"], ((rows - 1) * a["source_stride"] + columns) * item)
            item = np.dtype(_TYPES[types[1]]).itemsize
            written = [(a["out"], ((a["rows"] - 1) * a["out_stride"] + a["columns"]) * item)]
            return [read], written + ([(a["flag"], 4)] if "checked" in types else [])
        case "finite":
            return [(a["source"], ((a["height"] - 1) * a["stride"] + a["width"]) * item)], [(a["flag"], 4)]
    rows, columns = launch.grid[1] * a["rows"], launch.grid[0] * a["columns"]
    size = ((rows - 1) * a["stride"] + columns) * item
    return [(a[name], size) for name in ("first", "second", "third")], [(a["out"], 4 * launch.grid[0] * launch.grid[1])]


class HostPlanes:
    """Stands in for ``KernelLibrary`` on the mock device."""

    def __init__(self, mock: MockDriver) -> None:
        self._mock = mock

    def run(self, stream: Stream, *launches: Launch) -> None:
        """See ``KernelLibrary.run``."""
        for launch in launches:
            reads, writes = _touched(launch)
            self._mock.enqueue(
                stream.handle,
                partial(run_on_host, launch, self._mock.view),
                reads=reads,
                writes=writes,
                name=launch.kernel,
            )
