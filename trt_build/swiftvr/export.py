"""From a SwiftVR checkpoint to a bundle of kind ``swiftvr``: weights streamed to disk, graphs beside them, all or nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vsflashsr.models.swiftvr.network.attention import WindowedAttention
from vsflashsr.models.swiftvr.network.config import SwiftVRConfig
from vsflashsr.models.swiftvr.network.reae import (
    PIXELS_PER_LATENT,
    Decoder,
    Encoder,
    decoder_weights,
    encoder_weights,
    memory_sizes,
)
from vsflashsr.models.swiftvr.network.upscale import Upscale
from vsflashsr.models.swiftvr.options import Options
from vsflashsr.models.swiftvr.section import Memory, Section
from vsflashsr.models.swiftvr.step import FRAMES_PER_LATENT
from vsflashsr.models.wan.network.pieces import LastPiece, MiddlePiece, PatchPiece
from vsflashsr.models.wan.network.precision import PRECISIONS

from ..bundle_folder import Progress, converted, silent, write_bundle
from ..graphs import bound, traced, weights_as_inputs, write_graph, write_weights
from ..pieces import pieces_of, write_piece
from .checkpoint import Checkpoint, constants

SCALES = (1, 2, 3, 4)
_ATTENTION_OPSET, _ATTENTION_IR = 23, 11
"""The first with attention in one node."""
_ROWS, _COLS = 4, 6
"""Pixels of the latent that the autoencoder is traced with; any size does, unequal so that no axis passes for another."""
_TOKENS, _WINDOWS, _LENGTH = 24, 3, 10
"""Sizes that the attention is traced with."""


def export_bundle(
    checkpoint: Checkpoint,
    out: Path,
    *,
    precision: str,
    options: Options | None = None,
    name: str | None = None,
    progress: Progress = silent,
) -> None:
    """Writes the bundle to the folder `out`, which must not exist: complete, or not at all.

    The same checkpoint and arguments give the same bytes. One layer is in memory at a time.

    Raises:
        FlashsrError: `out` exists, the disk is full, or a weight doesn't fit the precision.
    """

    def write(folder: Path) -> dict[str, Any]:
        return _manifest(write_section(checkpoint, folder, PRECISIONS[precision], options or Options(), progress))

    write_bundle(
        out,
        size_bytes=export_bytes(checkpoint.config, precision),
        name=name,
        precision=precision,
        files=checkpoint.files,
        progress=progress,
        write=write,
    )


def export_bytes(config: SwiftVRConfig, precision: str) -> int:
    """About what a bundle takes on disk."""
    with torch.device("meta"):
        counted = (
            (PatchPiece(config.dit), 1),
            (MiddlePiece(config.dit), config.dit.layers - 1),
            (LastPiece(config.dit), 1),
            (Encoder(config), 1),
            (Decoder(config), 1),
        )
    total = sum(sum(p.numel() for p in module.parameters()) * count for module, count in counted)
    return PRECISIONS[precision].itemsize * total


def write_section(
    checkpoint: Checkpoint, folder: Path, dtype: torch.dtype, options: Options, progress: Progress = silent
) -> Section:
    """Writes every graph and weight file into `folder`, and returns what the manifest says about them."""
    config = checkpoint.config
    dit = config.dit
    graphs = {
        piece.name: write_piece(piece, folder, dit, dtype, progress)
        for piece in pieces_of(dit, checkpoint.dit, constants(checkpoint), PatchPiece)
    }
    write_graph(attention_graph(dit.heads, dit.dim, dtype), folder / "attention.onnx")
    write_graph(upscale_graph(), folder / "upscale.onnx")
    encoder, decoder = (
        tuple(Memory(channels, pixels) for channels, pixels in sizes) for sizes in memory_sizes(config)
    )
    with torch.device("meta"):
        parts = (("encoder", Encoder(config), encoder_weights, encoder), ("decoder", Decoder(config), decoder_weights, decoder))
    for name, module, weights_of, memories in parts:
        write_autoencoder(name, module, weights_of(checkpoint.reae), memories, config, folder, dtype)
        progress(name, (folder / f"{name}.weights").stat().st_size)
    return Section(
        layers=dit.layers,
        heads=dit.heads,
        head_dim=dit.head_dim,
        latent_channels=dit.latent_channels,
        window=config.window,
        attention="attention.onnx",
        upscale="upscale.onnx",
        encoder="encoder.onnx",
        decoder="decoder.onnx",
        encoder_memories=encoder,
        decoder_memories=decoder,
        config=dataclasses.asdict(config),
        options=options,
        **graphs,
    )


def write_autoencoder(
    name: str,
    module: Encoder | Decoder,
    weights: Mapping[str, Tensor],
    memories: tuple[Memory, ...],
    config: SwiftVRConfig,
    folder: Path,
    dtype: torch.dtype,
) -> None:
    """Writes `NAME.onnx` and `NAME.weights`. Pixels and latents are float32, memories have the precision of the weights."""
    module.to(dtype)
    order = [key for key, _ in module.named_parameters()]
    table = write_weights(((key, converted(key, weights[key], dtype)) for key in order), folder / f"{name}.weights")
    height, width = PIXELS_PER_LATENT * _ROWS, PIXELS_PER_LATENT * _COLS
    pixels = torch.zeros(FRAMES_PER_LATENT, 3, height, width)
    patches = torch.zeros(_ROWS * _COLS // 4, 4 * config.dit.latent_channels)
    given, made = ("frames", "patches") if name == "encoder" else ("patches", "frames")
    examples = {given: pixels if given == "frames" else patches}
    dynamic = {"frames": _axes(PIXELS_PER_LATENT), "patches": {0: "tokens"}}
    for n, memory in enumerate(memories):
        size = height // memory.pixels, width // memory.pixels
        examples[f"state{n}"] = torch.zeros(1, memory.channels, *size, dtype=dtype)
        dynamic[f"state{n}"] = dynamic[f"next{n}"] = _axes(PIXELS_PER_LATENT // memory.pixels)
    outputs = [made, *(f"next{n}" for n in range(len(memories)))]
    graph = weights_as_inputs(module, examples, outputs, dynamic)
    write_graph(bound(graph, table, f"{name}.weights"), folder / f"{name}.onnx")


def _axes(multiple: int) -> dict[int, str]:
    """The free rows and columns of a tensor with `multiple` of them for each of the latent's."""
    return {2: f"rows_x{multiple}", 3: f"cols_x{multiple}"}


