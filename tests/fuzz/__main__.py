"""``python -m tests.fuzz [--count 300] [--first 0] [--kind K] [--show]``: the table of counts."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from .cases import KINDS
from .runner import FAULTS, counts, faults, run


def main() -> None:
    """Print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, help="cases of each kind (default: as in the suite)")
    parser.add_argument("--first", type=int, default=0, metavar="SEED")
    parser.add_argument("--kind", action="append", choices=list(KINDS))
    parser.add_argument("--show", action="store_true", help="each fault in a line")
    given = parser.parse_args()
    usual = {"manifest": 300, "onnx": 300, "engine": 200, "argument": 355}
    print(f"{'kind':10}{'tried':>8}{'accepted':>10}{'refused':>9}" + "".join(f"{f:>9}" for f in FAULTS) + f"{'s':>7}")
    for kind in given.kind or KINDS:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="vsflashsr-fuzz-", ignore_cleanup_errors=True) as folder:
            results = run(kind, given.count or usual[kind], Path(folder), first=given.first)
        found = counts(results)
        line = f"{kind:10}{len(results):8}{found['accepted']:10}{found['refused']:9}"
        print(line + "".join(f"{found[f]:9}" for f in FAULTS) + f"{time.perf_counter() - start:7.1f}", flush=True)
        if given.show:
            print("\n".join(f"    {line}" for line in faults(results)), flush=True)


if __name__ == "__main__":
    main()
