"""What the kernels compute, by the host's own functions on the mock device's memory: a step takes a second, not minutes.

`tests/models/flashvsr/test_host_kernels.py` holds each against the interpreter, launch by launch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vsflashsr import colour_fix, resample
from vsflashsr.gpu.device import Stream
from vsflashsr.gpu.kernels.kernel import Launch
from vsflashsr.models.flashvsr.host import attention, step
from vsflashsr.models.flashvsr.host.attention import pooled
from vsflashsr.models.flashvsr.kernels.table import MOMENT_PIXELS, NORM_EPS, kernels
from vsflashsr.models.flashvsr.noise import latent_noise
from vsflashsr.models.flashvsr.rope import rope_split, rotate
from vsflashsr.models.flashvsr.windows import WINDOW_TOKENS, Grid, local_mask, window_order

from .mock_cuda import MockDriver

type View = Callable[..., NDArray[Any]]
type Values = dict[str, int]

_F4, _I4 = np.float32, np.int32
_TYPES = {"fp16": np.float16, "fp32": np.float32}


def _rotate(view: View, a: Values, grid: tuple[int, int, int], dtype: Any, dim: int) -> None:
    windows, heads, slice_grid = grid[0], a["heads"], Grid(a["rows"], a["cols"])
    place = window_order(slice_grid, windows // slice_grid.blocks)
    latent, rest = np.divmod(place, slice_grid.slice_tokens // 2)
    positions = latent, *np.divmod(rest, slice_grid.cols * 8)
    widths = [part // 2 for part in rope_split(dim)]
    lengths = [n * width for n, width in zip((a["latents"], a["rows"] * 8, a["cols"] * 8), widths, strict=True)]

    def by_token(name: str) -> NDArray[Any]:
        parts = np.split(view(a[name], sum(lengths), _F4), np.cumsum(lengths)[:-1])
        found = [part.reshape(-1, w)[at] for part, w, at in zip(parts, widths, positions, strict=True)]
        return np.concatenate(found, axis=-1)

    for name in ("q", "k"):
        count = windows * WINDOW_TOKENS * heads * dim
        flat = view(a[name], count, dtype).astype(_F4).reshape(-1, heads, dim)
        if "scales" in a:
            scale = view(a["scales"], 2 * len(flat), _F4).reshape(2, -1, 1, 1)["qk".index(name)]
            flat = (flat * scale * view(a[f"{name}_weight"], heads * dim, _F4).reshape(heads, dim)).astype(dtype).astype(_F4)
        turned = rotate(flat, by_token("cosine"), by_token("sine"))
        view(a[f"{name}_out"], count, dtype)[:] = turned.ravel()
        view(a[f"{name}_mean"], windows * heads * dim, _F4)[:] = pooled(turned).transpose(1, 0, 2).ravel()


def _scores(view: View, a: Values, grid: tuple[int, int, int], dtype: Any, dim: int) -> None:
    heads = a["heads"]
    q, k = (
        view(a[f"{name}_mean"], count * heads * dim, _F4).reshape(count, heads, dim).transpose(1, 0, 2)
        for name, count in (("q", a["queries"]), ("k", a["keys"]))
    )
    found = attention.scores(q, k, local_mask(Grid(a["rows"], a["cols"]), a["local_range"]))
    view(a["out"], found.size, _F4)[:] = found.ravel()
    view(a["tallies"], 3 * heads * a["slices"] * 1024, _I4)[:] = 0


def _softmax(view: View, a: Values, grid: tuple[int, int, int], dtype: Any, dim: int) -> None:
    values = view(a["values"], grid[0] * a["keys"], _F4).reshape(grid[0], -1)
    values[:] = attention.softmax(values)


def _resolved(tallies: NDArray[Any], rank: int, digits: int) -> NDArray[Any]:
    """The first digits of the rank-th largest of each group, from tallies (3, groups, 1024)."""
    found = np.zeros(tallies.shape[1], np.int64)
    wanted = np.full(tallies.shape[1], rank)
    for counted in tallies[:digits]:
        reached = counted[:, ::-1].cumsum(axis=1)[:, ::-1]
        chosen = (reached >= wanted[:, None]).sum(axis=1) - 1
        wanted = wanted - np.where(np.arange(1024) > chosen[:, None], counted, 0).sum(axis=1)
        found = found << 10 | chosen
    return found


def _tally(view: View, a: Values, grid: tuple[int, int, int], dtype: Any, dim: int) -> None:
    digit = a["digit"]
    bits = view(a["values"], grid[1] * a["count"], _I4).reshape(grid[1], -1)
    tallies = view(a["tallies"], 3 * grid[1] * 1024, _I4).reshape(3, grid[1], 1024)
    top = bits >> (20 - 10 * digit)
    for group, found in enumerate(_resolved(tallies, a["rank"], digit)):
        tallies[digit, group] += np.bincount(top[group][top[group] >> 10 == found] & 1023, minlength=1024).astype(_I4)


def _kept_lists(view: View, a: Values, grid: tuple[int, int, int], dtype: Any, dim: int) -> None:
    queries, keys, heads = a["queries"], a["keys"], grid[1]
    values = view(a["values"], heads * queries * keys, _F4).reshape(heads, queries, keys)
    groups = heads * (queries // a["slice_windows"])
    tallies = view(a["tallies"], 3 * groups * 1024, _I4).reshape(3, groups, 1024)
    limits = _resolved(tallies, a["rank"], 3).astype(_I4).view(_F4).reshape(heads, -1)
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

    def tokens(name: str, count: int) -> NDArray[Any]:
        return view(a[name], count * WINDOW_TOKENS * heads * dim, dtype).reshape(-1, heads, dim)

    lists = view(a["lists"], heads * queries * keys, _I4).reshape(heads, queries, keys)
    counts = view(a["counts"], heads * queries, _I4).reshape(heads, queries)
    order = view(a["order"], heads * queries, _I4).reshape(heads, queries)
    assert (np.sort(order, axis=1) == np.arange(queries)).all()
    kept = np.zeros((heads, queries, keys), bool)
    for head, query in np.ndindex(heads, queries):
        kept[head, query, lists[head, query, : counts[head, query]]] = True
    # Slots that hold nothing yet are never listed, so whatever lies there is not looked at.
    q, k, v = (tokens(name, count).astype(_F4) for name, count in (("q", queries), ("k", keys), ("v", keys)))
    tokens("out", queries)[:] = attention.attend_blocks(q, k, v, kept)


def _residual_norm(view: View, a: Values, grid: tuple[int, int, int], dtype: Any, dim: int) -> None:
    rows, width = a["rows"], a["dim"]

    def tokens(name: str, kind: Any) -> NDArray[Any]:
        return view(a[name], rows * width, kind).reshape(rows, width)

    added = tokens("y", dtype).astype(_F4)
    if "gate" in a:
        added = added * view(a["gate"], width, _F4)
    x = tokens("x", dtype if a["embedded"] else _F4).astype(_F4)
    total = x + added
    tokens("x_out", _F4)[:] = total
    away = total - total.mean(axis=1, keepdims=True, dtype=np.float64)
    scaled = away / np.sqrt(np.square(away).mean(axis=1, keepdims=True) + NORM_EPS)
    tokens("out", dtype)[:] = scaled * view(a["weight"], width, _F4) + view(a["bias"], width, _F4)


def _rms_scales(view: View, a: Values, grid: tuple[int, int, int], dtype: Any, dim: int) -> None:
    out = view(a["out"], grid[1] * a["rows"], _F4).reshape(grid[1], -1)
    for name, scales in zip(("first", "second"), out, strict=False):
        values = view(a[name], a["rows"] * a["dim"], dtype).reshape(a["rows"], -1).astype(np.float64)
        scales[:] = 1 / np.sqrt(np.square(values).mean(axis=1) + NORM_EPS)


def _cross_attend(view: View, a: Values, grid: tuple[int, int, int], dtype: Any, dim: int) -> None:
    heads, rows = a["heads"], grid[0] * WINDOW_TOKENS

    def prompt(name: str) -> NDArray[Any]:
        return view(a[name], heads * a["padded"] * dim, dtype).reshape(heads, -1, dim)[:, : a["length"]].astype(_F4)

    q = view(a["q"], rows * heads * dim, dtype).astype(_F4).reshape(rows, -1)
    q = q * view(a["scales"], rows, _F4)[:, None] * view(a["weight"], heads * dim, _F4)
    queries = q.astype(dtype).astype(_F4).reshape(rows, heads, dim).transpose(1, 0, 2)
    weights = attention.softmax(queries @ prompt("k").transpose(0, 2, 1) / _F4(np.sqrt(dim)))
    view(a["out"], q.size, dtype)[:] = (weights @ prompt("v")).transpose(1, 0, 2).ravel()


def _pack_condition(view: View, a: Values, grid: tuple[int, int, int], dtype: Any, dim: int) -> None:
    rows, cols = a["rows"], a["cols"]
    frames = view(a["lq"], 12 * rows * cols * 64, _F4).reshape(4, 3, rows, 8, cols, 8)
    unshuffled = frames.transpose(2, 4, 1, 0, 3, 5).reshape(rows, cols, 768)
    latent = view(a["latent"], 16 * rows * cols, _F4).reshape(16, rows, cols).transpose(1, 2, 0)
    squashed = np.tanh(np.concatenate([unshuffled, latent], axis=2) / _F4(3)) * _F4(3)
    view(a["out"], rows * cols * 784, dtype)[:] = squashed.ravel()


def _unpack_frame(view: View, a: Values, grid: tuple[int, int, int], dtype: Any, dim: int) -> None:
    value = view(a["source"], 3 * a["pixels"], dtype).astype(_F4).reshape(-1, 3) + view(a["bias"], 3, _F4)
    view(a["out"], 3 * a["pixels"], _F4)[:] = (value * _F4(2) - _F4(1)).T.ravel()


def _pack_clip(view: View, a: Values, grid: tuple[int, int, int], dtype: Any, dim: int) -> None:
    rows, cols = a["rows"], a["cols"]
    given = [view(a[name], n * 768 * rows * cols, _F4) for name, n in (("before", 2), ("clip", 4))]
    frames = np.concatenate(given).reshape(6, 3, rows, 16, cols, 16)
    maps = frames.transpose(0, 2, 4, 1, 3, 5).reshape(6, rows, cols, 768)
    maps = np.pad(maps, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    pairs = np.stack([np.concatenate(list(maps[n : n + 4]), axis=2) for n in (0, 2)])
    view(a["out"], pairs.size, dtype)[:] = pairs.ravel()


def _norm_silu(view: View, a: Values, grid: tuple[int, int, int], dtype: Any, dim: int) -> None:
    rows, width = a["rows"], 8 * a["eighths"]
    value = view(a["source"], rows * width, dtype).astype(_F4).reshape(rows, width) + view(a["bias"], width, _F4)
    length = np.maximum(np.sqrt(np.square(value).sum(axis=1, keepdims=True)), 1e-12)
    normed = value / length * np.sqrt(_F4(width)) * view(a["gamma"], width, _F4)
    view(a["out"], rows * width, dtype)[:] = (normed / (1 + np.exp(-normed))).ravel()


def _pad_maps(view: View, a: Values, grid: tuple[int, int, int], dtype: Any, dim: int) -> None:
    rows, cols, words = a["rows"], a["cols"], 4 * a["quarters"]
    maps = [view(a[name], 2 * rows * cols * words, _I4).reshape(2, rows, cols, words) for name in ("first", "second")]
    padded = np.pad(np.concatenate(maps), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    view(a["out"], padded.size, _I4)[:] = np.concatenate(list(padded), axis=2).ravel()


def _gather_latent(view: View, a: Values, grid: tuple[int, int, int], dtype: Any, dim: int) -> None:
    rows, cols, words = a["rows"], a["cols"], a["words"]
    source = view(a["source"], rows * cols * 64 * words, _I4).reshape(-1, words)
    into = view(a["out"], (rows * cols * WINDOW_TOKENS - 64) * words, _I4).reshape(-1, words)
    order = window_order(Grid(rows, cols), 1)
    own = np.flatnonzero(order < len(source))  # a slice's first latent
    into[own] = source[order[own]]


def _noise(view: View, a: Values, grid: tuple[int, int, int], dtype: Any, dim: int) -> None:
    seed, *frames = (int(key) for key in view(a["keys"], 1 + a["latents"], np.int64))
    made = np.stack([latent_noise(seed, frame, 1, a["plane"])[:, 0] for frame in frames], axis=1)
    view(a["out"], made.size, _F4)[:] = made.ravel()


def _patches(view: View, a: Values, grid: tuple[int, int, int]) -> tuple[Grid, NDArray[Any], NDArray[Any]]:
    """The slices' grid, and views of latents (16, latents, rows, columns) and patches (tokens, 64)."""
    slice_grid = Grid(a["rows"], a["cols"])
    slices = grid[0] * 64 // slice_grid.slice_tokens
    frame, channel, height, width = a["frame_stride"], a["channel_stride"], a["rows"] * 16, a["cols"] * 16
    count = (2 * slices - 1) * frame + 15 * channel + height * width
    latents = np.lib.stride_tricks.as_strided(
        view(a["latents"], count, _F4), (16, 2 * slices, height, width), (4 * channel, 4 * frame, 4 * width, 4)
    )
    return slice_grid, latents, view(a["patches"], slices * slice_grid.slice_tokens * 64, _F4).reshape(-1, 64)


