"""Chroma as the built-in models predict it on clips that training holds out, beside Spline36, under several degradations.

    python scripts/validate_chroma.py --data CLIPS [--scale 2 4] [--model builtin] [--all] [--frames 6] [--json OUT.json]

CLIPS is the folder that `python -m trt_build.builtin.chroma` trains on; scored are the sources that it keeps back, or with --all
every clip of a folder it has never seen. Each clip is made smaller and degraded in the ways of `validate_builtin.py`, with its
chroma, and upscaled by the filter with `model_options={"chroma": …}` both ways, so that luma is the same. Figures are means over
the clips, of their last frame: PSNR of U and V, and SSIMULACRA2 of the whole picture, which the plugin vszip measures.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import vapoursynth as vs
from validate_builtin import BORDER, degradations, middle

from trt_build.builtin.data import SUFFIXES, decode_planes, held_sources, source_of
from trt_build.builtin.degrade import Planes, degrade, node_of
from vsflashsr import flashsr

TAGS = {"_Matrix": 1, "_Transfer": 1, "_Primaries": 1, "_Range": 0, "_ChromaLocation": 0}


def found(folder: Path, frames: int, whole: bool) -> list[Planes]:
    """The clips that are held out, or all of the folder."""
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    held = held_sources({source_of(p.stem) for p in paths})
    wanted = [p for p in paths if whole or source_of(p.stem) in held]
    if not wanted:
        raise SystemExit(f"{folder} holds no clips; give a folder with some of {', '.join(sorted(SUFFIXES))}")
    return [decode_planes(p, frames) for p in wanted]


def cropped(planes: Planes, side: int, scale: int) -> Planes:
    """The middle of luma, and what of U and V lies there."""
    luma = middle(planes[0], side, scale)
    height, width = luma.shape[1:]
    top, left = (
        (whole - part) // 2 // (2 * scale) * 2 * scale
        for whole, part in zip(planes[0].shape[1:], (height, width), strict=True)
    )
    window = np.s_[:, top // 2 : (top + height) // 2, left // 2 : (left + width) // 2]
    return luma, planes[1][window], planes[2][window]


def score(made: vs.VideoNode, truth: vs.VideoNode) -> tuple[float, float]:
    """PSNR of U and V and SSIMULACRA2 of the last frame, without the border."""
    last = truth.num_frames - 1
    inner = [clip[last].std.Crop(BORDER, BORDER, BORDER, BORDER) for clip in (truth, made)]
    with inner[0].get_frame(0) as a, inner[1].get_frame(0) as b:
        errors = [float(np.square(np.asarray(a[p]).astype(float) - np.asarray(b[p])).mean()) for p in (1, 2)]
    rgb = [clip.resize.Bicubic(format=vs.RGBS, matrix_in=1) for clip in inner]
    with vs.core.vszip.SSIMULACRA2(*rgb).get_frame(0) as f:
        perceived = float(f.props["SSIMULACRA2"])
    return 10 * float(np.log10(255**2 / max(np.mean(errors), 1e-5))), perceived


def main() -> None:
    """Print a table for each scale."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="CLIPS")
    parser.add_argument("--scale", type=int, nargs="+", default=[2, 4], choices=(2, 4))
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--all", action="store_true", help="score every clip of the folder")
    parser.add_argument("--frames", type=int, default=6)
    parser.add_argument("--side", type=int, default=160, help="of the part scored, in low-resolution pixels")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if not hasattr(vs.core, "vszip"):
        parser.error("needs the plugin vszip; install vapoursynth-vszip")
    clips = found(arguments.data, arguments.frames, arguments.all)
    rows: list[dict[str, object]] = []
    for scale in arguments.scale:
        means: dict[tuple[bool, str], tuple[float, float]] = {}
        ways = degradations(scale)
        for way, how in ways.items():
            scores: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
            for number, clip in enumerate(clips):
                truth = cropped(clip, arguments.side, scale)
                low = node_of(degrade(truth, scale, how, np.random.default_rng([scale, number]))).std.SetFrameProps(
                    **TAGS
                )
                for predicted, of in scores.items():
                    made = flashsr(low, scale, model=arguments.model, model_options={"chroma": predicted})
                    of.append(score(made, node_of(truth).std.SetFrameProps(**TAGS)))
            for predicted, of in scores.items():
                psnr, perceived = np.mean(of, axis=0)
                means[predicted, way] = float(psnr), float(perceived)
                rows.append(
                    {
                        "scale": scale,
                        "predicted": predicted,
                        "degradation": way,
                        "psnr": float(psnr),
                        "ssimu2": float(perceived),
                    }
                )
            print(f"x{scale} {way}: done", file=sys.stderr, flush=True)
        print(f"\nx{scale}, {len(clips)} clips, PSNR of U and V / SSIMULACRA2\n| | " + " | ".join(ways) + " |")
        print("|---" * (1 + len(ways)) + "|")
        for predicted, name in ((False, "Spline36"), (True, "predicted")):
            cells = (means[predicted, way] for way in ways)
            print(
                f"| {name} | " + " | ".join(f"{psnr:.2f} / {perceived:.1f}" for psnr, perceived in cells) + " |",
                flush=True,
            )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
