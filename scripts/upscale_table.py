"""Makes a set of awkward files, sends them and any given ones through `vsflashsr upscale`, and prints what became of each.

    python scripts/upscale_table.py [FILE...] [--model builtin] [--encoder x265]

Columns: frames in → out; the video's length; the largest difference of a frame's time against the first audio stream's, in → out;
whether the packets of each audio and subtitle stream are the same (decoded samples where the container packs them anew); shape;
what was decided about fields; the exit status. A line ends with "ok" if all of it is as it should be.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

PICTURE = "testsrc2=size=128x96:rate=25"
TONES = [
    "-f",
    "lavfi",
    "-i",
    "sine=frequency=440:sample_rate=48000",
    "-f",
    "lavfi",
    "-i",
    "sine=frequency=880:sample_rate=48000",
]
AVC = ["-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p"]
MPEG2 = ["-c:v", "mpeg2video", "-q:v", "2", "-flags", "+ildct+ilme", "-top", "1"]
MOTION = "nullsrc=size=128x96:rate={},geq=lum='128+60*sin((X-4*N)/5)+40*sin((Y+3*N)/4)':cb=128:cr=128"
HDR = (
    "hdr-opt=1:repeat-headers=1:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc:max-cll=1000,400:"
    "master-display=G(8500,39850)B(6550,2300)R(35400,14600)WP(15635,16450)L(10000000,1):log-level=error"
)


@dataclass(frozen=True)
class Case:
    """A file to make, and what is expected of the result."""

    name: str
    arguments: list[str]
    rate: Fraction = Fraction(1)
    """Frames out for a frame in."""
    status: int = 0
    expected: tuple[tuple[str, str], ...] = ()
    """Entries of the result's video stream."""


def ffmpeg(*arguments: str | Path) -> None:
    subprocess.run(["ffmpeg", "-v", "error", "-y", "-nostdin", *map(str, arguments)], check=True)


def cases(folder: Path) -> list[Case]:
    """The set."""
    words, chapters = folder / "words.srt", folder / "chapters.txt"
    words.write_text("1\n00:00:00,100 --> 00:00:00,900\nHallo\n", "utf-8")
    chapters.write_text(
        ";FFMETADATA1\ntitle=Film\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=700\ntitle=eins\n"
        "[CHAPTER]\nTIMEBASE=1/1000\nSTART=700\nEND=2000\ntitle=zwei\n",
        "utf-8",
    )
    video = ["-f", "lavfi", "-i", PICTURE]
    both = [*video, *TONES, "-i", str(words), "-i", str(chapters)]
    maps = ["-map", "0", "-map", "1", "-map", "2", "-map", "3", "-map_metadata", "4", "-t", "2"]
    tags = ["-metadata:s:a:0", "language=deu", "-metadata:s:a:1", "language=eng"]
    fields = ["-f", "lavfi", "-i"]
    return [
        Case("all.mkv", [*both, *maps, *tags, *AVC, "-c:a:0", "ac3", "-c:a:1", "flac", "-attach", str(words),
                         "-metadata:s:t", "mimetype=text/plain"]),
        Case("all.mp4", [*both, *maps, *tags, *AVC, "-c:a", "aac", "-c:s", "mov_text"]),
        Case("late audio.ts", [*video, "-itsoffset", "0.5", *TONES[:4], "-t", "2", *AVC, "-c:a", "mp2"]),
        Case("pcm.mov", [*video, *TONES[:4], "-t", "2", *AVC, "-c:a", "pcm_s16be"]),
        Case("vfr.mp4", [*video, *TONES[:4], "-vf", "select='not(mod(n,3))+gt(n,25)'", "-vsync", "vfr", "-t", "2", *AVC,
                         "-c:a", "aac"]),
        Case("rotated.mp4", ["-i", str(folder / "upright.mp4"), "-c", "copy", "-metadata:s:v:0", "rotate=90"],
             expected=(("width", "192"), ("height", "256"))),
        Case("anamorphic.mkv", [*video, "-vf", "setsar=64/45", "-t", "1", *AVC], expected=(("sample_aspect_ratio", "64:45"),)),
        Case("hdr10.mkv", [*video, "-t", "1", "-c:v", "libx265", "-pix_fmt", "yuv420p10le", "-x265-params", HDR],
             expected=(("color_transfer", "smpte2084"), ("color_space", "bt2020nc"), ("pix_fmt", "yuv420p10le"))),
        Case("full range.mkv", [*video, "-t", "1", *AVC[:-1], "yuvj420p"], expected=(("color_range", "pc"),)),
        Case("422.mkv", [*video, "-t", "1", *AVC[:-1], "yuv422p10le"], expected=(("pix_fmt", "yuv422p10le"),)),
        Case("one frame.mkv", [*video, "-frames:v", "1", *AVC]),
        Case("no audio.avi", [*video, "-t", "1", "-c:v", "mpeg4"]),
        Case("interlaced.mpg", [*fields, MOTION.format(50) + ",tinterlace=interleave_top", "-t", "1", *MPEG2], Fraction(2)),
        Case("wrongly flagged.mpg", [*fields, MOTION.format(25), "-t", "1", *MPEG2]),
        Case("telecine.mpg", [*fields, MOTION.format("24000/1001") + ",telecine=pattern=23", "-t", "3", *MPEG2],
             Fraction(4, 5)),
        Case("broken tail.mkv", ["-i", str(folder / "upright.mp4"), "-c", "copy"], status=3),
    ]  # fmt: skip


