"""Checks the file that demo.sh has made, draws the before/after picture and prints the summary."""

import argparse
import json
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import vapoursynth as vs

from vsflashsr.commands.source import script_output
from vsflashsr.compare.pictures import busiest, picture

core = vs.core

CROP_PX = 320
"""Side of the square that the picture shows, in square pixels of the upscaled frame."""

MAGNIFY = 2
"""How many times larger than life the picture shows it."""


def probe(path: Path) -> dict[str, Any]:
    """Decodes the whole file and returns ffprobe's description of its video stream."""
    command = ["ffprobe", "-v", "error", "-select_streams", "v:0", "-count_frames", "-show_streams", "-of", "json"]
    result = subprocess.run([*command, str(path)], check=True, capture_output=True, encoding="utf-8")
    stream: dict[str, Any] = json.loads(result.stdout)["streams"][0]
    return stream


def check(stream: dict[str, Any], clip: vs.VideoNode, frames: int, flags: list[str]) -> None:
    """Compares the encoded stream with the clip it was made from."""
    option = dict(zip(flags[::2], flags[1::2], strict=True))
    wanted = {
        "nb_read_frames": str(frames),
        "width": clip.width,
        "height": clip.height,
        "color_range": {"limited": "tv", "full": "pc"}.get(option.get("--range", "")),
        "color_space": option.get("--colormatrix"),
        "color_primaries": option.get("--colorprim"),
        "color_transfer": option.get("--transfer"),
    }
    for key, value in wanted.items():
        if value is not None and stream.get(key) != value:
            raise SystemExit(f"demo: the file must have {key} {value}, got {stream.get(key)}; see x265's messages")


def draw(before: vs.VideoNode, after: vs.VideoNode, frame_number: int, labels: tuple[str, str], path: Path) -> None:
    """Writes a PNG: the same part of the same frame of two clips, side by side, with square pixels.

    `before` may be of any size; it is brought to that of `after` with Lanczos.
    """
    with after.get_frame(frame_number) as frame:
        aspect = Fraction(frame.props.get("_SARNum", 1) or 1, frame.props.get("_SARDen", 1) or 1)
    before = before.resize.Lanczos(after.width, after.height)
    height = min(CROP_PX, after.height)
    width = min(round(CROP_PX / aspect), after.width)
    with after.resize.Bilinear(format=vs.GRAYS).get_frame(frame_number) as frame:
        part_of = busiest(np.asarray(frame[0]), width, height)
    size = MAGNIFY * round(width * aspect), MAGNIFY * height
    panels = []
    for clip, label in zip((before, after), labels, strict=True):
        part = clip.resize.Bicubic(format=vs.RGBS).std.CropAbs(width, height, part_of.left, part_of.top)
        # Nearest neighbour up by a whole number, so that the picture adds no smoothness of its own.
        part = part.resize.Lanczos(size[0] // MAGNIFY, height).resize.Point(*size, format=vs.RGB24)
        panels.append(part.text.Text(label, alignment=7, scale=2))
    pair = core.std.StackHorizontal(panels)
    with pair.get_frame(frame_number) as frame:
        pixels = picture(frame)
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{pair.width}x{pair.height}", "-i", "-"]
    command = ["ffmpeg", "-v", "error", "-y", *raw, "-frames:v", "1", str(path)]
    subprocess.run(command, input=pixels.tobytes(), check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--script", type=Path, required=True)
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--scale", required=True)
    parser.add_argument("--seconds", type=float, required=True, help="how long the encode took")
    parser.add_argument("--frames", type=int, help="how many frames were to be encoded; default all")
    parser.add_argument("--flags", default="", help="the colour options x265 was given")
    parser.add_argument("video", type=Path)
    parser.add_argument("picture", type=Path)
    arguments = parser.parse_args()

    variables = {"input": str(arguments.input), "scale": arguments.scale}
    result, source = (script_output(arguments.script, variables, index) for index in (0, 1))
    frames = min(arguments.frames or result.num_frames, result.num_frames)
    stream = probe(arguments.video)
    check(stream, result, frames, arguments.flags.split())

    # What is shown is decoded from the file, so that it is what a player shows.
    encoded = core.bs.VideoSource(str(arguments.video), cachemode=0, showprogress=False)
    labels = (f"Lanczos x{arguments.scale}", f"flashsr x{arguments.scale}")
    draw(source, encoded, frames // 2, labels, arguments.picture)

    original = probe(arguments.input)
    print(
        f"in       {original['nb_read_frames']} frames {original['width']}x{original['height']}"
        f" {original.get('field_order', 'unknown')}, {source.num_frames} after the deinterlacer\n"
        f"out      {frames} frames {stream['width']}x{stream['height']} {stream['pix_fmt']}"
        f" {stream.get('color_space', 'unknown')} {stream.get('color_range', 'unknown')}\n"
        f"speed    {frames / arguments.seconds:.2f} fps ({arguments.seconds:.1f} s, encoder and start included)\n"
        f"video    {arguments.video}\n"
        f"picture  {arguments.picture}"
    )


if __name__ == "__main__":
    main()
