"""Frames per second of the built-in models on this machine, through vspipe, as the README's table says them.

    python scripts/speed.py [--frames 42] [--clip samples/clips/butterfly_270p.mp4]

The CPU time of a frame is printed beside them: it tells what a core does, also where other programs have the cores at the time;
and the same where chroma is resized instead of predicted (`model_options={"chroma": False}`).
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import vapoursynth

from vsflashsr.models.locate import builtin_names

ROOT = Path(__file__).parents[1]
SCRIPT = """
import vapoursynth as vs
from vsflashsr import flashsr
clip = vs.core.bs.VideoSource({clip!r}, showprogress=False)[:{frames}]
flashsr(clip, {scale}, model={model!r}, backend="onnxruntime", model_options={options!r}).set_output()
"""


def measured(clip: Path, model: str, scale: int, frames: int, *, chroma: bool) -> tuple[float, float]:
    """Frames per second as vspipe counts them (without its start), and seconds of CPU for each frame (with it)."""
    vspipe = Path(vapoursynth.__file__).parent / ("vspipe.exe" if sys.platform == "win32" else "vspipe")
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "speed.vpy")
        options = {"chroma": chroma}
        text = SCRIPT.format(clip=str(clip), model=model, scale=scale, frames=frames, options=options)
        script.write_text(text, encoding="utf-8")
        before = os.times()
        done = subprocess.run([vspipe, script, "."], capture_output=True, text=True, check=False)
        after = os.times()
    found = re.search(r"Output (\d+) frames.*\(([\d.]+) fps\)", done.stderr)
    if done.returncode or not found:
        raise SystemExit(f"vspipe failed:\n{done.stderr}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return float(found[2]), cpu / int(found[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=42)
    parser.add_argument("--clip", type=Path, default=ROOT / "samples" / "clips" / "butterfly_270p.mp4")
    given = parser.parse_args()
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"{platform.machine()}, {os.cpu_count()} cores{load}, {given.clip.name}")
    print("model        scale  frames/s  CPU seconds a frame  chroma resized: frames/s  CPU seconds")
    for model in builtin_names():
        for scale in (2, 4):
            (rate, cpu), (plain, less) = (
                measured(given.clip.resolve(), model, scale, given.frames, chroma=chroma) for chroma in (True, False)
            )
            print(
                f"{model:<12} x{scale}     {rate:8.2f}  {cpu:.3f}                {plain:8.2f}                  {less:.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
