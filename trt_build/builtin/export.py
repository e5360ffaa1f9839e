"""A trained network as a bundle: ONNX graphs, `bundle.json`, and the proof that they equal the torch model."""

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

from .motion import SIZE_MULTIPLE
from .network import Net, NetConfig

OPSET = 17
TOLERANCE = 1e-4
"""Largest difference allowed between ONNX Runtime and torch, of 1."""


def load(checkpoint: Path) -> tuple[Net, dict[str, Any]]:
    """The averaged network of a run, folded, and the run's state."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    net = Net(NetConfig(**state["config"]["net"]))
    net.load_state_dict(state["average"])
    return net.fold(), state


def _times(factor: int, axis: str) -> str:
    return axis if factor == 1 else f"{factor}*{axis}"


def export_graph(net: Net, path: Path) -> None:
    """Write one step of `net` as ONNX with dynamic height and width."""
    size = 4 * SIZE_MULTIPLE
    frame = torch.rand(1, 1, size, size)
    names = ("luma", "picture")
    inputs = ["frames", *(f"state.{n}" for n in names)]
    outputs = ["out", *(f"next.{n}" for n in names)]
    s = net.config.scale
    # Distinct symbols for the two sizes: one name is one number in every shape of the graph.
    times = {"out": s, "state.picture": 2, "next.picture": 2}
    axes = {
        name: {2: _times(times.get(name, 1), "h"), 3: _times(times.get(name, 1), "w")} for name in [*inputs, *outputs]
    }
    with warnings.catch_warnings():
        # The TorchScript exporter is deprecated, but gives the plainer graph of the two (no shape functions, opset 17).
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net,
            (frame, *net.first_state(frame)),
            str(path),
            input_names=inputs,
            output_names=outputs,
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
    onnx.checker.check_model(onnx.load(path), full_check=True)


def check_graph(net: Net, path: Path, sizes: tuple[tuple[int, int], ...] = ((64, 96), (40, 48), (8, 8))) -> float:
    """Largest difference between ONNX Runtime and torch over a few moving frames of each size; raises above TOLERANCE."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst = 0.0
    for height, width in sizes:
        rng = np.random.default_rng(0)
        picture = torch.from_numpy(rng.random((1, 1, height // 4 + 5, width // 4 + 5), dtype=np.float32))
        picture = torch.nn.functional.interpolate(picture, scale_factor=4.0, mode="bicubic")
        first = picture[:, :, :height, :width]
        state, feeds = net.first_state(first), [x.numpy() for x in net.first_state(first)]
        for n in range(4):
            frame = picture[:, :, n : n + height, 2 * n : 2 * n + width].contiguous()
            with torch.no_grad():
                out, *following = net(frame, *state)
            state = (following[0], following[1])
            got, *feeds = session.run(
                None, {"frames": frame.numpy(), "state.luma": feeds[0], "state.picture": feeds[1]}
            )
            worst = max(worst, float(np.abs(got - out.numpy()).max()))
    if not worst <= TOLERANCE:
        raise RuntimeError(f"ONNX differs from torch by {worst:.2g} in {path}; do not ship it")
    return worst


def chroma_name(scale: int) -> str:
    """The graph that predicts chroma at a scale, in a bundle (`chroma.export`)."""
    return f"x{scale}-chroma.onnx"


def write_bundle(folder: Path, name: str, provenance: dict[str, Any]) -> None:
    """`bundle.json` for the graphs x2.onnx and x4.onnx that lie in `folder`, and those of chroma beside them.

    `provenance` (by graph: "x2", "x4") is added to what an older bundle.json says.
    """
    manifest = folder / MANIFEST
    if manifest.exists():
        provenance = json.loads(manifest.read_text(encoding="utf-8"))["provenance"] | provenance
    scales: dict[str, Any] = {}
    for scale in (2, 4):
        path = folder / f"x{scale}.onnx"
        if not path.exists():
            continue
        scales[str(scale)] = {
            "step": path.name,
            "states": [
                {"name": "luma", "shape": [1, 1, "h", "w"], "dtype": "float32"},
                {"name": "picture", "shape": [1, 1, "2*h", "2*w"], "dtype": "float32"},
            ],
        }
        if (folder / chroma_name(scale)).exists():
            scales[str(scale)]["chroma"] = chroma_name(scale)
    bundle = {
        "name": name,
        "kind": "recurrent",
        "channels": "luma",
        "precision": "fp32",
        "value_range": [0.0, 1.0],
        "size_multiple": SIZE_MULTIPLE,
        "schedule": {"first_reads": 1, "first_emits": 1, "reads": 1, "emits": 1},
        # From the warm state at x2, at most: 5 of 255 after 8 frames, 2 after 10, 1 after 12, on a city that moves
        # (scripts/measure_preroll.py, 2026-11-25). With 180 frames between grid lines it is as much work as 8 were with 120.
        "preroll": 12,
        "max_segment": 180,
        "scales": scales,
        "color_fix": "none",
        "licence": "MIT (weights); see MODEL_CARD.md for the training data",
        "provenance": provenance,
    }
    write_manifest(folder, bundle)
