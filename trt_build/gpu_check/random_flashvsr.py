"""A FlashVSR of any size with random weights, made on the GPU: nothing is read, so the published size is there in seconds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import nn

from vsflashsr.models.flashvsr.calls import StepOf
from vsflashsr.models.flashvsr.network.config import FlashVSRConfig
from vsflashsr.models.flashvsr.network.projector import build_projector
from vsflashsr.models.flashvsr.network.tcdecoder import TCDecoder
from vsflashsr.models.flashvsr.options import Options
from vsflashsr.models.flashvsr.section import DecoderState, Section
from vsflashsr.models.wan.network.pieces import FirstPiece, LastPiece, MiddlePiece, to_precision
from vsflashsr.models.wan.network.precision import PRECISIONS
from vsflashsr.models.wan.section import Graph
from vsflashsr.runtimes.graph import DeviceGraph

type Types = Sequence[tuple[str, torch.dtype]]
type Load = Callable[[nn.Module, Types, Types], DeviceGraph]
"""(module, inputs, outputs) → the module as a graph on the device."""


def section_of(config: FlashVSRConfig) -> Section:
    """What a bundle of version 1.1, variant tiny, would say."""
    nothing = Graph("", (), (), ())
    assert config.tc_channels is not None
    a, b, c, _ = config.tc_channels
    return Section(
        version="v1.1",
        variant="tiny",
        layers=config.layers,
        heads=config.heads,
        head_dim=config.head_dim,
        projector_hidden=config.lq_hidden[0],
        first=nothing,
        middle=nothing,
        last=nothing,
        attention="",
        projector="",
        decoder="",
        decoder_first=None,
        decoder_states=tuple(DecoderState(1, width, 1 << (n // 3)) for n, width in enumerate([a] * 3 + [b] * 3 + [c] * 3)),
        config=dataclasses.asdict(config),
        options=Options(),
    )


def random_graphs(config: FlashVSRConfig, dtype_name: str, device: str, load: Load) -> StepOf[DeviceGraph]:
    """All graphs of a step; the same weights on every call with the same sizes and device."""
    dtype = PRECISIONS[dtype_name]
    # On the meta device there is nothing to draw.
    generator = None if device == "meta" else torch.Generator(device).manual_seed(1)

    def made(build: Callable[[], nn.Module]) -> nn.Module:
        with torch.device("meta"):
            module = build()
        module = module.to_empty(device=device)
        for name, parameter in module.named_parameters():
            _fill(name, parameter.data, generator)
        return module.eval()

    def piece(kind: type[FirstPiece] | type[MiddlePiece] | type[LastPiece], count: int) -> tuple[DeviceGraph, ...]:
        single = ("patches", "x", "x_out", "latents")
        types = [
            [(name, torch.float32 if name in single else dtype) for name in names]
            for names in (kind.inputs, kind.outputs)
        ]
        return tuple(load(made(lambda: to_precision(kind(config), dtype)), *types) for _ in range(count))

    pieces = piece(FirstPiece, 1), piece(MiddlePiece, config.layers - 1), piece(LastPiece, 1)
    projector = load(
        made(lambda: build_projector(config, "v1.1").to(dtype)),
        [("clip", torch.float32), ("ctx1", torch.float32), ("ctx2", dtype)],
        [("tokens", dtype), ("next2", dtype)],
    )
    states = range(9)
    decoder = load(
        made(lambda: TCDecoder(config).to(dtype)),
        [("latent", torch.float32), ("lq", torch.float32), *((f"state{n}", dtype) for n in states)],
        [("frames", torch.float32), *((f"next{n}", dtype) for n in states)],
    )
    return StepOf(
        first=pieces[0],
        middle=pieces[1],
        last=pieces[2],
        projector=projector,
        decoder=decoder,
        decoder_first=None,
    )


def _fill(name: str, values: torch.Tensor, generator: torch.Generator | None) -> None:
    """Weights that keep activations near 1: spread by fan-in, norms 1, biases 0."""
    leaf = name.rpartition(".")[2]
    if values.ndim >= 2:
        fan_in = values[0].numel()
        values.normal_(0, fan_in**-0.5, generator=generator)
    elif leaf in ("weight", "gamma"):
        values.fill_(1)
    elif "gate" in leaf:
        values.fill_(0.3)
    else:
        values.zero_()
