"""Between VapourSynth's frames and arrays: the clip as a ``Source``, and an array as a frame."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import vapoursynth as vs

from . import scenes
from .errors import FlashsrError
from .geometry import Array
from .schedule import Schedule

_NEIGHBOURS = 24
"""Frames kept beyond what a step reads: requests come up to 12 frames out of order even in a linear run."""


def frames_at_hand(schedule: Schedule) -> int:
    """How many input frames are worth keeping at hand."""
    return schedule.first_reads + schedule.reads + _NEIGHBOURS


class ClipSource:
    """A GRAYS or RGBS clip as arrays, with its scene cuts. Its ``offer`` takes frames that arrived anyway.

    Args:
        clip: what the model reads.
        kept: how many arrays to keep.
        cuts_kept: how many answers about cuts to keep; a segment's worth, or each frame would ask for all again.
        find_cuts: False: the clip is one shot.
    """

    def __init__(self, clip: vs.VideoNode, *, kept: int, cuts_kept: int, find_cuts: bool) -> None:
        self._clip = clip
        self._find_cuts = find_cuts
        self._kept = kept
        self._cuts_kept = cuts_kept
        self._arrays: OrderedDict[int, Array] = OrderedDict()
        self._marks: OrderedDict[int, tuple[bool | None, bool | None]] = OrderedDict()
        self._thumbnails: OrderedDict[int, Array] = OrderedDict()
        self._cuts: OrderedDict[int, bool] = OrderedDict()

    @property
    def num_frames(self) -> int:
        return int(self._clip.num_frames)

    def offer(self, n: int, f: vs.VideoFrame) -> None:
        """Take frame n of the clip, which the core has fetched ahead."""
        if n not in self._arrays:
            self._take(n, f)

    def frame(self, n: int) -> Array:
        """See ``stream.Source``."""
        if n not in self._arrays:
            # A plain request inside the callback: the core lends its worker to others while it waits.
            with self._clip.get_frame(n) as f:
                self._take(n, f)
        self._arrays.move_to_end(n)
        return self._arrays[n]

    def is_cut(self, n: int) -> bool:
        """See ``stream.Source``: the clip's own marks where it has them, else the built-in detector."""
        if not self._find_cuts:
            return False
        if n not in self._cuts:
            _remember(self._cuts, n, self._look_for_cut(n), self._cuts_kept)
        return self._cuts[n]

    def _look_for_cut(self, n: int) -> bool:
        starts, _ = self._mark(n)
        _, ends = self._mark(n - 1)
        if starts is not None or ends is not None:
            return bool(starts or ends)
        before = self._thumbnail(n - 2) if n >= 2 else None
        return scenes.is_cut(before, self._thumbnail(n - 1), self._thumbnail(n))

    def _mark(self, n: int) -> tuple[bool | None, bool | None]:
        if n not in self._marks:
            self._arrays.pop(n, None)
            self.frame(n)
        return self._marks[n]

    def _thumbnail(self, n: int) -> Array:
        if n not in self._thumbnails:
            _remember(self._thumbnails, n, scenes.thumbnail(self.frame(n)), 64)
        return self._thumbnails[n]

    def _take(self, n: int, f: vs.VideoFrame) -> None:
        """Copy the planes: a frame that is held keeps upstream memory that the core counts as its own."""
        if (fields := f.props.get("_FieldBased", 0)) != 0:
            raise FlashsrError(f"frame {n} is field-based, got _FieldBased={fields}; deinterlace first, e.g. bwdif")
        planes = [np.asarray(f[p]) for p in range(f.format.num_planes)]
        _remember(self._arrays, n, np.stack(planes).astype(np.float32, copy=False), self._kept)
        _remember(self._marks, n, (_flag(f, "_SceneChangePrev"), _flag(f, "_SceneChangeNext")), 4 * self._kept)


def _remember[T](kept: OrderedDict[int, T], n: int, value: T, room: int) -> None:
    kept[n] = value
    kept.move_to_end(n)
    while len(kept) > room:
        kept.popitem(last=False)


def _flag(f: vs.VideoFrame, name: str) -> bool | None:
    value = f.props.get(name)
    return None if value is None else bool(value)


def to_frame(core: vs.Core, array: Array, video_format: vs.VideoFormat) -> vs.VideoFrame:
    """A new frame with the array's planes."""
    _, height, width = array.shape
    frame = core.create_video_frame(video_format, width, height)
    for p, plane in enumerate(array):
        np.copyto(np.asarray(frame[p]), plane)
    return frame
