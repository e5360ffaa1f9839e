"""Compiles ONNX graphs with TensorRT-RTX on a machine without a GPU: proof that an export parses and builds."""

from __future__ import annotations

import importlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Range = tuple[Sequence[int], Sequence[int], Sequence[int]]
"""Smallest, usual and largest shape of one input."""

TARGETS = ((8, 6), (8, 9), (12, 0))
"""Compute capabilities every graph has to compile for."""


class CompileError(RuntimeError):
    """The parser or the builder refused a graph; the message holds what it said."""


def compile_onnx(
    path: Path, cc: tuple[int, int], profile: Mapping[str, Range] | None = None
) -> tuple[memoryview[int], float]:
    """Parses `path` (strongly typed) and builds a plan for compute capability `cc`; returns (plan, seconds).

    `profile` gives the shapes of inputs with dynamic axes. Import `tensorrt_rtx` with `pytest.importorskip` first:
    where it isn't installed this raises ImportError. Raises `CompileError` where the graph is refused.
    """
    trt: Any = importlib.import_module("tensorrt_rtx")
    log = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(log)
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(path)):
        errors = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        raise CompileError(f"{path.name} doesn't parse: {'; '.join(errors)}")
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    if not config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{cc[0]}{cc[1]}"), 0):
        raise CompileError(f"TensorRT-RTX has no target for compute capability {cc[0]}.{cc[1]}")
    if profile:
        shapes = builder.create_optimization_profile()
        for name, (low, usual, high) in profile.items():
            shapes.set_shape(name, tuple(low), tuple(usual), tuple(high))
        config.add_optimization_profile(shapes)
    start = time.perf_counter()
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise CompileError(f"{path.name} doesn't build for {cc[0]}.{cc[1]}; its log is on stderr")
    return memoryview(plan), time.perf_counter() - start
