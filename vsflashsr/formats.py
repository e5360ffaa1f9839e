"""Between the user's formats and the model's, with the core's own resizer: matrix and range come from each frame's properties."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import vapoursynth as vs

from .errors import FlashsrError
from .models import Channels

_UNSPECIFIED = 2
_BT709 = 1
_BT601 = {576: 5}
"""BT.470BG for 576 lines, SMPTE 170M for the other standard-definition heights: the same matrix, the usual label."""


def check_clip(clip: vs.VideoNode) -> vs.VideoFormat:
    """The clip's format, if the filter takes it.

    Raises:
        FlashsrError: variable format or size, or samples that are neither 8-16 bit integer nor float.
    """
    if not isinstance(clip, vs.VideoNode):
        raise FlashsrError(f"clip is a video node, got {type(clip).__name__}; give what a source filter returned")
    video_format: vs.VideoFormat | None = clip.format
    if video_format is None or video_format.color_family == vs.UNDEFINED or clip.width == 0 or clip.height == 0:
        size = "variable" if clip.width == 0 else f"{clip.width}x{clip.height}"
        name = "variable" if video_format is None or video_format.color_family == vs.UNDEFINED else video_format.name
        raise FlashsrError(
            f"the clip's format and size are constant, got format {name}, size {size}; "
            "bring it to one format and size first, e.g. with resize"
        )
    if video_format.sample_type == vs.INTEGER and video_format.bits_per_sample > 16:
        raise FlashsrError(
            f"integer samples have 8 to 16 bits, got {video_format.name}; convert it first, e.g. to 16 bits"
        )
    return video_format


def guess_matrix(height: int) -> int:
    """The matrix to take for untagged YUV: BT.601 up to 576 lines, else BT.709."""
    return _BT601.get(height, 6) if height <= 576 else _BT709


def has_matrix(props: Any) -> bool:
    """Do the properties name a YUV matrix?"""
    return int(props.get("_Matrix", _UNSPECIFIED)) not in (0, _UNSPECIFIED)


def output_size(size: int, scale: float, subsampling: int) -> int:
    """``size * scale`` pixels, to the nearest the format can hold (a multiple of 2 for 4:2:0, say)."""
    unit = 1 << subsampling
    return max(unit, int(size * scale / unit + 0.5) * unit)


def _float_format(core: vs.Core, family: vs.ColorFamily) -> vs.VideoFormat:
    """Single float, no subsampling."""
    ids = {vs.GRAY: vs.GRAYS, vs.RGB: vs.RGBS, vs.YUV: vs.YUV444PS}
    return core.get_video_format(ids[family])


def _by_matrix(like: vs.VideoNode, guess: int, make: Callable[[int], vs.VideoNode]) -> vs.VideoNode:
    """The node that ``make`` gives for the matrix of each frame of ``like``."""
    nodes = {guess: make(guess)}

    def select(n: int, f: vs.VideoFrame) -> vs.VideoNode:
        matrix = int(f.props["_Matrix"]) if has_matrix(f.props) else guess
        if matrix not in nodes:
            nodes[matrix] = make(matrix)
        return nodes[matrix]

    return nodes[guess].std.FrameEval(select, prop_src=[like])


def to_model(clip: vs.VideoNode, channels: Channels) -> vs.VideoNode:
    """The clip as the model reads it: GRAYS (luma, 0..1 from black to white) or RGBS. Same size, same properties in kind."""
    core = vs.core
    family = check_clip(clip).color_family
    if channels == "luma":
        if family == vs.RGB:
            clip = core.resize.Point(clip, format=vs.YUV444PS, matrix=_BT709)
        return core.resize.Point(core.std.ShufflePlanes(clip, 0, vs.GRAY), format=vs.GRAYS)
    if family == vs.YUV:
        return _by_matrix(
            clip, guess_matrix(clip.height), lambda m: core.resize.Spline36(clip, format=vs.RGBS, matrix_in=m)
        )
    if family == vs.GRAY:
        grey = core.resize.Point(clip, format=vs.GRAYS)
        return core.std.ShufflePlanes([grey, grey, grey], [0, 0, 0], vs.RGB)
    return core.resize.Point(clip, format=vs.RGBS)


def from_model(
    made: vs.VideoNode, clip: vs.VideoNode, channels: Channels, width: int, height: int, target: vs.VideoFormat
) -> vs.VideoNode:
    """What the model made of ``clip``, as ``width`` x ``height`` in ``target``, with the clip's properties.

    Of a luma model, chroma is the clip's own, upscaled with Spline36.
    """
    core = vs.core
    source = check_clip(clip)
    if (made.width, made.height) != (width, height):
        made = core.resize.Spline36(made, width, height)
    family = source.color_family
    if channels == "luma" and family == vs.YUV and target.color_family == vs.YUV:
        # The everyday case: luma and chroma meet in the target format, and chroma never passes through 4:4:4.
        grey = core.query_video_format(vs.GRAY, target.sample_type, target.bits_per_sample)
        luma = core.resize.Point(core.std.CopyFrameProps(made, clip), format=grey.id)
        chroma = core.resize.Spline36(clip, width, height, format=target.id)
        return core.std.CopyFrameProps(core.std.ShufflePlanes([luma, chroma, chroma], [0, 1, 2], vs.YUV), clip)
    whole = _in_source_family(made, clip, channels, source)
    return convert(core.std.CopyFrameProps(whole, clip), clip, target)


def _in_source_family(
    made: vs.VideoNode, clip: vs.VideoNode, channels: Channels, source: vs.VideoFormat
) -> vs.VideoNode:
    """The model's picture in the clip's colour family, in single float without subsampling."""
    core = vs.core
    family = source.color_family
    if channels == "luma":
        if family == vs.GRAY:
            return made
        if family == vs.RGB:
            clip = core.resize.Point(clip, format=vs.YUV444PS, matrix=_BT709)
        chroma = core.resize.Spline36(clip, made.width, made.height, format=vs.YUV444PS)
        whole = core.std.ShufflePlanes([made, chroma, chroma], [0, 1, 2], vs.YUV)
        return core.resize.Point(whole, format=vs.RGBS, matrix_in=_BT709) if family == vs.RGB else whole
    if family == vs.YUV:
        return _by_matrix(
            clip, guess_matrix(clip.height), lambda m: core.resize.Point(made, format=vs.YUV444PS, matrix=m)
        )
    if family == vs.GRAY:
        return core.resize.Point(made, format=vs.GRAYS, matrix=_BT709)
    return made


def convert(whole: vs.VideoNode, clip: vs.VideoNode, target: vs.VideoFormat, **resize: Any) -> vs.VideoNode:
    """``whole`` (the clip's colour family and properties) in ``target``; properties are the clip's as far as they stay true."""
    core = vs.core
    family = check_clip(clip).color_family
    scaler = resize.pop("scaler", core.resize.Spline36)
    if target.color_family == family:
        out = (
            whole
            if _float_format(core, family).id == target.id and not resize
            else scaler(whole, format=target.id, **resize)
        )
        return core.std.CopyFrameProps(out, clip)
    if family == vs.YUV:
        guess = guess_matrix(clip.height)
        out = _by_matrix(clip, guess, lambda m: scaler(whole, format=target.id, matrix_in=m, **resize))
    else:
        matrix = {"matrix": _BT709} if target.color_family != vs.RGB else {}
        out = scaler(whole, format=target.id, **matrix, **resize)
    tagged = core.std.CopyFrameProps(out, clip)
    return core.std.CopyFrameProps(tagged, out, props=["_Matrix", "_Range"])
