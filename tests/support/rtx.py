"""Compiles ONNX graphs with TensorRT-RTX on a machine without a GPU: proof that an export parses and builds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

Range = tuple[Sequence[int], Sequence[int], Sequence[int]]
"""Smallest, usual and largest shape of one input."""

TARGETS = ((8, 6), (8, 9), (12, 0))
"""Compute capabilities every graph has to compile for."""


def compile_onnx(
    path: Path, cc: tuple[int, int], profile: Mapping[str, Range] | None = None
) -> tuple[memoryview[int], float]:
    """Builds an engine for compute capability `cc` as users' are built; returns (plan, seconds).

    `profile` gives the shapes of inputs with dynamic axes. Import `tensorrt_rtx` with `pytest.importorskip` first.

    Raises:
        FlashsrError: TensorRT-RTX is missing or refuses the graph; the message holds what it said.
    """
    from vsflashsr.runtimes.engines.build import build_plan
    from vsflashsr.runtimes.engines.key import EngineRequest, ShapeRange
    from vsflashsr.runtimes.engines.modules import target_without_gpu

    shapes = {
        name: ShapeRange(tuple(low), tuple(usual), tuple(high)) for name, (low, usual, high) in (profile or {}).items()
    }
    plan = build_plan(EngineRequest(path, shapes, target_without_gpu("tensorrt_rtx", cc), path.name))
    return plan.data, plan.seconds
