"""What is asked for, and what makes two engines the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from ...onnx_file import read_onnx

BUILDER = 1
"""Goes up with every change of ``build`` that makes other engines from the same request."""

type ModuleName = Literal["tensorrt", "tensorrt_rtx"]
MODULES: tuple[ModuleName, ...] = get_args(ModuleName.__value__)
type Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ShapeRange:
    """What shapes an input of an engine may have."""

    min: Shape
    opt: Shape
    """The one it is fastest at."""
    max: Shape

    @classmethod
    def fixed(cls, shape: Sequence[int]) -> ShapeRange:
        """One shape only."""
        return cls(tuple(shape), tuple(shape), tuple(shape))


@dataclass(frozen=True, slots=True)
class Target:
    """What an engine is made by and for."""

    module: ModuleName
    version: str
    """The module's, in full."""
    capability: tuple[int, int]
    """Compute capability of the GPU."""
    gpu: str = ""
    """The GPU's name; empty where none is present and the engine is for any of that capability."""


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """An engine that is wanted."""

    graph: Path
    shapes: Mapping[str, ShapeRange]
    """For every input whose size the graph leaves free; for others it may be left out."""
    target: Target
    label: str
    """What messages and ``list`` call it. Not part of the key."""


@dataclass(frozen=True, slots=True)
class EngineKey:
    """All that an engine depends on. Its precision is in the graph, which is compiled as it is typed."""

    graph_sha256: str
    """Of the graph and its files of weights."""
    module: str
    version: str
    gpu: str
    """Empty for TensorRT-RTX: its engines run on every GPU of their capability, so one may be built where there is none."""
    capability: tuple[int, int]
    shapes: tuple[tuple[str, Shape, Shape, Shape], ...]
    """(input, min, opt, max), sorted."""
    precision: str = "strongly typed"
    builder: int = BUILDER

    def to_json(self) -> dict[str, Any]:
        """As it is kept with the engine; equal keys give equal objects."""
        as_lists: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return as_lists

    @property
    def digest(self) -> str:
        """A hexadecimal number that differs wherever a field does."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:32]


def key_of(request: EngineRequest) -> EngineKey:
    """The key of what is asked for. Files that were hashed in this process already are not read again.

    Raises:
        FlashsrError: the graph can't be read.
    """
    target = request.target
    return EngineKey(
        graph_sha256=read_onnx(request.graph).sha256(),
        module=target.module,
        version=target.version,
        gpu="" if target.module == "tensorrt_rtx" else target.gpu,
        capability=target.capability,
        shapes=tuple(sorted((name, r.min, r.opt, r.max) for name, r in request.shapes.items())),
    )
