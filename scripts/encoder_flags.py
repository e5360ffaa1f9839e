"""Prints the x265 options that say what a script's output frames say of themselves: range, colours, pixel shape.

vspipe's y4m stream carries none of them. For example, in a shell:

    vspipe -c y4m script.vpy - | x265 --y4m - $(python scripts/encoder_flags.py script.vpy) --crf 18 --output out.hevc
"""

import argparse
import contextlib
import runpy
import sys
from collections.abc import Mapping
from pathlib import Path

import vapoursynth as vs

# The numbers are those of ITU-T H.273, the names x265's. 2 means "unspecified" and is not passed on.
MATRIX = {
    1: "bt709",
    4: "fcc",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    8: "ycgco",
    9: "bt2020nc",
    10: "bt2020c",
}
PRIMARIES = {
    1: "bt709",
    4: "bt470m",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    8: "film",
    9: "bt2020",
    10: "smpte428",
    11: "smpte431",
    12: "smpte432",
}
TRANSFER = {
    1: "bt709",
    4: "bt470m",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    8: "linear",
    9: "log100",
    10: "log316",
    11: "iec61966-2-4",
    12: "bt1361e",
    13: "iec61966-2-1",
    14: "bt2020-10",
    15: "bt2020-12",
    16: "smpte2084",
    17: "smpte428",
    18: "arib-std-b67",
}


def run_script(path: Path, variables: Mapping[str, str]) -> None:
    """Evaluates a .vpy as vspipe does; afterwards `vs.get_output` has its outputs.

    Whatever the script prints goes to stderr.
    """
    with contextlib.redirect_stdout(sys.stderr):
        runpy.run_path(str(path), init_globals=dict(variables))


def output_clip(index: int) -> vs.VideoNode:
    """Returns output `index` of the script that was run last."""
    output = vs.get_output(index)
    if not isinstance(output, vs.VideoOutputTuple):
        raise SystemExit(f"output {index} must be video, got {type(output).__name__}; call set_output() on a clip")
    return output.clip


def x265_flags(props: Mapping[str, object]) -> list[str]:
    """Returns the options for a frame's properties; what a frame doesn't say is left out."""

    def number(name: str) -> int | None:
        value = props.get(name)
        return int(value) if isinstance(value, int) else None

    flags: list[str] = []
    color_range = number("_Range")
    if color_range is None and (legacy := number("_ColorRange")) is not None:
        color_range = 1 - legacy  # the older property counts the other way round: 0 is full
    if color_range is not None:
        flags += ["--range", "full" if color_range == 1 else "limited"]
    for option, prop, names in (
        ("--colormatrix", "_Matrix", MATRIX),
        ("--colorprim", "_Primaries", PRIMARIES),
        ("--transfer", "_Transfer", TRANSFER),
    ):
        name = names.get(number(prop) or 0)
        if name is not None:
            flags += [option, name]
    location = number("_ChromaLocation")
    if location is not None:
        flags += ["--chromaloc", str(location)]
    width, height = number("_SARNum"), number("_SARDen")
    if width and height:
        flags += ["--sar", f"{width}:{height}"]
    return flags


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("script", type=Path, help="a .vpy; its output 0 is looked at")
    parser.add_argument("-a", "--arg", action="append", default=[], metavar="KEY=VALUE", help="as for vspipe")
    arguments = parser.parse_args()
    variables = dict(item.split("=", 1) for item in arguments.arg)
    run_script(arguments.script, variables)
    with output_clip(0).get_frame(0) as frame:
        print(*x265_flags(frame.props))


if __name__ == "__main__":
    main()
