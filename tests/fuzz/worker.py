"""A process that runs so many cases of a kind and says a JSON line for each: begun, then what became of it."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from types import FrameType

from .cases import KINDS
from .outcome import outcome_of

MEMORY_BYTES = 8 << 30
SECONDS = 15


def main(kind: str, first: int, count: int, folder: Path) -> None:
    """Cases ``first`` … ``first + count - 1``."""
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        signal.signal(signal.SIGALRM, _too_long)
    make = KINDS[kind](folder)
    for seed in range(first, first + count):
        case = make(seed)
        print(json.dumps({"seed": seed, "what": case.what}), flush=True)
        if sys.platform != "win32":
            signal.alarm(SECONDS)
        became, said = outcome_of(case)
        if sys.platform != "win32":
            signal.alarm(0)
        print(json.dumps({"seed": seed, "became": became, "said": said}), flush=True)


def _too_long(_: int, __: FrameType | None) -> None:
    raise TimeoutError(f"longer than {SECONDS} s")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
