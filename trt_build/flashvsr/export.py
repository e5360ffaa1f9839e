"""From a checkpoint to a bundle of kind ``flashvsr``: weights streamed to disk, graphs beside them, all or nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vsflashsr.models.flashvsr.network.config import FlashVSRConfig
from vsflashsr.models.flashvsr.network.projector import build_projector
from vsflashsr.models.flashvsr.network.tcdecoder import TCDecoder
from vsflashsr.models.flashvsr.network.wan_vae import WanVaeDecoder
from vsflashsr.models.flashvsr.options import Options
from vsflashsr.models.flashvsr.section import Section
from vsflashsr.models.wan.network.dit import build_constants
from vsflashsr.models.wan.network.pieces import FirstPiece, LastPiece, MiddlePiece, WindowAttention
from vsflashsr.models.wan.network.precision import PRECISIONS

from ..bundle_folder import Progress, silent, write_bundle
from ..graphs import weights_as_inputs, write_graph
from ..pieces import pieces_of, write_piece
from .checkpoint import Checkpoint
from .export_parts import write_projector, write_tcdecoder, write_vae

SCHEDULE = {"first_reads": 25, "first_emits": 21, "reads": 8, "emits": 8}
MAX_SEGMENT = 480
PREROLL = 40
"""Fills the cache (21 + 8 + 8 frames) and, like MAX_SEGMENT, is a multiple of 8: a frame has the same noise and lies in the same
window whether it is reached by the segment's own run or by the next one's preroll."""


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

    The same checkpoint and arguments give the same bytes. One layer is in memory at a time; the most is the projector.

    Raises:
        FlashsrError: `out` exists, the disk is full, or a weight doesn't fit the precision.
    """

    def write(folder: Path) -> dict[str, Any]:
        section = write_section(checkpoint, folder, PRECISIONS[precision], options or Options(), progress)
        return _manifest(checkpoint, section)

    write_bundle(
        out,
        size_bytes=export_bytes(checkpoint.config, precision),
        name=name,
        precision=precision,
        files=checkpoint.files,
        progress=progress,
        write=write,
    )


def export_bytes(config: FlashVSRConfig, precision: str) -> int:
    """About what a bundle takes on disk."""
    width = PRECISIONS[precision].itemsize
    return width * sum(sum(p.numel() for p in module.parameters()) * count for module, count in _all_modules(config))


def _all_modules(config: FlashVSRConfig) -> Iterator[tuple[nn.Module, int]]:
    with torch.device("meta"):
        yield FirstPiece(config), 1
        yield MiddlePiece(config), config.layers - 1
        yield LastPiece(config), 1
        yield build_projector(config, "v1"), 1
        if config.tc_channels is not None:
            yield TCDecoder(config), 1
        if config.vae_dim is not None:
            yield WanVaeDecoder(config), 1


def _manifest(checkpoint: Checkpoint, section: Section) -> dict[str, Any]:
    return {
        "kind": "flashvsr",
        "schedule": SCHEDULE,
        "preroll": PREROLL,
        "max_segment": MAX_SEGMENT,
        "scales": {str(scale): {"step": section.projector} for scale in (2, 3, 4)},
        "color_fix": section.options.color_fix,
        "licence": "Apache-2.0 (weights of FlashVSR and Wan 2.1)",
        "provenance": {
            "version_claimed": checkpoint.version,
            "version_note": "v1 and v1.1 files can't be told apart; this is what the exporter was told",
        },
        "flashvsr": section.to_json(),
    }


def write_section(
    checkpoint: Checkpoint, folder: Path, dtype: torch.dtype, options: Options, progress: Progress = silent
) -> Section:
    """Writes every graph and weight file into `folder`, and returns what the manifest says about them."""
    config = checkpoint.config
    constants = build_constants(config, checkpoint.dit, checkpoint.prompt)
    graphs = {
        piece.name: write_piece(piece, folder, config, dtype, progress)
        for piece in pieces_of(config, checkpoint.dit, constants)
    }
    _write_attention(folder, config.head_dim)
    write_projector(config, checkpoint.projector, checkpoint.version, folder, dtype, progress)
    if checkpoint.tcdecoder is not None:
        states = write_tcdecoder(config, checkpoint.tcdecoder, folder, dtype, progress)
    else:
        assert checkpoint.vae is not None
        states = write_vae(config, checkpoint.vae, folder, dtype, progress)
    return Section(
        version=checkpoint.version,  # type: ignore[arg-type]  # checked when it was loaded
        variant=checkpoint.variant,  # type: ignore[arg-type]
        layers=config.layers,
        heads=config.heads,
        head_dim=config.head_dim,
        projector_hidden=config.lq_hidden[0],
        attention="attention.onnx",
        projector="projector.onnx",
        decoder="decoder.onnx",
        decoder_first=None if checkpoint.tcdecoder is not None else "decoder.first.onnx",
        decoder_states=states,
        config=dataclasses.asdict(config),
        options=options,
        **graphs,
    )


def _write_attention(folder: Path, head_dim: int) -> None:
    examples = {name: torch.zeros(rows, head_dim) for name, rows in (("q", 128), ("k", 256), ("v", 256))}
    dynamic = {"q": {}, "k": {0: "keys"}, "v": {0: "keys"}, "out": {}}
    write_graph(weights_as_inputs(WindowAttention(), examples, ["out"], dynamic), folder / "attention.onnx")
