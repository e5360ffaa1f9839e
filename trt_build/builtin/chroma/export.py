"""A trained network as a bundle's graph, and the proof that it equals the torch model."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from vsflashsr.bundle import MANIFEST, write_manifest

from ..export import OPSET, TOLERANCE, chroma_name
from .network import ChromaConfig, ChromaNet


def load(checkpoint: Path) -> tuple[ChromaNet, dict[str, Any]]:
    """The averaged network of a run, folded, and the run's state."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    net = ChromaNet(ChromaConfig(**state["config"]["net"]))
    net.load_state_dict(state["average"])
    return net.fold(), state


def export_graph(net: ChromaNet, path: Path) -> None:
    """Write `net` as ONNX with dynamic height and width: `frames` (1, 3, h, w) → `out`, as `chroma.to_network` says."""
    with warnings.catch_warnings():
        # See ..export.export_graph.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net,
            (torch.rand(1, 3, 32, 32),),
            str(path),
            input_names=["frames"],
            output_names=["out"],
            dynamic_axes={name: {2: "h", 3: "w"} for name in ("frames", "out")},
            opset_version=OPSET,
            dynamo=False,
        )
    onnx.checker.check_model(onnx.load(path), full_check=True)


def check_graph(net: ChromaNet, path: Path, sizes: tuple[tuple[int, int], ...] = ((64, 96), (40, 48), (8, 8))) -> float:
    """Largest difference between ONNX Runtime and torch over pictures of these sizes; raises above TOLERANCE."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    worst = 0.0
    for height, width in sizes:
        picture = torch.from_numpy(rng.random((1, 3, height // 4 + 2, width // 4 + 2), dtype=np.float32) - 0.5)
        frames = torch.nn.functional.interpolate(picture, scale_factor=4.0, mode="bicubic")[
            ..., :height, :width
        ].contiguous()
        with torch.no_grad():
            wanted = net(frames).numpy()
        (got,) = session.run(None, {"frames": frames.numpy()})
        worst = max(worst, float(np.abs(got - wanted).max()))
    if not worst <= TOLERANCE:
        raise RuntimeError(f"ONNX differs from torch by {worst:.2g} in {path}; do not ship it")
    return worst


def add_to_bundle(net: ChromaNet, folder: Path, provenance: dict[str, Any]) -> float:
    """Write the graph into the bundle in `folder`, which has a graph of luma of that scale; what `check_graph` found."""
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    scale, name = str(net.config.scale), chroma_name(net.config.scale)
    if scale not in manifest["scales"]:
        raise ValueError(
            f"{folder} has the scales {', '.join(manifest['scales'])}, got chroma for {scale}; export its luma first"
        )
    export_graph(net, folder / name)
    worst = check_graph(net, folder / name)
    manifest["scales"][scale]["chroma"] = name
    manifest["provenance"][f"x{scale} chroma"] = provenance
    write_manifest(folder, {key: value for key, value in manifest.items() if key not in ("format", "files")})
    return worst
