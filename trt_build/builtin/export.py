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

from trt_build.builtin.motion import LEVELS
from trt_build.builtin.network import Net, NetConfig
from vsflashsr.bundle import MANIFEST, write_manifest

OPSET = 17
TOLERANCE = 1e-4
"""Largest difference allowed between ONNX Runtime and torch, of 1."""


def load(checkpoint: Path) -> tuple[Net, dict[str, Any]]:
    """The averaged network of a run, folded, and the run's state."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    net = Net(NetConfig(**state["config"]["net"]))
    net.load_state_dict(state["average"])
    return net.fold(), state


def export_graph(net: Net, path: Path) -> None:
    """Write one step of `net` as ONNX with dynamic height and width."""
    size = 4 * LEVELS[0]
    frame = torch.rand(1, 1, size, size)
    names = ("luma", "hidden")
    inputs = ["frames", *(f"state.{n}" for n in names)]
    outputs = ["out", *(f"next.{n}" for n in names)]
    s = net.config.scale
    # Distinct symbols for the two sizes: one name is one number in every shape of the graph.
    axes = {name: {2: "h", 3: "w"} for name in [*inputs, *outputs[1:]]} | {"out": {2: f"{s}*h", 3: f"{s}*w"}}
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
            got, *feeds = session.run(None, {"frames": frame.numpy(), "state.luma": feeds[0], "state.hidden": feeds[1]})
            worst = max(worst, float(np.abs(got - out.numpy()).max()))
    if not worst <= TOLERANCE:
        raise RuntimeError(f"ONNX differs from torch by {worst:.2g} in {path}; do not ship it")
    return worst


def write_bundle(folder: Path, name: str, provenance: dict[str, Any]) -> None:
    """`bundle.json` for the graphs x2.onnx and x4.onnx that lie in `folder`, from what the graphs themselves say.

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
        shapes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in onnx.load(path).graph.input}
        hidden = shapes["state.hidden"][1]
        scales[str(scale)] = {
            "step": path.name,
            "states": [
                {"name": "luma", "shape": [1, 1, "h", "w"], "dtype": "float32"},
                {"name": "hidden", "shape": [1, hidden, "h", "w"], "dtype": "float32"},
            ],
        }
    bundle = {
        "name": name,
        "kind": "recurrent",
        "channels": "luma",
        "precision": "fp32",
        "value_range": [0.0, 1.0],
        "size_multiple": LEVELS[0],
        "schedule": {"first_reads": 1, "first_emits": 1, "reads": 1, "emits": 1},
        # From the warm state at x4: at most 1 of 255 (95 dB) after 2 frames, 2 after none (scripts/measure_preroll.py).
        "preroll": 4,
        "max_segment": 120,
        "scales": scales,
        "color_fix": "none",
        "licence": "MIT (weights); see MODEL_CARD.md for the training data",
        "provenance": provenance,
    }
    write_manifest(folder, bundle)
