"""From a RealViformer checkpoint to a bundle of kind ``recurrent``: one graph that holds its weights, all or nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import torch

from vsflashsr.errors import FlashsrError
from vsflashsr.models.wan.network.precision import PRECISIONS

from ..bundle_folder import Progress, converted, silent, write_bundle
from ..graphs import traced, write_graph
from .checkpoint import Checkpoint, aligned
from .network import SCALE, RealViformer, to_precision

MAX_SEGMENT = 96
"""The released tool runs 100 frames at most, each time from nothing, after training on 15: nobody has seen longer runs of it."""
PREROLL = 8
"""Not measured: random weights don't forget (frame 0 moves frame 3 by 0.09), and trained ones could not be had. Other ports begin
with 4; `scripts/measure_preroll.py CLIP --model BUNDLE --scale 4` tells."""
GRAPH = "x4.onnx"
_ROWS, _COLS = 8, 12
"""The example the graph is traced with: any size does, unequal so that no axis passes for another."""


def export_bundle(
    checkpoint: Checkpoint,
    out: Path,
    *,
    precision: str,
    name: str | None = None,
    progress: Progress = silent,
) -> None:
    """Writes the bundle to the folder `out`, which must not exist: complete, or not at all. The same checkpoint, the same bytes.

    Raises:
        FlashsrError: `out` exists, the disk is full, or a weight doesn't fit the precision.
    """
    if precision == "bf16":
        raise FlashsrError(
            "RealViformer can't be exported as bf16, got precision='bf16'; use fp16 or fp32: its norms divide by how much "
            "channels differ, and its state would lose what it remembers"
        )

    def write(folder: Path) -> dict[str, Any]:
        progress("tracing", 0)
        write_graph(step_graph(checkpoint, precision), folder / GRAPH)
        progress(GRAPH, (folder / GRAPH).stat().st_size)
        return _manifest(checkpoint)

    write_bundle(
        out,
        size_bytes=export_bytes(checkpoint, precision),
        name=name,
        precision=precision,
        files={"weights": checkpoint.path},
        progress=progress,
        write=write,
    )


def export_bytes(checkpoint: Checkpoint, precision: str) -> int:
    """About what the bundle takes on disk."""
    return PRECISIONS[precision].itemsize * sum(tensor.numel() for tensor in checkpoint.tensors.values())


def step_graph(checkpoint: Checkpoint, precision: str) -> onnx.ModelProto:
    """One step: frames, state.feat, state.prev → out, next.feat, next.prev. Border tensors are float32."""
    tensors = aligned(checkpoint.tensors)
    network = RealViformer({key: tuple(tensor.shape) for key, tensor in tensors.items()})
    to_precision(network, PRECISIONS[precision])
    wanted = {key: tensor.dtype for key, tensor in network.state_dict().items()}
    network.load_state_dict({key: converted(key, tensor, wanted[key]) for key, tensor in tensors.items()})
    network.eval().requires_grad_(False)
    features = checkpoint.shapes["compress.weight"][0]
    examples = {
        "frames": torch.zeros(1, 3, _ROWS, _COLS),
        "state.feat": torch.zeros(1, features, _ROWS, _COLS),
        "state.prev": torch.zeros(1, 3, _ROWS, _COLS),
    }
    small = {2: "h", 3: "w"}
    dynamic = dict.fromkeys((*examples, "next.feat", "next.prev"), small)
    dynamic["out"] = {2: f"{SCALE}*h", 3: f"{SCALE}*w"}
    return traced(network, examples, ("out", "next.feat", "next.prev"), dynamic)


def _manifest(checkpoint: Checkpoint) -> dict[str, Any]:
    features = checkpoint.shapes["compress.weight"][0]
    return {
        "kind": "recurrent",
        "size_multiple": 4,
        "schedule": {"first_reads": 1, "first_emits": 1, "reads": 1, "emits": 1},
        "preroll": PREROLL,
        "max_segment": MAX_SEGMENT,
        "scales": {
            str(SCALE): {
                "step": GRAPH,
                "states": [
                    {"name": "feat", "shape": [1, features, "h", "w"], "dtype": "float32"},
                    {"name": "prev", "shape": [1, 3, "h", "w"], "dtype": "float32"},
                ],
            }
        },
        "licence": "MIT (code of RealViformer); its author states no licence for the weights",
        "provenance": {"model": "RealViformer"},
    }
