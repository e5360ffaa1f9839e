"""FlashVSR's kernels: what each is called, which function makes it, what it takes, and how it is compiled for a GPU."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import cache
from types import MappingProxyType

from ....gpu.kernels.kernel import Constant, Kernel, KernelSet, Tuning, arguments_of

DTYPES = ("fp16", "bf16", "fp32")
EMITTED = ("fp16", "fp32")
"""What finished frames are stored in: halves, unless the model computes in single float."""
"""Types of q, k, v; fp32 is for checking."""
HEAD_DIMS = (32, 128)
"""128 is FlashVSR's, 32 that of the small models it is checked with."""
MOST_DIM = 2048
"""The widest token that kernels of whole rows take: a row lies in registers."""
MOST_CHANNELS = 4096
"""The widest map that is normed at once."""
NORM_EPS = 1e-6
"""Of the DiT's norms (`wan.network.config.DiTConfig.eps`)."""

SCORE_QUERIES, SCORE_KEYS = 32, 64
ROW_TOKENS = 4
NOISE_QUADS = 512
TALLY_DIGITS, TALLY_LEVELS, TALLY_VALUES = 3, 1024, 2048
CONDITION_COLS, FRAME_PIXELS, CLIP_COLS, MAP_COLS, MAP_WORDS = 16, 1024, 8, 4, 1024
ORDER_ROWS = 64
GATHER_TOKENS, GATHER_WORDS = 16, 256
PATCH_TOKENS = 64
RESIZE_ROWS, RESIZE_COLS = 16, 128
MOMENT_PIXELS = 8192
PIXELS = 4096
"""How much one program does; the grids of `launches` follow from it."""


def tuning(kernel: Kernel, capability: int) -> Tuning:
    """See `Tuning`. `capability` is 10 * major + minor."""
    match kernel.function:
        case "cross_attend":
            # Whole windows of keys would spill on Hopper (254 registers and 16 bytes), halves don't.
            return Tuning(8, 1, {"BLOCK_N": 16}) if "fp32" in kernel.name else Tuning(8, 3, {"BLOCK_N": 64})
        case "attend":
            if "fp32" in kernel.name:
                # Exact float32 products hold their operands in registers: small tiles.
                return Tuning(8, 1, {"BLOCK_N": 16})
            # Three stages of keys and values: 224 KB with whole windows, 96 KB with halves.
            return Tuning(8, 3, {"BLOCK_N": 128 if capability == 90 else 64})
        case "noise":
            return Tuning(4, fused=False)
        case "scores" | "softmax" | "tally" | "kept_lists" | "longest_first" | "merge_moments" | "gather_latent":
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
            arguments_of(
                "q_mean *fp32, k_mean *fp32, out *fp32, heads, queries, keys, rows, cols, local_range, tallies *i32, slices"
            ),
            {
                "SCALE": 1 / math.sqrt(head_dim),
                "HEAD_DIM": head_dim,
                "BLOCK_Q": SCORE_QUERIES,
                "BLOCK_K": SCORE_KEYS,
            },
        )
        for dtype in DTYPES:
            turned = (
                f"q *{dtype}, k *{dtype}, q_out *{dtype}, k_out *{dtype}, q_mean *fp32, k_mean *fp32, "
                "cosine *fp32, sine *fp32, heads, latents, rows, cols"
            )
            normed: dict[str, Constant] = dict.fromkeys(("scales", "q_weight", "k_weight"))
            yield Kernel(
                f"rotate.{dtype}.d{head_dim}",
                "rotary",
                "rotate",
                arguments_of(turned),
                {"HEAD_DIM": head_dim, **normed},
            )
            yield Kernel(
                f"norm_rotate.{dtype}.d{head_dim}",
                "rotary",
                "rotate",
                arguments_of(f"{turned}, scales *fp32, q_weight *fp32, k_weight *fp32"),
                {"HEAD_DIM": head_dim},
            )
            yield Kernel(
                f"cross_attend.{dtype}.d{head_dim}",
                "tokens",
                "cross_attend",
                arguments_of(
                    f"q *{dtype}, scales *fp32, weight *fp32, k *{dtype}, v *{dtype}, out *{dtype}, "
                    "heads, length, padded i32/16"
                ),
                _attends(dtype, head_dim),
            )
            yield Kernel(
                f"attend.{dtype}.d{head_dim}",
                "attention",
                "attend",
                arguments_of(
                    f"q *{dtype}, k *{dtype}, v *{dtype}, lists *i32, counts *i32, order *i32, out *{dtype}, "
                    "heads, queries, keys"
                ),
                _attends(dtype, head_dim),
            )
    yield from _row_kernels()
    yield from _map_kernels()
    yield Kernel("softmax", "selection", "softmax", arguments_of("values *fp32, keys"), {"BLOCK": 1024})
    for digit in range(TALLY_DIGITS):
        yield Kernel(
            f"tally.{digit}",
            "selection",
            "tally",
            arguments_of("values *fp32, tallies *i32, count, rank, groups"),
            {"DIGIT": digit, "BLOCK": TALLY_VALUES},
        )
    yield Kernel(
        "kept_lists",
        "selection",
        "kept_lists",
        arguments_of("values *fp32, tallies *i32, lists *i32, counts *i32, queries, keys, slice_windows, rank"),
        {"BLOCK": 1024},
    )
    yield Kernel(
        "longest_first",
        "selection",
        "longest_first",
        arguments_of("counts *i32, order *i32, queries"),
        {"BLOCK": ORDER_ROWS},
    )
    yield Kernel("noise", "noise", "noise", arguments_of("keys *i64, out *fp32, latents, plane i32/16"), {"BLOCK": NOISE_QUADS})
    yield Kernel(
        "gather_latent",
        "layout",
        "gather_latent",
        arguments_of("source *i32, out *i32, rows, cols, words i32/16"),
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
            arguments_of(f"{order}, rows, cols, frame_stride i32/16, channel_stride i32/16"),
            {"BLOCK": PATCH_TOKENS},
        )
    tables = "exact *i32, starts *i32, weights *fp32, whole_weights *i32, out *fp32"
    tile: dict[str, Constant] = {"BLOCK_Y": RESIZE_ROWS, "BLOCK_X": RESIZE_COLS}
    # Frames may begin anywhere from here on: a plane of an odd size leaves the next at no multiple of 16.
    yield Kernel(
        "resize_columns",
        "resample",
        "resize_columns",
        arguments_of(f"source *fp32, {tables}, height, width, target, taps"),
        tile,
        aligned=False,
    )
    yield Kernel(
        "resize_rows",
        "resample",
        "resize_rows",
        arguments_of(
            f"source *fp32, {tables}, height, target, width, padded_height, padded_width, taps, reflect",
        ),
        tile,
        aligned=False,
    )
    size, strides = "height, width", "plane_stride, row_stride"
    for function, taken in (
        ("wavelet_difference", f"made *fp32, before *fp32, out *fp32, {size}, {strides}"),
        ("wavelet_blur", f"source *fp32, out *fp32, {size}, reach"),
    ):
        yield Kernel(function, "colour", function, arguments_of(taken), {"BLOCK": PIXELS}, aligned=False)
    for function, taken in (
        ("adain", "made *fp32, made_moments *fp32, wanted *fp32"),
        ("finish", "made *fp32"),
        ("wavelet_finish", "made *fp32, low *fp32"),
    ):
        for out in EMITTED:
            arguments = arguments_of(f"{taken}, out *{out}, {size}, {strides}")
            yield Kernel(f"{function}.{out}", "colour", function, arguments, {"BLOCK": PIXELS}, aligned=False)
    yield Kernel(
        "moments",
        "colour",
        "moments",
        arguments_of(f"source *fp32, partial *fp32, {size}, {strides}, chunks"),
        {"BLOCK": MOMENT_PIXELS},
        aligned=False,
    )
    yield Kernel(
        "merge_moments",
        "colour",
        "merge_moments",
        arguments_of("partial *fp32, out *fp32, count, chunks"),
        {"CHUNK": MOMENT_PIXELS, "BLOCK": 512},
        aligned=False,
    )