def make(case: Case, folder: Path) -> Path:
    path = folder / case.name
    ffmpeg(*case.arguments, path)
    if case.name.startswith("broken"):
        data = path.read_bytes()
        path.write_bytes(data[: len(data) * 3 // 5])
    return path


def probe(path: Path) -> dict[str, Any]:
    command = [
        "ffprobe",
        "-v",
        "error",
        "-count_frames",
        "-show_streams",
        "-show_format",
        "-show_chapters",
        "-of",
        "json",
    ]
    done = subprocess.run([*command, str(path)], check=True, capture_output=True, encoding="utf-8")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def streams(found: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [s for s in found["streams"] if s["codec_type"] == kind and not s["disposition"].get("attached_pic")]


def first_time(path: Path, stream: str) -> float:
    command = [
        "ffprobe",
        "-v",
        "error",
        "-select_streams",
        stream,
        "-show_entries",
        "packet=pts_time",
        "-of",
        "csv=p=0",
    ]
    done = subprocess.run([*command, str(path)], check=True, capture_output=True, encoding="utf-8")
    return min(float(t) for line in done.stdout.split() if (t := line.strip(",")) not in ("", "N/A"))


def digest(path: Path, stream: str, *, decoded: bool) -> str:
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-map", f"0:{stream}", *([] if decoded else ["-c", "copy"])]
    done = subprocess.run(
        [*command, "-f", "hash", "-hash", "md5", "-"], capture_output=True, encoding="utf-8", check=False
    )
    return done.stdout


def alike(found: str, wanted: str) -> bool:
    """Equal; of ratios within half a percent, since Matroska's display size is in whole pixels."""
    if ":" not in wanted or ":" not in found:
        return found == wanted
    ratios = [Fraction(text.replace(":", "/")) for text in (found, wanted)]
    return abs(ratios[0] / ratios[1] - 1) < Fraction(1, 200)


def compare(source: Path, result: Path, case: Case, said: str) -> tuple[list[str], list[str]]:
    """The line's columns, and what is wrong."""
    before, after = probe(source), probe(result)
    (old, *_), (new, *_) = streams(before, "video"), streams(after, "video")
    wrong: list[str] = []
    frames_in, frames_out = int(old["nb_read_frames"]), int(new["nb_read_frames"])
    if case.status == 0 and abs(frames_out - frames_in * case.rate) >= 2 * (case.rate != 1) + 0.5:
        wrong.append("frames")
    sounds = list(zip(streams(before, "audio"), streams(after, "audio"), strict=False))
    if len(sounds) != len(streams(before, "audio")):
        wrong.append("audio lost")
    sync = "-"
    if sounds:
        gaps = [first_time(path, "v:0") - first_time(path, "a:0") for path in (source, result)]
        sync = f"{1000 * (gaps[1] - gaps[0]):+.0f} ms"
        if abs(gaps[1] - gaps[0]) > 0.0021:
            wrong.append("sync")
    same: list[str] = []
    for kind in ("audio", "subtitle"):
        for i, stream in enumerate(streams(before, kind)):
            place = f"{kind[0]}:{i}"
            packed_anew = (
                stream["codec_name"].startswith("pcm") or source.suffix == ".ts" or stream["codec_name"] == "mov_text"
            )
            ways = [False] if not packed_anew else [True]
            equal = all(digest(source, place, decoded=w) == digest(result, place, decoded=w) for w in ways)
            if stream["codec_name"] == "mov_text":
                same.append(f"{place} text")
                continue
            same.append(place + ("=" if equal else "≠"))
            if not equal:
                wrong.append(place)
    if len(before["chapters"]) != len(after["chapters"]):
        wrong.append("chapters")
    wrong += [f"{key} {new.get(key)}" for key, value in case.expected if not alike(str(new.get(key)), value)]
    shape = f"{old['width']}x{old['height']} → {new['width']}x{new['height']} {new.get('sample_aspect_ratio', '')}"
    colours = "/".join(str(new.get(key, "-")) for key in ("pix_fmt", "color_range", "color_space", "color_transfer"))
    fields = next((line.split(":")[1].strip() for line in said.splitlines() if line.startswith("fields:")), "")
    length = f"{float(after['format']['duration']):.2f} s"
    chapters = str(len(after["chapters"]))
    return [f"{frames_in} → {frames_out}", length, sync, " ".join(same) or "-", chapters, shape, colours, fields], wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="*")
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--encoder", default="x265")
    parser.add_argument("--option", action="append", default=[], help="one more word for vsflashsr upscale")
    parser.add_argument("--only", help="the cases whose name has this in it")
    parser.add_argument("--no-set", action="store_true", help="the given files only")
    arguments = parser.parse_args()
    bad = 0
    print("| file | frames | length | sync | streams | chapters | shape | format | fields | status | |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        ffmpeg("-f", "lavfi", "-i", PICTURE, "-t", "2", *AVC, "-g", "10", folder / "upright.mp4")
        todo = [(Case(path.name, []), path) for path in arguments.files]
        if not arguments.no_set:
            todo += [(case, make(case, folder)) for case in cases(folder) if (arguments.only or "") in case.name]
        for case, source in todo:
            result = folder / f"{source.stem} {source.suffix[1:]} out.mkv"
            command = [
                sys.executable,
                "-m",
                "vsflashsr",
                "upscale",
                str(source),
                str(result),
                "--model",
                arguments.model,
            ]
            command += ["--encoder", arguments.encoder, *arguments.option]
            done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
            if not result.exists():
                columns, wrong = ["-"] * 8, [done.stderr.strip().splitlines()[-1]]
            else:
                columns, wrong = compare(source, result, case, done.stderr)
            if case.arguments and done.returncode != case.status:
                wrong.append(f"status {case.status} expected")
            bad += bool(wrong)
            line = [case.name, *columns, str(done.returncode), "; ".join(wrong) or "ok"]
            print("| " + " | ".join(line) + " |", flush=True)
    raise SystemExit(1 if bad else 0)


if __name__ == "__main__":
    main()
