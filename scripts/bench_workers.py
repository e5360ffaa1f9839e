"""Prints what a file costs with 1, 2 and 4 workers, on this machine's own processes and on a local Ray cluster.

    python scripts/bench_workers.py FILE [--workers 1,2,4] [--executors local,ray] [--encoder ffv1] [--option=WORD]

Wall time falls up to the number of cores, which is printed. CPU time is what more workers cost: each starts a process, opens the
model, seeks in the source. It is sampled five times a second over all processes that a run starts, so that the last fifth of a
second of each isn't in it. Every run makes the same bytes, or the script ends with status 1.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

EVERY_S = 0.2


@dataclass(frozen=True)
class Cost:
    wall_s: float
    cpu_s: float


def measured(command: list[str]) -> Cost:
    """Run a command; CPU seconds of it and of all that it starts."""
    started = time.monotonic()
    with tempfile.TemporaryFile() as said:
        process = psutil.Popen(command, stdout=said, stderr=said)
        known: dict[psutil.Process, float] = {process: 0.0}
        while process.poll() is None:
            for one in list(known):
                try:
                    known.update((child, known.get(child, 0.0)) for child in one.children())
                    spent = one.cpu_times()
                    known[one] = spent.user + spent.system
                except psutil.Error:
                    continue
            time.sleep(EVERY_S)
        if process.returncode:
            said.seek(0)
            raise SystemExit(said.read().decode(errors="replace"))
    return Cost(time.monotonic() - started, sum(known.values()))


def digest(path: Path) -> str:
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-map", "0:v", "-c", "copy", "-f", "hash", "-hash", "md5", "-"]
    return subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--workers", default="1,2,4")
    parser.add_argument("--executors", default="local,ray")
    parser.add_argument("--encoder", default="ffv1")
    parser.add_argument("--option", action="append", default=[], help="one more word for vsflashsr upscale")
    arguments = parser.parse_args()
    upscale = [sys.executable, "-m", "vsflashsr", "upscale"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        options = ["--encoder", arguments.encoder, *arguments.option]
        digests: set[str] = set()
        first: Cost | None = None
        print(f"{os.cpu_count()} cores, {psutil.cpu_percent(2):.0f} % of them taken by others")
        print(
            "| executor | workers | wall s | CPU s | CPU s beyond one local worker's |\n|---|---|---|---|---|",
            flush=True,
        )
        for executor in arguments.executors.split(","):
            for workers in arguments.workers.split(","):
                out = folder / f"{executor}{workers}.mkv"
                how = ["--workers", workers, *(["--ray", "local"] if executor == "ray" else [])]
                cost = measured([*upscale, str(arguments.file), str(out), *options, *how])
                first = first or cost
                digests.add(digest(out))
                beyond = f"{cost.cpu_s - first.cpu_s:+.1f} ({100 * (cost.cpu_s / first.cpu_s - 1):+.0f} %)"
                print(f"| {executor} | {workers} | {cost.wall_s:.1f} | {cost.cpu_s:.1f} | {beyond} |", flush=True)
        looked = measured([*upscale, str(arguments.file), str(folder / "none.mkv"), *options, "--dry-run"])
        print(f"planning alone (start, index, look at fields, open the model): {looked.cpu_s:.1f} CPU s")
        if (prerolls := prerolls_of(arguments.file, options)) is not None:
            print(prerolls)
    raise SystemExit(0 if len(digests) == 1 else "the runs differ")


def prerolls_of(file: Path, options: list[str]) -> str | None:
    """What prerolls cost, for any number of workers: chunks begin where segments do."""
    from vsflashsr.bundle import load_bundle
    from vsflashsr.models.locate import locate

    def given(name: str) -> str | None:
        return options[options.index(name) + 1] if name in options else None

    path = locate(given("--model"))
    if not path.is_dir():
        return None
    bundle = load_bundle(path)
    segment, preroll = int(given("--max-segment") or bundle.max_segment), int(given("--preroll") or bundle.preroll)
    command = [
        "ffprobe",
        "-v",
        "error",
        "-select_streams",
        "v:0",
        "-count_packets",
        "-show_streams",
        "-of",
        "json",
        str(file),
    ]
    found = json.loads(subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout)
    frames = int(found["streams"][0]["nb_read_packets"])
    again = (frames - 1) // segment * preroll
    return f"prerolls: {again} frames beside {frames} ({100 * again / frames:.1f} %), with any number of workers"


if __name__ == "__main__":
    main()
