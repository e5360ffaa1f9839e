"""Crops of Lanczos and of a model side by side, for eyes: where it gains most on Lanczos, and where it loses most.

    python scripts/contact_sheet.py CLIP... --out SHEET.png [--model builtin] [--scale 2] [--frame 12] [--as-is]

Each clip is made smaller with bicubic and upscaled again by both; a row holds the truth, Lanczos and the model at the
place where the model's squared error is furthest below Lanczos', then the same where it is furthest above. With
--as-is the clip itself is upscaled, there is no truth, and the places are the one with most detail and the one where the
two differ most. Of an interlaced clip one field is taken.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
import vapoursynth as vs
from PIL import Image, ImageDraw

from vsflashsr import flashsr

core = vs.core

type Picture = npt.NDArray[np.uint8]
"""(height, width, 3), RGB."""

SIDE = 96
"""Side of a crop, in pixels of the result; shown twice as large."""


def rgb(clip: vs.VideoNode, n: int) -> Picture:
    """Frame n."""
    with clip.resize.Bicubic(format=vs.RGB24, matrix_in=1).get_frame(n) as frame:
        return np.stack([np.asarray(plane) for plane in frame], -1)


def boxes(score: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Mean of `score` over each SIDE x SIDE box on a grid of half a side."""
    height, width = (max(1, d // (SIDE // 2) - 1) for d in score.shape)
    half = SIDE // 2
    return np.array(
        [[score[y * half : y * half + SIDE, x * half : x * half + SIDE].mean() for x in range(width)] for y in range(height)]
    )


def place(score: npt.NDArray[np.float64]) -> tuple[slice, slice]:
    """The box with the highest mean."""
    means = boxes(score)
    y, x = np.unravel_index(int(means.argmax()), means.shape)
    top, left = int(y) * SIDE // 2, int(x) * SIDE // 2
    return slice(top, top + SIDE), slice(left, left + SIDE)


def row(path: Path, model: str, scale: int, n: int, as_is: bool) -> tuple[list[Picture], list[str]]:
    """Crops of a clip and what stands under them."""
    source = core.bs.VideoSource(str(path), cachemode=0, showprogress=False).resize.Point(format=vs.YUV420P8)
    if source.get_frame(0).props.get("_FieldBased", 0):
        source = source.std.SeparateFields(tff=True)[::2]
    n = min(n, source.num_frames - 1)
    small = source
    if not as_is:
        unit = 2 * scale
        source = source.std.CropAbs(source.width // unit * unit, source.height // unit * unit)
        small = source.resize.Bicubic(source.width // scale, source.height // scale, filter_param_a=0, filter_param_b=0.5)
    plain = rgb(small.resize.Lanczos(small.width * scale, small.height * scale), n)
    ours = rgb(flashsr(small, scale, model=model), n)
    if as_is:
        grey = plain.mean(-1)
        detail = np.abs(np.diff(grey, axis=0, append=grey[-1:])) + np.abs(np.diff(grey, axis=1, append=grey[:, -1:]))
        places = [("most detail", place(detail)), ("largest difference", place((ours.mean(-1) - grey) ** 2))]
        shown = {"Lanczos": plain, model: ours}
    else:
        truth = rgb(source, n)
        gain = sum(((plain - truth.astype(float)) ** 2 - (ours - truth.astype(float)) ** 2)[..., c] for c in range(3))
        places = [("most gained", place(np.asarray(gain))), ("most lost", place(-np.asarray(gain)))]
        shown = {"truth": truth, "Lanczos": plain, model: ours}
    crops = [picture[where] for _, where in places for picture in shown.values()]
    return crops, [f"{name}: {path.stem}, {what}" for what, _ in places for name in shown]


def main() -> None:
    """Write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path, metavar="CLIP")
    parser.add_argument("--out", type=Path, required=True, help="the sheet, a PNG")
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--scale", type=int, default=2, choices=(2, 4))
    parser.add_argument("--frame", type=int, default=12)
    parser.add_argument("--as-is", action="store_true", help="upscale the clips themselves")
    arguments = parser.parse_args()
    rows = [row(p, arguments.model, arguments.scale, arguments.frame, arguments.as_is) for p in arguments.clips]
    cell = 2 * SIDE + 4
    sheet = Image.new("RGB", (max(len(crops) for crops, _ in rows) * cell, len(rows) * (cell + 12)), "white")
    draw = ImageDraw.Draw(sheet)
    for y, (crops, captions) in enumerate(rows):
        for x, (crop, caption) in enumerate(zip(crops, captions, strict=True)):
            large = Image.fromarray(np.ascontiguousarray(crop)).resize((2 * crop.shape[1], 2 * crop.shape[0]), 0)
            sheet.paste(large, (x * cell, y * (cell + 12)))
            draw.text((x * cell, y * (cell + 12) + 2 * SIDE), caption, fill="black")
    sheet.save(arguments.out)


if __name__ == "__main__":
    main()
