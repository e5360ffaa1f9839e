"""Checks and measures the GPU path on this machine, and writes what it found to a JSON file in a folder.

    python -m trt_build.gpu_check [--sizes 768x1408 1088x1920 1440x2560] [--parts kernels speed ...] [--out FOLDER]

Needs Python 3.12, torch with CUDA, triton, cuda-python, onnx and onnxruntime, and no network; `python -m
trt_build.gpu_check.pack` makes an archive for hosts that have no more than these. What is found is written after each part, so
that nothing is lost with a host that goes away. TensorRT or TensorRT-RTX are measured where they can be imported. Each part
runs in a process of its own with a time limit, so that one that fails or hangs doesn't take the others' results along; the
status is 1 if one failed. Under ten minutes by its limits: parts for which no time was left say so, and can be asked for by name.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from vsflashsr.errors import FlashsrError

from .by_kernel import table
from .settings import Settings

ROOT = Path(__file__).parents[2]

PARTS = {
    "kernels": 150,
    "golden": 60,
    "step": 120,
    "filter_run": 150,
    "ceilings": 60,
    "speed": 240,
    "profile": 90,
    "levers": 90,
    "engines": 120,
    "swiftvr": 240,
    "realviformer": 180,
    "resident": 240,
}
"""Part → seconds it may take; what is right before what is fast."""
ASKED_FOR = ("resident",)
"""Parts that run where they are named only: bare GPU hosts have no Vulkan."""
TOTAL_S = 570
"""Under ten minutes in all: a part gets what the others have left over, at most its own limit."""


def size(text: str) -> tuple[int, int]:
    """HEIGHTxWIDTH of the output."""
    try:
        height, width = (int(side) for side in text.split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"a size is HEIGHTxWIDTH, got {text!r}") from None
    if min(height, width) < 128 or height % 4 or width % 4:
        raise argparse.ArgumentTypeError(f"height and width are multiples of 4 from 128 on, got {text!r}")
    return height, width


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    found.add_argument("--sizes", nargs="+", type=size, default=[(768, 1408), (1088, 1920), (1440, 2560)])
    found.add_argument("--parts", nargs="+", choices=tuple(PARTS), default=[p for p in PARTS if p not in ASKED_FOR])
    found.add_argument("--dtype", choices=("fp16", "bf16"), default="bf16", help="published: %(default)s")
    found.add_argument("--steps", type=int, default=6, help="steps of 8 frames that are timed (default: %(default)s)")
    found.add_argument("--repeats", type=int, default=15, help="times each kernel is timed (default: %(default)s)")
    found.add_argument("--engines", type=Path, help="folder to keep engines in (default: one that goes with the check)")
    found.add_argument("--golden", type=Path, help="folder with FlashVSR's reference numbers")
    found.add_argument("--commit", help="of this package, where there is no git to ask")
    found.add_argument("--out", type=Path, default=ROOT / "benchmarks", help="folder for GPU-DATE.json (default: %(default)s)")
    found.add_argument("--part", choices=tuple(PARTS), help=argparse.SUPPRESS)
    found.add_argument("--report", type=Path, help=argparse.SUPPRESS)
    return found


def main() -> int:
    given = parser().parse_args()
    if given.golden is not None and not given.golden.is_dir():
        raise FlashsrError(f"there is no folder {str(given.golden)!r}; give one with FlashVSR's reference numbers")
    if given.part:
        return run_part(given)
    environment = dict(os.environ)
    start = time.monotonic()
    report: dict[str, Any] = {"machine": machine(given.commit), "parts": {}}
    failed = False
    name = f"{report['machine']['gpu'].replace(' ', '-')}-{time.strftime('%Y-%m-%d')}.json"
    out: Path = given.out / name
    out.parent.mkdir(parents=True, exist_ok=True)
    for part in given.parts:
        left = min(PARTS[part], TOTAL_S - (time.monotonic() - start))
        begin = time.monotonic()
        found: dict[str, Any] = {"error": "no time was left"}
        if left > 5:
            found = supervised(part, sys.argv[1:], environment, left)
        report["parts"][part] = {**found, "seconds": round(time.monotonic() - begin, 1)}
        failed |= "error" in found or found.get("passed") is False
        report["passed"] = not failed
        out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        print(f"--- {part}: {json.dumps(found, indent=1)}", flush=True)
    for line in summary(report["parts"]):
        print(line)
    print(f"written to {out}{'; something FAILED, see above' if failed else ''}")
    return int(failed)


def run_part(given: argparse.Namespace) -> int:
    """In the process of one part."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        engines = given.engines or Path(folder)
        settings = Settings(tuple(given.sizes), given.dtype, given.steps, given.repeats, engines, given.golden)
        return _written(given, settings)


