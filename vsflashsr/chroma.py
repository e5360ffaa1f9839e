"""Chroma that a network predicts: what it reads, and the picture that what it makes belongs to.

It works on the grid of the chroma that is wanted, which is that of the clip's format at the size of the luma that was made. On it
lie that luma, made smaller, and the clip's own chroma, made larger with Spline36: detail of the one says where that of the other
may be.
"""

from __future__ import annotations

import vapoursynth as vs

from . import formats
from .models.kind import Size


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
    core = vs.core
    wanted = formats.check_clip(clip).replace(sample_type=vs.FLOAT, bits_per_sample=32)
    luma = formats.single(made)
    # Three times luma without subsampling, made smaller as if it were chroma, lands where the format says chroma is.
    whole = core.std.CopyFrameProps(core.std.ShufflePlanes([luma, luma, luma], [0, 0, 0], vs.YUV), clip)
    guide = formats.by_chroma_location(
        clip, lambda c: core.resize.Bicubic(whole, format=wanted.id, chromaloc=c, filter_param_a=0, filter_param_b=0.5)
    )
    chroma = core.resize.Spline36(clip, made.width, made.height, format=wanted.id)
    return core.std.ShufflePlanes([guide, chroma, chroma], [1, 1, 2], vs.RGB)


def coloured(predicted: vs.VideoNode, made: vs.VideoNode, clip: vs.VideoNode) -> vs.VideoNode:
    """The luma that was made, and what the network made of ``to_network``: YUV in single float, subsampled like ``clip``."""
    core = vs.core
    chroma = formats.single(predicted)
    whole = core.std.ShufflePlanes([formats.single(made), chroma, chroma], [0, 1, 2], vs.YUV)
    return core.std.CopyFrameProps(whole, clip)
