"""Video files for tests and for scripts/upscale_table.py, made by ffmpeg on the spot, and how to look at what became of them."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from vsflashsr.commands import app

from ..support.pipe import environment

PROGRAMS = ("ffmpeg", "ffprobe", "mkvmerge", "x265")
needs_programs = pytest.mark.skipif(
    not all(map(shutil.which, PROGRAMS)), reason=f"needs {', '.join(PROGRAMS)}; scripts/test.sh installs them"
)
PICTURE = "testsrc2=size=64x48:rate=25"
AVC = ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p")
_MPEG2 = ("-c:v", "mpeg2video", "-q:v", "2", "-flags", "+ildct+ilme", "-top", "1")
_MOTION = "nullsrc=size=128x96:rate={},geq=lum='128+60*sin((X-4*N)/5)+40*sin((Y+3*N)/4)':cb=128:cr=128"
_TONES = tuple(
    word for hertz in (440, 880) for word in ("-f", "lavfi", "-i", f"sine=frequency={hertz}:sample_rate=48000")
)
_HDR = (
    "hdr-opt=1:repeat-headers=1:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc:max-cll=1000,400:"
    "master-display=G(8500,39850)B(6550,2300)R(35400,14600)WP(15635,16450)L(10000000,1):log-level=error"
)


def ffmpeg(*arguments: str | Path) -> None:
    subprocess.run(["ffmpeg", "-v", "error", "-y", "-nostdin", *map(str, arguments)], check=True)


def make(path: Path, *, frames: int = 20, picture: str = PICTURE, extra: tuple[str, ...] = ()) -> Path:
    """A small clip without sound; ``extra``: ffmpeg's output options, the codec among them."""
    ffmpeg("-f", "lavfi", "-i", picture, "-frames:v", str(frames), *(extra or AVC), path)
    return path


