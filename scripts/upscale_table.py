"""Makes a set of awkward files, sends them and any given ones through `vsflashsr upscale`, and prints what became of each.

    python scripts/upscale_table.py [FILE...] [--model builtin] [--encoder x265]

Columns: frames in → out; the video's length; the largest difference of a frame's time against the first audio stream's, in → out;
whether the packets of each audio and subtitle stream are the same (decoded samples where the container packs them anew); shape;
what was decided about fields; seconds it took; the exit status. A line ends with "ok" if all of it is as it should be, and with
what was said of the source if that is incomplete.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

from tests.encode.files import Case, cases, probe, stream_hash, times

RATES = {"a frame for each field": Fraction(2), "four of five": Fraction(4, 5)}
"""What is said of fields → frames out for a frame in."""
INCOMPLETE = "the source is incomplete: "


def streams(found: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [s for s in found["streams"] if s["codec_type"] == kind and not s["disposition"].get("attached_pic")]


def alike(found: str, wanted: str) -> bool:
    """Equal; of ratios within half a percent, since Matroska's display size is in whole pixels."""
    if ":" not in wanted or ":" not in found:
        return found == wanted
    ratios = [Fraction(text.replace(":", "/")) for text in (found, wanted)]
    return abs(ratios[0] / ratios[1] - 1) < Fraction(1, 200)


def sync(source: Path, result: Path) -> float:
    """By how many seconds picture and sound have moved apart at the beginning."""
    before, after = (times(path)[0] - times(path, "a:0")[0] for path in (source, result))
    return after - before


def carried(source: Path, result: Path, kind: str, place: int, codec: str) -> str:
    """Whether a stream came over: "=" or "≠", or " text" where its packets can't be compared."""
    if codec == "mov_text":
        return " text"
    decoded = codec.startswith("pcm") or source.suffix == ".ts"
    stream = f"{kind[0]}:{place}"
    same = stream_hash(source, stream, decoded=decoded) == stream_hash(result, stream, decoded=decoded)
    return "=" if same else "≠"


def compare(source: Path, result: Path, case: Case, said: str) -> tuple[list[str], list[str]]:
    """The line's columns, and what is wrong."""
    before, after = probe(source), probe(result)
    (old, *_), (new, *_) = streams(before, "video"), streams(after, "video")
    wrong: list[str] = []
    fields = next((line.removeprefix("fields: ") for line in said.splitlines() if line.startswith("fields:")), "")
    rate = next((rate for words, rate in RATES.items() if words in fields), Fraction(1))
    if case.arguments and rate != case.rate:
        wrong.append("treatment of fields")
    frames_in, frames_out = int(old["nb_read_packets"]), int(new["nb_read_packets"])
    if INCOMPLETE not in said and abs(frames_out - frames_in * rate) >= 2 * (rate != 1) + 0.5:
        wrong.append("frames")
    apart = "-"
    if streams(before, "audio"):
        gap = sync(source, result)
        apart = f"{1000 * gap:+.0f} ms"
        if abs(gap) > 0.0021:
            wrong.append("sync")
    same: list[str] = []
    for kind in ("audio", "subtitle"):
        if len(streams(before, kind)) != len(streams(after, kind)):
            wrong.append(f"{kind} lost")
            continue
        for i, stream in enumerate(streams(before, kind)):
            same.append(f"{kind[0]}:{i}{carried(source, result, kind, i, stream['codec_name'])}")
            wrong += [same[-1]] if same[-1].endswith("≠") else []
    if len(before["chapters"]) != len(after["chapters"]):
        wrong.append("chapters")
    wrong += [f"{key} {new.get(key)}" for key, value in case.expected if not alike(str(new.get(key)), value)]
    shape = f"{old['width']}x{old['height']} → {new['width']}x{new['height']} {new.get('sample_aspect_ratio', '')}"
    colours = "/".join(str(new.get(key, "-")) for key in ("pix_fmt", "color_range", "color_space", "color_transfer"))
    length = f"{float(after['format'].get('duration', 0)):.2f} s"  # of one frame ffprobe says none
    return [
        f"{frames_in} → {frames_out}", length, apart, " ".join(same) or "-", str(len(after["chapters"])), shape, colours,
        fields.split(";")[0],
    ], wrong  # fmt: skip


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
    print("| file | frames | length | sync | streams | chapters | shape | format | fields | seconds | status | |")
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        todo = [(Case(path.name, ()), path) for path in arguments.files]
        if not arguments.no_set:
            chosen = (case for name, case in cases(folder).items() if (arguments.only or "") in name)
            todo += [(case, case.make(folder / case.name)) for case in chosen]
        for case, source in todo:
            result = folder / f"{source.stem} {source.suffix[1:]} out.mkv"
            command = [sys.executable, "-m", "vsflashsr", "upscale", str(source), str(result)]
            command += ["--model", arguments.model, "--encoder", arguments.encoder, *arguments.option]
            started = time.monotonic()
            done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
            seconds = time.monotonic() - started
            last = done.stderr.strip().splitlines()[-1]
            columns, wrong = compare(source, result, case, done.stderr) if result.exists() else (["-"] * 8, [last])
            told = last.partition(INCOMPLETE)[2].partition("; what could")[0]
            if done.returncode != (case.status if case.arguments else 3 if told else 0):
                wrong.append("status")
            bad += bool(wrong)
            line = [
                case.name,
                *columns,
                f"{seconds:.0f}",
                str(done.returncode),
                "; ".join(wrong) or f"ok {told}".strip(),
            ]
            print("| " + " | ".join(line) + " |", flush=True)
    raise SystemExit(1 if bad else 0)


if __name__ == "__main__":
    main()
