"""What the filter costs beyond its model: frames per second through vspipe over those of a bare ONNX Runtime loop.

    python scripts/bench.py [--model builtin] [--size 480x270] [--scale 4] [--frames 40] [--runs 5]

Both run the same graph with the same threads, in turns, in one run; the ratio of each turn and the median are printed.
vspipe's own figure is taken, which leaves out starting Python and loading the model, as the bare loop does.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import vapoursynth

from vsflashsr.arguments import Arguments
from vsflashsr.geometry import pad, padded
from vsflashsr.models.opening import open_model, read_kind
from vsflashsr.models.recurrent.host import RecurrentModel, RecurrentState
from vsflashsr.runtimes.onnxruntime import CpuBackend

SCRIPT = """
import vapoursynth as vs
from vsflashsr import flashsr
clip = vs.core.std.BlankClip(width={width}, height={height}, format=vs.YUV420P8, length={frames}, color=[90, 120, 140], keep=True)
clip = clip.std.SetFrameProps(_Matrix=1, _Range=0)
flashsr(clip, {scale}, model={model!r}, threads={threads!r}).set_output()
"""


def bare(model: RecurrentModel, width: int, height: int, frames: int) -> float:
    """Frames per second of the graph alone: arrays in, arrays out, the state fed back."""
    graph = model._step
    frame = np.full((1 if model.spec.channels == "luma" else 3, height, width), 0.4, np.float32)
    multiple = model._bundle.size_multiple
    batch = pad(frame, padded(width, multiple), padded(height, multiple))[None]
    _, state = model.step([frame], [0], None)
    start = time.perf_counter()
    for _ in range(frames):
        results = graph.run({"frames": batch} | {f"state.{k}": v for k, v in state.tensors.items()})
        state = RecurrentState({k: results[f"next.{k}"] for k in state.tensors})
    return frames / (time.perf_counter() - start)


def piped(script: Path) -> float:
    """Frames per second that vspipe reports."""
    vspipe = Path(vapoursynth.__file__).parent / ("vspipe.exe" if sys.platform == "win32" else "vspipe")
    done = subprocess.run([vspipe, script, "."], capture_output=True, text=True, check=False)
    found = re.search(r"\(([\d.]+) fps\)", done.stderr)
    if done.returncode or not found:
        raise SystemExit(f"vspipe failed:\n{done.stderr}")
    return float(found[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--size", default="480x270")
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    width, height = map(int, arguments.size.split("x"))
    wanted = Arguments(model=arguments.model, scale=arguments.scale)
    model = open_model(read_kind(wanted), wanted, (height, width), CpuBackend(arguments.threads)).model
    if not isinstance(model, RecurrentModel):
        raise SystemExit(f"bench.py measures recurrent models, {arguments.model!r} is a {type(model).__name__}")
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "bench.vpy"
        script.write_text(SCRIPT.format(width=width, height=height, **vars(arguments)), encoding="utf-8")
        ratios = []
        for run in range(arguments.runs):
            alone, through = bare(model, width, height, arguments.frames), piped(script)
            ratios.append(through / alone)
            print(f"run {run + 1}: bare {alone:.2f} fps, vspipe {through:.2f} fps, ratio {ratios[-1]:.3f}", flush=True)
    print(f"median ratio {statistics.median(ratios):.3f} ({arguments.size} x{arguments.scale}, {arguments.model})")


if __name__ == "__main__":
    main()