def _written(given: argparse.Namespace, settings: Settings) -> int:
    found = importlib.import_module(f"{__package__}.{given.part}").part(settings)
    given.report.write_text(json.dumps(found), encoding="utf-8")
    return 0


def supervised(part: str, arguments: list[str], environment: dict[str, str], limit_s: float) -> dict[str, Any]:
    """A part's findings, or why there are none."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        command = [sys.executable, "-m", __package__, *arguments, "--part", part, "--report", str(report)]
        errors = Path(folder, "stderr.txt")
        with errors.open("wb") as sink:
            try:
                status = subprocess.run(
                    command, env=environment, cwd=ROOT, timeout=limit_s, stdout=sink, stderr=sink, check=False
                ).returncode
            except subprocess.TimeoutExpired:
                status = None
        said = errors.read_text(encoding="utf-8", errors="replace")[-2000:]
        if status is None:
            return {"error": f"not done after {limit_s:.0f} s", "stderr": said}
        if status or not report.exists():
            return {"error": f"status {status}", "stderr": said}
        found: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
        return found


def machine(commit: str | None) -> dict[str, Any]:
    """What the figures belong to."""
    from vsflashsr import __version__
    from vsflashsr.gpu.device import Device

    device = Device()
    try:
        gpu: dict[str, Any] = {
            "gpu": device.name,
            "compute_capability": list(device.capability),
            "driver_cuda_version": device.driver_version,
            "memory_bytes": device.total_bytes,
        }
    finally:
        device.close()
    versions = {name: version_of(name) for name in ("torch", "triton", "tensorrt", "tensorrt_rtx", "numpy")}
    return {
        **gpu,
        "driver": driver_of(),
        "commit": commit or commit_here(),
        "vsflashsr": __version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        **versions,
    }


def commit_here() -> str:
    """Of the working tree."""
    with contextlib.suppress(OSError):
        done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip() or "unknown"
    return "unknown"


def version_of(module: str) -> str | None:
    """Asked of a process of its own: importing some of these is not harmless."""
    code = f"import {module}; print({module}.__version__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def driver_of() -> str | None:
    """The driver's own version, if nvidia-smi is there to tell."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return None
    return done.stdout.strip().splitlines()[0] if done.stdout.strip() else None


def summary(parts: dict[str, Any]) -> list[str]:
    """The few lines that people look for."""
    lines: list[str] = []
    ceiling = parts.get("ceilings", {}).get("fp16_tflop_per_s")
    for name, found in parts.get("speed", {}).items():
        if not isinstance(found, dict) or "frames_per_s" not in found:
            continue
        share = f", {found['tflop_per_s'] / ceiling:.0%} of the measured fp16 matrix rate" if ceiling else ""
        lines.append(
            f"FlashVSR {name}: {found['frames_per_s']['fetched']:.1f} frames/s fetched, "
            f"{found['frames_per_s']['device']:.1f} on the device{share}"
        )
    for part, title in (("swiftvr", "SwiftVR"), ("realviformer", "RealViformer")):
        for backend, found in parts.get(part, {}).items():
            for name, one in found.items() if isinstance(found, dict) else ():
                if isinstance(one, dict) and "frames_per_s" in one:
                    lines.append(f"{title} {name}: {one['frames_per_s']:.1f} frames/s fetched, {backend}")
    for name, found in parts.get("kernels", {}).items():
        if isinstance(found, dict) and "max_error" in found:
            lines.append(
                f"attention {name}: max error {found['max_error']:.2g}, masks {'equal' if found['masks_equal'] else 'DIFFER'}, "
                f"{found['attend_tflop_per_s']:.0f} TFLOP/s"
            )
    profiled = parts.get("profile", {})
    return lines + (table(profiled) if "stages" in profiled or "left_out" in profiled else [])
