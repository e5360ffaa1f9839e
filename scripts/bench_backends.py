"""Frames a second of every backend that is found here, its memory, and how far its frames are from the CPU's: a table to paste.

    python scripts/bench_backends.py [--model builtin] [--frames 12] [--size 480x270 …]

Each backend runs in a process of its own, at each size in turn, on moving noise over a gradient, with a frame always in flight
where the backend has any; the first frame (compilation) is not counted. Host memory is the process's at its end, less that
before the model was opened.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIZES = ("480x270", "720x576", "1280x720")


def frames_of(width: int, height: int, count: int, channels: int) -> list[NDArray[np.float32]]:
    """A gradient that moves, with noise: the same for every backend."""
    rng = np.random.default_rng(7)
    noise = rng.standard_normal((height, width + 2 * count), np.float32) * np.float32(0.05)
    ramp = np.linspace(0.1, 0.9, width + 2 * count, dtype=np.float32)[None, :]
    picture = np.clip(ramp + noise, 0, 1)
    return [np.repeat(picture[None, :, 2 * n : 2 * n + width], channels, axis=0) for n in range(count)]


def measured(backend: str, model: str, size: str, scale: int, count: int, device: str, out: str) -> dict[str, Any]:
    """One backend at one size: its name, frames a second, MiB. Runs in a process of its own; frames go to ``out``."""
    import psutil

    from vsflashsr.arguments import read_arguments
    from vsflashsr.errors import FlashsrError
    from vsflashsr.filter import flashsr
    from vsflashsr.model import Frame, fetched
    from vsflashsr.models.opening import open_model, read_kind
    from vsflashsr.runtimes.backend import open_backend

    defaults = flashsr.__kwdefaults__ or {}
    given: dict[str, object] = {**defaults, "scale": scale, "model": model, "backend": backend}
    given["device_id"] = int(device) if device.isdigit() else device
    width, height = map(int, size.split("x"))
    before = psutil.Process().memory_info().rss
    try:
        arguments = read_arguments(given)
        kind = read_kind(arguments)
        opened_on = open_backend(arguments, lambda _: None, plain=kind.plain)
        network = open_model(kind, arguments, (height, width), opened_on).model
        frames = frames_of(width, height, count + 1, 1 if network.spec.channels == "luma" else 3)
        state: Any = None
        made: list[Frame] = []
        times: list[float] = []
        for n, frame in enumerate(frames):
            started = time.perf_counter()
            emitted, state = network.step([frame], [n], state)
            if made:
                made[-1] = fetched(made[-1])
            made += emitted
            times.append(time.perf_counter() - started)
        arrays = np.stack([fetched(frame) for frame in made])
        np.save(out, arrays.astype(np.float16 if count > 24 else np.float32))
        rate = 1 / statistics.median(times[2:])
        memory = (psutil.Process().memory_info().rss - before) >> 20
        where = opened_on.where
        opened_on.close()
    except FlashsrError as error:
        return {"error": str(error)}
    return {"where": where, "rate": rate, "memory": memory}


def table(options: argparse.Namespace) -> str:
    """The table as Markdown."""
    from vsflashsr.runtimes.backend import BACKENDS

    rows = [
        f"{options.model} ×{options.scale}, {options.frames} frames, {platform.platform()}, {os.cpu_count()} cores",
        "",
        "| backend | on | size | frames/s | of the CPU's | host MiB | largest difference from the CPU |",
        "|---|---|---|---|---|---|---|",
    ]
    names = ["onnxruntime", *(row.name for row in BACKENDS if row.name != "onnxruntime")]
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        for size in options.size:
            base: dict[str, Any] = {}
            for name in names:
                out = str(Path(folder) / f"{name}.npy")
                with context.Pool(1) as pool:
                    found = pool.apply(
                        measured, (name, options.model, size, options.scale, options.frames, options.device, out)
                    )
                if "error" in found:
                    if size == options.size[0]:
                        sys.stderr.write(f"{name}: {found['error']}\n")
                    continue
                if name == "onnxruntime":
                    base = found | {"frames": np.load(out)}
                far = float(np.abs(np.load(out).astype(np.float32) - base["frames"]).max()) * 255
                rows.append(
                    f"| {name} | {found['where']} | {size} | {found['rate']:.2f} | {found['rate'] / base['rate']:.2f} | "
                    f"{found['memory']} | {far:.4f} of 255 |"
                )
    return "\n".join([*rows, ""])


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin", help="as in flashsr(model=) (default: %(default)s)")
    parser.add_argument("--scale", type=int, default=2)
    parser.add_argument("--frames", type=int, default=12, help="frames that are timed (default: %(default)s)")
    parser.add_argument("--size", nargs="+", default=list(SIZES), metavar="WxH")
    parser.add_argument("--device", default="0", help="as in flashsr(device_id=) (default: %(default)s)")
    options = parser.parse_args()
    if options.frames < 3:
        parser.error("--frames is 3 or more")
    sys.stdout.write(table(options))


if __name__ == "__main__":
    main()
