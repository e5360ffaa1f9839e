"""A bundle's graphs as torch modules on a CUDA device, for ``backend="torch"``: the same weights, from the bundle's files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx.external_data_helper
import torch
from torch import Tensor, nn

from ....bundle import Bundle
from ....errors import FlashsrError
from ....runtimes.graph import TensorEntry
from ....runtimes.torch import TorchGraph
from ..section import Section
from .config import FlashVSRConfig
from .pieces import FirstPiece, LastPiece, MiddlePiece, precision_of
from .precision import DTYPE_NAMES, PRECISIONS
from .projector import build_projector
from .tcdecoder import TCDecoder
from .wan_vae import WanVaeDecoder, cache_specs

_TYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}


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
    kinds: Mapping[str, Callable[[FlashVSRConfig], FirstPiece | MiddlePiece | LastPiece]] = {
        "first": FirstPiece, "middle": MiddlePiece, "last": LastPiece
    }  # fmt: skip
    graph = {"first": section.first, "middle": section.middle, "last": section.last}[part]
    return _piece(kinds[part], config, bundle.path(graph.weights[layer]), graph.tensors, dtype, device)


def _projector(
    config: FlashVSRConfig, bundle: Bundle, section: Section, dtype: torch.dtype, device: str
) -> TorchGraph:
    with torch.device("meta"):
        module = build_projector(config, section.version)
    context = [] if section.version == "v1" else [("ctx1", torch.float32), ("ctx2", dtype)]
    return TorchGraph(
        _loaded(module, bundle.path(section.projector), dtype),
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


def _piece(
    kind: Callable[[FlashVSRConfig], FirstPiece | MiddlePiece | LastPiece],
    config: FlashVSRConfig,
    path: Path,
    table: Sequence[TensorEntry],
    dtype: torch.dtype,
    device: str,
) -> TorchGraph:
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
    return TorchGraph(
        module,
        [(name, types.get(name, dtype)) for name in module.inputs],
        [(name, types.get(name, dtype)) for name in module.outputs],
        device,
    )


def _loaded(module: nn.Module, graph: Path, dtype: torch.dtype) -> nn.Module:
    """A module with the weights of an exported graph: they have the names they have in the module."""
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


def _decoder(
    module: nn.Module,
    graph: Path,
    states: Sequence[str],
    condition: Sequence[tuple[str, torch.dtype]],
    dtype: torch.dtype,
    device: str,
) -> TorchGraph:
    return TorchGraph(
        _loaded(module, graph, dtype),
        [("latent", torch.float32), *condition, *((f"state{n}", dtype) for n in states)],
        [("frames", torch.float32), *((f"next{n}", dtype) for n in states)],
        device,
    )
