"""Between VapourSynth's frames and what models read and make: the clip as a ``Source``, and an array as a frame."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import vapoursynth as vs

from . import scenes
from .errors import FlashsrError
from .geometry import Array, Made
from .model import Given

if TYPE_CHECKING:
    from .gpu.frames import FrameWork

FIELD_CURES = (
    "deinterlace it, e.g. clip.bwdif.Bwdif(field=3), or, if the pictures are progressive and only flagged otherwise, "
    "clip.std.SetFieldBased(0) (vsflashsr upscale finds out which)"
)
_SIGHTS = 256
"""Thumbnails kept: a few kilobytes each."""
_ANSWERS = 1 << 14
"""Answers about cuts kept; more than the frames between which any number of seeks in flight go back and forth."""


_HALF_MAGNITUDE, _HALF_INFINITY = np.uint16(0x7FFF), np.uint16(0x7C00)


@dataclass(frozen=True, slots=True)
class Sight:
    """What has been seen of a frame: its own marks, and its thumbnail unless the marks suffice."""

    starts: bool | None
    ends: bool | None
    thumbnail: Array | None


class ClipSource:
    """A GRAYS or RGBS clip as a model reads it, with its scene cuts, as far as its frames have come. See ``stream.Source``.

    It holds frames, not copies: the core counts them as memory of its own. So they are let go of as soon as they are read.

    Args:
        num_frames: of the clip.
        find_cuts: False: the clip is one shot.
        check_finite: look for NaN and infinity, which only float formats can hold.
        work: looks at frames on a device; None: all are on the host.
    """

    def __init__(
        self, num_frames: int, *, find_cuts: bool, check_finite: bool = False, work: FrameWork | None = None
    ) -> None:
        self.num_frames = num_frames
        self._find_cuts = find_cuts
        self._check_finite = check_finite
        self._work = work
        self._own: dict[int, Given] = {}
        self._lent: dict[int, tuple[int, Given]] = {}
        self._sights: OrderedDict[int, Sight] = OrderedDict()
        self._cuts: OrderedDict[int, bool] = OrderedDict()

    def frame(self, n: int) -> Given | None:
        """See ``stream.Source``."""
        if (given := self._own.get(n)) is not None:
            return given
        return self._lent[n][1] if n in self._lent else None

    def is_cut(self, n: int) -> bool | None:
        """See ``stream.Source``: the clip's own marks where it has them, else the built-in detector."""
        if not self._find_cuts:
            return False
        if n not in self._cuts:
            found = self._look_for_cut(n)
            if found is None:
                return None
            _remember(self._cuts, n, found, _ANSWERS)
        return self._cuts[n]

    def unseen(self, n: int) -> Iterable[int]:
        """See ``stream.Source``."""
        marks_seen = n - 1 in self._sights and n in self._sights
        return [
            k for k in self._window(n) if k not in self._sights or (marks_seen and self._sights[k].thumbnail is None)
        ]

    def look(self, n: int, f: vs.VideoFrame, given: Given) -> Sight | None:
        """What there is to see of frame n, which is ``given`` in pixels, if an answer about a cut waits for that.

        Changes nothing, so any number of threads may look; takes a millisecond for 1920x1080.

        Raises:
            FlashsrError: the frame is field-based, or not finite.
        """
        if (fields := f.props.get("_FieldBased", 0)) != 0:
            raise FlashsrError(f"frame {n} is field-based, got _FieldBased={fields}; {FIELD_CURES}")
        starts, ends = _flag(f, "_SceneChangePrev"), _flag(f, "_SceneChangeNext")
        news = self._find_cuts and self._is_news(n)
        # Of a clip that marks its cuts no thumbnails are needed; being looked at again says that this one is.
        needed = news and (starts is None or n in self._sights)
        thumbnail, fine = self._seen(given, needed)
        if not fine:
            raise FlashsrError(
                f"the input's frame {n} holds a value that is not finite, got NaN or infinity; mend the filter before this one, "
                "e.g. with std.Expr or an integer format"
            )
        return Sight(starts, ends, thumbnail) if news else None

    def _seen(self, given: Given, needed: bool) -> tuple[Array | None, bool]:
        """The thumbnail, if it is needed, and whether every value is finite."""
        if isinstance(given, np.ndarray):
            return scenes.thumbnail(given) if needed else None, not self._check_finite or is_finite(given)
        assert self._work is not None
        blocks = scenes.thumbnail_blocks(given.height, given.width) if needed else None
        return self._work.look(given, blocks, check=self._check_finite)

    def note(self, n: int, sight: Sight | None) -> None:
        """Remember what was seen of frame n."""
        if sight is not None:
            _remember(self._sights, n, sight, _SIGHTS)

    def hold(self, given: dict[int, Given], keep: Collection[int]) -> None:
        """Take frames that were asked for; of those before, ``keep`` stay."""
        self._own = {k: frame for k, frame in self._own.items() if k in keep} | given

    def lend(self, given: dict[int, Given], owner: int) -> None:
        """Take frames that a request has fetched ahead; they are there till it ends, or they have been read."""
        for k, frame in given.items():
            self._lent.setdefault(k, (owner, frame))

    def end(self, owner: int) -> None:
        """The request has ended."""
        for k in [k for k, (lender, _) in self._lent.items() if lender == owner]:
            del self._lent[k]

    def read(self, numbers: Iterable[int]) -> None:
        """These have been read; who needs them again asks again."""
        for k in numbers:
            self._own.pop(k, None)
            self._lent.pop(k, None)

    def _is_news(self, n: int) -> bool:
        """Is there a cut whose answer waits for frame n?"""
        around = range(max(1, n - scenes.WINDOW.stop + 1), min(self.num_frames, n - scenes.WINDOW.start + 1))
        return any(k not in self._cuts for k in around)

    def _window(self, n: int) -> range:
        return range(max(0, n + scenes.WINDOW.start), min(self.num_frames, n + scenes.WINDOW.stop))

    def _look_for_cut(self, n: int) -> bool | None:
        last, this = self._sights.get(n - 1), self._sights.get(n)
        if last is None or this is None:
            return None
        if this.starts is not None or last.ends is not None:
            return bool(this.starts or last.ends)
        thumbnails = [self._sights[k].thumbnail if k in self._sights else None for k in self._window(n)]
        if any(t is None for t in thumbnails):
            return None
        earlier, previous, current = [None] * (len(scenes.WINDOW) - len(thumbnails)) + thumbnails
        assert previous is not None and current is not None
        return scenes.is_cut(earlier, previous, current)


