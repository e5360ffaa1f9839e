"""What the host has to do with a frame of halves that a GPU model has made, until it is 8 bit: as halves, and as single floats.

    python scripts/bench_delivery.py [--size 3840 2160] [--channels 1 3] [--runs 9]

From page-locked memory to a frame of the output's format: copied out, looked through for values that aren't finite, made a frame
of VapourSynth's and converted by its resizer. Both ways take turns and must give the same bytes; printed are medians, one thread.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import numpy as np
import vapoursynth as vs

from vsflashsr.frames import is_finite, to_frame


def delivered(raw: np.ndarray[Any, np.dtype[np.float16]], *, half: bool) -> list[bytes]:
    """The planes in 8 bit."""
    core = vs.core.core
    made = raw.copy() if half else raw.astype(np.float32)
    if not is_finite(made):
        raise SystemExit("the frame isn't finite")
    family = vs.GRAY if len(raw) == 1 else vs.RGB
    frame = to_frame(core, made, core.query_video_format(family, vs.FLOAT, 16 if half else 32))
    node = core.std.BlankClip(width=frame.width, height=frame.height, format=frame.format.id, length=1)
    node = node.std.ModifyFrame(node, lambda n, f: frame)
    out = node.resize.Point(format=core.query_video_format(family, vs.INTEGER, 8).id)
    with out.get_frame(0) as f:
        return [bytes(f[p]) for p in range(f.format.num_planes)]


def main() -> None:
    """Print milliseconds and the ratio for each number of channels."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--size", type=int, nargs=2, default=(3840, 2160), metavar=("WIDTH", "HEIGHT"))
    p.add_argument("--channels", type=int, nargs="+", choices=(1, 3), default=(1, 3))
    p.add_argument("--runs", type=int, default=9)
    a = p.parse_args()
    vs.core.num_threads = 1
    for channels in a.channels:
        raw = np.random.default_rng(0).random((channels, a.size[1], a.size[0]), np.float32).astype(np.float16)
        spent: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(a.runs):
            found = []
            for half in (True, False):
                before = time.perf_counter()
                found.append(delivered(raw, half=half))
                spent[half].append(1e3 * (time.perf_counter() - before))
            if found[0] != found[1]:
                raise SystemExit("the two ways differ")
        halves, singles = (statistics.median(spent[half]) for half in (True, False))
        size = f"{channels} x {a.size[0]}x{a.size[1]}"
        print(f"{size}: halves {halves:.1f} ms, single {singles:.1f} ms, ratio {singles / halves:.2f}")


if __name__ == "__main__":
    main()
