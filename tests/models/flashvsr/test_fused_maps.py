"""The projector and the decoder, channels last and fused, are the network's own; and each change of form is exact."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'export'")

import torch
from torch import Tensor
from torch.nn import functional as F

from vsflashsr.models.flashvsr.network import fused_decoder, fused_projector
from vsflashsr.models.flashvsr.network.config import FlashVSRConfig
from vsflashsr.models.flashvsr.network.fused_decoder import Forms, grown
from vsflashsr.models.flashvsr.network.graphs import graph_on
from vsflashsr.models.flashvsr.network.projector import build_projector
from vsflashsr.models.flashvsr.network.tcdecoder import TCDecoder, condition
from vsflashsr.runtimes.torch import TorchGraph

from ...support.host_kernels import run_on_host
from ...support.torch_place import HostPlace, process_view
from ...support.triton_host import unset

CONFIG = FlashVSRConfig(dim=64, heads=2, head_dim=32, layers=2, ffn=64, lq_hidden=(24, 40), tc_channels=(24, 16, 8, 8))
STEP = {torch.float32: 1e-4, torch.float16: 3e-2}
STORED: dict[torch.dtype, Any] = {torch.float32: np.float32, torch.float16: np.float16}


def place() -> HostPlace:
    """Kernels by their stand-ins, which `test_host_kernels` holds against the interpreter."""
    return HostPlace(process_view, lambda launch: run_on_host(launch, process_view))


def filled(build: Any, dtype: torch.dtype) -> Any:
    torch.set_num_threads(1)
    torch.manual_seed(2)
    module = build().to(dtype)
    for parameter in module.parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 and parameter[0].numel() > 1 else 4
        parameter.data = torch.randn(parameter.shape).mul_(fan_in**-0.5).to(dtype)
    return module.eval().requires_grad_(False)


def ran(graph: Any, given: dict[str, Tensor], last: tuple[str, ...]) -> dict[str, Tensor]:
    """What a graph makes in memory of ours; those that begin with one of `last` are channels last there."""
    prepared = graph.prepare({name: tuple(tensor.shape) for name, tensor in given.items()})
    held: dict[str, Tensor] = {}
    shapes = {name: tuple(tensor.shape) for name, tensor in given.items()} | prepared.outputs
    types = {name: tensor.dtype for name, tensor in given.items()}
    types |= {name: torch.from_numpy(np.zeros(0, tensor.dtype)).dtype for name, tensor in graph.outputs.items()}
    for name, shape in shapes.items():
        turned = name.startswith(last)
        stored = (shape[0], *shape[2:], shape[1]) if turned else shape
        held[name] = torch.from_numpy(unset(stored, STORED[types[name]]))
        if name in given:
            held[name].copy_(given[name].permute(0, 2, 3, 1) if turned else given[name])
    scratch = unset((prepared.scratch_bytes,), np.uint8)
    anywhere: Any = None
    prepared.enqueue(anywhere, {name: t.data_ptr() for name, t in held.items()}, scratch.ctypes.data)
    return {n: held[n].permute(0, 3, 1, 2) if n.startswith(last) else held[n] for n in prepared.outputs}


@pytest.mark.parametrize("dtype", STEP)
def test_the_fused_decoder_is_the_decoder(dtype: torch.dtype) -> None:
    """Two latents, so that memories are carried."""
    decoder = filled(lambda: TCDecoder(CONFIG), dtype)
    names = range(9)
    graph = graph_on(
        place(),
        filled(lambda: TCDecoder(CONFIG), dtype),
        [("latent", torch.float32), ("lq", torch.float32), *((f"state{n}", dtype) for n in names)],
        [("frames", torch.float32), *((f"next{n}", dtype) for n in names)],
    )
    assert isinstance(graph, fused_decoder.FusedDecoder)
    sizes = [8 // 2 ** (n // 3) for n in names]
    ours = theirs = [torch.zeros(1, c, 64 // s, 128 // s, dtype=dtype) for c, s in zip(decoder.channels, sizes, strict=True)]
    for _ in range(2):
        latent, lq = torch.randn(1, 16, 8, 16) * 3, torch.rand(4, 3, 64, 128) * 2 - 1
        with torch.inference_mode():
            frames, *theirs = decoder(latent, lq, *theirs)
        given = {"latent": latent, "lq": lq, **{f"state{n}": state for n, state in enumerate(ours)}}
        made = ran(graph, given, ("state", "next"))
        ours = [made[f"next{n}"] for n in names]
        for part, wanted in zip((made["frames"], *ours), (frames, *theirs), strict=True):
            torch.testing.assert_close(part, wanted, rtol=STEP[dtype], atol=STEP[dtype])


@pytest.mark.parametrize("dtype", STEP)
@pytest.mark.parametrize("version", ["v1", "v1.1"])
def test_the_fused_projector_is_the_projector(version: str, dtype: torch.dtype) -> None:
    projector = filled(lambda: build_projector(CONFIG, version), dtype)
    context = version != "v1"
    graph = graph_on(
        place(),
        filled(lambda: build_projector(CONFIG, version), dtype),
        [("clip", torch.float32), *([("ctx1", torch.float32), ("ctx2", dtype)] if context else [])],
        [("tokens", dtype), *([("next2", dtype)] if context else [])],
    )
    assert isinstance(graph, fused_projector.FusedProjector)
    given = {"clip": torch.rand(4, 3, 48, 80) * 2 - 1}
    if context:
        given |= {"ctx1": torch.rand(2, 3, 48, 80) * 2 - 1, "ctx2": torch.randn(2, 24, 3, 5).to(dtype)}
    with torch.inference_mode():
        wanted = projector(*given.values())
    wanted = wanted if context else (wanted,)
    made = ran(graph, given, ("ctx2", "next2"))
    for part, other in zip(made.values(), wanted, strict=True):
        torch.testing.assert_close(part, other, rtol=STEP[dtype], atol=STEP[dtype])


def test_widths_without_kernels_stay_torch_s() -> None:
    projector = filled(lambda: build_projector(FlashVSRConfig(dim=64, lq_hidden=(20, 24)), "v1"), torch.float32)
    graph = graph_on(place(), projector, [("clip", torch.float32)], [("tokens", torch.float32)])
    assert isinstance(graph, TorchGraph)


@pytest.mark.parametrize("frames", [1, 2])
def test_doubling_and_its_convolutions_are_one_transposed_convolution(frames: int) -> None:
    """Exact in float64: the sums are the same, in another order."""
    torch.manual_seed(0)
    x = torch.randn(1, 6, 5, 7, dtype=torch.float64)
    mix = torch.randn(5 * frames, 6, 1, 1, dtype=torch.float64)
    weight = torch.randn(4, 5, 3, 3, dtype=torch.float64)
    mixed = F.conv2d(x, mix).reshape(frames, 5, 5, 7)
    wanted = F.conv2d(F.interpolate(mixed, scale_factor=2.0), weight, padding=1)
    made = torch.cat([F.conv_transpose2d(x, grown(part, weight), stride=2, padding=1) for part in mix.chunk(frames)])
    assert (made - wanted).abs().max() < 1e-13


def test_the_whole_decoder_in_its_forms_is_exact_in_float64() -> None:
    decoder = filled(lambda: TCDecoder(CONFIG), torch.float64)
    forms = Forms(decoder)
    sizes = [8 // 2 ** (n // 3) for n in range(9)]
    memories = [
        torch.randn(1, c, 32 // s, 48 // s, dtype=torch.float64).relu_() for c, s in zip(decoder.channels, sizes, strict=True)
    ]
    latent, lq = torch.randn(1, 16, 4, 6, dtype=torch.float64), torch.rand(4, 3, 32, 48, dtype=torch.float64)
    wanted: list[Tensor] = []
    decoder.decoder["26"].register_forward_hook(lambda module, inputs, output: wanted.append(output))
    with torch.inference_mode():
        packed = torch.tanh(torch.cat([condition(lq), latent], 1) / 3) * 3
        made = torch.cat(forms.run(place(), packed, memories, [torch.empty_like(m) for m in memories]))
        decoder(latent, lq, *memories)
        made += decoder.decoder["26"].bias.reshape(1, 3, 1, 1)
    assert (made - wanted[0]).abs().max() < 1e-13 * wanted[0].abs().max()
