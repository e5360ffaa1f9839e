"""The built-in models on clips that training holds out, under several degradations, beside Lanczos and other graphs.

    python scripts/validate_builtin.py --data CLIPS [--scale 2 4] [--bundle builtin builtin-hq] [--graph NAME=GRAPH.onnx ...]
        [--all] [--frames 6] [--side 160] [--json OUT.json]

CLIPS is the folder that `python -m trt_build.builtin` trains on; scored are the sources that it keeps back (whole sources, not
clips; a page and a sheet of shapes that it draws itself apart), or with --all every clip of a folder it has never seen. Each clip
is made smaller and degraded in fixed ways (see DEGRADATIONS); of the middle of each picture, Y-PSNR is the mean over the later
half of its frames, SSIMULACRA2 that of the luma of the last one. A graph is one of ours (with state), or one of single frames
of luma in 0..1, which is applied again and again until the scale is reached (`scripts/fsrcnnx_to_onnx.py` makes one).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

import vsflashsr
from trt_build.builtin.data import SUFFIXES, Drawing, clip_luma, decode, held_sources, source_of
from trt_build.builtin.degrade import Degradation, Luma, degrade
from trt_build.builtin.perceptual import luma_ssimulacra2

type Picture = npt.NDArray[np.float32]
type Upscaler = Callable[[list[Picture]], list[Picture]]
"""Frames (h, w) of luma 0..1 to as many, `scale` times as large."""

BUNDLES = Path(vsflashsr.__file__).parent / "bundles"
BORDER = 8
"""Pixels of the result that aren't scored, all around."""


def degradations(scale: int) -> dict[str, Degradation]:
    """By name, how the low-resolution clips are made."""
    return {
        "none": Degradation("bicubic"),
        "blur": Degradation("bicubic", blur=0.4 * scale),
        "noise": Degradation("bicubic", noise=2.5),
        "mpeg2": Degradation("bicubic", 0.2 * scale, 1.0, "mpeg2", 5),
        "h264": Degradation("bicubic", 0.3 * scale, 2.0, "h264", 26),
        "vp9": Degradation("bicubic", 0.2 * scale, 1.0, "vp9", 40),
        "interlaced": Degradation("bicubic", 0.2 * scale, 0.5, "mpeg2", 3, interlaced=True),
    }


