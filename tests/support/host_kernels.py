"""What the kernels compute, in NumPy on the mock device's memory: a step takes a second with these, minutes interpreted.

`tests/models/flashvsr/test_host_kernels.py` holds each against the interpreter, launch by launch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vsflashsr.gpu.device import Stream
from vsflashsr.models.flashvsr.kernels.launches import Launch
from vsflashsr.models.flashvsr.kernels.table import MOMENT_PIXELS, kernels
from vsflashsr.models.flashvsr.windows import WINDOW_TOKENS

from .mock_cuda import MockDriver

type View = Callable[..., NDArray[Any]]
type Values = dict[str, int]

_F4, _I4 = np.float32, np.int32
_TYPES = {"fp16": np.float16, "fp32": np.float32}


def _rotate(view: View, a: Values, grid: tuple[int, int, int], dtype: Any, dim: int) -> None:
    windows, heads, rows, cols = grid[0], a["heads"], a["rows"], a["cols"]
    side = dim // 3 // 2
    time = dim // 2 - 2 * side
    lengths = a["latents"] * time, rows * 8 * side, cols * 8 * side
    token, window = np.arange(WINDOW_TOKENS), np.arange(windows)[:, None]
    place = window % (rows * cols)
    latent = window // (rows * cols) * 2 + token // 64
    row, col = place // cols * 8 + token % 64 // 8, place % cols * 8 + token % 8
    turned: list[NDArray[Any]] = []
    for name in ("cosine", "sine"):
        by_time, by_row, by_col = np.split(view(a[name], sum(lengths), _F4), np.cumsum(lengths)[:-1])
        parts = (
            by_time.reshape(-1, time)[latent],
            by_row.reshape(-1, side)[row],
            by_col.reshape(-1, side)[col],
        )
        turned.append(np.concatenate(parts, axis=-1)[:, :, None])
    cosine, sine = turned
    for name in ("q", "k"):
        count = windows * WINDOW_TOKENS * heads * dim
        pairs = view(a[name], count, dtype).astype(_F4).reshape(windows, WINDOW_TOKENS, heads, dim // 2, 2)
        even, odd = pairs[..., 0], pairs[..., 1]
        out = np.stack([even * cosine - odd * sine, even * sine + odd * cosine], axis=-1)
        view(a[f"{name}_out"], count, dtype)[:] = out.ravel()
        view(a[f"{name}_mean"], windows * heads * dim, _F4)[:] = out.mean(axis=1, dtype=_F4).ravel()


def _scores(view: View, a: Values, grid: tuple[int, int, int], dtype: Any, dim: int) -> None:
    heads, queries, keys, rows, cols = a["heads"], a["queries"], a["keys"], a["rows"], a["cols"]
    q = view(a["q_mean"], queries * heads * dim, _F4).reshape(queries, heads, dim)
    k = view(a["k_mean"], keys * heads * dim, _F4).reshape(keys, heads, dim)
    product = np.einsum("qhd,khd->hqk", q, k) * _F4(dim**-0.5)
    at, seen = np.arange(queries)[:, None] % (rows * cols), np.arange(keys)[None] % (rows * cols)
    down = seen // cols - at // cols + a["local_range"] // 2
    right = seen % cols - at % cols + a["local_range"] // 2
    visible = (down >= 0) & (down < a["local_range"]) & (right >= 0) & (right < a["local_range"])
    view(a["out"], heads * queries * keys, _F4)[:] = np.where(visible, product, _F4(-np.inf)).ravel()


def _softmax(view: View, a: Values, grid: tuple[int, int, int], dtype: Any, dim: int) -> None:
    values = view(a["values"], grid[0] * a["keys"], _F4).reshape(grid[0], -1)
    values[:] = np.exp(values - values.max(axis=1, keepdims=True))
    values /= values.sum(axis=1, keepdims=True)


def _threshold(view: View, a: Values, grid: tuple[int, int, int], dtype: Any, dim: int) -> None:
    values = view(a["values"], grid[0] * a["count"], _F4).reshape(grid[0], -1)
    view(a["out"], grid[0], _F4)[:] = np.sort(values, axis=1)[:, a["count"] - a["rank"]]


def _kept_lists(view: View, a: Values, grid: tuple[int, int, int], dtype: Any, dim: int) -> None:
    queries, keys, heads = a["queries"], a["keys"], grid[1]
    values = view(a["values"], heads * queries * keys, _F4).reshape(heads, queries, keys)
    limits = view(a["thresholds"], heads * (queries // a["slice_windows"]), _F4).reshape(heads, -1)
    lists = view(a["lists"], heads * queries * keys, _I4).reshape(heads, queries, keys)
    counts = view(a["counts"], heads * queries, _I4).reshape(heads, queries)
    for head in range(heads):
        for query in range(queries):
            kept = np.flatnonzero(values[head, query] > limits[head, query // a["slice_windows"]])
            counts[head, query] = len(kept)
            lists[head, query, : len(kept)] = kept


def _longest_first(view: View, a: Values, grid: tuple[int, int, int], dtype: Any, dim: int) -> None:
    counts = view(a["counts"], grid[1] * a["queries"], _I4).reshape(grid[1], -1)
    view(a["order"], counts.size, _I4)[:] = np.argsort(-counts, axis=1, kind="stable").ravel()


def _attend(view: View, a: Values, grid: tuple[int, int, int], dtype: Any, dim: int) -> None:
    heads, queries, keys = a["heads"], a["queries"], a["keys"]

    def windows(name: str, count: int) -> NDArray[Any]:
        flat = view(a[name], count * WINDOW_TOKENS * heads * dim, dtype)
        return flat.reshape(count, WINDOW_TOKENS, heads, dim)

    q, out = windows("q", queries), windows("out", queries)
    # Slots that hold nothing yet are never listed, so whatever lies there is not looked at.
    k, v = windows("k", keys), windows("v", keys)
    lists = view(a["lists"], heads * queries * keys, _I4).reshape(heads, queries, keys)
    counts = view(a["counts"], heads * queries, _I4).reshape(heads, queries)
    order = view(a["order"], heads * queries, _I4).reshape(heads, queries)
    for head in range(heads):
        for query in order[head]:
            kept = lists[head, query, : counts[head, query]]
            if not len(kept):
                out[query, :, head] = 0
                continue
            key, value = (part[kept, :, head].astype(_F4).reshape(-1, dim) for part in (k, v))
            scores = q[query, :, head].astype(_F4) @ key.T * _F4(dim**-0.5)
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            out[query, :, head] = weights @ value / weights.sum(axis=1, keepdims=True)


def _gather_latent(view: View, a: Values, grid: tuple[int, int, int], dtype: Any, dim: int) -> None:
    rows, cols, words = a["rows"], a["cols"], a["words"]
    source = view(a["source"], rows * cols * 64 * words, _I4).reshape(rows, 8, cols, 8, words)
    into = view(a["out"], (rows * cols * WINDOW_TOKENS - 64) * words, _I4)
    for row in range(rows):
        for col in range(cols):
            first = (row * cols + col) * WINDOW_TOKENS * words
            into[first : first + 64 * words] = source[row, :, col].ravel()


def _patch_box(view: View, a: Values, grid: tuple[int, int, int]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Views of latents (slices, 2, 16, bh, 8, 2, bw, 8, 2) and patches (slices, bh, bw, 2, 8, 8, 2, 2, 16)."""
    rows, cols = a["rows"], a["cols"]
    slices = grid[0] * 64 // (rows * cols * WINDOW_TOKENS)
    frame, channel, width = a["frame_stride"], a["channel_stride"], cols * 16
    count = (2 * slices - 1) * frame + 15 * channel + rows * cols * 256
    latents = np.lib.stride_tricks.as_strided(
        view(a["latents"], count, _F4),
        (slices, 2, 16, rows, 8, 2, cols, 8, 2),
        [4 * s for s in (2 * frame, frame, channel, 16 * width, 2 * width, width, 16, 2, 1)],
    )
    patches = view(a["patches"], slices * rows * cols * WINDOW_TOKENS * 64, _F4)
    return latents.transpose(0, 3, 6, 1, 4, 7, 5, 8, 2), patches.reshape(slices, rows, cols, 2, 8, 8, 2, 2, 16)


