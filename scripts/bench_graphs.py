"""Built-in models of now beside those of before, taking turns frame by frame in ONNX Runtime on the CPU: ratios of their speed.

    python scripts/bench_graphs.py BEFORE [AFTER] [--size 240x136] [--frames 48] [--threads 1]

BEFORE and AFTER are folders with BUNDLE/x2.onnx and x4.onnx, as vsflashsr/bundles is (what AFTER is if not given); those of a
commit are got with `git show COMMIT:vsflashsr/bundles/builtin/x2.onnx`. Above 1: AFTER is faster. By CPU time, so that other
programs count for little: ratio of the fastest frames, and of the medians. The picture moves by a pixel a frame. What the graph
that predicts chroma of a 4:2:0 clip takes beside it is a part of luma's.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

import vsflashsr

type Picture = npt.NDArray[np.float32]


class Graph:
    """A session with its memory, and what its frames took."""

    def __init__(self, path: Path, threads: int, height: int, width: int) -> None:
        import onnxruntime  # after vsflashsr, which keeps it from sending telemetry

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        shapes = {"state.luma": (height, width), "state.picture": (2 * height, 2 * width)}
        names = {given.name for given in self._session.get_inputs()}
        self._state = {name: np.zeros((1, 1, *shape), np.float32) for name, shape in shapes.items() if name in names}
        self.seconds: list[float] = []

    def __call__(self, frame: Picture) -> None:
        """One frame (planes, h, w)."""
        begin = time.process_time()
        _, *made = self._session.run(None, {"frames": frame[None], **self._state})
        self.seconds.append(time.process_time() - begin)
        self._state = dict(zip(self._state, made, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path, nargs="?", default=Path(vsflashsr.__file__).parent / "bundles")
    parser.add_argument("--size", default="240x136", help="WIDTHxHEIGHT, multiples of 8 (%(default)s)")
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    width, height = (int(side) for side in given.size.split("x"))
    noise = np.random.default_rng(0).random((height // 4 + 4, width // 4 + 4), np.float32)
    texture = np.kron(noise, np.ones((4, 4), np.float32))
    for path in sorted(given.before.glob("*/x[0-9].onnx")):
        name = path.relative_to(given.before)
        graphs = [Graph(folder / name, given.threads, height, width) for folder in (given.before, given.after)]
        scale = int(path.stem[1:])
        rows, columns = height * scale // 2, width * scale // 2
        chroma = given.after / name.with_name(f"{path.stem}-chroma.onnx")
        if chroma.exists():
            graphs.append(Graph(chroma, given.threads, rows, columns))
        for n in range(given.frames):
            frame = np.ascontiguousarray(texture[n % 8 : n % 8 + height, n % 8 : n % 8 + width])
            coloured = np.resize(frame, (3, rows, columns)) - np.float32(0.5)
            for graph in graphs if n % 2 else reversed(graphs):
                graph(coloured if graph in graphs[2:] else frame[None])
        before, after, *added = (graph.seconds[2:] for graph in graphs)
        ratio = [of(before) / of(after) for of in (min, statistics.median)]
        said = f", chroma {100 * min(added[0]) / min(after):.1f} % of it" if added else ""
        print(
            f"{name.as_posix()}: fastest {ratio[0]:.3f}, median {ratio[1]:.3f} ({1e3 * min(after):.0f} ms{said})",
            flush=True,
        )


if __name__ == "__main__":
    main()
