"""The projector and the two decoders as ONNX graphs with constant weights in a file beside them.

Every border tensor of pixels or latents is float32; tokens, contexts and memories have the precision of the weights, and
norms are computed in float32 inside. Rows and columns are free, so one graph serves every resolution. Graphs in bf16 are
for TensorRT: ONNX Runtime has no bf16 convolution on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from vsflashsr.models.flashvsr.network.config import FRAMES_PER_LATENT, LATENT_PATCH, LQ_PATCH, FlashVSRConfig
from vsflashsr.models.flashvsr.network.layers import FrameConv
from vsflashsr.models.flashvsr.network.projector import build_projector
from vsflashsr.models.flashvsr.network.tcdecoder import MEMORY_BLOCKS, TCDecoder
from vsflashsr.models.flashvsr.network.wan_vae import WanVaeDecoder, cache_specs
from vsflashsr.models.flashvsr.section import DecoderState

from ..bundle_folder import Progress, converted, silent
from ..graphs import bound, weights_as_inputs, write_graph, write_weights

_ROWS, _COLS = 4, 6
"""Tokens of the example the graphs are traced with; any size does, unequal so that no axis passes for another."""


def write_projector(
    config: FlashVSRConfig,
    weights: Mapping[str, Tensor],
    version: str,
    folder: Path,
    dtype: torch.dtype,
    progress: Progress = silent,
) -> None:
    """Writes `projector.onnx` and `projector.weights`.

    v1.1: clip (4, 3, H, W), ctx1 (2, 3, H, W), ctx2 (2, hidden, H/16, W/16) -> tokens (H/16 * W/16, dim), next2.
    v1: clip -> tokens. See `ProjectorV11.forward`.
    """
    with torch.device("meta"):
        module = build_projector(config, version).to(dtype)
    table = write_weights(_streamed(module, weights, dtype), folder / "projector.weights")
    progress("projector", table[-1].offset_bytes + table[-1].length_bytes)
    pixels, tokens = _axes(LQ_PATCH), _axes(1)
    size = (LQ_PATCH * _ROWS, LQ_PATCH * _COLS)
    examples = {
        "clip": torch.zeros(4, 3, *size),
        "ctx1": torch.zeros(2, 3, *size),
        "ctx2": torch.zeros(2, config.lq_hidden[0], _ROWS, _COLS, dtype=dtype),
    }
    dynamic = {"clip": pixels, "ctx1": pixels, "ctx2": tokens, "tokens": {0: "tokens"}, "next2": tokens}
    inputs, outputs = (("clip",), ("tokens",)) if version == "v1" else (tuple(examples), ("tokens", "next2"))
    graph = weights_as_inputs(module, {name: examples[name] for name in inputs}, outputs, dynamic)
    write_graph(bound(graph, table, "projector.weights"), folder / "projector.onnx")


def write_tcdecoder(
    config: FlashVSRConfig,
    weights: Mapping[str, Tensor],
    folder: Path,
    dtype: torch.dtype,
    progress: Progress = silent,
) -> tuple[DecoderState, ...]:
    """Writes `decoder.onnx` and `decoder.weights`; returns the memories, which are zeros after a reset.

    latent (1, 16, H/8, W/8), lq (4, 3, H, W), state0..8 -> frames (4, 3, H, W), next0..8. See `TCDecoder.forward`.
    """
    with torch.device("meta"):
        module = TCDecoder(config).to(dtype)
    table = write_weights(_streamed(module, weights, dtype), folder / "decoder.weights")
    progress("decoder", table[-1].offset_bytes + table[-1].length_bytes)
    states = tuple(DecoderState(1, channels, 1 << (index // 3)) for index, channels in enumerate(module.channels))
    assert len(states) == len(MEMORY_BLOCKS)
    examples, dynamic = _decoder_example(config, states, dtype, range(len(states)), condition=True)
    graph = weights_as_inputs(module, examples, ["frames", *(f"next{n}" for n in range(len(states)))], dynamic)
    write_graph(bound(graph, table, "decoder.weights"), folder / "decoder.onnx")
    return states


def write_vae(
    config: FlashVSRConfig,
    weights: Mapping[str, Tensor],
    folder: Path,
    dtype: torch.dtype,
    progress: Progress = silent,
) -> tuple[DecoderState, ...]:
    """Writes `decoder.first.onnx`, `decoder.onnx` and the `decoder.weights` both read; returns the caches.

    latent (1, 16, H/8, W/8), state0.. -> frames (1, 3, H, W) for a segment's first latent and (4, 3, H, W) after it,
    next0... The first graph leaves out the caches of the time convolutions, which then are still zeros.
    """
    with torch.device("meta"):
        module = WanVaeDecoder(config).to(dtype)
    table = write_weights(_streamed(module, weights, dtype), folder / "decoder.weights")
    progress("decoder", table[-1].offset_bytes + table[-1].length_bytes)
    specs = cache_specs(config, first=False)
    states = tuple(DecoderState(2, channels, LATENT_PATCH // pixels) for _, channels, pixels in specs)
    names = [name for name, _, _ in specs]
    for first, stem in ((True, "decoder.first"), (False, "decoder")):
        own = [names.index(name) for name, _, _ in cache_specs(config, first=first)]
        module.first = first
        examples, dynamic = _decoder_example(config, states, dtype, own, condition=False)
        graph = weights_as_inputs(module, examples, ["frames", *(f"next{n}" for n in own)], dynamic)
        write_graph(bound(graph, table, "decoder.weights"), folder / f"{stem}.onnx")
    return states


def _streamed(module: nn.Module, weights: Mapping[str, Tensor], dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """The weights as the module holds them, one at a time: no more than one tensor is in memory."""
    layers = dict(module.named_modules())
    for name, _ in module.named_parameters():
        tensor = converted(name, weights[name], dtype)
        layer = layers[name.rpartition(".")[0]]
        yield name, layer.stored(tensor) if isinstance(layer, FrameConv) and tensor.ndim == 5 else tensor


def _axes(multiple: int) -> dict[int, str]:
    """The free rows and columns of a tensor with `multiple` of them for each of the tokens'."""
    return {2: f"rows_x{multiple}", 3: f"cols_x{multiple}"}


def _decoder_example(
    config: FlashVSRConfig,
    states: Sequence[DecoderState],
    dtype: torch.dtype,
    used: Sequence[int],
    *,
    condition: bool,
) -> tuple[dict[str, Tensor], dict[str, dict[int, str]]]:
    """Example inputs, and the free axes of inputs and outputs; a latent has two rows and columns for each token's."""
    height, width = 2 * _ROWS, 2 * _COLS
    examples = {"latent": torch.zeros(1, config.latent_channels, height, width)}
    dynamic = {"latent": _axes(2), "frames": _axes(LQ_PATCH)}
    if condition:
        examples["lq"] = torch.zeros(FRAMES_PER_LATENT, 3, LATENT_PATCH * height, LATENT_PATCH * width)
        dynamic["lq"] = _axes(LQ_PATCH)
    for n in used:
        state, factor = states[n], 2 * states[n].factor
        examples[f"state{n}"] = torch.zeros(state.frames, state.channels, factor * _ROWS, factor * _COLS, dtype=dtype)
        dynamic[f"state{n}"] = dynamic[f"next{n}"] = _axes(factor)
    return examples, dynamic
