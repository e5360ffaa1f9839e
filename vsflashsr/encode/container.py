"""What a file holds, as ffprobe tells it: the streams beside the video, where its clock starts, how long it claims to be."""

from __future__ import annotations

import json
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from ..errors import FlashsrError
from . import programs


@dataclass(frozen=True, slots=True)
class Stream:
    """One stream of a file."""

    index: int
    kind: str
    """"video", "audio", "subtitle", "attachment", "data"."""
    codec: str
    start_s: float | None
    tags: tuple[tuple[str, str], ...]
    picture: bool
    """A still picture that goes with the file: cover art."""

    @property
    def title(self) -> str:
        tags = dict(self.tags)
        return " ".join(filter(None, (self.kind, str(self.index), self.codec, tags.get("language"), tags.get("title"))))


@dataclass(frozen=True, slots=True)
class Container:
    """A file, without its pictures."""

    format: str
    start_s: float
    """Where its clock starts: the earliest stream's first timestamp."""
    streams: tuple[Stream, ...]
    video: Stream
    """The video stream that is upscaled: the first that isn't cover art."""
    video_frames: int | None
    """How many frames the file says it has; None where it doesn't say."""
    rates: tuple[Fraction, ...]
    """What its frame rate may be: the stated one, then the mean."""
    video_end_s: float | None
    """When the file says that its video ends, on its own clock; None where it doesn't say."""
    end_s: float | None
    """The same for the file as a whole."""
    chapters: bool
    dolby_vision: int | None
    """Profile of the video's Dolby Vision; None: it has none."""

    @property
    def matroska(self) -> bool:
        return "matroska" in self.format.split(",")

    @property
    def others(self) -> tuple[Stream, ...]:
        return tuple(stream for stream in self.streams if stream.index != self.video.index)


def probe(path: Path) -> Container:
    """Look into a file.

    Raises:
        FlashsrError: it can't be read, or holds no video.
    """
    program = programs.find("ffprobe", "reading a file")
    if not path.is_file():
        raise FlashsrError(f"the input is a video file, got {path}, which isn't a file; give another path")
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise FlashsrError(f"the input can't be read, got {path} ({error.strerror}); check its permissions") from error
    if empty:
        raise FlashsrError(f"the input is a video file, got {path} of zero bytes; give one that holds something")
    command = [program, "-v", "error", "-show_format", "-show_streams", "-show_chapters", "-of", "json", str(path)]
    try:
        said = json.loads(programs.run(command, "reading the input"))
    except FlashsrError as error:
        raise FlashsrError(f"the input can't be read as a video, got {path} ({error}); give another file") from error
    return parse(said, path)


def probe_streams(path: Path) -> tuple[Stream, ...]:
    """The streams of a file that this package wrote."""
    program = programs.find("ffprobe", "reading a file")
    said = json.loads(programs.run([program, "-v", "error", "-show_streams", "-of", "json", path], "checking a copy"))
    return tuple(_stream(stream) for stream in said.get("streams", []))


def last_time(path: Path) -> float:
    """When the last packet of any stream begins, in seconds: reads the whole file."""
    program = programs.find("ffprobe", "reading a file")
    said = programs.run(
        [program, "-v", "error", "-show_entries", "packet=pts_time", "-of", "csv=p=0", path], "reading the input"
    )
    return max((time for line in said.split() if (time := _number(line.strip(","))) is not None), default=0.0)


def parse(said: dict[str, Any], path: Path) -> Container:
    """``Container`` from ffprobe's JSON."""
    raw = {int(stream["index"]): stream for stream in said.get("streams", [])}
    streams = tuple(_stream(raw[index]) for index in sorted(raw))
    videos = [stream for stream in streams if stream.kind == "video" and not stream.picture]
    if not videos:
        held = ", ".join(stream.title for stream in streams) or "no stream at all"
        raise FlashsrError(f"the input holds a video stream, got {path} with {held}; give another file")
    video = videos[0]
    described = said.get("format", {})
    start = _number(described.get("start_time")) or 0.0
    count = raw[video.index].get("nb_frames")
    return Container(
        format=str(described.get("format_name", "")),
        start_s=start,
        streams=streams,
        video=video,
        video_frames=int(count) if str(count or "").isdigit() else None,
        rates=tuple(filter(None, (_rate(raw[video.index].get(key)) for key in ("r_frame_rate", "avg_frame_rate")))),
        video_end_s=_video_end(raw[video.index], start),
        end_s=None if (whole := _number(described.get("duration"))) is None else start + whole,
        chapters=bool(said.get("chapters")),
        dolby_vision=next(
            (side["dv_profile"] for side in raw[video.index].get("side_data_list", []) if "dv_profile" in side), None
        ),
    )


def _stream(raw: dict[str, Any]) -> Stream:
    tags = raw.get("tags", {})
    return Stream(
        index=int(raw["index"]),
        kind=str(raw.get("codec_type", "data")),
        codec=str(raw.get("codec_name", "unknown")),
        start_s=_number(raw.get("start_time")),
        tags=tuple(sorted((str(key), str(value)) for key, value in tags.items())),
        picture=bool(raw.get("disposition", {}).get("attached_pic")),
    )


def _video_end(raw: dict[str, Any], start: float) -> float | None:
    duration = _number(raw.get("duration"))
    if duration is not None:
        return (_number(raw.get("start_time")) or start) + duration
    tag = next((value for key, value in raw.get("tags", {}).items() if key.upper().startswith("DURATION")), None)
    if tag is not None:
        hours, minutes, seconds = [*tag.split(":"), "", ""][:3]
        found = [_number(part) for part in (hours, minutes, seconds)]
        if None not in found:
            return sum(f * unit for f, unit in zip(found, (3600.0, 60.0, 1.0), strict=True) if f is not None)
    return None


def _rate(value: object) -> Fraction | None:
    try:
        rate = Fraction(str(value))
    except (ValueError, ZeroDivisionError):
        return None
    return rate if 0 < rate <= 1000 else None


def _number(value: object) -> float | None:
    try:
        return float(str(value))
    except ValueError:
        return None
