"""What a device did in one FlashVSR step, grouped by the step's stages. Pure."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

STAGES = ("attention", "selection", "linear", "elementwise", "projector", "decoder", "copies", "other")
LISTED = 40
"""Kernels that are named, the costliest first."""

OURS: Mapping[str, str] = {
    **dict.fromkeys(("attend", "cross_attend"), "attention"),
    **dict.fromkeys(("scores", "softmax", "tally", "kept_lists", "longest_first"), "selection"),
    **dict.fromkeys(("residual_norm", "rms_scales", "rotate"), "elementwise"),
    **dict.fromkeys(("pack_clip", "norm_silu", "pad_maps", "gather_latent"), "projector"),
    **dict.fromkeys(("pack_condition", "unpack_frame"), "decoder"),
    **dict.fromkeys(
        ("noise", "to_patches", "from_patches", "resize_columns", "resize_rows", "moments", "merge_moments", "adain"),
        "other",
    ),
    **dict.fromkeys(("finish", "wavelet_difference", "wavelet_blur", "wavelet_finish"), "other"),
}
"""Functions of our kernels → stage."""
_PRODUCT = re.compile(r"gemm|gemv|nvjet|cutlass|splitk|cublas|_mma_|wgmma", re.IGNORECASE)
_CONVOLUTION = re.compile(r"cudnn|fprop|dgrad|implicit|conv|winograd|nchwtonhwc|nhwctonchw", re.IGNORECASE)
_ATTENTION = re.compile(r"BlockSparseAttn|flash_fwd|fmha", re.IGNORECASE)
_COPY = re.compile(r"^(Memcpy|Memset)\b")


@dataclass(frozen=True, slots=True)
class Ran:
    """One thing that the device did."""

    name: str
    stream: int
    start_us: float
    end_us: float

    @property
    def ms(self) -> float:
        return (self.end_us - self.start_us) / 1e3


def staged(ran: Iterable[Ran]) -> list[tuple[str, Ran]]:
    """Each with its stage, in the order they began.

    What isn't ours doesn't say whom it serves: products and passes of libraries are alike in the pieces, the projector and the
    decoder. So they belong to the part that the last of our kernels on their stream opened. Frames are upscaled right before
    the projector on the stream of the attention, and right before the decoder on the other.
    """
    order = sorted(ran, key=lambda one: one.start_us)
    with_dit = {one.stream for one in order if OURS.get(one.name) == "attention"}
    opened: dict[int, str] = {}
    found: list[tuple[str, Ran]] = []
    for one in order:
        stage = OURS.get(one.name)
        if stage is None:
            stage = _foreign(one.name, opened.get(one.stream, ""))
        elif one.name == "resize_rows":
            opened[one.stream] = "projector" if one.stream in with_dit else "decoder"
        else:
            opened[one.stream] = stage if one.name != "gather_latent" else ""
        found.append((stage, one))
    return found


def _foreign(name: str, opened: str) -> str:
    if _COPY.match(name):
        return "copies"
    if _ATTENTION.search(name):
        return "attention"
    if opened in ("projector", "decoder"):
        return opened
    if _CONVOLUTION.search(name):
        return "decoder"
    return "linear" if _PRODUCT.search(name) else "elementwise"


def tabulated(ran: Iterable[Ran]) -> dict[str, Any]:
    """Milliseconds, launches and share by stage and by kernel, and the time from the first to the last.

    Shares are of the sum of all: streams run beside each other, so that it may exceed the span.
    """
    found = staged(ran)
    if not found:
        return {"span_ms": 0.0, "sum_ms": 0.0, "stages": {}, "kernels": []}
    total = sum(one.ms for _, one in found) or 1.0
    by_stage: dict[str, list[float]] = defaultdict(list)
    by_kernel: dict[tuple[str, str], list[float]] = defaultdict(list)
    for stage, one in found:
        by_stage[stage].append(one.ms)
        by_kernel[stage, one.name].append(one.ms)

    def row(ms: list[float]) -> dict[str, Any]:
        return {"ms": sum(ms), "launches": len(ms), "share": sum(ms) / total}

    kernels = sorted(by_kernel.items(), key=lambda item: -sum(item[1]))
    return {
        "span_ms": (max(one.end_us for _, one in found) - min(one.start_us for _, one in found)) / 1e3,
        "sum_ms": sum(one.ms for _, one in found),
        "stages": {stage: row(by_stage[stage]) for stage in STAGES if stage in by_stage},
        "kernels": [{"kernel": name[:160], "stage": stage, **row(ms)} for (stage, name), ms in kernels[:LISTED]],
    }


def table(found: Mapping[str, Any]) -> list[str]:
    """Of `tabulated`, as lines."""
    if "left_out" in found:
        return [f"profile: {found['left_out']}"]
    lines = [
        f"one step by kernel: {found['sum_ms']:.2f} ms in {found['span_ms']:.2f} ms",
        _line("stage", "ms", "launches", "share"),
    ]
    for stage, row in found["stages"].items():
        lines.append(_line(stage, f"{row['ms']:.3f}", row["launches"], f"{row['share']:.1%}"))
        lines += [
            _line(f"  {one['kernel'][:56]}", f"{one['ms']:.3f}", one["launches"], f"{one['share']:.1%}")
            for one in found["kernels"]
            if one["stage"] == stage
        ]
    return lines


def _line(name: str, ms: str, launches: object, share: str) -> str:
    return f"{name:<60} {ms:>9} {launches!s:>8} {share:>6}"
