"""The kernels there are: what each is called, which function makes it, what it takes, and how it is compiled for a GPU.

Nothing here needs Triton: a user's machine has the compiled kernels and this list. The sources are Triton's; they are
compiled ahead of time by `compile`, and run in Triton's interpreter by the tests.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType

DTYPES = ("fp16", "bf16", "fp32")
"""Types of q, k, v; fp32 is for checking."""
HEAD_DIMS = (32, 128)
"""128 is FlashVSR's, 32 that of the small models it is checked with."""
CAPABILITIES = (80, 86, 89, 90, 120)
"""GPUs that kernels are compiled for: Ampere (A100, then RTX 30), Ada (RTX 40), Hopper, Blackwell (RTX 50)."""
SHARED_LIMIT_BYTES = MappingProxyType({80: 163 << 10, 86: 99 << 10, 89: 99 << 10, 90: 227 << 10, 120: 99 << 10})
"""Shared memory that one block may have (CUDA C++ programming guide, technical specifications per compute capability)."""

SCORE_QUERIES, SCORE_KEYS = 32, 64
ORDER_ROWS = 64
GATHER_TOKENS, GATHER_WORDS = 16, 256
PATCH_TOKENS = 64
RESIZE_ROWS, RESIZE_COLS = 16, 128
MOMENT_PIXELS = 8192
PIXELS = 4096
"""How much one program does; the grids of `launches` follow from it."""


@dataclass(frozen=True)
class Kernel:
    """One compiled form of a kernel."""

    name: str
    """What a `Launch` calls it: function, type, head dimension."""
    module: str
    """File in this package."""
    function: str
    arguments: tuple[tuple[str, str], ...]
    """Name and type of what is passed at run time, in order: "*fp16", "*i32", "i32", "i64", "i32/16" (a multiple of 16)."""
    constants: Mapping[str, int | float | str] = field(default_factory=dict)
    """What is fixed at compile time."""
    aligned: bool = True
    """All pointers passed are multiples of 16, so that loads are wide."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """Of each argument, what a `Launch` passes: "p", "i32" or "i64"."""
        return tuple("p" if type_.startswith("*") else type_.partition("/")[0] for _, type_ in self.arguments)


@dataclass(frozen=True)
class Tuning:
    """How a kernel is compiled for a GPU. Chosen by shared memory, registers and what Triton makes of it; not yet timed."""

    warps: int
    stages: int = 2
    constants: Mapping[str, int] = field(default_factory=dict)
    """Further constants, which the grid doesn't depend on."""


def tuning(kernel: Kernel, capability: int) -> Tuning:
    """See `Tuning`. `capability` is 10 * major + minor."""
    match kernel.function:
        case "attend":
            if "fp32" in kernel.name:
                # Exact float32 products hold their operands in registers: small tiles.
                return Tuning(8, 1, {"BLOCK_N": 16})
            # Three stages of keys and values: 224 KB with whole windows, 96 KB with halves.
            return Tuning(8, 3, {"BLOCK_N": 128 if capability == 90 else 64})
        case "scores" | "softmax" | "kept_lists" | "longest_first" | "merge_moments" | "gather_latent":
            return Tuning(4)
    return Tuning(8)


@cache
def kernels() -> Mapping[str, Kernel]:
    """All of them, by name."""
    return MappingProxyType({kernel.name: kernel for kernel in _kernels()})


