"""Whether a model is faithful: colour, flat areas, still areas.

    python scripts/faithful.py CLIP... [--model builtin] [--scale 2 4] [--frames 8]

Colour: each clip is made smaller with bicubic and upscaled again; printed is the mean error of each channel of RGB, in
1/255, for the model and for Lanczos. Flat: the largest error of a flat grey clip in 16 bit, borders included, in 1/255.
Still: a frame of each clip, repeated; printed is the mean and the largest difference of luma between one frame of the
result and the next, after the first two, in 1/255 (Lanczos has 0).
"""

from __future__ import annotations

import argparse
import itertools

import numpy as np
import numpy.typing as npt
import vapoursynth as vs

from vsflashsr import flashsr

core = vs.core


def mean(clip: vs.VideoNode, frames: int) -> npt.NDArray[np.float64]:
    """Mean of R, G and B over the first frames, in 1/255."""
    rgb = clip.resize.Bicubic(format=vs.RGBS, matrix_in=1)[:frames]
    return np.mean([[np.asarray(plane).mean() * 255 for plane in f] for f in rgb.frames(close=True)], axis=0)


def lumas(clip: vs.VideoNode) -> list[npt.NDArray[np.float64]]:
    """Luma of every frame, in 1/255."""
    return [np.asarray(f[0]).astype(np.float64) / 256 for f in clip.frames(close=True)]


def main() -> None:
    """Print it all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", metavar="CLIP")
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--scale", type=int, nargs="+", default=[2, 4], choices=(2, 4))
    parser.add_argument("--frames", type=int, default=8)
    arguments = parser.parse_args()
    for scale in arguments.scale:
        worst = 0.0
        for level in (16, 60, 128, 200, 235):
            flat = core.std.BlankClip(width=128, height=96, format=vs.GRAY16, length=20, color=256 * level)
            flat = flat.std.SetFrameProps(_Range=0)
            worst = max(worst, *(float(np.abs(f - level).max()) for f in lumas(flashsr(flat, scale, model=arguments.model))))
        print(f"x{scale} flat grey: at most {worst:.2f}", flush=True)
        for path in arguments.clips:
            source = core.bs.VideoSource(path, cachemode=0, showprogress=False).resize.Point(format=vs.YUV420P16)
            unit = 2 * scale
            source = source.std.CropAbs(source.width // unit * unit, source.height // unit * unit)[: arguments.frames]
            width, height = source.width // scale, source.height // scale
            small = source.resize.Bicubic(width, height, filter_param_a=0, filter_param_b=0.5)
            truth = mean(source, arguments.frames)
            ours = mean(flashsr(small, scale, model=arguments.model), arguments.frames) - truth
            plain = mean(small.resize.Lanczos(source.width, source.height), arguments.frames) - truth
            still = lumas(flashsr(small[0] * arguments.frames, scale, model=arguments.model))
            steps = [np.abs(b - a) for a, b in itertools.pairwise(still[2:])]
            print(
                f"x{scale} {path.rsplit('/', 1)[-1]}: colour {' '.join(f'{v:+.2f}' for v in ours)} "
                f"(Lanczos {' '.join(f'{v:+.2f}' for v in plain)}); still: mean {np.mean(steps):.3f}, "
                f"at most {np.max(steps):.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