def _to_patches(view: View, a: Values, grid: tuple[int, int, int], dtype: Any, dim: int) -> None:
    slice_grid, latents, patches = _patches(view, a, grid)
    patches[:] = step.to_patches(latents, slice_grid)


def _from_patches(view: View, a: Values, grid: tuple[int, int, int], dtype: Any, dim: int) -> None:
    slice_grid, latents, patches = _patches(view, a, grid)
    latents[:] = step.from_patches(patches, slice_grid)


def _resize_columns(view: View, a: Values, grid: tuple[int, int, int], dtype: Any, dim: int) -> None:
    """Frames on the 8-bit grid come out as levels, the others in 0..1."""
    height, width, target, frames = a["height"], a["width"], a["target"], grid[2] // 3
    source = view(a["source"], 3 * frames * height * width, _F4).reshape(frames, 3, height, width)
    out = view(a["out"], 3 * frames * height * target, _F4).reshape(frames, 3, height, target)
    for n, exact in enumerate(view(a["exact"], frames, _I4)):
        if exact:
            out[n] = resample.resize_u8(np.rint(source[n] * _F4(255)).astype(np.uint8), height, target)
        else:
            out[n] = resample.resize_float(source[n], height, target)


def _resize_rows(view: View, a: Values, grid: tuple[int, int, int], dtype: Any, dim: int) -> None:
    height, width, target, frames = a["height"], a["width"], a["target"], grid[2] // 3
    padded = a["padded_height"], a["padded_width"]
    source = view(a["source"], 3 * frames * height * width, _F4).reshape(frames, 3, height, width)
    out = view(a["out"], 3 * frames * padded[0] * padded[1], _F4).reshape(frames, 3, *padded)
    missing = ((0, 0), (0, padded[0] - target), (0, padded[1] - width))
    mode: Any = "reflect" if a["reflect"] else "edge"
    for n, exact in enumerate(view(a["exact"], frames, _I4)):
        if exact:
            made = resample.resize_u8(source[n].astype(np.uint8), target, width).astype(_F4) / _F4(255)
        else:
            made = resample.resize_float(source[n], target, width)
        out[n] = np.pad(made * _F4(2) - _F4(1), missing, mode=mode)


