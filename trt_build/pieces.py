"""The per-token pieces of a DiT as graphs, once with their weights as inputs and once bound to each layer's file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from torch import Tensor

from vsflashsr.models.wan.network.config import DiTConfig
from vsflashsr.models.wan.network.dit import Constants
from vsflashsr.models.wan.network.pieces import (
    FirstPiece,
    LastPiece,
    MiddlePiece,
    PatchPiece,
    Weights,
    first_weights,
    last_weights,
    middle_weights,
    patch_values,
    precision_of,
    to_precision,
)
from vsflashsr.models.wan.section import Graph
from vsflashsr.runtimes.graph import TensorEntry

from .bundle_folder import Progress, converted
from .graphs import bound, weights_as_inputs, write_graph, write_weights

_TOKENS = 24
"""Tokens of the example the graphs are traced with: any number does that is no other size in them."""


@dataclass(frozen=True)
class Piece:
    """One of the three per-token graphs and the weights it is bound to."""

    name: str
    module: PatchPiece | MiddlePiece | LastPiece
    layers: Sequence[Callable[[], Weights]]


def pieces_of(
    config: DiTConfig,
    tensors: Mapping[str, Tensor],
    constants: Constants,
    first: type[PatchPiece] = FirstPiece,
) -> list[Piece]:
    """The three pieces of a DiT, of which `first` is the kind of the first; weights are folded when a layer's turn comes."""

    def middle(layer: int) -> Callable[[], Weights]:
        return lambda: middle_weights(config, tensors, layer, constants)

    with torch.device("meta"):
        return [
            Piece("first", first(config), [lambda: first_weights(config, tensors, constants)]),
            Piece("middle", MiddlePiece(config), [middle(layer) for layer in range(config.layers - 1)]),
            Piece("last", LastPiece(config), [lambda: last_weights(config, tensors, constants)]),
        ]


def piece_graph(
    module: PatchPiece | MiddlePiece | LastPiece, config: DiTConfig, dtype: torch.dtype
) -> onnx.ModelProto:
    """The ONNX graph of a piece with its weights as inputs and a free number of tokens."""
    examples = {
        "patches": torch.zeros(_TOKENS, patch_values(config)),
        "lq": torch.zeros(_TOKENS, config.dim, dtype=dtype),
        "x": torch.zeros(_TOKENS, config.dim),
        "attended": torch.zeros(_TOKENS, config.dim, dtype=dtype),
    }
    used = {name: examples[name] for name in module.inputs}
    dynamic = {name: {0: "tokens"} for name in (*used, *module.outputs)}
    return weights_as_inputs(to_precision(module, dtype), used, module.outputs, dynamic)


def write_piece(piece: Piece, folder: Path, config: DiTConfig, dtype: torch.dtype, progress: Progress) -> Graph:
    """Writes a piece's graphs and weights: the graph once with weights as inputs, and once bound to each layer's file."""
    model = piece_graph(piece.module, config, dtype)
    shared = f"{piece.name}.onnx"
    write_graph(model, folder / shared)
    order = [name for name, _ in piece.module.named_parameters()]
    constant: list[str] = []
    files: list[str] = []
    table: list[TensorEntry] = []
    for layer, weights_of in enumerate(piece.layers):
        stem = piece.name if len(piece.layers) == 1 else f"{piece.name}.{layer:02}"
        weights = weights_of()
        ordered = ((name, converted(name, weights[name], precision_of(name, dtype))) for name in order)
        table = write_weights(ordered, folder / f"{stem}.weights")
        files.append(f"{stem}.weights")
        constant.append(f"{stem}.constant.onnx")
        write_graph(bound(model, table, files[-1]), folder / constant[-1])
        progress(stem, table[-1].offset_bytes + table[-1].length_bytes)
    return Graph(shared, tuple(constant), tuple(files), tuple(table))
