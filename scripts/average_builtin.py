"""The mean of several trainings of one network, as a bundle's graph: it is often better than any of them.

    python scripts/average_builtin.py --bundle FOLDER --name builtin SHARE*GRAPH_OR_RUN SHARE*GRAPH_OR_RUN ...

A part is a graph (.onnx) or a run's checkpoint (.pt), of which the averaged weights count; convolutions are multiplied out before
the mean is taken. The graph is compared with torch, and bundle.json says what it is made of. With --compact FILE the last part,
a run, is kept as a checkpoint that gives the new graph's answers and can be trained on.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
from pathlib import Path

from torch import Tensor

from trt_build.builtin import compact
from trt_build.builtin.export import check_graph, export_graph, load, write_bundle
from trt_build.builtin.graph import average, weights_of


def folded(path: Path) -> dict[str, Tensor]:
    """The folded weights of a graph or a run, by the names that graphs have."""
    if path.suffix == ".onnx":
        return weights_of(path)
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "run.onnx"
        export_graph(load(path)[0], graph)
        return weights_of(graph)


def main() -> None:
    """Average, write, check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", metavar="SHARE*PATH")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--name", default="builtin")
    parser.add_argument("--compact", type=Path)
    arguments = parser.parse_args()
    pairs = [part.split("*", 1) for part in arguments.parts]
    shares, paths = [float(share) for share, _ in pairs], [Path(path) for _, path in pairs]
    net = average([folded(path) for path in paths], shares)
    # Before anything is written: the new graph may take the place of a part.
    made_of = [
        {
            "share": share,
            "of": f"{path.parent.name}/{path.name}",
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest()[:12],
        }
        for share, path in zip(shares, paths, strict=True)
    ]
    arguments.bundle.mkdir(parents=True, exist_ok=True)
    graph = arguments.bundle / f"x{net.config.scale}.onnx"
    export_graph(net, graph)
    print(f"{graph} equals torch within {check_graph(net, graph):.1e}")
    about: dict[str, object] = {"average": made_of}
    if paths[-1].suffix == ".pt":
        about["config"] = load(paths[-1])[1]["config"]
    write_bundle(arguments.bundle, arguments.name, {f"x{net.config.scale}": about})
    if arguments.compact:
        compact.save(paths[-1], arguments.compact, graph)
        print(f"{arguments.compact}: {arguments.compact.stat().st_size} bytes")


if __name__ == "__main__":
    main()
