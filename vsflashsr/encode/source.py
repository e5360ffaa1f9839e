"""A file's pictures, as bestsource decodes them: how many, when, of what kind, and whether they are interlaced."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FlashsrError
from . import fields, timing
from .signal import Signal, from_props, not_carried

_NO_TIMESTAMP = -(2**63)
_LOOK_BACK = 48
"""How many frames at the end may turn out undecodable before a file is given up."""


@dataclass(frozen=True, slots=True)
class Source:
    """What is known of a file's video before a frame is upscaled."""

    width: int
    """Pixels, after the turn that the file asks for."""
    height: int
    format: str
    """VapourSynth's name of it."""
    family: str
    """"YUV", "RGB" or "GRAY"."""
    bits: int
    subsampling: tuple[int, int]
    frames: int
    """How many can be decoded."""
    lost: int
    """How many more the index has, at the end, that can't be."""
    timing: timing.Timing
    says: Signal
    """What the first frame says of itself."""
    not_carried: str | None
    """What of it is left out, in words."""
    flag: fields.FieldOrder | None
    """What most samples are flagged as."""
    finding: fields.Finding


def examine(path: Path, track: int, rates: Sequence[Fraction], index: Path) -> Source:
    """Decode the file once for its index (kept at ``index``) and look at samples.

    Args:
        rates: what the file says of its frame rate: where frames have no timestamps, bestsource's own guess is off.

    Raises:
        FlashsrError: bestsource is missing, or it can't decode the file.
    """
    import vapoursynth as vs

    with _quiet():
        clip, stamps = _timed(path, track, index)
        check_pictures(clip, path)
        frames = _decodable(clip, path)
        with clip.get_frame(0) as first:
            says, left_out = from_props(first.props), not_carried(first.props)
            flag = _flag(first.props)

        def luma(n: int) -> fields.Array:
            try:
                with clip.get_frame(n) as frame:
                    return np.array(frame[0])
            except vs.Error:  # what can't be decoded has no vote; whoever wants to show it says so
                return np.zeros((0, 0), np.uint8)

        evidence = fields.gather(frames, luma)
    assert clip.format is not None
    return Source(
        width=clip.width,
        height=clip.height,
        format=clip.format.name,
        family=clip.format.color_family.name,
        bits=clip.format.bits_per_sample if clip.format.sample_type == vs.INTEGER else 16,
        subsampling=(clip.format.subsampling_w, clip.format.subsampling_h),
        frames=frames,
        lost=clip.num_frames - frames,
        timing=timing.from_starts(stamps[:frames], [*rates, clip.fps or Fraction(25)]),
        says=says,
        not_carried=left_out,
        flag=flag,
        finding=fields.decide(evidence, flag),
    )


def open_video(path: Path, **how: Any) -> Any:
    """What ``bs.VideoSource(path, **how)`` gives.

    Raises:
        FlashsrError: bestsource is missing, or it can't decode the file.
    """
    import vapoursynth as vs

    if not hasattr(vs.core, "bs"):
        raise FlashsrError(
            "reading a file needs VapourSynth's plugin bestsource, got none; pip install vapoursynth-bestsource"
        )
    try:
        return vs.core.bs.VideoSource(str(path), **how)
    except vs.Error as error:
        reason = " ".join(str(error).split())
        raise FlashsrError(f"the input can be decoded, got {path} ({reason}); give another file") from error


def check_pictures(clip: Any, path: Path) -> None:
    """Refuse a file without frames, or with frames of several sizes."""
    if clip.num_frames < 1:
        raise FlashsrError(f"the input's video has frames, got none in {path}; give another file")
    if clip.format is None or not clip.width or not clip.height:
        raise FlashsrError(
            f"the input's pictures have one size and format, got several in {path}; cut it where they change first"
        )


def _timed(path: Path, track: int, index: Path) -> tuple[Any, list[float | None]]:
    """The clip, and when each frame is shown, in seconds."""
    where = {"track": track, "cachemode": 4, "cachepath": str(index)}
    file = index.with_name("source.timecodes")
    try:
        return open_video(path, **where, timecodes=str(file)), timing.read_file(file.read_text("utf-8"))
    except FlashsrError as error:
        if "timestamp" not in str(error.__cause__):
            raise
        # Some frame has none. This way the core remarks on stderr that it doesn't know the values, and gives them all.
        opened = open_video(path, **where, exporttimestamps=1)
        base = Fraction(int(opened["timebasenum"]), int(opened["timebaseden"]))
        return opened["clip"], [None if t == _NO_TIMESTAMP else float(t * base) for t in opened["timestamps"]]
    finally:
        file.unlink(missing_ok=True)


def _decodable(clip: Any, path: Path) -> int:
    """How many frames can be had: the last ones of a cut-off file sometimes can't, though they are in the index."""
    import vapoursynth as vs

    reason = ""
    for frames in range(clip.num_frames, max(0, clip.num_frames - _LOOK_BACK), -1):
        try:
            clip.get_frame(frames - 1).close()
        except vs.Error as error:
            reason = str(error)
            continue
        return frames
    raise FlashsrError(f"the input's last frames can't be decoded, got {path} ({reason}); repair the file first")


def _flag(props: Any) -> fields.FieldOrder | None:
    orders: dict[int, fields.FieldOrder] = {1: "bff", 2: "tff"}
    return orders.get(int(props.get("_FieldBased", 0)))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps bestsource's remarks (index progress, values that aren't there) off the terminal."""
    import vapoursynth as vs

    core = vs.core.core
    handle = core.add_log_handler(lambda kind, text: None)
    try:
        yield
    finally:
        core.remove_log_handler(handle)