def lanczos(scale: int) -> Upscaler:
    """zimg's."""
    import vapoursynth as vs

    def upscale(frames: list[Picture]) -> list[Picture]:
        height, width = frames[0].shape
        blank = vs.core.std.BlankClip(width=width, height=height, format=vs.GRAYS, length=len(frames), keep=True)

        def put(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
            out = f.copy()
            np.copyto(np.asarray(out[0]), frames[n])
            return out

        node = blank.std.ModifyFrame(blank, put).resize.Lanczos(width * scale, height * scale)
        return [np.array(frame[0]) for frame in node.frames(close=True)]

    return upscale


def graph(path: Path, scale: int) -> Upscaler:
    """One of ours, or one of single frames."""
    import onnxruntime  # after the package, which keeps it from reporting home

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    first, *states = (i.name for i in session.get_inputs())

    def upscale(frames: list[Picture]) -> list[Picture]:
        height, width = frames[0].shape
        carried = [np.zeros((1, 1, n * height, n * width), np.float32) for n in (1, 2)]
        out: list[Picture] = []
        for frame in frames:
            made = frame[None, None]
            if states:
                made, *carried = session.run(None, {first: made, **dict(zip(states, carried, strict=True))})
            while made.shape[2] < scale * height:
                (made,) = session.run(None, {first: made})
            out.append(made[0, 0])
        return out

    return upscale


@dataclass(frozen=True)
class Case:
    """A clip to score on."""

    group: str
    """"films" or "drawn"."""
    luma: Luma


def cases(folder: Path, frames: int, whole: bool) -> list[Case]:
    """The clips that are held out, or all of the folder."""
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    if not paths:
        raise SystemExit(f"{folder} holds no clips; give a folder with some of {', '.join(sorted(SUFFIXES))}")
    if whole:
        return [Case("films", decode(p, frames)) for p in paths]
    held = held_sources({source_of(p.stem) for p in paths})
    drawn = [Case("drawn", clip_luma(Drawing(kind, 7), frames, 1)) for kind in ("page", "shapes")]
    return [Case("films", decode(p, frames)) for p in paths if source_of(p.stem) in held] + drawn


def unit(luma: Luma) -> list[Picture]:
    """Limited 8 bit to 0..1, frame by frame."""
    return [(frame.astype(np.float32) - 16) / 219 for frame in luma]


def score(made: list[Picture], truth: Luma) -> tuple[float, float]:
    """Y-PSNR of the later half and SSIMULACRA2 of the last, without the border."""
    inner = np.s_[BORDER:-BORDER, BORDER:-BORDER]
    levels = [np.clip(np.rint(m * 219 + 16), 0, 255)[inner] for m in made]
    errors = [float(np.square(a - b[inner]).mean()) for a, b in zip(levels, truth.astype(np.float32), strict=True)]
    later = [10 * np.log10(255**2 / max(e, 1e-5)) for e in errors[len(errors) // 2 :]]
    a, b = ((torch.from_numpy(p)[None, None] - 16) / 219 for p in (levels[-1], truth[-1][inner].astype(np.float32)))
    return float(np.mean(later)), float(luma_ssimulacra2(a, b))


def middle(luma: Luma, side: int, scale: int) -> Luma:
    """At most `side` low-resolution pixels square of the middle, of a size that the degradations like."""
    height, width = (min(side * scale, d - d % (8 * scale)) for d in luma.shape[1:])
    top, left = ((d - s) // 2 // (2 * scale) * 2 * scale for d, s in zip(luma.shape[1:], (height, width), strict=True))
    return luma[:, top : top + height, left : left + width]


def main() -> None:
    """Print a table for each scale."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="CLIPS")
    parser.add_argument("--scale", type=int, nargs="+", default=[2, 4], choices=(2, 4))
    parser.add_argument("--bundle", nargs="*", default=["builtin", "builtin-hq"])
    parser.add_argument("--graph", nargs="*", default=[], metavar="NAME=GRAPH.onnx")
    parser.add_argument("--all", action="store_true", help="score every clip of the folder")
    parser.add_argument("--frames", type=int, default=6)
    parser.add_argument("--side", type=int, default=160, help="of the part scored, in low-resolution pixels")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = cases(arguments.data, arguments.frames, arguments.all)
    groups = sorted({c.group for c in found}, reverse=True)
    rows: list[dict[str, object]] = []
    for scale in arguments.scale:
        models = {"Lanczos": lanczos(scale)}
        for entry in arguments.graph:
            name, _, path = entry.rpartition("=")
            models[name or path] = graph(Path(path), scale)
        models |= {name: graph(BUNDLES / name / f"x{scale}.onnx", scale) for name in arguments.bundle}
        ways = degradations(scale)
        scores: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
        for way, how in ways.items():
            for number, case in enumerate(found):
                truth = middle(case.luma, arguments.side, scale)
                (low,) = degrade((truth,), scale, how, np.random.default_rng([scale, number]))
                for name, upscale in models.items():
                    scores.setdefault((case.group, name, way), []).append(score(upscale(unit(low)), truth))
            print(f"x{scale} {way}: done", file=sys.stderr, flush=True)
        for group in groups:
            count = len(scores[group, "Lanczos", "none"])
            print(f"\nx{scale}, {count} {group}, Y-PSNR / SSIMULACRA2 of luma\n| | " + " | ".join(ways) + " |")
            print("|---" * (1 + len(ways)) + "|")
            for name in models:
                means = {way: np.mean(scores[group, name, way], 0) for way in ways}
                print(
                    f"| {name} | " + " | ".join(f"{m[0]:.2f} / {m[1]:.1f}" for m in means.values()) + " |", flush=True
                )
                rows += [
                    {
                        "scale": scale,
                        "group": group,
                        "model": name,
                        "degradation": way,
                        "psnr": float(m[0]),
                        "ssimu2": float(m[1]),
                    }
                    for way, m in means.items()
                ]
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
