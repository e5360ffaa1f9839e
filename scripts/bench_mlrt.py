"""A tiny single-frame ONNX through flashsr and through vs-mlrt's ONNX Runtime plugin: frames per second through vspipe, in turns.

    python scripts/bench_mlrt.py [--size 640x360] [--frames 150] [--runs 5] [--channels 16] [--format RGBS|YUV420P8]

Both run the same graph on the CPU with the same clip; with YUV vs-mlrt gets the resizers before and after that a script needs.
Whether both give the same bytes is printed too, and the CPU time of a frame, which tells on a busy machine what the clock can't
(not on Windows). Needs the package vapoursynth-mlrt-ort, and onnx.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import statistics
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import vapoursynth
from onnx import TensorProto, helper, numpy_helper

HEAD = """
import vapoursynth as vs
from vapoursynth import core
clip = core.std.BlankClip(width={width}, height={height}, format=vs.{format}, length={frames}, keep=True)
clip = core.std.Expr(clip, ["x {step} +", ""] if clip.format.color_family == vs.YUV else "x 0.4 +")
clip = clip.std.SetFrameProps(_Range=0, **({{"_Matrix": 1}} if clip.format.color_family == vs.YUV else {{}}))
"""
OURS = """
from vsflashsr import flashsr
flashsr(clip, 2, model={path!r}).set_output()
"""
THEIRS = """
yuv = clip.format.color_family == vs.YUV
low = core.resize.Spline36(clip, format=vs.RGBS, matrix_in=1) if yuv else clip
out = core.ort.Model(low, {path!r})
(core.resize.Spline36(out, format=clip.format.id, matrix=1) if yuv else out).set_output()
"""


def write_graph(path: Path, channels: int) -> None:
    """Three convolutions and a pixel shuffle: 2x."""
    random = np.random.default_rng(1)
    widths = [3, channels, channels, 12]
    nodes, constants = [], []
    last = "input"
    for i, (before, after) in enumerate(pairwise(widths)):
        kernel = random.normal(0, 0.3 / np.sqrt(before), (after, before, 3, 3)).astype(np.float32)
        constants.append(numpy_helper.from_array(kernel, f"kernel{i}"))
        nodes.append(helper.make_node("Conv", [last, f"kernel{i}"], [f"conv{i}"], pads=[1, 1, 1, 1]))
        last = f"conv{i}"
        if i < 2:
            nodes.append(helper.make_node("Relu", [last], [f"relu{i}"]))
            last = f"relu{i}"
    nodes.append(helper.make_node("DepthToSpace", [last], ["output"], blocksize=2))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, "h", "w"])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 3, "H", "W"])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, path)


def vspipe(script: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    program = Path(vapoursynth.__file__).parent / ("vspipe.exe" if sys.platform == "win32" else "vspipe")
    done = subprocess.run([program, script, *arguments], capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"vspipe failed:\n{done.stderr.decode(errors='replace')}")
    return done


def measure(script: Path) -> tuple[float, float]:
    """Frames per second that vspipe reports, which leaves out starting Python and loading the model; CPU seconds of it all."""
    before = os.times()
    found = re.search(rb"Output (\d+) frames in .*\(([\d.]+) fps\)", vspipe(script, ".").stderr)
    after = os.times()
    assert found is not None
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return float(found[2]), used


def cpu_of_starting(script: Path) -> float:
    """CPU seconds of a run of one frame."""
    before = os.times()
    vspipe(script, ".", "-e", "0")
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="640x360")
    parser.add_argument("--frames", type=int, default=150)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--format", default="RGBS", choices=("RGBS", "YUV420P8"))
    arguments = parser.parse_args()
    width, height = map(int, arguments.size.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "tiny.onnx"
        write_graph(graph, arguments.channels)
        head = HEAD.format(width=width, height=height, frames=arguments.frames, format=arguments.format, step=90)
        scripts = {}
        for name, body in (("flashsr", OURS), ("vs-mlrt", THEIRS)):
            scripts[name] = Path(folder) / f"{name}.vpy"
            scripts[name].write_text(head + body.format(path=str(graph)), encoding="utf-8")
        start = {name: cpu_of_starting(script) for name, script in scripts.items()}
        ratios, costs = [], []
        for run in range(arguments.runs):
            # Each goes first in turn, so that neither gains from what the machine does meanwhile.
            order = ["flashsr", "vs-mlrt"] if run % 2 else ["vs-mlrt", "flashsr"]
            got = {name: measure(scripts[name]) for name in order}
            cpu = {name: (used - start[name]) / arguments.frames * 1000 for name, (_, used) in got.items()}
            ratios.append(got["flashsr"][0] / got["vs-mlrt"][0])
            costs.append(cpu["vs-mlrt"] / cpu["flashsr"] if min(cpu.values()) > 0 else float("nan"))
            each = ", ".join(f"{name} {got[name][0]:.2f} fps, {cpu[name]:.1f} ms of CPU" for name in sorted(got))
            print(f"run {run + 1}: {each}; ratio {ratios[-1]:.3f}, of CPU {costs[-1]:.3f}", flush=True)
        ours, theirs = (hashlib.sha256(vspipe(s, "-", "-e", "2").stdout).digest() for s in scripts.values())
    what = f"{arguments.size} {arguments.format}, {arguments.channels} channels, {arguments.frames} frames"
    print(f"median ratio {statistics.median(ratios):.3f}, of CPU {statistics.median(costs):.3f} ({what})")
    print(f"the bytes are {'the same' if ours == theirs else 'different'}")


if __name__ == "__main__":
    main()