def _plane(view: View, a: Values, name: str, plane: int) -> NDArray[Any]:
    """(height, width) of a padded frame."""
    first = a[name] + 4 * plane * a["plane_stride"]
    count = (a["height"] - 1) * a["row_stride"] + a["width"]
    strides = (4 * a["row_stride"], 4)
    return np.lib.stride_tricks.as_strided(view(first, count, _F4), (a["height"], a["width"]), strides)


def _packed(view: View, a: Values, name: str, plane: int, dtype: Any = _F4) -> NDArray[Any]:
    size = a["height"] * a["width"]
    return view(a[name] + np.dtype(dtype).itemsize * plane * size, size, dtype).reshape(a["height"], a["width"])


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
        _packed(view, a, "out", plane, dtype)[:] = np.clip(made, -1, 1) * _F4(0.5) + _F4(0.5)


def _finish(view: View, a: Values, grid: tuple[int, int, int], dtype: Any, dim: int) -> None:
    for plane in range(grid[1]):
        _packed(view, a, "out", plane, dtype)[:] = np.clip(_plane(view, a, "made", plane) * _F4(0.5) + _F4(0.5), 0, 1)


def _wavelet_difference(view: View, a: Values, grid: tuple[int, int, int], dtype: Any, dim: int) -> None:
    for plane in range(grid[1]):
        _packed(view, a, "out", plane)[:] = _plane(view, a, "before", plane) - _plane(view, a, "made", plane)


