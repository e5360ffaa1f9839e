"""What the input's first frame tells while the script is evaluated: what can't work is refused then, not in an encode."""

from __future__ import annotations

from collections.abc import Mapping

import vapoursynth as vs

from . import chroma, formats
from .errors import FlashsrError, shown
from .frames import FIELD_CURES
from .host_log import say
from .model import Channels

_NUMBERS = (
    "_Matrix",
    "_Primaries",
    "_Transfer",
    "_Range",
    "_ChromaLocation",
    "_FieldBased",
    "_SceneChangePrev",
    "_SceneChangeNext",
)
"""Without _ColorRange, which R81 makes from _Range: it ends the process where that is text."""
_TRIAL_PX = 32
"""Of a blank picture: the smallest that any format and any filter of the core takes."""


def properties_of_first_frame(clip: vs.VideoNode, matrix: int | None) -> Mapping[str, int] | None:
    """Those that say what the pixels mean. None: the source can't deliver its first frame yet, and it is said in the log.

    Later frames are checked when they are rendered.

    Args:
        matrix: what the user says that a YUV clip is; None: what its frames say, and a guess where they say nothing.

    Raises:
        FlashsrError: one isn't a number, the clip is field-based, or it is RGB and says it is not.
    """
    try:
        with clip.get_frame(0) as frame:
            found = {name: frame.props[name] for name in _NUMBERS if name in frame.props}
    except vs.Error as error:
        say(f"the input's first frame can't be looked at yet ({error})")
        return None
    for name, value in found.items():
        if not isinstance(value, int):
            raise FlashsrError(
                f"the clip's {name} is a number, got {shown(value)}; set it right, with std.SetFrameProps"
            )
    if (fields := found.get("_FieldBased", 0)) != 0:
        raise FlashsrError(f"the clip is field-based, got _FieldBased={fields}; {FIELD_CURES}")
    own = found.get("_Matrix", vs.MATRIX_UNSPECIFIED)
    source = formats.check_clip(clip)
    if source.color_family == vs.RGB and own not in (vs.MATRIX_RGB, vs.MATRIX_UNSPECIFIED):
        raise FlashsrError(
            f"the clip is {source.name}, whose matrix is 0, got _Matrix={own}; use std.RemoveFrameProps('_Matrix') before"
        )
    if source.color_family != vs.YUV:
        return found
    if matrix is None and not formats.has_matrix(found):
        matrix = formats.guess_matrix(clip.height)
        name = "BT.709" if matrix == vs.MATRIX_BT709 else "BT.601"
        lines = f"its {clip.height} lines"
        say(f"the clip names no matrix (_Matrix); {name} is assumed from {lines}, and written into its frames")
    return found if matrix is None else {**found, "_Matrix": matrix}


def try_conversions(
    clip: vs.VideoNode,
    properties: Mapping[str, int],
    channels: Channels,
    target: vs.VideoFormat,
    scale: float,
    *,
    predicted: bool,
) -> None:
    """All that the core is going to convert, tried on a small blank picture with the properties of the clip's first frame.

    Args:
        predicted: a network predicts chroma.

    Raises:
        FlashsrError: the core refuses.
    """
    core = vs.core
    source = formats.check_clip(clip)
    blank = core.std.BlankClip(width=_TRIAL_PX, height=_TRIAL_PX, format=source.id, length=1, keep=True)
    # What a blank clip says of itself goes; what the clip doesn't say stays unsaid.
    blank = blank.std.RemoveFrameProps(list(_NUMBERS))
    if properties:
        blank = blank.std.SetFrameProps(**properties)
    width, height = (
        formats.output_size(_TRIAL_PX, scale, bits) for bits in (target.subsampling_w, target.subsampling_h)
    )
    try:
        low = formats.to_model(blank, channels)
        made = low.std.BlankClip(width=width, height=height).std.RemoveFrameProps()  # the model's frames say nothing
        coloured = None
        if predicted:
            luma = low.std.BlankClip(width=2 * _TRIAL_PX, height=2 * _TRIAL_PX).std.RemoveFrameProps()
            coloured = chroma.coloured(chroma.to_network(luma, blank).std.RemoveFrameProps(), luma, blank)
        out = formats.from_model(made, blank, channels, width, height, target, coloured)
        for node in (low, out, formats.lanczos(blank, width, height, target)):
            node.get_frame(0).close()
    except vs.Error as error:
        said = ", ".join(f"{name}={value}" for name, value in properties.items()) or "no properties"
        reason = str(error).strip().splitlines()[-1]
        raise FlashsrError(
            f"the clip can't be converted ({reason}), got {source.name} with {said}, for {target.name}; set its properties "
            "right, e.g. with std.SetFrameProps(_Matrix=1), or leave format out"
        ) from error
