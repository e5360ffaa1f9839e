"""Runs a hundred cases a process; one that dies is counted and the next goes on after its case."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ..support.pipe import environment

EACH = 100
FAULTS = ("crash", "hang", "raw", "silent", "late", "unclear")


@dataclass(frozen=True)
class Result:
    """One case."""

    seed: int
    what: str
    became: str
    said: str


def run(kind: str, count: int, folder: Path, *, first: int = 0, processes: int = 2) -> list[Result]:
    """``count`` cases of a kind, with the seeds from ``first`` on; ``folder`` is for what they write."""
    starts = range(first, first + count, EACH)

    def part(start: int) -> list[Result]:
        own = folder / f"{kind} {start}"
        own.mkdir(parents=True)
        return list(_part(kind, start, min(start + EACH, first + count), own))

    with ThreadPoolExecutor(processes) as pool:
        return [result for results in pool.map(part, starts) for result in results]


def _part(kind: str, start: int, end: int, folder: Path) -> Iterable[Result]:
    while start < end:
        own = folder / str(start)
        own.mkdir()
        command = [sys.executable, "-m", "tests.fuzz.worker", kind, str(start), str(end - start), str(own)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment(), check=False)
        begun: dict[int, str] = {}
        ended: set[int] = set()
        for line in done.stdout.splitlines():
            if not line.startswith("{"):
                continue
            said = json.loads(line)
            if "what" in said:
                begun[said["seed"]] = said["what"]
            else:
                ended.add(said["seed"])
                yield Result(said["seed"], begun[said["seed"]], said["became"], said["said"])
        if not begun:
            raise RuntimeError(f"the worker didn't start:\n{done.stderr[-2000:]}")
        died = [seed for seed in begun if seed not in ended]
        for seed in died:
            yield Result(seed, begun[seed], "crash", f"status {done.returncode}: {done.stderr[-200:]}")
        if not died and max(begun) + 1 < end:
            raise RuntimeError(f"the worker ended early:\n{done.stderr[-2000:]}")
        start = max(begun) + 1


def counts(results: Iterable[Result]) -> Counter[str]:
    """How many became what."""
    return Counter(result.became for result in results)


def faults(results: Iterable[Result]) -> list[str]:
    """Those that should not be, as a reader of a failed test wants them."""
    return [f"{r.became}: seed {r.seed}, {r.what}: {r.said}" for r in results if r.became in FAULTS]
