"""One archive for a bare GPU host without a network: wheels, this package's own among them, reference numbers, and a script.

    python -m trt_build.gpu_check.pack check.tar --golden GOLDEN_DIR [--wheels FOLDER]

On the host, which has Python 3.12, torch with CUDA, triton, cuda-python, onnx and onnxruntime:

    tar xf check.tar && sh gpu-check/run.sh --out FOLDER
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from vsflashsr.errors import FlashsrError

ROOT = Path(__file__).parents[2]
FOLDER = "gpu-check"
LIMIT_BYTES = 64 << 20
"""What such hosts take at once."""
WHEELS = ("vapoursynth", "msgspec", "filelock", "platformdirs", "safetensors", "tqdm")
"""What a host that has torch and ONNX Runtime lacks, beside this package."""
RUN = """#!/bin/sh
# Installs the wheels beside this file, without a network, and runs the check; options are passed on.
set -e
cd "$(dirname "$0")"
python="${PYTHON:-python3}"
test -d site || "$python" -m pip install -q --no-index --no-deps --target site wheels/*.whl
export PYTHONPATH="$PWD/site${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" -m trt_build.gpu_check --golden "$PWD/golden" --commit "$(cat COMMIT)" --out "$PWD/found" "$@"
"""


def packed(archive: Path, golden: Path, wheels: Path) -> int:
    """Writes the archive; its bytes.

    Raises:
        FlashsrError: a folder holds nothing, or it is all too much.
    """
    numbers = sorted(path for path in golden.iterdir() if path.is_file()) if golden.is_dir() else []
    found = sorted(wheels.glob("*.whl"))
    for where, paths in ((golden, numbers), (wheels, found)):
        if not paths:
            raise FlashsrError(f"there is nothing to pack in the folder {str(where)!r}; name another")
    with tarfile.open(archive, "w") as file:
        for folder, paths in (("golden", numbers), ("wheels", found)):
            for path in paths:
                file.add(path, f"{FOLDER}/{folder}/{path.name}")
        for name, text, mode in (("run.sh", RUN, 0o755), ("COMMIT", _commit() + "\n", 0o644)):
            entry = tarfile.TarInfo(f"{FOLDER}/{name}")
            entry.size, entry.mode = len(text), mode
            file.addfile(entry, io.BytesIO(text.encode()))
    size = archive.stat().st_size
    if size > LIMIT_BYTES:
        archive.unlink()
        raise FlashsrError(f"the archive may have {LIMIT_BYTES >> 20} MiB, got {size / 2**20:.1f}; leave wheels out")
    return size


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def fetched_wheels(target: Path) -> Path:
    """This package's, built here, and those of others, by pip; for Linux on x86-64 and Python 3.12."""
    platforms = [part for n in (35, 34, 31, 28, 27, 24, 17) for part in ("--platform", f"manylinux_2_{n}_x86_64")]
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "--python-version", "3.12"]
    subprocess.run([*command, *platforms, "--platform", "any", "-d", str(target), *WHEELS], check=True)
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(target), str(ROOT)], check=True)
    return target


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("archive", type=Path, help="the file to write")
    parser.add_argument("--golden", type=Path, required=True, help="folder with FlashVSR's reference numbers")
    parser.add_argument("--wheels", type=Path, help="folder of all wheels (default: pip builds and downloads them)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        size = packed(given.archive, given.golden, given.wheels or fetched_wheels(Path(folder)))
    print(f"{given.archive}: {size / 2**20:.1f} MiB; on the host: tar xf {given.archive.name} && sh {FOLDER}/run.sh --out FOLDER")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except FlashsrError as failure:
        sys.exit(str(failure))
