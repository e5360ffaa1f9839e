"""The filter in a process of its own: ``python -m trt_build.gpu_check.filter_frames REQUEST`` prints digests and a rate.

A host that has only unpacked VapourSynth's wheel has no configuration for ``vspipe``, so frames are asked of the core here.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Request:
    """Which frames of which clip, in which order."""

    model: str
    width: int
    height: int
    """Of the input."""
    frames: int
    """In the clip."""
    backend: str = "torch"
    scale: int = 4
    threads: int = 4
    first: int = 0
    last: int | None = None
    """None: of the clip."""
    shuffled: bool = False
    full_size: str | None = None
    """A type: random graphs of the published size take the place of the bundle's, in this type."""


@dataclass(frozen=True)
class Rendered:
    """What came out."""

    digests: dict[int, str]
    """SHA-256 of each frame's pixels."""
    frames_per_s: float
    """From the first frame that was there to the last."""


def rendered(request: Request, limit_s: float | None = None) -> Rendered:
    """In a new process, since a core has one number of threads.

    Raises:
        RuntimeError: it failed, with the last line it said.
    """
    command = [sys.executable, "-m", __spec__.name, json.dumps(dataclasses.asdict(request))]
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=limit_s,
        check=False,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["nothing was said"]
        raise RuntimeError(f"the filter failed with status {done.returncode}: {said[-1]}")
    found = json.loads(done.stdout)
    return Rendered({int(n): digest for n, digest in found["digests"].items()}, found["frames_per_s"])


def render(request: Request) -> Rendered:
    """In this process."""
    import vapoursynth as vs

    core = vs.core
    core.num_threads = request.threads
    out = _filtered(request)
    order = list(range(request.first, request.frames if request.last is None else request.last + 1))
    if request.shuffled:
        random.Random(1).shuffle(order)
    digests: dict[int, str] = {}
    began = 0.0
    waiting: deque[tuple[int, Any]] = deque()
    left = iter(order)
    for n in left:
        waiting.append((n, out.get_frame_async(n)))
        if len(waiting) == request.threads:
            break
    while waiting:
        n, future = waiting.popleft()
        with future.result() as frame:
            digests[n] = hashlib.sha256(b"".join(bytes(plane) for plane in frame.readchunks())).hexdigest()
        began = began or time.perf_counter()
        if (following := next(left, None)) is not None:
            waiting.append((following, out.get_frame_async(following)))
    seconds = time.perf_counter() - began
    return Rendered(digests, (len(digests) - 1) / seconds if seconds else 0.0)


def _filtered(request: Request) -> Any:
    import vapoursynth as vs

    from vsflashsr import flashsr

    core = vs.core
    clip = core.std.BlankClip(
        width=request.width, height=request.height, format=vs.RGB24, length=request.frames, keep=True
    )
    # Every frame differs, as far as the core can do that without a plugin.
    clip = core.std.FrameEval(clip, lambda n: core.std.BlankClip(clip, length=1, color=[n % 256, n * 7 % 256, 90]))
    clip = core.std.AddBorders(clip.std.Crop(right=16), left=16, color=[200, 30, 60])

    def made() -> Any:
        return flashsr(
            clip, request.scale, model=request.model, backend=request.backend, max_segment=48, scene_change=False
        )

    if request.full_size is None:
        return made()
    from .random_kind import random_kind

    with mock.patch("vsflashsr.filter.read_kind", lambda arguments: random_kind(arguments, request.full_size or "fp16")):
        return made()


def main() -> None:
    request = Request(**json.loads(sys.argv[1]))
    found = render(request)
    sys.stdout.write(json.dumps(dataclasses.asdict(found)))


if __name__ == "__main__":
    main()
