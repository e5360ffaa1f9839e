"""The NumPy kernels that stand in on the mock device do what the interpreted ones do, launch by launch."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from vsflashsr.gpu.kernels.kernel import Launch
from vsflashsr.models.flashvsr.kernels import channel_launches as maps
from vsflashsr.models.flashvsr.kernels import launches
from vsflashsr.models.flashvsr.kernels.launches import (
    Attention,
    AttentionAddresses,
    AxisTables,
    HeadNorms,
    Planes,
    Resize,
    attention_scratch,
)
from vsflashsr.models.flashvsr.kernels.table import kernels
from vsflashsr.models.flashvsr.kernels.tables import resize_table, rotary_tables
from vsflashsr.models.flashvsr.kernels.token_launches import (
    NormWeights,
    Prompt,
    Tokens,
    cross_attend,
    embed_norm,
    residual_norm,
)
from vsflashsr.models.flashvsr.windows import Grid

from ...support.host_kernels import _KERNELS, run_on_host
from ...support.triton_host import interpreted, placed, run_launch

pytest.importorskip("triton", reason="the kernels are Triton's")

type Array = npt.NDArray[Any]
type Case = tuple[dict[str, Array], Callable[[Mapping[str, int]], Sequence[Launch]]]
"""Arrays by name, and launches on their addresses."""


def drawn(*shape: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def attention_case(dtype: Any, kind: str, *, normed: bool = False) -> Case:
    """One slice among three; lists of uneven lengths."""
    grid, heads, dim = Grid(1, 2), 2, 32
    shape = Attention(grid, heads, dim, kind, 1, 3, local_range=3, budget=4)
    tokens, ring = grid.slice_tokens, 3 * grid.slice_tokens
    cosine, sine = rotary_tables(grid, dim, 1, 6)
    arrays = {
        "q": drawn(tokens, heads * dim).astype(dtype),
        "k": drawn(tokens, heads * dim).astype(dtype)[::-1],
        "keys": drawn(ring, heads * dim).astype(dtype),
        "values": drawn(ring, heads * dim).astype(dtype)[::-1],
        "key_means": drawn(3 * grid.blocks, heads, dim),
        "cosine": cosine,
        "sine": sine,
        "out": np.zeros((tokens, heads * dim), dtype),
        "scratch": np.zeros(attention_scratch(shape).size_bytes, np.uint8),
    }
    if not normed:
        return arrays, lambda at: launches.attention(shape, AttentionAddresses(**at), 2)
    arrays |= {f"{name} norm": drawn(heads * dim) for name in "qk"}

    def made(at: Mapping[str, int]) -> Sequence[Launch]:
        places = {name: value for name, value in at.items() if not name.endswith("norm")}
        return launches.attention(shape, AttentionAddresses(**places, norms=HeadNorms(at["q norm"], at["k norm"])), 2)

    return arrays, made


def tokens_case(dtype: Any, kind: str) -> Case:
    rows, heads, dim = 128, 2, 32
    width = heads * dim
    tokens = Tokens(rows, width, kind)
    arrays: dict[str, Array] = {
        "patched": drawn(rows, width).astype(dtype),
        "lq": drawn(rows, width)[::-1].astype(dtype),
        "x": np.zeros((rows, width), np.float32),
        "normed": np.zeros((rows, width), dtype),
        "made": drawn(rows, width).astype(dtype),
        "scales": np.zeros(rows, np.float32),
        "keys": drawn(heads, 128, dim).astype(dtype),
        "values": drawn(heads, 128, dim)[::-1].astype(dtype),
        **{name: drawn(width) * n for n, name in enumerate(("gate", "weight", "bias"), 1)},
    }

    def made(at: Mapping[str, int]) -> list[Launch]:
        norm = NormWeights(at["weight"], at["bias"])
        prompt = Prompt(at["weight"], at["keys"], at["values"], 20, 128, heads)
        return [
            embed_norm(tokens, at["patched"], at["lq"], at["x"], at["normed"], norm),
            residual_norm(tokens, at["x"], at["made"], at["x"], at["normed"], norm, at["gate"]),
            residual_norm(tokens, at["x"], at["made"], at["x"], at["normed"], norm),
            launches.rms_scales(kind, (at["made"],), at["scales"], rows, width),
            cross_attend(tokens, prompt, at["made"], at["scales"], at["normed"]),
        ]

    return arrays, made


def maps_case(dtype: Any, kind: str) -> Case:
    """The decoder's ends and the projector's, of maps that fill no block."""
    rows, cols, hidden = 2, 3, 24
    arrays: dict[str, Array] = {
        "lq": drawn(4, 3, 8 * rows, 8 * 16) * 4,
        "latent": drawn(16, rows, 16) * 40,
        "packed": np.zeros((rows, 16, 784), dtype),
        "source": drawn(1100, 3).astype(dtype),
        "frame": np.zeros((3, 1100), np.float32),
        "clip": drawn(6, 3, 16 * rows, 16 * cols),
        "pairs": np.zeros((2, rows + 2, cols + 2, 3072), dtype),
        "made": drawn(2, rows, cols, hidden).astype(dtype),
        "before": drawn(2, rows, cols, hidden)[::-1].astype(dtype),
        "features": np.zeros((2, rows, cols, hidden), dtype),
        "joined": np.zeros((rows + 2, cols + 2, 4 * hidden), dtype),
        "bias": drawn(hidden),
        "gamma": drawn(hidden)[::-1],
    }
    arrays["made"][0, 0, 1] = -arrays["bias"]  # nothing is left of this one: the norm divides by no less than 1e-12

    def made(at: Mapping[str, int]) -> list[Launch]:
        clip = at["clip"] + arrays["clip"][:2].nbytes
        norm = maps.ChannelNorm(at["bias"], at["gamma"])
        return [
            maps.pack_condition(kind, at["lq"], at["latent"], at["packed"], rows, 16),
            maps.unpack_frame(kind, at["source"], at["bias"], at["frame"], 1100),
            maps.pack_clip(kind, at["clip"], clip, at["pairs"], rows, cols),
            maps.norm_silu(kind, at["made"], norm, at["features"], 2 * rows * cols, hidden),
            maps.pad_maps(kind, at["before"], at["features"], at["joined"], rows, cols, hidden),
        ]

    return arrays, made


def layout_case() -> Case:
    grid = Grid(1, 2)
    arrays: dict[str, Array] = {
        "tokens": drawn(grid.slice_tokens // 2, 32).astype(np.float16),
        "windows": np.zeros((grid.slice_tokens, 32), np.float16),
        "latents": drawn(16, 2, 16, 32),
        "keys": np.array([-3, 1 << 40, -(1 << 33) - 5], np.int64),
        "noise": np.zeros((16, 2, 16, 32), np.float32),
        "patches": np.zeros((grid.slice_tokens, 64), np.float32),
        "back": np.zeros((2, 16, 16, 32), np.float32),
    }
    plane = launches.latent_values(grid)

    def made(at: Mapping[str, int]) -> list[Launch]:
        strides = {"frame_stride": 16 * plane, "channel_stride": plane}
        return [
            *(launches.gather_latent(at["tokens"], at["windows"], grid, latent, 64) for latent in range(2)),
            launches.noise(at["keys"], at["noise"], grid, 1),
            launches.to_patches(at["latents"], at["patches"], grid, 1),
            launches.from_patches(at["patches"], at["back"], grid, 1, **strides),
        ]

    return arrays, made


def resize_case(reflect: bool) -> Case:
    rows, cols = resize_table(9, 18), resize_table(11, 33)
    shape = Resize(9, 11, 18, 33, 40, 64, reflect, rows.taps, cols.taps)
    frames = np.abs(drawn(2, 3, 9, 11)) % 1
    frames[0] = np.rint(frames[0] * 255) / np.float32(255)
    arrays: dict[str, Array] = {"frames": frames, "exact": np.array([1, 0], np.int32)}
    for axis, table in (("rows", rows), ("cols", cols)):
        arrays |= {f"{axis} {name}": getattr(table, name) for name in ("starts", "weights", "whole_weights")}
    arrays["scratch"] = np.zeros(launches.resize_scratch_bytes(shape, 2), np.uint8)
    arrays["out"] = np.zeros((2, 3, 40, 64), np.float32)

    def made(at: Mapping[str, int]) -> Sequence[Launch]:
        on_rows, on_cols = (
            AxisTables(*(at[f"{axis} {name}"] for name in ("starts", "weights", "whole_weights")))
            for axis in ("rows", "cols")
        )
        return launches.resize(shape, 2, at["frames"], at["exact"], on_rows, on_cols, at["out"], at["scratch"])

    return arrays, made


def colour_case() -> Case:
    planes = Planes(3, 100, 130, 128, 256)
    arrays = {
        "made": drawn(3, 128, 256) * np.float32(0.6),
        "before": drawn(3, 128, 256)[::-1] * np.float32(0.3),
        "own": np.zeros((3, 2), np.float32),
        "wanted": np.zeros((3, 2), np.float32),
        "scratch": np.zeros(launches.moments_scratch_bytes(planes), np.uint8),
        "blurs": np.zeros(launches.wavelet_scratch_bytes(planes), np.uint8),
        **{name: np.zeros((3, 100, 130), np.float32) for name in ("adain", "finish", "wavelet")},
    }

    def made(at: Mapping[str, int]) -> list[Launch]:
        return [
            *launches.moments(planes, at["made"], at["own"], at["scratch"]),
            *launches.moments(planes, at["before"], at["wanted"], at["scratch"]),
            launches.adain(planes, at["made"], at["own"], at["wanted"], at["adain"]),
            launches.finish(planes, at["made"], at["finish"]),
            *launches.wavelet(planes, at["made"], at["before"], at["wavelet"], at["blurs"]),
        ]

    return arrays, made


CASES: dict[str, Callable[[], Case]] = {
    "attention in fp32": lambda: attention_case(np.float32, "fp32"),
    "attention in fp16": lambda: attention_case(np.float16, "fp16"),
    "attention, norms left": lambda: attention_case(np.float16, "fp16", normed=True),
    "tokens in fp32": lambda: tokens_case(np.float32, "fp32"),
    "tokens in fp16": lambda: tokens_case(np.float16, "fp16"),
    "maps in fp32": lambda: maps_case(np.float32, "fp32"),
    "maps in fp16": lambda: maps_case(np.float16, "fp16"),
    "layout": layout_case,
    "resize, mirrored": lambda: resize_case(True),
    "resize, repeated": lambda: resize_case(False),
    "colour": colour_case,
}


def view(address: int, count: int, dtype: npt.DTypeLike = np.uint8) -> Array:
    """Memory of this process."""
    size = count * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_uint8 * size).from_address(address), dtype)


def assert_alike(interpreted: Array, host: Array, what: str) -> None:
    """Integers, halves that agree and copies are equal to the bit, other floats to rounding."""
    kind = np.float16 if interpreted.dtype == np.float16 else np.float32
    a, b = (array.reshape(-1).view(kind) for array in (interpreted, host))
    different = a.view(f"i{kind(0).itemsize}") != b.view(f"i{kind(0).itemsize}")
    # Numbers of rows and windows, read as float32, are next to nothing.
    assert kind == np.float16 or (np.maximum(np.abs(a), np.abs(b))[different] > 1e-30).all(), f"{what}: integers differ"
    tolerance = 2e-3 if kind == np.float16 else 2e-6
    np.testing.assert_allclose(a[different], b[different], rtol=tolerance, atol=tolerance, err_msg=what)


@interpreted
@pytest.mark.parametrize("case", CASES)
def test_a_kernel_and_its_stand_in_agree(case: str) -> None:
    arrays, made = CASES[case]()
    ours, theirs = ({name: placed(array) for name, array in arrays.items()} for _ in range(2))
    pairs = zip(*(made({n: a.ctypes.data for n, a in side.items()}) for side in (ours, theirs)), strict=True)
    for by_triton, by_numpy in pairs:
        before = {name: array.copy() for name, array in ours.items()}
        for name, array in ours.items():
            theirs[name][...] = array
        run_launch(by_triton)
        run_on_host(by_numpy, view)
        assert any((ours[name] != before[name]).any() for name in ours), f"{by_triton.kernel} wrote nothing"
        for name in ours:
            assert_alike(ours[name], theirs[name], f"{by_triton.kernel}: {name}")


def test_every_stand_in_is_compared() -> None:
    addresses: list[str] = []
    for case in CASES.values():
        arrays, made = case()
        held = {name: placed(array) for name, array in arrays.items()}
        addresses += [kernels()[launch.kernel].function for launch in made({n: a.ctypes.data for n, a in held.items()})]
    assert set(addresses) == set(_KERNELS)
