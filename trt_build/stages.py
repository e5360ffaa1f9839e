"""What one line of `python -m trt_build verify` is made of, and running a torch module either as it is or as a graph."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from vsflashsr.runtimes.onnxruntime import OnnxSession

from .graphs import traced, write_graph

type Array = npt.NDArray[Any]


@dataclass(frozen=True)
class StageResult:
    """How far one stage is from its fixture."""

    name: str
    """Fixture and, where it holds several, the part: `lq_proj v1.1`."""
    max_error: float
    """Largest absolute difference, in the units of the fixture."""
    tolerance: float
    """Largest difference that passes."""
    masks_identical: bool | None
    """Whether every kept block agrees; None where the stage has no masks."""
    note: str = ""
    """Anything a reader of the line should know, such as the number of steps."""

    @property
    def passed(self) -> bool:
        """A NaN never passes."""
        return self.max_error <= self.tolerance and self.masks_identical is not False


def compared(name: str, made: Array, wanted: Array, tolerance: float, note: str = "") -> StageResult:
    """A stage without masks."""
    error = float(np.abs(made - wanted).max()) if made.shape == wanted.shape else float("inf")
    return StageResult(name, error, tolerance, None, note)


@torch.inference_mode()
def run_module(
    module: nn.Module, feeds: Mapping[str, Array], outputs: Sequence[str], executor: str
) -> dict[str, Array]:
    """`module` on these inputs: in torch, or traced for them and run in ONNX Runtime ("onnxruntime")."""
    examples = {name: torch.from_numpy(np.array(array)) for name, array in feeds.items()}
    if executor == "torch":
        made = module(*examples.values())
        return {
            name: part.numpy() for name, part in zip(outputs, made if isinstance(made, tuple) else (made,), strict=True)
        }
    with tempfile.TemporaryDirectory(prefix="vsflashsr-verify-", ignore_cleanup_errors=True) as folder:
        path = Path(folder, "stage.onnx")
        # An input may be called like an output, and either by a number, which a graph forbids.
        named = [f"out.{name}" for name in outputs]
        write_graph(traced(module, {f"in.{name}": x for name, x in examples.items()}, named, {}), path)
        session = OnnxSession(path, threads=1)
        # What the module doesn't use is no input of the graph.
        given = {f"in.{n}": array for n, array in feeds.items() if f"in.{n}" in session.inputs}
        made = session.run(given, named)
        return {name: made[out].numpy() for name, out in zip(outputs, named, strict=True)}