def _kernels() -> Iterator[Kernel]:
    for head_dim in HEAD_DIMS:
        yield Kernel(
            f"scores.d{head_dim}",
            "selection",
            "scores",
            _arguments("q_mean *fp32, k_mean *fp32, out *fp32, heads, queries, keys, rows, cols, local_range"),
            {
                "SCALE": 1 / math.sqrt(head_dim),
                "HEAD_DIM": head_dim,
                "BLOCK_Q": SCORE_QUERIES,
                "BLOCK_K": SCORE_KEYS,
            },
        )
        for dtype in DTYPES:
            yield Kernel(
                f"rotate.{dtype}.d{head_dim}",
                "rotary",
                "rotate",
                _arguments(
                    f"q *{dtype}, k *{dtype}, q_out *{dtype}, k_out *{dtype}, q_mean *fp32, k_mean *fp32, "
                    "cosine *fp32, sine *fp32, heads, latents, rows, cols"
                ),
                {"HEAD_DIM": head_dim},
            )
            yield Kernel(
                f"attend.{dtype}.d{head_dim}",
                "attention",
                "attend",
                _arguments(
                    f"q *{dtype}, k *{dtype}, v *{dtype}, lists *i32, counts *i32, order *i32, out *{dtype}, "
                    "heads, queries, keys"
                ),
                {
                    "SCALE": math.log2(math.e) / math.sqrt(head_dim),
                    "HEAD_DIM": head_dim,
                    "PRECISION": "ieee" if dtype == "fp32" else "tf32",
                },
            )
    yield Kernel("softmax", "selection", "softmax", _arguments("values *fp32, keys"), {"BLOCK": 1024})
    yield Kernel(
        "threshold", "selection", "threshold", _arguments("values *fp32, out *fp32, count, rank"), {"BLOCK": 4096}
    )
    yield Kernel(
        "kept_lists",
        "selection",
        "kept_lists",
        _arguments("values *fp32, thresholds *fp32, lists *i32, counts *i32, queries, keys, slice_windows"),
        {"BLOCK": 1024},
    )
    yield Kernel(
        "longest_first",
        "selection",
        "longest_first",
        _arguments("counts *i32, order *i32, queries"),
        {"BLOCK": ORDER_ROWS},
    )
    yield Kernel(
        "gather_latent",
        "layout",
        "gather_latent",
        _arguments("source *i32, out *i32, rows, cols, words i32/16"),
        {"BLOCK_TOKENS": GATHER_TOKENS, "BLOCK_WORDS": GATHER_WORDS},
    )
    for function, order in (
        ("to_patches", "latents *fp32, patches *fp32"),
        ("from_patches", "patches *fp32, latents *fp32"),
    ):
        yield Kernel(
            function,
            "layout",
            function,
            _arguments(f"{order}, rows, cols, frame_stride i32/16, channel_stride i32/16"),
            {"BLOCK": PATCH_TOKENS},
        )
    tables = "exact *i32, starts *i32, weights *fp32, whole_weights *i32, out *fp32"
    tile: dict[str, int | float | str] = {"BLOCK_Y": RESIZE_ROWS, "BLOCK_X": RESIZE_COLS}
    # Frames may begin anywhere from here on: a plane of an odd size leaves the next at no multiple of 16.
    yield Kernel(
        "resize_columns",
        "resample",
        "resize_columns",
        _arguments(f"source *fp32, {tables}, height, width, target, taps"),
        tile,
        aligned=False,
    )
    yield Kernel(
        "resize_rows",
        "resample",
        "resize_rows",
        _arguments(
            f"source *fp32, {tables}, height, target, width, padded_height, padded_width, taps, reflect",
        ),
        tile,
        aligned=False,
    )
    size, strides = "height, width", "plane_stride, row_stride"
    for function, arguments in (
        ("adain", f"made *fp32, made_moments *fp32, wanted *fp32, out *fp32, {size}, {strides}"),
        ("finish", f"made *fp32, out *fp32, {size}, {strides}"),
        ("wavelet_difference", f"made *fp32, before *fp32, out *fp32, {size}, {strides}"),
        ("wavelet_blur", f"source *fp32, out *fp32, {size}, reach"),
        ("wavelet_finish", f"made *fp32, low *fp32, out *fp32, {size}, {strides}"),
    ):
        yield Kernel(function, "colour", function, _arguments(arguments), {"BLOCK": PIXELS}, aligned=False)
    yield Kernel(
        "moments",
        "colour",
        "moments",
        _arguments(f"source *fp32, partial *fp32, {size}, {strides}, chunks"),
        {"BLOCK": MOMENT_PIXELS},
        aligned=False,
    )
    yield Kernel(
        "merge_moments",
        "colour",
        "merge_moments",
        _arguments("partial *fp32, out *fp32, count, chunks"),
        {"CHUNK": MOMENT_PIXELS, "BLOCK": 512},
        aligned=False,
    )


def _arguments(text: str) -> tuple[tuple[str, str], ...]:
    """ "q *fp16, heads" → (("q", "*fp16"), ("heads", "i32")): an argument without a type is an i32."""
    words = [argument.split() for argument in text.split(",")]
    return tuple((word[0], word[1] if len(word) > 1 else "i32") for word in words)
