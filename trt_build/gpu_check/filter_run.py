"""The filter itself through `vspipe` on this GPU: any order, threads and split give the same bytes; frames per second."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from .settings import Settings
from .step import reduced_bundle

SCRIPT = """
import random
import vapoursynth as vs
from vsflashsr import flashsr
vs.core.num_threads = {threads}
clip = vs.core.std.BlankClip(width={width}, height={height}, format=vs.RGB24, length={frames}, keep=True)
# Every frame differs, as far as the core can do that without a plugin.
clip = vs.core.std.FrameEval(clip, lambda n: vs.core.std.BlankClip(clip, length=1, color=[n % 256, n * 7 % 256, 90]))
clip = vs.core.std.AddBorders(clip.std.Crop(right=16), left=16, color=[200, 30, 60])
out = flashsr(clip, 4, model={model!r}, backend="torch", max_segment=48, scene_change=False)
order = list(range({frames}))
if {shuffled}:
    random.Random(1).shuffle(order)
    place = {{n: i for i, n in enumerate(order)}}
    shuffled = vs.core.std.FrameEval(out, lambda n: out[order[n]])
    out = vs.core.std.FrameEval(out, lambda n: shuffled[place[n]])
out.set_output()
"""


def part(settings: Settings) -> dict[str, Any]:
    """Purity at reduced size; speed with the bundle of `settings`, if it is there."""
    import vapoursynth

    program = Path(vapoursynth.__file__).parent / ("vspipe.exe" if sys.platform == "win32" else "vspipe")
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        model = str(reduced_bundle(folder, "tiny", "v1.1", "fp16").folder)
        size = {"width": 64, "height": 48, "frames": 120, "model": model}
        linear = _piped(program, folder, shuffled=False, threads=1, **size)
        report["linear_frames_per_s"] = linear[1]
        report["threads_same"] = _piped(program, folder, shuffled=False, threads=16, **size)[0] == linear[0]
        report["shuffled_same"] = _piped(program, folder, shuffled=True, threads=4, **size)[0] == linear[0]
        halves = [
            _piped(program, folder, "-s", str(a), "-e", str(b), shuffled=False, threads=4, **size)[0]
            for a, b in ((0, 56), (57, 119))
        ]
        report["split_same"] = _joined(halves) == _joined([linear[0]])
        report["passed"] = all(report[k] for k in ("threads_same", "shuffled_same", "split_same"))
        if settings.bundle.is_dir():
            height, width = (side // 4 for side in settings.sizes[0])
            full = {"width": width, "height": height, "frames": 21 + 8 * settings.steps, "model": str(settings.bundle)}
            report["full_size_frames_per_s"] = _piped(program, folder, shuffled=False, threads=4, **full)[1]
    return report


def _joined(parts: list[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(digest for part in parts for digest in part)


def _piped(program: Path, folder: Path, *options: str, **values: Any) -> tuple[tuple[str, ...], float]:
    """Digest of each frame, and the frames per second that vspipe reports."""
    script = folder / "script.vpy"
    script.write_text(SCRIPT.format(**values), encoding="utf-8")
    out = folder / "frames.raw"
    done = subprocess.run([program, *options, script, out], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"vspipe failed: {done.stderr.strip().splitlines()[-1]}")
    found = re.search(r"\(([\d.]+) fps\)", done.stderr)
    frame_bytes = 3 * 16 * values["width"] * values["height"]
    with out.open("rb") as file:
        digests = tuple(hashlib.sha256(part).hexdigest() for part in iter(lambda: file.read(frame_bytes), b""))
    return digests, float(found[1]) if found else 0.0
