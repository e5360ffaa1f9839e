"""Speed of a bundle's graphs beside networks of the anchors' shapes, one frame at a time, in ONNX Runtime on the CPU.

    python scripts/bench_shapes.py [MODEL...] [--size 480x270] [--threads 2] [--runs 9]

The anchors are built here with random weights: what they compute is meaningless, what it costs is not. FSRCNNX 16 is
5x5, four 3x3 and a 1x1 of 16 features with PReLU; ArtCNN C4F16 and C4F32 six 3x3 with ReLU; both run twice for x4.
All graphs take turns, so that a change in the machine's load meets all of them; printed are the fastest and the median
run of each, and the ratio of the medians to the first model's x4. Models see a soft pattern that moves by two pixels, as
how long sampling along the motion takes depends on the motion.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsflashsr.bundle import load_bundle
from vsflashsr.geometry import padded
from vsflashsr.models.locate import builtin_names, locate


class Twice(nn.Module):
    """x4 by an x2 network applied to its own result."""

    def __init__(self, features: int, layers: int, first: int, merge: int, prelu: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, features, first, padding=first // 2)
        self.middle = nn.ModuleList(nn.Conv2d(features, features, 3, padding=1) for _ in range(layers))
        self.merge = nn.Conv2d(features, features, merge, padding=merge // 2)
        self.last = nn.Conv2d(features, 4, 3, padding=1)
        self.act = nn.ModuleList(nn.PReLU(features) if prelu else nn.ReLU() for _ in range(layers + 1))
        self.prelu = prelu

    def twofold(self, x: Tensor) -> Tensor:
        """x2."""
        x = start = self.first(x)
        for conv, act in zip(self.middle, self.act, strict=False):
            x = act(conv(x))
        x = start + self.merge(x)
        return F.pixel_shuffle(self.last(self.act[-1](x) if self.prelu else x), 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.twofold(self.twofold(x))


def anchor(net: nn.Module, size: tuple[int, int]) -> bytes:
    """`net` as ONNX."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "net.onnx"
        torch.onnx.export(net, (torch.rand(1, 1, *size),), str(path), opset_version=17, dynamo=False)
        return path.read_bytes()


def main() -> None:
    """Print the table."""
    import onnxruntime  # after vsflashsr, which keeps it from sending telemetry

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=builtin_names(), metavar="MODEL", help="built-in names or folders")
    parser.add_argument("--size", default="480x270")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=9)
    arguments = parser.parse_args()
    width, height = (int(n) for n in arguments.size.split("x"))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = arguments.threads
    runs: dict[str, tuple[Any, dict[str, Any]]] = {}
    for model in arguments.models:
        bundle = load_bundle(locate(model))
        rows, columns = padded(height, bundle.size_multiple), padded(width, bundle.size_multiple)
        soft = F.interpolate(torch.rand(1, 1, rows // 8 + 2, columns // 8 + 2), scale_factor=8.0, mode="bicubic")
        before, now = (soft[:, :, :rows, n : columns + n] for n in (2, 0))
        for scale, spec in sorted(bundle.scales.items(), reverse=True):
            graph = bundle.path(spec.step)
            feeds = {"frames": now.numpy()}
            for state in spec.states:
                shape = state.resolve(rows, columns)
                feeds[f"state.{state.name}"] = F.interpolate(before, size=shape[2:]).expand(shape).numpy()
            session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
            runs[f"{bundle.name} x{scale}"] = (session, feeds)
    for name, net in {
        "FSRCNNX 16 shape x4": Twice(16, 4, 5, 1, prelu=True),
        "FSRCNNX 16 shape x4, ReLU": Twice(16, 4, 5, 1, prelu=False),
        "ArtCNN C4F16 shape x4": Twice(16, 4, 3, 3, prelu=False),
        "ArtCNN C4F32 shape x4": Twice(32, 4, 3, 3, prelu=False),
    }.items():
        session = onnxruntime.InferenceSession(
            anchor(net, (height, width)), options, providers=["CPUExecutionProvider"]
        )
        feeds = {i.name: np.random.default_rng(0).random(i.shape, dtype=np.float32) for i in session.get_inputs()}
        runs[name] = (session, feeds)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(arguments.runs + 1):
        for name, (session, feeds) in runs.items():
            start = time.perf_counter()
            session.run(None, feeds)
            times[name].append(time.perf_counter() - start)
    own = float(np.median(next(iter(times.values()))[1:]))
    for name, all_times in times.items():
        seconds = all_times[1:]
        median = float(np.median(seconds))
        print(
            f"{name:28s} fastest {min(seconds) * 1e3:5.0f} ms ({1 / min(seconds):5.2f} fps), median {median * 1e3:5.0f} ms,"
            f" {median / own:5.2f} times as long"
        )


if __name__ == "__main__":
    main()
