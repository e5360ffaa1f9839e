"""What TensorRT-RTX's compiler takes for a model's graphs at their published width, on a machine without a GPU.

    python scripts/compile_rtx.py                                  # SwiftVR at 352x192 -> 1408x768, for 8.6, 8.9 and 12.0
    python scripts/compile_rtx.py --model realviformer --size 480x272
    python scripts/compile_rtx.py --clip-len 8 --cc 8.9

Weights are random, and of a DiT two layers stand for all, since one engine serves them. Needs the extras "export" and "rtx".
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path

from trt_build.random_checkpoint import (
    REALVIFORMER,
    REALVIFORMER_REDUCED,
    SWIFTVR_REDUCED,
    write_realviformer,
    write_swiftvr,
)
from trt_build.realviformer import export as realviformer
from trt_build.realviformer.checkpoint import load_checkpoint as load_realviformer
from trt_build.swiftvr import export as swiftvr
from trt_build.swiftvr.checkpoint import load_checkpoint as load_swiftvr
from vsflashsr.arguments import Arguments
from vsflashsr.models.opening import graphs_ahead
from vsflashsr.models.swiftvr.network.config import SwiftVRConfig
from vsflashsr.runtimes.engines.build import build_plan
from vsflashsr.runtimes.engines.modules import target_without_gpu
from vsflashsr.runtimes.engines.requests import engine_requests


def main() -> None:
    parser = argparse.ArgumentParser(description="Compile a model's graphs with TensorRT-RTX; print seconds and sizes.")
    parser.add_argument("--model", choices=("swiftvr", "realviformer"), default="swiftvr")
    parser.add_argument("--size", default="352x192", metavar="WxH", help="of the input frames (default: %(default)s)")
    parser.add_argument("--precision", choices=("fp16", "fp32"), default="fp16")
    parser.add_argument("--clip-len", type=int, default=24, help="SwiftVR's (default: %(default)s)")
    parser.add_argument("--cc", nargs="+", default=["8.6", "8.9", "12.0"], metavar="X.Y", help="compute capabilities")
    parser.add_argument("--reduced", action="store_true", help="a model of toy width, for trying this script")
    given = parser.parse_args()
    width, height = map(int, given.size.split("x"))
    with tempfile.TemporaryDirectory(prefix="vsflashsr-compile-", ignore_cleanup_errors=True) as name:
        bundle = _bundle(Path(name), given.model, given.precision, reduced=given.reduced)
        options = {"clip_len": given.clip_len} if given.model == "swiftvr" else {}
        calls = graphs_ahead(Arguments(model=bundle, scale=4, model_options=options), [(height, width)])
        for capability in given.cc:
            major, minor = map(int, capability.split("."))
            whole_seconds, whole_bytes = 0.0, 0
            for request in engine_requests(calls, target_without_gpu("tensorrt_rtx", (major, minor))):
                plan = build_plan(request)
                whole_seconds, whole_bytes = whole_seconds + plan.seconds, whole_bytes + len(plan.data)
                size = f"{len(plan.data) / 1e6:.2f} MB in {plan.seconds:.1f} s"
                print(f"{capability} {given.precision} {request.label}: {size}", flush=True)
            print(f"{capability} {given.precision} all: {whole_bytes / 1e6:.1f} MB in {whole_seconds:.1f} s", flush=True)


def _bundle(folder: Path, model: str, precision: str, *, reduced: bool) -> Path:
    """An export of random weights."""
    checkpoint, bundle = folder / "checkpoint", folder / model
    if model == "swiftvr":
        published = SWIFTVR_REDUCED if reduced else SwiftVRConfig()
        narrow = dataclasses.replace(published, dit=dataclasses.replace(published.dit, layers=2))
        write_swiftvr(checkpoint, narrow)
        swiftvr.export_bundle(load_swiftvr(checkpoint, layers=2), bundle, precision=precision)
    else:
        write_realviformer(checkpoint, REALVIFORMER_REDUCED if reduced else REALVIFORMER)
        realviformer.export_bundle(load_realviformer(checkpoint), bundle, precision=precision)
    return bundle


if __name__ == "__main__":
    main()
