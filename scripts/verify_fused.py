#!/usr/bin/env python3
"""Holds what backend "torch" runs against a golden set, without a GPU: torch's products, our kernels interpreted.

    python scripts/verify_fused.py GOLDEN [--stand-ins]

Stage by stage as `python -m trt_build verify GOLDEN`, with the same tolerances. Triton's interpreter takes a quarter of an hour
for all of it; `--stand-ins` puts the tests' NumPy kernels in its place, which they hold against it launch by launch.
"""

from __future__ import annotations

import argparse
import os
import sys
import unittest.mock
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported
sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support.host_kernels import run_on_host
from tests.support.torch_place import HostPlace, interpreted_place, process_view
from trt_build.flashvsr import verify_dit
from trt_build.flashvsr.fused_executor import FusedExecutor
from trt_build.verify import verify


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("golden", type=Path)
    parser.add_argument("--stand-ins", action="store_true", help="kernels in NumPy")
    given = parser.parse_args()

    def place() -> HostPlace:
        if given.stand_ins:
            return HostPlace(process_view, lambda launch: run_on_host(launch, process_view))
        return interpreted_place()

    class Interpreted(FusedExecutor):
        def __init__(self, checkpoint: Any, *, observer: Any = None) -> None:
            super().__init__(checkpoint, place(), observer=observer)

    def write(line: str) -> None:
        print(line, end="", flush=True)

    with unittest.mock.patch.object(verify_dit, "TorchExecutor", Interpreted):
        return int(not verify(given.golden, "torch", None, write))


if __name__ == "__main__":
    sys.exit(main())
