"""How many preroll frames a model needs: what a segment's first frame lacks after 0, 2, 4 … of them.

    python scripts/measure_preroll.py CLIP... [--model builtin] [--scale 2] [--frame 16]

Each clip is halved (or quartered) with bicubic and upscaled again, once with state carried from its beginning, once in
segments that begin at the given frame. Printed: luma PSNR of that frame against the one with all its past, and the largest
difference in 8-bit steps; PSNR of both against the clip itself, so that what the memory is worth shows too.
"""

from __future__ import annotations

import argparse

import numpy as np
import vapoursynth as vs

from vsflashsr import flashsr

core = vs.core


def luma(clip: vs.VideoNode, n: int) -> np.ndarray:
    """Luma of frame n without its 8 px border."""
    with clip.get_frame(n) as frame:
        return np.asarray(frame[0])[8:-8, 8:-8].astype(np.float64)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """In dB, peak 255; 100 where both are the same."""
    error = float(np.mean((a - b) ** 2))
    return 10 * float(np.log10(255**2 / error)) if error else 100.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", metavar="CLIP")
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--scale", type=int, default=2, choices=(2, 4))
    parser.add_argument("--frame", type=int, default=16)
    parser.add_argument("--preroll", type=int, nargs="+", default=[0, 2, 4, 6, 8])
    arguments = parser.parse_args()
    n, scale = arguments.frame, arguments.scale
    for path in arguments.clips:
        whole = core.bs.VideoSource(path, cachemode=0, showprogress=False).resize.Point(format=vs.YUV420P8)
        unit = 4 * scale
        whole = whole.std.CropAbs(min(whole.width, 480) // unit * unit, min(whole.height, 352) // unit * unit)
        small = whole.resize.Bicubic(whole.width // scale, whole.height // scale, filter_param_a=0, filter_param_b=0.5)
        warm = luma(flashsr(small, scale, model=arguments.model, scene_change=False, max_segment=10**6), n)
        truth = luma(whole, n)
        print(f"{path}: with all its past {psnr(warm, truth):.3f} dB")
        for preroll in arguments.preroll:
            clip = flashsr(small, scale, model=arguments.model, scene_change=False, max_segment=n, preroll=preroll)
            cold = luma(clip, n)
            print(
                f"  preroll {preroll}: {psnr(cold, truth):.3f} dB; against the warm frame {psnr(cold, warm):.1f} dB, "
                f"at most {np.abs(cold - warm).max():.0f} of 255",
                flush=True,
            )


if __name__ == "__main__":
    main()
