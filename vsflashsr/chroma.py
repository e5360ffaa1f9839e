"""Chroma that a network predicts: what it reads, and the picture that what it makes belongs to.

It works on the grid of the chroma that is wanted, which is that of the clip's format at the size of the luma that was made. On it
lie that luma, made smaller, and the clip's own chroma, made larger with Spline36: detail of the one says where that of the other
may be.
"""

from __future__ import annotations

import vapoursynth as vs

from . import formats
from .models.kind import Size

_SIDES = {0: (-1, 0), 1: (0, 0), 2: (-1, -1), 3: (0, -1), 4: (-1, 1), 5: (0, 1)}
"""By ``_ChromaLocation``: to which side of those pixels' middle it lies, across and down. The core refuses others."""


def predictable(clip: vs.VideoNode, target: vs.VideoFormat) -> bool:
    """Is there chroma in the clip, and any use for it?"""
    return formats.check_clip(clip).color_family == vs.YUV and target.color_family in (vs.YUV, vs.RGB)


def size_of(clip: vs.VideoNode, scale: int) -> Size:
    """(height, width) of the chroma of a clip ``scale`` times as large."""
    video_format = formats.check_clip(clip)
    return clip.height * scale >> video_format.subsampling_h, clip.width * scale >> video_format.subsampling_w


def to_network(made: vs.VideoNode, clip: vs.VideoNode) -> vs.VideoNode:
    """What the network reads, as three planes of a size (RGBS by name only): luma 0..1, U and V -0.5..0.5.

    Args:
        made: luma that was made of ``clip``, a whole number of times as large.
        clip: YUV.
    """
    height, width = size_of(clip, made.width // clip.width)
    return formats.by_chroma_location(
        clip, lambda location: _brought_there(formats.single(made), clip, width, height, location)
    )


def _brought_there(luma: vs.VideoNode, clip: vs.VideoNode, width: int, height: int, location: int) -> vs.VideoNode:
    """What the network reads, of a clip whose chroma lies at ``location``.

    By shifts, plane by plane: a resizer that is told the location makes the clip's luma larger, too, which nobody reads.
    """
    core = vs.core
    video_format, scale = formats.check_clip(clip), luma.width // clip.width
    parts = 1 << video_format.subsampling_w, 1 << video_format.subsampling_h
    # From the middle of the pixels of luma that a sample of chroma stands for, in these pixels.
    left, top = (side * (part - 1) / 2 for side, part in zip(_SIDES.get(location, _SIDES[0]), parts, strict=True))
    guide = core.resize.Bicubic(luma, width, height, src_left=left, src_top=top, filter_param_a=0, filter_param_b=0.5)
    # Both grids lie so, but what is half a sample of the one is another part of one of the other.
    shifts = {
        name: offset / part * (1 / scale - 1)
        for name, offset, part in zip(("src_left", "src_top"), (left, top), parts, strict=True)
    }
    chroma = core.std.ShufflePlanes([clip, clip, clip], [1, 1, 2], vs.YUV)
    chroma = core.resize.Spline36(chroma, width, height, format=vs.YUV444PS, **shifts)
    return core.std.ShufflePlanes([guide, chroma, chroma], [0, 1, 2], vs.RGB)


def coloured(predicted: vs.VideoNode, made: vs.VideoNode, clip: vs.VideoNode) -> vs.VideoNode:
    """The luma that was made, and what the network made of ``to_network``: YUV in single float, subsampled like ``clip``."""
    core = vs.core
    chroma = formats.single(predicted)
    whole = core.std.ShufflePlanes([formats.single(made), chroma, chroma], [0, 1, 2], vs.YUV)
    return core.std.CopyFrameProps(whole, clip)
