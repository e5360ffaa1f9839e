"""A model at its published size with random weights: time, memory and disk of its export, and of one segment on the CPU.

    python scripts/full_size.py --model swiftvr --folder WORK       # 20 GB of checkpoint and 9 GB of bundle in WORK
    python scripts/full_size.py --model realviformer --folder WORK
    python scripts/full_size.py --bundle WORK/bundle                # the segment alone

Every part runs in a process of its own, whose resident memory (mapped files among it) is looked at five times a second. What is
made is removed afterwards, unless --keep is given. Needs the extra "export", and psutil.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil

from vsflashsr.bundle import MANIFEST

RENDER = """
import sys, numpy as np, vapoursynth as vs
from vsflashsr import flashsr
model, width, height, frames, options = sys.argv[1], *map(int, sys.argv[2:5]), eval(sys.argv[5], {})
clip = vs.core.std.BlankClip(width=width, height=height, format=vs.RGBS, length=frames, color=[0.3, 0.5, 0.4], keep=True)
clip = vs.core.std.AddBorders(clip.std.Crop(right=width // 4), left=width // 4, color=[0.8, 0.1, 0.2])
out = flashsr(clip, 4, model=model, backend="onnxruntime", model_options=options)
for n in range(frames):
    with out.get_frame(n) as frame:
        planes = np.stack([np.asarray(frame[plane]) for plane in range(3)])
print(f"{out.width}x{out.height}, frame {frames - 1}: mean {planes.mean():.4f}, spread {planes.std():.4f}, "
      f"{'finite' if np.isfinite(planes).all() else 'NOT FINITE'}")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", choices=("swiftvr", "realviformer"), default="swiftvr")
    parser.add_argument("--folder", type=Path, help="where it is made")
    parser.add_argument("--bundle", type=Path, help="a bundle that is there already")
    parser.add_argument("--precision", choices=("fp16", "fp32"), default="fp16")
    parser.add_argument("--size", default="64x48", metavar="WxH", help="of the segment's frames (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=9, help="of the segment (default: %(default)s)")
    parser.add_argument("--clip-len", type=int, default=4, help="SwiftVR's (default: %(default)s)")
    parser.add_argument("--keep", action="store_true")
    given = parser.parse_args()
    if (given.folder is None) == (given.bundle is None):
        parser.error("give --folder or --bundle")
    made: list[Path] = []
    try:
        bundle = given.bundle
        if bundle is None:
            checkpoint, bundle = given.folder / "checkpoint", given.folder / "bundle"
            made += [checkpoint, bundle]
            measured("checkpoint", "-m", "trt_build.random_checkpoint", str(checkpoint), "--model", given.model)
            print(f"checkpoint: {size_of(checkpoint) / 1e9:.2f} GB")
            export = ["--model", given.model, "--checkpoint", str(checkpoint), "--precision", given.precision]
            measured("export", "-m", "trt_build", "export", *export, "--out", str(bundle))
            print(f"bundle: {size_of(bundle) / 1e9:.2f} GB in {given.precision}")
        kind = json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))["kind"]
        options = {"clip_len": given.clip_len} if kind == "swiftvr" else {}
        frame = [*given.size.split("x"), str(given.frames), repr(options)]
        measured(f"{given.frames} frames of {given.size}", "-c", RENDER, str(bundle), *frame)
    finally:
        for folder in () if given.keep else made:
            shutil.rmtree(folder, ignore_errors=True)


def measured(what: str, *arguments: str) -> None:
    """Runs a Python process and says what it took."""
    start, peak = time.monotonic(), 0
    process = psutil.Popen([sys.executable, *arguments], stderr=subprocess.DEVNULL)
    while process.poll() is None:
        try:
            peak = max(peak, process.memory_info().rss)
        except psutil.Error:  # it has ended meanwhile
            break
        time.sleep(0.2)
    status = process.wait()
    print(f"{what}: {time.monotonic() - start:.0f} s, at most {peak / 1e9:.2f} GB resident, status {status}", flush=True)
    if status:
        raise SystemExit(status)


def size_of(folder: Path) -> int:
    """All files in it, in bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