def _row_kernels() -> Iterator[Kernel]:
    """Of whole tokens."""
    sizes: dict[str, Constant] = {"EPS": NORM_EPS, "ROWS": ROW_TOKENS, "LANES": MOST_DIM}
    for dtype in DTYPES:
        for form, x, last, without in (
            ("gated", "fp32", ", gate *fp32", ()),
            ("added", "fp32", "", ("gate",)),
            ("embedded", dtype, "", ("gate",)),  # the first residual is the sum of two 16-bit numbers
        ):
            yield Kernel(
                f"residual_norm.{dtype}.{form}",
                "tokens",
                "residual_norm",
                arguments_of(
                    f"x *{x}, y *{dtype}, weight *fp32, bias *fp32, x_out *fp32, out *{dtype}, rows, dim i32/16{last}"
                ),
                {**sizes, **dict.fromkeys(without)},
            )
        yield Kernel(
            f"rms_scales.{dtype}",
            "tokens",
            "rms_scales",
            arguments_of(f"first *{dtype}, second *{dtype}, out *fp32, rows, dim i32/16"),
            sizes,
        )


def _map_kernels() -> Iterator[Kernel]:
    """At the ends of convolutions."""
    for dtype in DTYPES:
        for function, arguments, constants in (
            ("pack_condition", f"lq *fp32, latent *fp32, out *{dtype}, rows, cols", {"BLOCK": CONDITION_COLS}),
            ("unpack_frame", f"source *{dtype}, bias *fp32, out *fp32, pixels", {"BLOCK": FRAME_PIXELS}),
            ("pack_clip", f"before *fp32, clip *fp32, out *{dtype}, rows, cols", {"BLOCK": CLIP_COLS}),
            (
                "norm_silu",
                f"source *{dtype}, bias *fp32, gamma *fp32, out *{dtype}, rows, eighths",
                {"ROWS": 1, "LANES": MOST_CHANNELS},
            ),
        ):
            yield Kernel(f"{function}.{dtype}", "channels", function, arguments_of(arguments), constants)
    yield Kernel(
        "pad_maps",
        "channels",
        "pad_maps",
        arguments_of("first *i32, second *i32, out *i32, rows, cols, quarters"),
        {"BLOCK": MAP_COLS, "WORDS": MAP_WORDS},
    )


def _attends(dtype: str, head_dim: int) -> dict[str, Constant]:
    return {
        "SCALE": math.log2(math.e) / math.sqrt(head_dim),
        "HEAD_DIM": head_dim,
        "PRECISION": "ieee" if dtype == "fp32" else "tf32",
    }


KERNELS = KernelSet(__package__, kernels, tuning)
