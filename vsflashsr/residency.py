"""Clips whose frames are resident on the GPU (VapourSynth's ``vnode:gpu``): the way there and back."""

from __future__ import annotations

import vapoursynth as vs

from .errors import FlashsrError


def uploaded(clip: vs.VideoNode) -> vs.VideoNode:
    """The clip, resident.

    Raises:
        FlashsrError: there is no Vulkan device that the core can use.
    """
    if clip.gpu_resident:
        return clip
    try:
        return vs.core.std.GPUUpload(clip)
    except vs.Error as error:
        reason = str(error).strip().removeprefix("GPUUpload: ")
        raise FlashsrError(
            f"resident=True needs a GPU with Vulkan 1.4, got none that VapourSynth can use ({reason}); update the GPU driver and "
            "the Vulkan loader, or leave resident out"
        ) from error


def downloaded(clip: vs.VideoNode) -> vs.VideoNode:
    """The clip, on the host."""
    return vs.core.std.GPUDownload(clip) if clip.gpu_resident else clip