def _wavelet_blur(view: View, a: Values, grid: tuple[int, int, int], dtype: Any, dim: int) -> None:
    reach = a["reach"]
    for plane in range(grid[1]):
        across = colour_fix.blur(_packed(view, a, "source", plane), reach, -1)
        _packed(view, a, "out", plane)[:] = colour_fix.blur(across, reach, -2)


def _wavelet_finish(view: View, a: Values, grid: tuple[int, int, int], dtype: Any, dim: int) -> None:
    for plane in range(grid[1]):
        made = np.clip(_packed(view, a, "low", plane) + _plane(view, a, "made", plane), -1, 1)
        _packed(view, a, "out", plane, dtype)[:] = made * _F4(0.5) + _F4(0.5)


_KERNELS: dict[str, Callable[[View, Values, tuple[int, int, int], Any, int], None]] = {
    "rotate": _rotate,
    "scores": _scores,
    "softmax": _softmax,
    "tally": _tally,
    "kept_lists": _kept_lists,
    "longest_first": _longest_first,
    "attend": _attend,
    "residual_norm": _residual_norm,
    "rms_scales": _rms_scales,
    "cross_attend": _cross_attend,
    "pack_condition": _pack_condition,
    "unpack_frame": _unpack_frame,
    "pack_clip": _pack_clip,
    "norm_silu": _norm_silu,
    "pad_maps": _pad_maps,
    "gather_latent": _gather_latent,
    "noise": _noise,
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
    values["digit"] = int(kernel.constants.get("DIGIT") or 0)
    values["embedded"] = launch.kernel.endswith("embedded")
    dtype = next((_TYPES[part] for part in launch.kernel.split(".") if part in _TYPES), _F4)
    dim = int(kernel.constants.get("HEAD_DIM") or 0)
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
            return reads, [(a["out"], launch.grid[1] * a["height"] * a["width"] * (2 if launch.kernel.endswith("fp16") else 4))]
    return reads, []


class HostKernels:
    """Stands in for ``KernelLibrary`` on the mock device."""

    def __init__(self, mock: MockDriver) -> None:
        self._mock = mock
        self.launched: list[str] = []

    def made_bytes(self, output_bytes: int) -> int:
        """See ``KernelLibrary.made_bytes``."""
        return 0

    def run(self, stream: Stream, launch: Launch) -> None:
        """See ``KernelLibrary.run``."""
        self.launched.append(launch.kernel)
        reads, writes = _touched(launch)
        view = self._mock.view
        self._mock.enqueue(
            stream.handle, lambda: run_on_host(launch, view), reads=reads, writes=writes, name=launch.kernel
        )
