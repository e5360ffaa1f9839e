"""Between the user's formats and the model's, with the core's own resizer: matrix and range come from each frame's properties."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral
from typing import Any

import vapoursynth as vs

from .errors import FlashsrError, shown
from .model import Channels

_UNSPECIFIED = 2
_COARSEST = 4
"""What the core's resizer takes."""
_BT709 = 1
_LEFT = 0
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
    _check_subsampling("the clip's", video_format)
    return video_format


def _check_subsampling(whose: str, video_format: vs.VideoFormat) -> None:
    most = 1 << max(video_format.subsampling_w, video_format.subsampling_h)
    if most > _COARSEST:
        raise FlashsrError(
            f"{whose} chroma is subsampled by {_COARSEST} at most, got {video_format.name} with {most}; use one such as YUV420P8"
        )


def wanted_format(value: object, source: vs.VideoFormat) -> vs.VideoFormat:
    """The output format that the user named; None: the clip's.

    Raises:
        FlashsrError: there is none of that kind, or its samples are neither 8-16 bit integer nor float.
    """
    if value is None:
        return source
    refusal = FlashsrError(f"format is a video format such as vs.YUV420P10, got {shown(value)}; give one, or leave it out")
    try:
        found = vs.core.get_video_format(int(value) if isinstance(value, Integral) else value)
    except (vs.Error, TypeError, ValueError, OverflowError) as error:
        raise refusal from error
    if isinstance(value, bool) or found is None or found.color_family == vs.UNDEFINED:
        raise refusal
    if found.sample_type == vs.INTEGER and found.bits_per_sample > 16:
        raise FlashsrError(f"format has 8-16 bit integer or float samples, got {found.name}; give e.g. vs.YUV420P10")
    _check_subsampling("format's", found)
    return found


def guess_matrix(height: int) -> int:
    """The matrix to take for untagged YUV: BT.601 up to 576 lines, else BT.709."""
    return _BT601.get(height, 6) if height <= 576 else _BT709


def has_matrix(props: Any) -> bool:
    """Do the properties name a YUV matrix?"""
    return int(props.get("_Matrix", _UNSPECIFIED)) not in (0, _UNSPECIFIED)


def with_matrix(clip: vs.VideoNode, matrix: int | None) -> vs.VideoNode:
    """A YUV clip whose every frame names its matrix: ``matrix``, or if that is None its own, or else the one that is guessed."""
    guessed = clip.std.SetFrameProps(_Matrix=guess_matrix(clip.height) if matrix is None else matrix)
    if matrix is not None:
        return guessed
    return clip.std.FrameEval(lambda n, f: clip if has_matrix(f.props) else guessed, prop_src=[clip])


def output_size(size: int, scale: float, subsampling: int) -> int:
    """``size * scale`` pixels, to the nearest the format can hold (a multiple of 2 for 4:2:0, say)."""
    unit = 1 << subsampling
    return max(unit, int(size * scale / unit + 0.5) * unit)


def _per_frame(
    like: vs.VideoNode, key: Callable[[Any], int], usual: int, make: Callable[[int], vs.VideoNode]
) -> vs.VideoNode:
    """The node that ``make`` gives for what ``key`` finds in the properties of each frame of ``like``."""
    nodes = {usual: make(usual)}

    def select(n: int, f: vs.VideoFrame) -> vs.VideoNode:
        found = key(f.props)
        if found not in nodes:
            nodes[found] = make(found)
        return nodes[found]

    return nodes[usual].std.FrameEval(select, prop_src=[like])


def _by_matrix(clip: vs.VideoNode, make: Callable[[int], vs.VideoNode]) -> vs.VideoNode:
    """``make`` for the matrix of each frame, or the one that is guessed for untagged frames."""
    guess = guess_matrix(clip.height)
    return _per_frame(clip, lambda props: int(props["_Matrix"]) if has_matrix(props) else guess, guess, make)


def by_chroma_location(clip: vs.VideoNode, make: Callable[[int], vs.VideoNode]) -> vs.VideoNode:
    """``make`` for the chroma location of each frame. The resizer forgets it in pictures without subsampling."""
    return _per_frame(clip, lambda props: int(props.get("_ChromaLocation", _LEFT)), _LEFT, make)


def to_model(clip: vs.VideoNode, channels: Channels) -> vs.VideoNode:
    """The clip as the model reads it: GRAYS (luma, 0..1 from black to white) or RGBS. Same size, same properties in kind."""
    core = vs.core
    family = check_clip(clip).color_family
    if channels == "luma":
        if family == vs.RGB:
            clip = core.resize.Point(clip, format=vs.YUV444PS, matrix=_BT709)
        return core.resize.Point(core.std.ShufflePlanes(clip, 0, vs.GRAY), format=vs.GRAYS)
    if family == vs.YUV:
        return _by_matrix(clip, lambda m: core.resize.Spline36(clip, format=vs.RGBS, matrix_in=m))
    if family == vs.GRAY:
        grey = core.resize.Point(clip, format=vs.GRAYS)
        return core.std.ShufflePlanes([grey, grey, grey], [0, 0, 0], vs.RGB)
    return core.resize.Point(clip, format=vs.RGBS)