@dataclass(frozen=True)
class Case:
    """An awkward file, and what is expected of the result."""

    name: str
    arguments: tuple[str, ...]
    """ffmpeg's, but for the file."""
    rate: Fraction = Fraction(1)
    """Frames out for a frame in."""
    status: int = 0
    expected: tuple[tuple[str, str], ...] = ()
    """Entries of the result's video stream."""

    def make(self, path: Path) -> Path:
        ffmpeg(*self.arguments, path)
        if self.name.startswith("broken"):
            data = path.read_bytes()
            path.write_bytes(data[: len(data) * 3 // 5])
        return path


def cases(folder: Path) -> dict[str, Case]:
    """The awkward files by name; what several are made from goes into ``folder``."""
    words, chapters, upright = folder / "words.srt", folder / "chapters.txt", folder / "upright.mp4"
    words.write_text("1\n00:00:00,100 --> 00:00:00,900\nHallo\n", "utf-8")
    chapters.write_text(
        ";FFMETADATA1\ntitle=Ein Film\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=500\ntitle=eins\n"
        "[CHAPTER]\nTIMEBASE=1/1000\nSTART=500\nEND=1200\ntitle=zwei\n",
        "utf-8",
    )
    video = ("-f", "lavfi", "-i", "testsrc2=size=128x96:rate=25")
    ffmpeg(*video, "-t", "2", *AVC, "-g", "10", upright)
    both = (*video, *_TONES, "-i", str(words), "-i", str(chapters))
    maps = ("-map", "0", "-map", "1", "-map", "2", "-map", "3", "-map_metadata", "4", "-t", "1.2")
    tags = ("-metadata:s:a:0", "language=deu", "-metadata:s:a:1", "language=eng", "-metadata:s:v:0", "title=Bild")
    uneven = "select='not(mod(n,3))+gt(n,12)',setpts=PTS+0.4/TB"
    moving = ("-f", "lavfi", "-i")
    made = [
        Case("all.mkv", (*both, *maps, *tags, *AVC, "-c:a:0", "ac3", "-c:a:1", "flac", "-attach", str(words),
                         "-metadata:s:t", "mimetype=text/plain")),
        Case("all.mp4", (*both, *maps, *tags, *AVC, "-c:a", "aac", "-c:s", "mov_text")),
        Case("late audio.ts", (*video, "-itsoffset", "0.5", *_TONES[:4], "-t", "2", *AVC, "-c:a", "mp2")),
        Case("pcm.mov", (*video, *_TONES[:4], "-t", "2", *AVC, "-c:a", "pcm_s16be")),
        Case("late vfr.mp4", (*video, *_TONES[:4], "-vf", uneven, "-vsync", "vfr", "-t", "1.6", "-shortest", *AVC)),
        Case("rotated.mp4", ("-i", str(upright), "-c", "copy", "-metadata:s:v:0", "rotate=90"),
             expected=(("width", "192"), ("height", "256"))),
        Case("anamorphic.mkv", (*video, "-vf", "setsar=64/45", "-t", "1", *AVC), expected=(("sample_aspect_ratio", "64:45"),)),
        Case("hdr10.mkv", (*video, "-t", "1", "-c:v", "libx265", "-pix_fmt", "yuv420p10le", "-x265-params", _HDR),
             expected=(("color_transfer", "smpte2084"), ("color_space", "bt2020nc"), ("pix_fmt", "yuv420p10le"))),
        Case("full range.mkv", (*video, "-t", "1", *AVC[:-1], "yuvj420p"), expected=(("color_range", "pc"),)),
        Case("422.mkv", (*video, "-t", "1", *AVC[:-1], "yuv422p10le"), expected=(("pix_fmt", "yuv422p10le"),)),
        Case("one frame.mkv", (*video, "-frames:v", "1", *AVC)),
        Case("no audio.avi", (*video, "-t", "1", "-c:v", "mpeg4")),
        Case("interlaced.mpg", (*moving, _MOTION.format(50) + ",tinterlace=interleave_top", "-t", "1", *_MPEG2), Fraction(2)),
        Case("wrongly flagged.mpg", (*moving, _MOTION.format(25), "-t", "1", *_MPEG2)),
        Case("telecine.mpg", (*moving, _MOTION.format("24000/1001") + ",telecine=pattern=23", "-t", "3", *_MPEG2),
             Fraction(4, 5)),
        Case("broken tail.mkv", ("-i", str(upright), "-c", "copy"), status=3),
    ]  # fmt: skip
    return {case.name: case for case in made}


def upscale(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """``vsflashsr upscale`` in this process, which spares it a start; its workers are processes as ever."""
    given = ["upscale", *map(str, arguments)]
    out, err = io.StringIO(), io.StringIO()
    before = signal.getsignal(signal.SIGTERM)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = app.main(given)
    finally:
        signal.signal(signal.SIGTERM, before)
    return subprocess.CompletedProcess(given, status, out.getvalue(), err.getvalue())


def upscale_apart(*arguments: str | Path, timeout_s: float = 250) -> subprocess.CompletedProcess[str]:
    """``vsflashsr upscale`` as a user runs it."""
    return subprocess.run(
        [sys.executable, "-m", "vsflashsr", "upscale", *map(str, arguments)],
        capture_output=True,
        encoding="utf-8",
        timeout=timeout_s,
        env=environment(),
        check=False,
    )


def _said(*command: str | Path) -> str:
    return subprocess.run(
        [*map(str, command)], check=True, capture_output=True, encoding="utf-8", stdin=subprocess.DEVNULL
    ).stdout


def probe(path: Path) -> dict[str, Any]:
    """ffprobe's description: streams with counted packets, format, chapters."""
    shown = ("-count_packets", "-show_streams", "-show_format", "-show_chapters")
    found: dict[str, Any] = json.loads(_said("ffprobe", "-v", "error", *shown, "-of", "json", path))
    return found


def video(path: Path) -> dict[str, Any]:
    stream: dict[str, Any] = next(s for s in probe(path)["streams"] if s["codec_type"] == "video")
    return stream


def times(path: Path, stream: str = "v:0") -> list[float]:
    """When each packet is shown, in seconds, in order."""
    shown = ("-show_entries", "packet=pts_time", "-of", "csv=p=0")
    said = _said("ffprobe", "-v", "error", "-select_streams", stream, *shown, path)
    return sorted(float(time) for line in said.split() if (time := line.strip(",")) not in ("", "N/A"))


def stream_hash(path: Path, stream: str, *, decoded: bool = False) -> str:
    """Of a stream's packets, or of what they decode to."""
    codec = () if decoded else ("-c", "copy")
    return _said("ffmpeg", "-v", "error", "-i", path, "-map", f"0:{stream}", *codec, "-f", "hash", "-hash", "md5", "-")


def frame_hashes(path: Path) -> list[str]:
    """Of every decoded frame of the first video stream."""
    said = _said("ffmpeg", "-v", "error", "-i", path, "-map", "0:v:0", "-f", "framemd5", "-")
    return [line.split(",")[-1].strip() for line in said.splitlines() if not line.startswith("#")]


def packet_places(path: Path) -> list[tuple[int, int]]:
    """Where each packet of the video lies in the file, and how many bytes it has."""
    shown = ("-select_streams", "v:0", "-show_entries", "packet=pos,size", "-of", "json")
    packets = json.loads(_said("ffprobe", "-v", "error", *shown, path))["packets"]
    return [(int(packet["pos"]), int(packet["size"])) for packet in packets]


def hdr10_plus() -> bytes:
    """An SEI message of HEVC with the least of HDR10+: SMPTE ST 2094-40 in an ITU-T T.35 message, of one window."""
    fields = [(1, 2), (400, 27), (0, 1), *[(5000, 17)] * 3, (1000, 17), (0, 4), (0, 10), (0, 1), (0, 1), (0, 1)]
    bits = "".join(f"{value:0{width}b}" for value, width in fields)
    bits += "0" * (-len(bits) % 8)
    payload = bytes.fromhex("b5 003c 0001 04 01") + int(bits, 2).to_bytes(len(bits) // 8, "big")
    message = bytes([4, len(payload)]) + payload + b"\x80"
    for short in range(4):  # what would look like a start code
        message = message.replace(bytes([0, 0, short]), bytes([0, 0, 3, short]))
    return b"\0\0\0\1\x4e\1" + message


def as_dolby_vision(mp4: bytes, profile: int) -> bytes:
    """An mp4, whose video comes first and whose index comes last, that says it is Dolby Vision of a profile."""
    config = bytes([1, 0]) + (profile << 9 | 1 << 3 | 0b101).to_bytes(2, "big") + bytes(20)
    box = (8 + len(config)).to_bytes(4, "big") + b"dvcC" + config
    data = bytearray(mp4)
    at = data.index(b"hvcC") - 4
    data[at:at] = box
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"hvc1"):
        start = data.index(name, data.index(b"moov")) - 4
        data[start : start + 4] = (int.from_bytes(data[start : start + 4], "big") + len(box)).to_bytes(4, "big")
    return bytes(data)
