"""The whole step on this GPU, at reduced size and in float32, against ONNX Runtime on the CPU: the same frames to rounding."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from trt_build.flashvsr.checkpoint import load_checkpoint
from trt_build.flashvsr.export import export_bundle
from trt_build.random_checkpoint import REDUCED, write_checkpoint
from vsflashsr.arguments import Arguments
from vsflashsr.bundle import Bundle, load_bundle
from vsflashsr.model import fetched
from vsflashsr.models.opening import read_kind
from vsflashsr.runtimes.onnxruntime import CpuBackend
from vsflashsr.runtimes.torch import TorchBackend

from .settings import Settings

LOW, SCALE, STEPS = (40, 64), 4, 6


def reduced_bundle(folder: Path, variant: str, version: str, precision: str = "fp32") -> Bundle:
    """A bundle whose head dimension, 32, the kernels know."""
    checkpoint, out = folder / f"checkpoint {variant}", folder / f"bundle {variant} {version} {precision}"
    if not checkpoint.exists():
        write_checkpoint(checkpoint, REDUCED, variant=variant)
    if not out.exists():
        loaded = load_checkpoint(checkpoint, version=version, variant=variant, head_dim=REDUCED.head_dim)
        export_bundle(loaded, out, precision=precision, name="reduced")
    return load_bundle(out)


def part(settings: Settings) -> dict[str, Any]:
    """Largest difference for each variant, version and colour fix, in 0..1; torch between our kernels."""
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for variant, version, options in (
            ("tiny", "v1.1", {"sparse_ratio": 0.1}),
            ("tiny", "v1", {"color_fix": "wavelet", "kv_ratio": 2.0}),
            ("full", "v1.1", {"color_fix": "none", "local_range": 1}),
        ):
            bundle = reduced_bundle(Path(folder), variant, version)
            report[f"{variant} {version}"] = _difference(bundle, options)
    report["passed"] = all(value < 1e-3 for value in report.values())
    return report


def _difference(bundle: Bundle, options: dict[str, Any]) -> float:
    backend = TorchBackend(0)
    try:
        kind = read_kind(Arguments(model=bundle.folder, scale=SCALE, model_options=options))
        model, host = (kind.load(where, LOW, tiles=None).model for where in (backend, CpuBackend()))
        random = np.random.default_rng(1)
        state, host_state, worst = None, None, 0.0
        for index in range(STEPS):
            numbers = range(25) if index == 0 else range(8 * index + 17, 8 * index + 25)
            clip = [random.random((3, *LOW), dtype=np.float32) for _ in numbers]
            made, state = model.step(clip, numbers, state)
            wanted, host_state = host.step(clip, numbers, host_state)
            pairs = zip(made, wanted, strict=True)
            # Unlike max, this lets a NaN through.
            worst = float(np.max([worst, *(np.abs(fetched(a) - fetched(b)).max() for a, b in pairs)]))
        return worst
    finally:
        backend.close()
