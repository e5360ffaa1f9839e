"""Modules with the weights that a bundle's files hold, for ``backend="torch"``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from ....errors import FlashsrError
from ....runtimes.graph import TensorEntry
from .config import DiTConfig
from .pieces import LastPiece, MiddlePiece, PatchPiece, precision_of
from .precision import DTYPE_NAMES

type Types = Sequence[tuple[str, torch.dtype]]

_TYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}


def piece_of(
    kind: Callable[[DiTConfig], PatchPiece | MiddlePiece | LastPiece],
    config: DiTConfig,
    path: Path,
    table: Sequence[TensorEntry],
    dtype: torch.dtype,
    device: torch.device | str,
) -> tuple[nn.Module, Types, Types]:
    """A piece of the DiT with one layer's weights; its inputs and its outputs, (name, dtype) in order.

    Args:
        kind: `PatchPiece`, `MiddlePiece` and so on.
        config: the model's sizes.
        path: the layer's weight file.
        table: what lies where in it.
        dtype: of the matrix products.
        device: as torch calls it.

    Raises:
        FlashsrError: the file is too short.
    """
    with torch.device("meta"):
        module = kind(config)
    raw = torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)
    weights: dict[str, Tensor] = {}
    for entry in table:
        part = raw[entry.offset_bytes : entry.offset_bytes + entry.length_bytes]
        if part.numel() != entry.length_bytes:
            raise FlashsrError(f"the weights {str(path)!r} are too short, got {raw.numel()} bytes; export the bundle again")
        weights[entry.name] = part.view(_TYPES[entry.dtype]).reshape(entry.shape).to(device)
    assert all(weights[name].dtype == precision_of(name, dtype) for name in weights)
    module.load_state_dict(weights, assign=True)
    types = {"patches": torch.float32, "x": torch.float32, "x_out": torch.float32, "latents": torch.float32}
    return (
        module,
        [(name, types.get(name, dtype)) for name in module.inputs],
        [(name, types.get(name, dtype)) for name in module.outputs],
    )


def with_weights(module: nn.Module, graph: Path, dtype: torch.dtype) -> nn.Module:
    """A module with the weights of an exported graph: they have the names they have in the module.

    Raises:
        FlashsrError: one isn't there.
    """
    model = onnx.load(graph, load_external_data=True)
    found = {tensor.name: _tensor(tensor) for tensor in model.graph.initializer}
    names = [name for name, _ in module.named_parameters()]
    if missing := [name for name in names if name not in found]:
        raise FlashsrError(f"the graph {str(graph)!r} has no weight {missing[0]!r}; export the bundle again")
    module = module.to(dtype)
    module.load_state_dict({name: found[name].to(dtype) for name in names}, assign=True)
    return module


def _tensor(tensor: onnx.TensorProto) -> Tensor:
    """Through the raw bytes: NumPy has no bfloat16."""
    kinds: Mapping[int, torch.dtype] = {
        onnx.TensorProto.FLOAT: torch.float32,
        onnx.TensorProto.FLOAT16: torch.float16,
        onnx.TensorProto.BFLOAT16: torch.bfloat16,
    }
    return torch.frombuffer(bytearray(tensor.raw_data), dtype=kinds[tensor.data_type]).reshape(tuple(tensor.dims))