def from_model(
    made: vs.VideoNode,
    clip: vs.VideoNode,
    channels: Channels,
    width: int,
    height: int,
    target: vs.VideoFormat,
    coloured: vs.VideoNode | None = None,
) -> vs.VideoNode:
    """What the model made of ``clip``, as ``width`` x ``height`` in ``target``, with the clip's properties.

    Of a luma model, chroma is that of ``coloured`` (``chroma.coloured``), or else the clip's own, upscaled with Spline36.
    """
    core = vs.core
    source = check_clip(clip)
    family = source.color_family
    if coloured is not None:
        if (coloured.width, coloured.height) != (width, height):
            coloured = core.resize.Spline36(coloured, width, height)
        return convert(coloured, clip, target)
    if (made.width, made.height) != (width, height):
        made = core.resize.Spline36(single(made), width, height)
    if channels == "luma" and family == vs.YUV and target.color_family == vs.YUV:
        # The everyday case: luma and chroma meet in the target format, and chroma never passes through 4:4:4.
        grey = core.query_video_format(vs.GRAY, target.sample_type, target.bits_per_sample)
        luma = core.resize.Point(core.std.CopyFrameProps(made, clip), format=grey.id)
        chroma = core.resize.Spline36(clip, width, height, format=target.id)
        return retag(core.std.ShufflePlanes([luma, chroma, chroma], [0, 1, 2], vs.YUV), clip, target)
    made = single(made)
    whole = _in_source_family(made, clip, channels, source)
    return convert(core.std.CopyFrameProps(whole, clip), clip, target)


def single(made: vs.VideoNode) -> vs.VideoNode:
    """A model's picture in single float: sums of halves round."""
    found = check_clip(made)
    return made if found.bits_per_sample == 32 else vs.core.resize.Point(made, format=found.replace(bits_per_sample=32).id)


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
        return _by_matrix(clip, lambda m: core.resize.Point(made, format=vs.YUV444PS, matrix=m))
    if family == vs.GRAY:
        return core.resize.Point(made, format=vs.GRAYS, matrix=_BT709)
    return made


def convert(whole: vs.VideoNode, clip: vs.VideoNode, target: vs.VideoFormat) -> vs.VideoNode:
    """``whole`` (float, the clip's family, its subsampling or none) in ``target``; properties are the clip's as far as they stay
    true."""
    core = vs.core
    family = check_clip(clip).color_family
    if target.color_family == family == vs.YUV and (target.subsampling_w or target.subsampling_h):
        out = by_chroma_location(clip, lambda c: core.resize.Spline36(whole, format=target.id, chromaloc=c))
    elif family == vs.YUV and target.color_family == vs.RGB:
        out = _by_matrix(clip, lambda m: core.resize.Spline36(whole, format=target.id, matrix_in=m))
    else:
        out = core.resize.Spline36(whole, format=target.id, **_matrix_from(family, target))
    return retag(out, clip, target)


def _matrix_from(family: vs.ColorFamily, target: vs.VideoFormat) -> dict[str, int]:
    """RGB becomes YUV or Gray by BT.709; between YUV and Gray luma stays as it is."""
    return {"matrix": _BT709} if family == vs.RGB and target.color_family != vs.RGB else {}


def lanczos(clip: vs.VideoNode, width: int, height: int, target: vs.VideoFormat) -> vs.VideoNode:
    """The clip as plain Lanczos makes it: what ``strength=0`` is, and what the model is blended with."""
    core = vs.core
    family = check_clip(clip).color_family
    if family == vs.YUV and target.color_family == vs.RGB:
        out = _by_matrix(clip, lambda m: core.resize.Lanczos(clip, width, height, format=target.id, matrix_in=m))
    else:
        out = core.resize.Lanczos(clip, width, height, format=target.id, **_matrix_from(family, target))
    return retag(out, clip, target)


def retag(out: vs.VideoNode, clip: vs.VideoNode, target: vs.VideoFormat) -> vs.VideoNode:
    """``out`` with the clip's properties; where the colour family has changed, matrix and range are those of ``out``."""
    core = vs.core
    tagged = core.std.CopyFrameProps(out, clip)
    if target.color_family == check_clip(clip).color_family:
        return tagged
    return core.std.CopyFrameProps(tagged, out, props=["_Matrix", "_Range"])
