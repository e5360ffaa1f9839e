"""A bundle's graphs as torch modules on a CUDA device, for ``backend="torch"``: the same weights, from the bundle's files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ....bundle import Bundle
from ....runtimes.torch import TorchGraph
from ...wan.network.config import DiTConfig
from ...wan.network.loading import piece_graph, with_weights
from ...wan.network.pieces import FirstPiece, LastPiece, MiddlePiece
from ...wan.network.precision import PRECISIONS
from ..section import Section
from .config import FlashVSRConfig
from .projector import build_projector
from .tcdecoder import TCDecoder
from .wan_vae import WanVaeDecoder, cache_specs


def torch_graph(bundle: Bundle, section: Section, part: str, layer: int, device: str) -> TorchGraph:
    """One graph of a step, loaded on `device`, such as "cuda:0".

    Args:
        bundle, section: what lies where.
        part: a field of `calls.StepOf`.
        layer: of a piece, counted among those of its kind.
        device: as torch calls it.

    Raises:
        FlashsrError: a weight file doesn't fit the manifest.
    """
    config, dtype = _config(section), PRECISIONS[bundle.precision]
    match part:
        case "projector":
            return _projector(config, bundle, section, dtype, device)
        case "decoder":
            return _whole_decoder(config, bundle, section, dtype, device)
        case "decoder_first":
            return _first_decoder(config, bundle, section, dtype, device)
    kinds: Mapping[str, Callable[[DiTConfig], FirstPiece | MiddlePiece | LastPiece]] = {
        "first": FirstPiece, "middle": MiddlePiece, "last": LastPiece
    }  # fmt: skip
    graph = {"first": section.first, "middle": section.middle, "last": section.last}[part]
    return piece_graph(kinds[part], config, bundle.path(graph.weights[layer]), graph.tensors, dtype, device)


def _projector(
    config: FlashVSRConfig, bundle: Bundle, section: Section, dtype: torch.dtype, device: str
) -> TorchGraph:
    with torch.device("meta"):
        module = build_projector(config, section.version)
    context = [] if section.version == "v1" else [("ctx1", torch.float32), ("ctx2", dtype)]
    return TorchGraph(
        with_weights(module, bundle.path(section.projector), dtype),
        [("clip", torch.float32), *context],
        [("tokens", dtype), *([("next2", dtype)] if context else [])],
        device,
    )


def _whole_decoder(
    config: FlashVSRConfig, bundle: Bundle, section: Section, dtype: torch.dtype, device: str
) -> TorchGraph:
    with torch.device("meta"):
        module: nn.Module = TCDecoder(config) if section.variant == "tiny" else WanVaeDecoder(config)
    states = [f"{n}" for n in range(len(section.decoder_states))]
    condition = [("lq", torch.float32)] if section.variant == "tiny" else []
    return _decoder(module, bundle.path(section.decoder), states, condition, dtype, device)


def _first_decoder(
    config: FlashVSRConfig, bundle: Bundle, section: Section, dtype: torch.dtype, device: str
) -> TorchGraph:
    with torch.device("meta"):
        module = WanVaeDecoder(config, first=True)
    names = [name for name, _, _ in cache_specs(config, first=False)]
    own = [str(names.index(name)) for name, _, _ in cache_specs(config, first=True)]
    # The other graph has all the weights, this one leaves those of the time convolutions out.
    return _decoder(module, bundle.path(section.decoder), own, [], dtype, device)


def _config(section: Section) -> FlashVSRConfig:
    """The sizes as the exporter wrote them; JSON has lists for tuples."""
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in section.config.items()}
    return FlashVSRConfig(**values)


def _decoder(
    module: nn.Module,
    graph: Path,
    states: Sequence[str],
    condition: Sequence[tuple[str, torch.dtype]],
    dtype: torch.dtype,
    device: str,
) -> TorchGraph:
    return TorchGraph(
        with_weights(module, graph, dtype),
        [("latent", torch.float32), *condition, *((f"state{n}", dtype) for n in states)],
        [("frames", torch.float32), *((f"next{n}", dtype) for n in states)],
        device,
    )
