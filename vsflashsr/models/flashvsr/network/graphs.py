"""A bundle's graphs as torch modules on a CUDA device, for ``backend="torch"``: the same weights, from the bundle's files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ....bundle import Bundle
from ....runtimes.graph import DeviceGraph
from ....runtimes.torch import TorchGraph
from ...wan.network.config import DiTConfig
from ...wan.network.loading import Types, piece_of, with_weights
from ...wan.network.pieces import FirstPiece, LastPiece, MiddlePiece
from ...wan.network.precision import PRECISIONS
from ..section import Section
from . import fused_pieces, fused_projector
from .config import FlashVSRConfig
from .fused_decoder import FusedDecoder
from .place import CudaPlace, Place
from .projector import Projector, build_projector
from .tcdecoder import TCDecoder
from .wan_vae import WanVaeDecoder, cache_specs

if TYPE_CHECKING:
    from ....gpu.kernels.library import KernelLibrary


def graph_on(
    place: Place, module: nn.Module, inputs: Types, outputs: Types, *, pool: torch.cuda.MemPool | None = None
) -> DeviceGraph:
    """A module as a graph: between kernels of ours where there are some for it, else by torch alone, which may take `pool`."""
    if isinstance(module, FirstPiece | MiddlePiece | LastPiece) and fused_pieces.fits(module):
        return fused_pieces.FusedPiece(module, inputs, outputs, place)
    if isinstance(module, Projector) and fused_projector.fits(module):
        return fused_projector.FusedProjector(module, inputs, outputs, place)
    if isinstance(module, TCDecoder):
        return FusedDecoder(module, inputs, outputs, place)
    return TorchGraph(module, inputs, outputs, str(place.device), pool=pool)


def torch_graph(
    bundle: Bundle, section: Section, part: str, layer: int, device: str, library: KernelLibrary
) -> DeviceGraph:
    """One graph of a step, loaded on `device`, such as "cuda:0", whose kernels are in `library`."""
    return load_graph(bundle, section, part, layer, CudaPlace(library, device))


def load_graph(bundle: Bundle, section: Section, part: str, layer: int, place: Place) -> DeviceGraph:
    """One graph of a step.

    Args:
        bundle, section: what lies where.
        part: a field of `calls.StepOf`.
        layer: of a piece, counted among those of its kind.
        place: where it runs.

    Raises:
        FlashsrError: a weight file doesn't fit the manifest.
    """
    config, dtype = _config(section), PRECISIONS[bundle.precision]
    match part:
        case "projector":
            return _projector(config, bundle, section, dtype, place)
        case "decoder":
            return _whole_decoder(config, bundle, section, dtype, place)
        case "decoder_first":
            return _first_decoder(config, bundle, section, dtype, place)
    kinds: Mapping[str, Callable[[DiTConfig], FirstPiece | MiddlePiece | LastPiece]] = {
        "first": FirstPiece, "middle": MiddlePiece, "last": LastPiece
    }  # fmt: skip
    graph = {"first": section.first, "middle": section.middle, "last": section.last}[part]
    return graph_on(place, *piece_of(kinds[part], config, bundle.path(graph.weights[layer]), graph.tensors, dtype, place.device))


def _projector(
    config: FlashVSRConfig, bundle: Bundle, section: Section, dtype: torch.dtype, place: Place
) -> DeviceGraph:
    with torch.device("meta"):
        module = build_projector(config, section.version)
    context = [] if section.version == "v1" else [("ctx1", torch.float32), ("ctx2", dtype)]
    return graph_on(
        place,
        with_weights(module, bundle.path(section.projector), dtype),
        [("clip", torch.float32), *context],
        [("tokens", dtype), *([("next2", dtype)] if context else [])],
    )


def _whole_decoder(
    config: FlashVSRConfig, bundle: Bundle, section: Section, dtype: torch.dtype, place: Place
) -> DeviceGraph:
    with torch.device("meta"):
        module: nn.Module = TCDecoder(config) if section.variant == "tiny" else WanVaeDecoder(config)
    states = [f"{n}" for n in range(len(section.decoder_states))]
    condition = [("lq", torch.float32)] if section.variant == "tiny" else []
    return _decoder(module, bundle.path(section.decoder), states, condition, dtype, place)


def _first_decoder(
    config: FlashVSRConfig, bundle: Bundle, section: Section, dtype: torch.dtype, place: Place
) -> DeviceGraph:
    with torch.device("meta"):
        module = WanVaeDecoder(config, first=True)
    names = [name for name, _, _ in cache_specs(config, first=False)]
    own = [str(names.index(name)) for name, _, _ in cache_specs(config, first=True)]
    # The other graph has all the weights, this one leaves those of the time convolutions out.
    return _decoder(module, bundle.path(section.decoder), own, [], dtype, place)


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
    place: Place,
) -> DeviceGraph:
    return graph_on(
        place,
        with_weights(module, graph, dtype),
        [("latent", torch.float32), *condition, *((f"state{n}", dtype) for n in states)],
        [("frames", torch.float32), *((f"next{n}", dtype) for n in states)],
    )
