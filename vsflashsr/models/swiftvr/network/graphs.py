"""A bundle's graphs as torch modules on a CUDA device, for ``backend="torch"``: the same weights, from the bundle's files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from ....bundle import Bundle
from ....runtimes.torch import TorchGraph
from ...wan.network.config import DiTConfig
from ...wan.network.loading import piece_of, with_weights
from ...wan.network.pieces import LastPiece, MiddlePiece, PatchPiece
from ...wan.network.precision import PRECISIONS
from ..section import Section
from .attention import WindowedAttention
from .config import MEMORIES, SwiftVRConfig
from .reae import Decoder, Encoder
from .upscale import Upscale

_KINDS: Mapping[str, Callable[[DiTConfig], PatchPiece | MiddlePiece | LastPiece]] = {
    "first": PatchPiece,
    "middle": MiddlePiece,
    "last": LastPiece,
}


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
    config, dtype = config_of(section), PRECISIONS[bundle.precision]
    single, whole = torch.float32, torch.int64
    match part:
        case "upscale":
            types = {"rows": whole, "cols": whole}
            given = [(name, types.get(name, single)) for name in Upscale.inputs]
            return TorchGraph(Upscale(), given, [("upscaled", single)], device)
        case "attention":
            types = {"cos": single, "sin": single, "gather": whole, "owner": whole}
            given = [(name, types.get(name, dtype)) for name in WindowedAttention.inputs]
            return TorchGraph(WindowedAttention(section.heads), given, [("out", dtype)], device)
        case "encoder" | "decoder":
            with torch.device("meta"):
                bare = Encoder(config) if part == "encoder" else Decoder(config)
            module = with_weights(bare, bundle.path(section.encoder if part == "encoder" else section.decoder), dtype)
            pixels, patches = ("frames", single), ("patches", single)
            own, made = (pixels, patches) if part == "encoder" else (patches, pixels)
            states, after = ([(f"{name}{n}", dtype) for n in range(MEMORIES)] for name in ("state", "next"))
            return TorchGraph(module, [own, *states], [made, *after], device)
    graph = {"first": section.first, "middle": section.middle, "last": section.last}[part]
    piece = piece_of(_KINDS[part], config.dit, bundle.path(graph.weights[layer]), graph.tensors, dtype, device)
    return TorchGraph(*piece, device)


def config_of(section: Section) -> SwiftVRConfig:
    """The sizes as the exporter wrote them; JSON has lists for tuples."""

    def read(values: Mapping[str, Any]) -> dict[str, Any]:
        return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}

    values = read(section.config)
    return SwiftVRConfig(**{**values, "dit": DiTConfig(**read(values["dit"]))})
