"""The filter's contract on one backend beside the CPU, as a process of its own: a provider's library stays loaded.

    python -m tests.support.provider_contract BACKEND MODEL SCALE [FRAMES]

Prints one JSON object. MODEL: a built-in name, a bundle's folder or an ``.onnx``.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import vapoursynth as vs

from vsflashsr import flashsr

from .clips import noise


def _frames(clip: vs.VideoNode, order: list[int] | None = None) -> list[np.ndarray]:
    """All frames, asked for in this order, given in theirs."""
    order = list(range(clip.num_frames)) if order is None else order
    found: dict[int, np.ndarray] = {}
    for n in order:
        with clip.get_frame(n) as f:
            found[n] = np.concatenate([np.asarray(f[p]).astype(np.float64).ravel() for p in range(f.format.num_planes)])
    return [found[n] for n in sorted(found)]


def _same(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def contract(backend: str, model: str, scale: int, count: int) -> dict[str, Any]:
    """What was found out."""

    def made(clip: vs.VideoNode, on: str = backend, **more: Any) -> vs.VideoNode:
        return flashsr(clip, scale, model=model, backend=on, max_segment=5, preroll=2, **more)

    clip = noise(count, 26, 18, vs.YUV420P8, cuts=(count // 2,))
    linear = _frames(made(clip))
    cpu = _frames(made(clip, "onnxruntime"))
    shuffled = list(np.random.default_rng(3).permutation(count))
    split = _frames(made(clip), list(range(count // 2, count)))
    tiled = _frames(made(clip, tile=(16, 16), overlap=2))
    tiled_cpu = _frames(made(clip, "onnxruntime", tile=(16, 16), overlap=2))
    lengths = [made(clip[:n]).num_frames == n and len(_frames(made(clip[:n]))) == n for n in (1, 2)]
    bad = noise(2, 26, 18, vs.GRAYS)

    def poison(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
        out = f.copy()
        np.asarray(out[0])[3, 3] = np.nan
        return out

    try:
        _frames(made(bad.std.ModifyFrame(bad, poison)))
        nan = ""
    except vs.Error as error:
        nan = str(error)
    return {
        "largest": max(float(np.abs(x - y).max()) for x, y in zip(linear, cpu, strict=True)),
        "tiled": max(float(np.abs(x - y).max()) for x, y in zip(tiled, tiled_cpu, strict=True)),
        "shuffled": _same(linear, _frames(made(clip), [int(n) for n in shuffled])),
        "reversed": _same(linear, _frames(made(clip), list(range(count))[::-1])),
        "split": _same(linear[count // 2 :], split),
        "again": _same(linear, _frames(made(clip))),
        "lengths": all(lengths),
        "nan": nan,
    }


if __name__ == "__main__":
    backend, model, scale, *rest = sys.argv[1:]
    sys.stdout.write(json.dumps(contract(backend, model, int(scale), int(rest[0]) if rest else 8)) + "\n")