def is_finite(frame: Made) -> bool:
    """Is every value? A sum passes NaN and infinity on, and costs 0.9 ms for 1920x1080 where isfinite costs 3.

    NumPy adds halves in software, 27 ms for 3840x2160: of them the bits are looked at, 3 ms (2026-11-25).
    """
    if frame.dtype == np.float16:
        return bool((frame.view(np.uint16) & _HALF_MAGNITUDE).max() < _HALF_INFINITY)
    return bool(np.isfinite(frame.sum(dtype=np.float32)))


def require_finite(fine: bool, n: int) -> None:
    """Is output frame ``n``, as a model made it?

    Raises:
        FlashsrError: it isn't.
    """
    if not fine:
        raise FlashsrError(
            f"the model put out a value that is not finite (NaN or infinity) in frame {n}; "
            "its weights are damaged or its precision is too low: get the bundle again, or use precision='fp32'"
        )


def _remember[T](kept: OrderedDict[int, T], n: int, value: T, room: int) -> None:
    kept[n] = value
    kept.move_to_end(n)
    while len(kept) > room:
        kept.popitem(last=False)


def _flag(f: vs.VideoFrame, name: str) -> bool | None:
    value = f.props.get(name)
    return None if value is None else bool(value)


def to_array(f: vs.VideoFrame) -> Array:
    """The planes, without a copy where there is one."""
    planes = [np.asarray(f[p]) for p in range(f.format.num_planes)]
    return planes[0][None] if len(planes) == 1 else np.stack(planes)


def to_frame(core: vs.Core, array: Made, video_format: vs.VideoFormat) -> vs.VideoFrame:
    """A new frame with the array's planes."""
    _, height, width = array.shape
    frame = core.create_video_frame(video_format, width, height)
    for p, plane in enumerate(array):
        np.copyto(np.asarray(frame[p]), plane)
    return frame
