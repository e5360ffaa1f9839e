"""``vsflashsr flags``: the encoder's options for what a script's frames say of themselves."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from ..encode.signal import Signal, ffmpeg_flags, from_props, not_carried, svt_av1_flags, x264_flags, x265_flags
from ..errors import FlashsrError
from .host import core_messages
from .source import script_output

type Encoder = Literal["x265", "x264", "svt-av1", "ffmpeg"]

_WORDS = {"x265": x265_flags, "x264": x264_flags, "svt-av1": svt_av1_flags, "ffmpeg": ffmpeg_flags}


def flags(
    script: Path,
    *,
    encoder: Annotated[Encoder, Parameter(alias="-e")] = "x265",
    arg: Annotated[list[str] | None, Parameter(alias="-a", negative="")] = None,
    output: int = 0,
) -> int:
    """Print an encoder's options for range, colours, pixel shape and HDR10 of a script's first frame.

    vspipe's y4m stream carries none of them. For example, in bash:

    vspipe -c y4m script.vpy - | x265 --y4m - $(vsflashsr flags script.vpy) --crf 18 -o out.hevc

    What the frame doesn't say can't be passed on: a line on stderr names it.

    Parameters
    ----------
    script
        A .vpy script.
    encoder
        Whose options.
    arg
        KEY=VALUE for the script, as vspipe's -a; any number of times.
    output
        Which of the script's outputs.
    """
    if not script.is_file():
        raise FlashsrError(f"there is no script {str(script)!r}; give the path of a .vpy")
    with core_messages(), script_output(script, _variables(arg or ()), output).get_frame(0) as frame:
        signal, left_out = from_props(frame.props), not_carried(frame.props)
        coloured = frame.format.num_planes == 3
    options = _WORDS[encoder](signal)
    for lack in _lacks(signal, coloured=coloured):
        sys.stderr.write(f"vsflashsr: {lack}\n")
    if left_out is not None:
        sys.stderr.write(f"vsflashsr: not in these options: {left_out}\n")
    if options:
        # Not quoted: the shell doesn't take quotes out of $(...), and no option has a space in it.
        sys.stdout.write(f"{' '.join(options)}\n")
    return 0


def _variables(items: Sequence[str]) -> dict[str, str]:
    variables: dict[str, str] = {}
    for item in items:
        name, sign, value = item.partition("=")
        if not sign or not name:
            raise FlashsrError(f"--arg takes KEY=VALUE, got {item!r}; write it like input=clip.mkv")
        variables[name] = value
    return variables


def _lacks(signal: Signal, *, coloured: bool) -> list[str]:
    """What a player will have to guess."""
    lacks = []
    if signal.full_range is None:
        lacks.append(
            "the frames name no range (_Range); players take limited: std.SetFrameProps(_Range=0 or 1) says it"
        )
    if signal.matrix is None and coloured:
        lacks.append(
            "the frames name no matrix (_Matrix); players take BT.709 for large pictures, and skin turns orange where it was "
            "BT.601: std.SetFrameProps(_Matrix=1, 5 or 6) says it"
        )
    return lacks
