"""How long `import vsflashsr` and a script with the built-in model take to start, for two trees by turns, and the ratio.

    python scripts/bench_startup.py BEFORE AFTER [--runs 15]

BEFORE and AFTER are checkouts. Each run is a process of its own; by turns, so that a change in the machine's load meets both.
Printed are the fastest and the median of each and the ratio of both. The script is evaluated to its end and renders nothing.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import vapoursynth

SCRIPT = """
import vapoursynth as vs
from vsflashsr import flashsr
clip = vs.core.std.BlankClip(format=vs.YUV420P8, width=480, height=270, length=10)
flashsr(clip, 2, backend="onnxruntime").set_output()
"""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trees", nargs=2, type=Path, metavar="TREE")
    parser.add_argument("--runs", type=int, default=15)
    given = parser.parse_args()
    vspipe = Path(vapoursynth.__file__).parent / ("vspipe.exe" if sys.platform == "win32" else "vspipe")
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "script.vpy"
        script.write_text(SCRIPT, encoding="utf-8")
        commands = {
            "import vsflashsr": [sys.executable, "-c", "import vsflashsr"],
            "import flashsr": [sys.executable, "-c", "from vsflashsr import flashsr"],
            "script": [str(vspipe), "--info", str(script)],
        }
        for name, command in commands.items():
            times = [[seconds(command, tree, folder) for tree in given.trees] for _ in range(given.runs + 1)][1:]
            before, after = zip(*times, strict=True)
            print(
                f"{name:18} fastest {min(before):.3f} {min(after):.3f} s, {min(after) / min(before):.3f};  "
                f"median {statistics.median(before):.3f} {statistics.median(after):.3f} s, "
                f"{statistics.median(after) / statistics.median(before):.3f}"
            )


def seconds(command: list[str], tree: Path, folder: str) -> float:
    """One run, with ``tree``'s packages."""
    own = {**os.environ, "PYTHONPATH": str(tree.resolve()), "PYTHONPYCACHEPREFIX": str(Path(folder) / "bytecode")}
    own.pop("PYTHONDONTWRITEBYTECODE", None)  # a user's second start finds compiled modules
    start = time.perf_counter()
    subprocess.run(command, env=own, cwd=folder, capture_output=True, check=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
