"""``python -m trt_build.kernels [OUT]``: compiles all GPU kernels into the package, for a wheel."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vsflashsr.errors import FlashsrError
from vsflashsr.gpu.kernels.compile import build
from vsflashsr.gpu.kernels.planes import PLANES
from vsflashsr.models.flashvsr.kernels.table import KERNELS as FLASHVSR

SETS = {"planes": PLANES, "flashvsr": FLASHVSR}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m trt_build.kernels", description=__doc__)
    parser.add_argument(
        "out", nargs="?", type=Path, help="folder to write, a folder a set (default: the package's own)"
    )
    given: Any = parser.parse_args(arguments)
    try:
        for name, kernels in SETS.items():
            build(kernels, kernels.folder if given.out is None else given.out / name)
    except (FlashsrError, ImportError, OSError) as error:
        sys.stderr.write(f"trt_build.kernels: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