def _to_patches(view: View, a: Values, grid: tuple[int, int, int], dtype: Any, dim: int) -> None:
    latents, patches = _patch_box(view, a, grid)
    patches[:] = latents


def _from_patches(view: View, a: Values, grid: tuple[int, int, int], dtype: Any, dim: int) -> None:
    latents, patches = _patch_box(view, a, grid)
    latents[:] = patches


def _resized(
    view: View, a: Values, lines: NDArray[Any], size: int, target: int, plane: int, levels: NDArray[Any]
) -> NDArray[Any]:
    """(size, n) → (target, n) of one plane, clipped, as levels where the frame is on the grid."""
    taps = a["taps"]
    starts = view(a["starts"], target, _I4)
    columns = np.minimum(starts[:, None] + np.arange(taps), size - 1)
    if levels[plane // 3]:
        whole = view(a["whole_weights"], target * taps, _I4).reshape(target, taps).astype(np.int64)
        sums = np.einsum("to,ton->tn", whole, lines.astype(np.int64)[columns])
        levels_made: NDArray[Any] = np.clip((sums + (1 << 21)) >> 22, 0, 255).astype(_F4)
        return levels_made
    weights = view(a["weights"], target * taps, _F4).reshape(target, taps)
    made: NDArray[Any] = np.clip(np.einsum("to,ton->tn", weights, lines[columns]), 0, 1)
    return made


def _resize_columns(view: View, a: Values, grid: tuple[int, int, int], dtype: Any, dim: int) -> None:
    height, width, target, planes = a["height"], a["width"], a["target"], grid[2]
    source = view(a["source"], planes * height * width, _F4).reshape(planes, height, width)
    out = view(a["out"], planes * height * target, _F4).reshape(planes, height, target)
    exact = view(a["exact"], planes // 3, _I4)
    for plane in range(planes):
        lines = source[plane].T
        if exact[plane // 3]:
            lines = np.rint(lines * _F4(255))
        out[plane] = _resized(view, a, lines, width, target, plane, exact).T


def _resize_rows(view: View, a: Values, grid: tuple[int, int, int], dtype: Any, dim: int) -> None:
    height, width, target, planes = a["height"], a["width"], a["target"], grid[2]
    source = view(a["source"], planes * height * width, _F4).reshape(planes, height, width)
    out = view(a["out"], planes * a["padded_height"] * a["padded_width"], _F4).reshape(
        planes, a["padded_height"], a["padded_width"]
    )
    exact = view(a["exact"], planes // 3, _I4)
    missing = ((0, a["padded_height"] - target), (0, a["padded_width"] - width))
    for plane in range(planes):
        made = _resized(view, a, source[plane], height, target, plane, exact)
        if exact[plane // 3]:
            made = made / _F4(255)
        mode: Any = "reflect" if a["reflect"] else "edge"
        out[plane] = np.pad(made * _F4(2) - _F4(1), missing, mode=mode)


def _plane(view: View, a: Values, name: str, plane: int) -> NDArray[Any]:
    """(height, width) of a padded frame."""
    first = a[name] + 4 * plane * a["plane_stride"]
    count = (a["height"] - 1) * a["row_stride"] + a["width"]
    strides = (4 * a["row_stride"], 4)
    return np.lib.stride_tricks.as_strided(view(first, count, _F4), (a["height"], a["width"]), strides)


def _packed(view: View, a: Values, name: str, plane: int) -> NDArray[Any]:
    size = a["height"] * a["width"]
    return view(a[name] + 4 * plane * size, size, _F4).reshape(a["height"], a["width"])


def _moments(view: View, a: Values, grid: tuple[int, int, int], dtype: Any, dim: int) -> None:
    partial = view(a["partial"], grid[0] * grid[1] * 2, _F4).reshape(grid[1], grid[0], 2)
    for plane in range(grid[1]):
        flat = _plane(view, a, "source", plane).ravel()
        for chunk in range(grid[0]):
            part = flat[chunk * MOMENT_PIXELS : (chunk + 1) * MOMENT_PIXELS]
            mean = part.mean(dtype=np.float64)
            partial[plane, chunk] = mean, np.square(part - mean).sum(dtype=np.float64)


def _merge_moments(view: View, a: Values, grid: tuple[int, int, int], dtype: Any, dim: int) -> None:
    partial = view(a["partial"], grid[0] * a["chunks"] * 2, _F4).reshape(grid[0], -1, 2).astype(np.float64)
    sizes = np.minimum(a["count"] - np.arange(a["chunks"]) * MOMENT_PIXELS, MOMENT_PIXELS)
    mean = (partial[..., 0] * sizes).sum(axis=1) / a["count"]
    squares = partial[..., 1] + sizes * np.square(partial[..., 0] - mean[:, None])
    out = view(a["out"], grid[0] * 2, _F4).reshape(-1, 2)
    out[:, 0], out[:, 1] = mean, np.sqrt(squares.sum(axis=1) / a["count"] + 1e-5)


def _adain(view: View, a: Values, grid: tuple[int, int, int], dtype: Any, dim: int) -> None:
    own = view(a["made_moments"], grid[1] * 2, _F4).reshape(-1, 2)
    wanted = view(a["wanted"], grid[1] * 2, _F4).reshape(-1, 2)
    for plane in range(grid[1]):
        made = (_plane(view, a, "made", plane) - own[plane, 0]) * (wanted[plane, 1] / own[plane, 1]) + wanted[plane, 0]
        _packed(view, a, "out", plane)[:] = np.clip(made, -1, 1) * _F4(0.5) + _F4(0.5)


def _finish(view: View, a: Values, grid: tuple[int, int, int], dtype: Any, dim: int) -> None:
    for plane in range(grid[1]):
        _packed(view, a, "out", plane)[:] = np.clip(_plane(view, a, "made", plane) * _F4(0.5) + _F4(0.5), 0, 1)


def _wavelet_difference(view: View, a: Values, grid: tuple[int, int, int], dtype: Any, dim: int) -> None:
    for plane in range(grid[1]):
        _packed(view, a, "out", plane)[:] = _plane(view, a, "before", plane) - _plane(view, a, "made", plane)


def _wavelet_blur(view: View, a: Values, grid: tuple[int, int, int], dtype: Any, dim: int) -> None:
    reach = a["reach"]
    for plane in range(grid[1]):
        padded = np.pad(_packed(view, a, "source", plane), reach, mode="edge")
        across = (padded[:, : -2 * reach] + padded[:, 2 * reach :] + 2 * padded[:, reach:-reach]) * _F4(0.25)
        both = (across[: -2 * reach] + across[2 * reach :] + 2 * across[reach:-reach]) * _F4(0.25)
        _packed(view, a, "out", plane)[:] = both


def _wavelet_finish(view: View, a: Values, grid: tuple[int, int, int], dtype: Any, dim: int) -> None:
    for plane in range(grid[1]):
        made = np.clip(_packed(view, a, "low", plane) + _plane(view, a, "made", plane), -1, 1)
        _packed(view, a, "out", plane)[:] = made * _F4(0.5) + _F4(0.5)


_KERNELS: dict[str, Callable[[View, Values, tuple[int, int, int], Any, int], None]] = {
    "rotate": _rotate,
    "scores": _scores,
    "softmax": _softmax,
    "threshold": _threshold,
    "kept_lists": _kept_lists,
    "longest_first": _longest_first,
    "attend": _attend,
    "gather_latent": _gather_latent,
    "to_patches": _to_patches,
    "from_patches": _from_patches,
    "resize_columns": _resize_columns,
    "resize_rows": _resize_rows,
    "moments": _moments,
    "merge_moments": _merge_moments,
    "adain": _adain,
    "finish": _finish,
    "wavelet_difference": _wavelet_difference,
    "wavelet_blur": _wavelet_blur,
    "wavelet_finish": _wavelet_finish,
}


def run_on_host(launch: Launch, view: View) -> None:
    """One launch; `view(address, count, dtype)` gives memory."""
    kernel = kernels()[launch.kernel]
    values = {name: int(value) for (name, _), (_, value) in zip(kernel.arguments, launch.args, strict=True)}
    dtype = next((_TYPES[part] for part in launch.kernel.split(".") if part in _TYPES), _F4)
    dim = int(kernel.constants.get("HEAD_DIM", 0))
    with np.errstate(invalid="ignore"):
        _KERNELS[kernel.function](view, values, launch.grid, dtype, dim)


def _touched(launch: Launch) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """(address, size) of what a launch reads and writes that another stream may touch too: frames, latents, results."""
    kernel = kernels()[launch.kernel]
    a = {name: int(value) for (name, _), (_, value) in zip(kernel.arguments, launch.args, strict=True)}
    reads = [(a[name], 4) for name, kind in kernel.arguments if kind.startswith("*")]
    match kernel.function:
        case "from_patches":
            slices = launch.grid[0] * 64 // (a["rows"] * a["cols"] * WINDOW_TOKENS)
            values = (2 * slices - 1) * a["frame_stride"] + 15 * a["channel_stride"] + a["rows"] * a["cols"] * 256
            return reads, [(a["latents"], 4 * values)]
        case "resize_columns":
            frames = launch.grid[2] * a["height"] * a["width"] * 4
            return [*reads, (a["source"], frames), (a["exact"], 4 * (launch.grid[2] // 3))], []
        case "adain" | "finish" | "wavelet_finish":
            return reads, [(a["out"], launch.grid[1] * a["height"] * a["width"] * 4)]
    return reads, []


class HostKernels:
    """Stands in for ``KernelLibrary`` on the mock device."""

    def __init__(self, mock: MockDriver) -> None:
        self._mock = mock
        self.launched: list[str] = []

    def run(self, stream: Stream, launch: Launch) -> None:
        """See ``KernelLibrary.run``."""
        self.launched.append(launch.kernel)
        reads, writes = _touched(launch)
        view = self._mock.view
        self._mock.enqueue(
            stream.handle, lambda: run_on_host(launch, view), reads=reads, writes=writes, name=launch.kernel
        )
