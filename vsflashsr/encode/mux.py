"""From chunks to the finished file: joined, put on their timestamps beside the other tracks, counted, and only then named."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

from ..errors import FlashsrError
from . import programs, signal, timing
from .container import Container
from .encoders import ENCODERS
from .plan import Plan
from .tracks import Others
from .work import PART, Record, WorkFolder, flush, flush_folder

SUFFIXES = (".mkv", ".mp4", ".mov", ".m4v")
"""What a result can be called: Matroska, or what ffmpeg makes of it."""
_FEW = 2
_WARNINGS = (0, 1)
"""mkvmerge's exit codes that mean: the file is there."""


def finish(
    plan: Plan,
    folder: WorkFolder,
    records: Sequence[Record],
    container: Container,
    others: Others,
    output: Path,
    *,
    force: bool,
) -> list[str]:
    """Make the file.

    Args:
        records: of the chunks that are to be in it, in order.
        force: replace a file of that name.

    Returns:
        Remarks: what could not be taken along.

    Raises:
        FlashsrError: a program fails, frames are missing, or the output has come into being meanwhile. The work folder stays.
    """
    shown = sum(record.shown for record in records)
    part = output.with_name(f".{output.stem}{PART}.mkv")
    final = part if output.suffix.lower() == ".mkv" else output.with_name(f".{output.stem}{PART}{output.suffix}")
    joined = _join(plan, folder, records)
    stamps = folder.path / "timestamps.txt"
    try:
        try:
            # Matroska has no times below zero: what begins first begins there. mkvmerge counts in whole milliseconds.
            later = max(0, math.ceil(-1000 * min(plan.starts_s[0] - others.origin_s, others.earliest_s) - 1e-6)) / 1000
            stamps.write_text(timing.file_text(plan.starts_s[:shown], later - others.origin_s), "utf-8")
            command = [
                programs.find("mkvmerge", "writing the file"), "--quiet", "--output", part,
                "--timestamps", f"0:{stamps}", *_video_options(plan, container), *joined, *_other_options(others, later),
            ]  # fmt: skip
            programs.run(command, "writing the file", fine=_WARNINGS)
            remarks = [] if final == part else _remux(part, final)
            _count(final, shown)
            with final.open("rb+") as file:
                flush(file)
        except OSError as error:
            raise FlashsrError(
                f"the file can't be written, got {error.strerror}; make room and run the same command again"
            ) from error
        if output.exists() and not force:
            raise FlashsrError(f"the output has come into being meanwhile, got {output}; move it, or give --force")
        final.replace(output)
        flush_folder(output.parent)
    finally:
        for leftover in (part, final, stamps, *folder.path.glob("video*")):
            leftover.unlink(missing_ok=True)
    return remarks


def _join(plan: Plan, folder: WorkFolder, records: Sequence[Record]) -> list[str | Path]:
    """The video as mkvmerge's input: one stream of all chunks, or one file appended to the other."""
    encoder = ENCODERS[plan.settings.encoder]
    chunks = {chunk.index: chunk for chunk in plan.chunks}
    paths = [folder.data(chunks[record.index], encoder.suffix) for record in records if record.shown]
    if not encoder.joins:
        appended: list[str | Path] = []
        for path in paths:
            appended += ["+", path] if appended else [path]
        return appended
    whole = folder.path / f"video{encoder.suffix}"
    try:
        with whole.open("wb") as to:
            for path in paths:
                with path.open("rb") as part:
                    shutil.copyfileobj(part, to, 1 << 20)
    except OSError as error:
        raise FlashsrError(
            f"the chunks can't be joined, got {error.strerror} in {folder.path}; make room and run the same command again"
        ) from error
    return [_in_a_container(whole) if sum(record.shown for record in records) <= _FEW else whole]


def _in_a_container(stream: Path) -> Path:
    """A stream too short for mkvmerge to know its kind (seen with one frame and with two), in a file that says it."""
    wrapped = stream.with_suffix(".wrapped.mkv")
    program = programs.find("ffmpeg", "writing the file")
    command: list[str | Path] = [program, "-y", "-nostdin", "-v", "error", "-i", stream]
    programs.run([*command, "-c", "copy", "-bsf:v", "setts=ts=N", wrapped], "writing the file")
    return wrapped


def _video_options(plan: Plan, container: Container) -> list[str]:
    options = signal.mkvmerge_flags(plan.says, plan.width, plan.height)
    if plan.constant:
        options += ["--default-duration", "0:{}/{}p".format(*plan.rate)]
    tags = {key.lower(): value for key, value in container.video.tags}
    if language := tags.get("language"):
        options += ["--language", f"0:{language}"]
    if title := tags.get("title"):
        options += ["--track-name", f"0:{title}"]
    return options


def _other_options(others: Others, later_s: float) -> list[str | Path]:
    if others.path is None:
        return []
    tracks = ["--no-video"] if others.tracks else ["--no-video", "--no-audio", "--no-subtitles", "--no-buttons"]
    move_ms = round((later_s - others.ahead_s) * 1000)
    moved = ["--sync", f"-1:{move_ms}"] if move_ms else []
    move_chapters_ms = round((later_s - others.chapters_origin_s) * 1000)
    chapters = ["--chapter-sync", str(move_chapters_ms)] if move_chapters_ms else []
    return [*tracks, *moved, *chapters, others.path]


def _remux(part: Path, final: Path) -> list[str]:
    """Matroska to what the output's name asks for; what that can't hold is left out and said."""
    program = programs.find("ffmpeg", "writing the file")
    kinds = _kinds(part)
    subtitles = [i for i, (kind, codec) in enumerate(kinds) if kind == "subtitle" and codec not in _TEXT]
    attachments = [i for i, (kind, _) in enumerate(kinds) if kind == "attachment"]
    left = {*subtitles, *attachments}
    command = [program, "-y", "-nostdin", "-v", "error", "-i", str(part)]
    for i in range(len(kinds)):
        if i not in left:
            command += ["-map", f"0:{i}"]
    command += [
        "-c",
        "copy",
        "-c:s",
        "mov_text",
        "-strict",
        "-2",
        "-movflags",
        "+faststart",
        "-video_track_timescale",
        "90000",
    ]
    if kinds and kinds[0][1] == "hevc":
        command += ["-tag:v", "hvc1"]
    programs.run([*command, str(final)], "writing the file")
    return [f"left out: {' '.join(kinds[i])} (track {i}), which {final.suffix} can't hold" for i in sorted(left)]


_TEXT = ("subrip", "srt", "ass", "ssa", "webvtt", "mov_text", "text")


def _kinds(path: Path) -> list[tuple[str, str]]:
    program = programs.find("ffprobe", "writing the file")
    said = programs.run(
        [program, "-v", "error", "-show_entries", "stream=codec_type,codec_name", "-of", "json", path],
        "checking the file",
    )
    return [(str(s.get("codec_type", "")), str(s.get("codec_name", ""))) for s in json.loads(said).get("streams", [])]


def _count(path: Path, frames: int) -> None:
    """Compare the frames in the file with those that were made."""
    program = programs.find("ffprobe", "checking the file")
    entries = ["-count_packets", "-show_entries", "stream=nb_read_packets", "-of", "csv=p=0"]
    said = programs.run([program, "-v", "error", "-select_streams", "v:0", *entries, path], "checking the file")
    found = said.strip().split(",")[0].split("\n")[0]
    if found != str(frames):
        raise FlashsrError(
            f"the file has all {frames} frames, got {found or 'none'}; its parts are kept: see the encoder's options"
        )
