"""Token pieces with our kernels between torch's products are the network's own pieces."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'export'")
pytest.importorskip("triton", reason="the kernels are Triton's")

import torch

from vsflashsr.errors import FlashsrError
from vsflashsr.models.flashvsr.network import fused_pieces
from vsflashsr.models.flashvsr.network.config import FlashVSRConfig
from vsflashsr.models.flashvsr.network.graphs import graph_on
from vsflashsr.models.wan.network.pieces import FirstPiece, LastPiece, MiddlePiece, to_precision
from vsflashsr.models.wan.network.precision import PRECISIONS
from vsflashsr.runtimes.torch import TorchGraph

from ...support.torch_place import interpreted_place
from ...support.triton_host import interpreted, unset

CONFIG = FlashVSRConfig(dim=64, heads=2, head_dim=32, layers=2, ffn=80, text_len=20)
STEP = {"fp32": 2e-5, "fp16": 6e-3, "bf16": 5e-2}
"""Of numbers up to 4, after a few roundings to 24, 11 and 8 bits."""
SINGLE = ("patches", "x", "x_out", "latents")


def piece(kind: Any, dtype: str, config: FlashVSRConfig = CONFIG) -> Any:
    torch.set_num_threads(1)
    torch.manual_seed(1)
    module = kind(config)
    for name, parameter in module.named_parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 4
        torch.nn.init.normal_(parameter, float("norm" in name and "bias" not in name), fan_in**-0.5)
    return to_precision(module, PRECISIONS[dtype])


def graph(module: Any, dtype: str) -> Any:
    inputs, outputs = (
        [(name, torch.float32 if name in SINGLE else PRECISIONS[dtype]) for name in names]
        for names in (module.inputs, module.outputs)
    )
    return graph_on(interpreted_place(), module, inputs, outputs)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (MiddlePiece, "fp32"),
        pytest.param(MiddlePiece, "fp16", marks=pytest.mark.long),
        (MiddlePiece, "bf16"),
        (FirstPiece, "bf16"),
        (LastPiece, "bf16"),
    ],
)
@interpreted
def test_a_fused_piece_is_the_piece(kind: Any, dtype: str) -> None:
    rows = 128
    reference, fused = piece(kind, dtype), graph(piece(kind, dtype), dtype)
    assert isinstance(fused, fused_pieces.FusedPiece)
    widths = {"patches": 64}
    prepared = fused.prepare({name: (rows, widths.get(name, CONFIG.dim)) for name in fused.inputs})
    held: dict[str, Any] = {}

    def tensor(name: str, shape: tuple[int, ...]) -> Any:
        stored = {torch.float32: np.float32, torch.float16: np.float16, torch.bfloat16: np.uint16}[fused.types[name]]
        held[name] = torch.from_numpy(unset(shape, stored)).view(fused.types[name])
        return held[name]

    given = []
    for name in fused.inputs:
        given.append(tensor(name, (rows, widths.get(name, CONFIG.dim))).copy_(torch.randn(rows, widths.get(name, CONFIG.dim))))
    with torch.inference_mode():
        wanted = reference(*given)
    wanted = dict(zip(fused.outputs, wanted if isinstance(wanted, tuple) else (wanted,), strict=True))
    for name, shape in prepared.outputs.items():
        assert shape == tuple(wanted[name].shape)
        tensor(name, shape)
    scratch = unset((prepared.scratch_bytes,), np.uint8)
    anywhere: Any = None
    prepared.enqueue(anywhere, {name: t.data_ptr() for name, t in held.items()}, scratch.ctypes.data)
    if kind is LastPiece:
        assert prepared.norms is None
    else:
        before = reference.before
        assert prepared.norms is not None
        held["q"], held["k"] = before.norm_q(held["q"]), before.norm_k(held["k"])
    for name, made in wanted.items():
        torch.testing.assert_close(held[name].float(), made.float(), rtol=STEP[dtype], atol=STEP[dtype])


def test_sizes_without_kernels_stay_torch_s() -> None:
    for changes in ({"dim": 48, "head_dim": 24}, {"eps": 1e-5}, {"dim": 4096, "head_dim": 128, "heads": 32}):
        module = piece(MiddlePiece, "fp32", dataclasses.replace(CONFIG, **changes))
        assert isinstance(graph(module, "fp32"), TorchGraph), changes


def test_shapes_that_are_no_tokens_are_refused() -> None:
    fused = graph(piece(MiddlePiece, "fp32"), "fp32")
    for shapes in ({"x": (128, 64), "attended": (256, 64)}, {"x": (100, 64), "attended": (100, 64)}):
        with pytest.raises(FlashsrError, match="takes no"):
            fused.prepare(shapes)
