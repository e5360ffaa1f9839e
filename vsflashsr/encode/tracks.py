"""What goes with the video: audio, subtitles, chapters, attachments, tags, copied before the first frame is upscaled.

ffmpeg reads any container and keeps its streams on one clock, which it starts at the file's first timestamp. What it can't put
into Matroska as it is goes there in the nearest lossless form, or is left out and said.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import FlashsrError
from . import programs
from .container import Container, Stream, probe_streams
from .work import PART

LOSSLESS: Mapping[str, str] = {
    "pcm_bluray": "pcm_s24le",
    "pcm_dvd": "pcm_s24le",
    "pcm_s16be": "pcm_s16le",
    "pcm_s24be": "pcm_s24le",
    "pcm_s32be": "pcm_s32le",
    "pcm_s16be_planar": "pcm_s16le",
    "pcm_s8": "pcm_s16le",
    "mov_text": "srt",
}
"""Codecs that Matroska has no name for → what holds the same samples or words."""


_AHEAD_S = 10.0
"""Everything is copied this much later: Matroska holds no times below zero, and a muxer that meets one moves all by itself."""


@dataclass(frozen=True, slots=True)
class Others:
    """Where mkvmerge finds everything but the video."""

    path: Path | None
    """A file; None where there is nothing."""
    tracks: bool
    """False: only its chapters and tags are wanted."""
    origin_s: float
    """What time of the source's clock is zero of theirs."""
    ahead_s: float
    """How much later than that they lie in the file."""
    chapters_origin_s: float
    """What is zero of theirs for their chapters' times."""
    earliest_s: float
    """Where the first of them begins on their own clock: below zero where a codec starts up before the first sample."""
    remarks: tuple[str, ...]


def copy(
    input: Path, container: Container, to: Path, *, video_start_s: float, first_s: float | None, length_s: float | None
) -> Others:
    """Copy everything but the video, unless mkvmerge can read it from the input itself: of a whole Matroska file.

    Args:
        to: where the copy goes, if one has to be made.
        video_start_s: the first frame's own timestamp.
        first_s: where a part begins, on the source's clock; None: at the beginning.
        length_s: how long the part is; None: to the end.
    """
    if container.matroska and length_s is None:
        return Others(input, True, 0.0, 0.0, 0.0, 0.0, ())
    begin = container.start_s if first_s is None else first_s
    wanted = [stream for stream in container.others if stream.kind != "data"]
    remarks = [
        f"left out: {stream.title}, which Matroska can't hold" for stream in container.others if stream.kind == "data"
    ]
    if not wanted:
        chapters = input if container.chapters and length_s is None else None
        return Others(chapters, False, video_start_s, 0.0, 0.0, 0.0, tuple(remarks))
    program = programs.find("ffmpeg", "copying audio and subtitles")
    while True:
        command = _command(program, input, wanted, to, begin, length_s)
        try:
            programs.run(command, "copying audio and subtitles")
            break
        except FlashsrError as error:
            bad = _unfit(program, input, wanted)
            if not bad:
                raise
            remarks += [f"left out: {stream.title}, which can't be copied ({error})" for stream in bad]
            wanted = [stream for stream in wanted if stream not in bad]
            if not wanted:
                return Others(None, False, video_start_s, 0.0, 0.0, 0.0, tuple(remarks))
    _part(to).replace(to)
    changed = [s for s in wanted if s.codec in LOSSLESS]
    remarks += [f"{stream.title} is stored as {LOSSLESS[stream.codec]}, without loss" for stream in changed]
    earliest = (
        min((stream.start_s for stream in probe_streams(to) if stream.start_s is not None), default=_AHEAD_S) - _AHEAD_S
    )
    return Others(to, True, begin, _AHEAD_S, begin if length_s is None else 0.0, earliest, tuple(remarks))


def _part(to: Path) -> Path:
    return to.with_name(f"{to.stem}{PART}{to.suffix}")


def _command(
    program: str, input: Path, streams: Sequence[Stream], to: Path, begin_s: float, length_s: float | None
) -> list[str]:
    # With the source's own times: else ffmpeg counts from the first of the *chosen* streams.
    command = [program, "-y", "-nostdin", "-v", "error", "-copyts", "-i", str(input)]
    ahead = _AHEAD_S - begin_s
    if length_s is not None:
        # Of the output: before the input, a seek goes to the key frame before, and the sound from there on comes along.
        command += ["-ss", f"{begin_s:.6f}", "-t", f"{length_s:.6f}"]
        ahead = _AHEAD_S  # what is cut counts from the cut
    for stream in streams:
        command += ["-map", f"0:{stream.index}"]
    command += ["-c", "copy"]
    for place, stream in enumerate(streams):
        if stream.codec in LOSSLESS:
            command += [f"-c:{place}", LOSSLESS[stream.codec]]
    command += ["-map_metadata", "0", "-map_chapters", "0", "-output_ts_offset", f"{ahead:.6f}"]
    return [*command, "-f", "matroska", str(_part(to))]


def _unfit(program: str, input: Path, streams: Sequence[Stream]) -> list[Stream]:
    """Streams that can't be copied, each tried alone for a moment."""
    bad: list[Stream] = []
    for stream in streams:
        command = [program, "-nostdin", "-v", "error", "-i", str(input), "-map", f"0:{stream.index}", "-t", "1"]
        codec = LOSSLESS.get(stream.codec, "copy")
        try:
            programs.run([*command, "-c", codec, "-f", "matroska", "-y", os.devnull], "copying a stream")
        except FlashsrError:
            bad.append(stream)
    return bad
