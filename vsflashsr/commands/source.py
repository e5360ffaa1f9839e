"""A file or a script as a clip, for commands that look at one."""

from __future__ import annotations

import contextlib
import runpy
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import FlashsrError

if TYPE_CHECKING:
    import vapoursynth as vs


def open_clip(path: Path, variables: Mapping[str, str] | None = None) -> vs.VideoNode:
    """A video file through bestsource, or output 0 of a ``.vpy``.

    Raises:
        FlashsrError: there is no such file, no plugin for it, or no video in it.
    """
    from ..encode.source import check_pictures, open_video

    if not path.is_file():
        raise FlashsrError(f"there is no file {str(path)!r}; give the path of a video or a .vpy script")
    if path.suffix.lower() == ".vpy":
        return script_output(path, variables or {})
    clip: vs.VideoNode = open_video(path, showprogress=False)
    check_pictures(clip, path)
    return clip


def script_output(path: Path, variables: Mapping[str, str], index: int = 0) -> vs.VideoNode:
    """Output ``index`` of a script, evaluated as vspipe does: in the script's folder. What it prints goes to stderr.

    Raises:
        FlashsrError: the script fails, or has no such output.
    """
    import vapoursynth as vs

    path = path.resolve()
    vs.clear_outputs()
    try:
        with contextlib.redirect_stdout(sys.stderr), contextlib.chdir(path.parent):
            runpy.run_path(str(path), init_globals=dict(variables))
    except Exception as error:
        where = _line_of(error, path)
        raise FlashsrError(f"the script {str(path)!r} fails{where}: {_sentence(error)}") from error
    outputs = vs.get_outputs()
    if index not in outputs:
        raise FlashsrError(
            f"the script {str(path)!r} has the outputs {sorted(outputs)}, got {index}; call set_output({index}) on a clip"
        )
    output = outputs[index]
    if not isinstance(output, vs.VideoOutputTuple):
        raise FlashsrError(
            f"output {index} of {str(path)!r} is {type(output).__name__}; call set_output() on a video clip"
        )
    return output.clip


def _line_of(error: Exception, path: Path) -> str:
    """Where in the script, if the error came from there."""
    lines = []
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    return f" in line {lines[-1]}" if lines else ""


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return (
        text
        if isinstance(error, FlashsrError) or type(error).__name__ == "Error"
        else f"{type(error).__name__}: {text}"
    )