class _OneNode(torch.autograd.Function):
    """Attention that becomes one node, which TensorRT has a kernel for in half precision. Takes (windows, tokens, dim)."""

    @staticmethod
    def forward(_ctx: Any, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        parts = [x.reshape(*x.shape[:2], heads, -1).transpose(1, 2) for x in (q, k, v)]
        return F.scaled_dot_product_attention(parts[0], parts[1], parts[2]).transpose(1, 2).reshape(q.shape)

    @staticmethod
    def symbolic(g: Any, q: Any, k: Any, v: Any, heads: int) -> Any:
        made = g.op("Attention", q, k, v, q_num_heads_i=heads, kv_num_heads_i=heads)
        made.setType(q.type())
        return made


class _HalfAttention(WindowedAttention):
    """`WindowedAttention` with its middle in one node."""

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, gather: Tensor, owner: Tensor
    ) -> Tensor:
        queries, keys = (self.rotated(x, cos, sin)[gather] for x in (q, k))
        attended: Tensor = _OneNode.apply(queries, keys, v[gather], self.heads)
        return attended.reshape(-1, v.shape[1])[owner]


def attention_graph(heads: int, dim: int, dtype: torch.dtype) -> onnx.ModelProto:
    """Windowed self-attention; see ``Section.attention``.

    In float32 products and softmax: TensorRT has no attention node there (tensorrt_rtx 1.7.1: "not supported by a dedicated
    kernel").
    """
    half = dtype != torch.float32
    examples = {name: torch.zeros(_TOKENS, dim, dtype=dtype) for name in "qkv"}
    examples |= {name: torch.zeros(_TOKENS, dim // heads // 2) for name in ("cos", "sin")}
    examples |= {
        "gather": torch.zeros(_WINDOWS, _LENGTH, dtype=torch.int64),
        "owner": torch.zeros(_TOKENS, dtype=torch.int64),
    }
    dynamic = {name: {0: "tokens"} for name in ("q", "k", "v", "cos", "sin", "owner", "out")}
    dynamic["gather"] = {0: "windows", 1: "length"}
    module: nn.Module = (_HalfAttention if half else WindowedAttention)(heads)
    model = traced(module, examples, ["out"], dynamic)
    if half:
        model.opset_import[0].version, model.ir_version = _ATTENTION_OPSET, _ATTENTION_IR
    return model


def upscale_graph() -> onnx.ModelProto:
    """See ``Section.upscale``."""
    tables = {name: torch.zeros(2, size, dtype=torch.int64) for name, size in (("rows", 5), ("cols", 7))}
    tables |= {name: torch.zeros(2, size) for name, size in (("row_weights", 5), ("col_weights", 7))}
    examples = {"frames": torch.zeros(FRAMES_PER_LATENT, 3, 2, 3), **tables}
    dynamic = {"frames": {2: "low_rows", 3: "low_cols"}, "upscaled": {2: "rows", 3: "cols"}}
    dynamic |= {name: {1: "rows" if name.startswith("row") else "cols"} for name in tables}
    return traced(Upscale(), {name: examples[name] for name in Upscale.inputs}, ["upscaled"], dynamic)


def _manifest(section: Section) -> dict[str, Any]:
    options = section.options
    return {
        "kind": "swiftvr",
        "schedule": dataclasses.asdict(options.schedule),
        "preroll": options.preroll,
        "max_segment": options.max_segment,
        "scales": {str(scale): {"step": section.encoder} for scale in SCALES},
        "licence": "Apache-2.0 (weights of SwiftVR and Wan 2.2)",
        "provenance": {"model": "SwiftVR"},
        "swiftvr": section.to_json(),
    }
