"""The filter on a small clip: what every case of a model or an argument is given to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import vapoursynth as vs

from vsflashsr import flashsr


def filtered(*, clip: vs.VideoNode | None = None, **arguments: Any) -> Callable[[], object]:
    """``flashsr`` on it, in the CPU's runtime; the result makes a frame."""
    if clip is None:
        clip = vs.core.std.BlankClip(format=vs.YUV420P8, width=24, height=16, length=2).std.SetFrameProps(_Matrix=1)
    out = flashsr(clip, **{"scale": 2, "backend": "onnxruntime", "threads": 1, **arguments})

    def render() -> None:
        with out.get_frame(0) as frame:
            assert (frame.width, frame.height) == (out.width, out.height)

    return render
