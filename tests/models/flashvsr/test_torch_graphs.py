"""The modules that `backend="torch"` runs are the bundle's graphs, with the bundle's weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'export'")

import torch
from torch import Tensor

from trt_build.random_checkpoint import REDUCED
from vsflashsr.bundle import load_bundle
from vsflashsr.models.flashvsr.calls import decoder_shapes, projector_shapes, token_shapes
from vsflashsr.models.flashvsr.network.fused_pieces import FusedPiece
from vsflashsr.models.flashvsr.network.graphs import load_graph
from vsflashsr.models.flashvsr.section import read_section
from vsflashsr.models.flashvsr.windows import Grid
from vsflashsr.models.wan.network.pieces import LastPiece, MiddlePiece, to_precision
from vsflashsr.runtimes.graph import Shape
from vsflashsr.runtimes.onnxruntime import OnnxSession
from vsflashsr.runtimes.torch import TorchGraph

from ...support.flashvsr_small import small_bundle
from .test_fused_maps import place, ran


def made_by(graph: Any, feeds: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """What the graph makes of these, in the layouts that an exported graph has."""
    if isinstance(graph, TorchGraph):
        with torch.inference_mode():
            made = graph._module(*feeds.values())
        return made if isinstance(made, tuple) else (made,)
    parts = ran(graph, feeds, ("state", "next", "ctx2"))
    if isinstance(graph, FusedPiece) and not isinstance(graph.piece, LastPiece):
        before = graph.piece.before
        parts |= {"q": before.norm_q(parts["q"]), "k": before.norm_k(parts["k"])}
    return tuple(part.detach() for part in parts.values())


def same(graph: Any, path: Path, shapes: dict[str, Shape]) -> float:
    """The largest difference between what a module and an ONNX graph make of the same numbers."""
    random = np.random.default_rng(1)
    session = OnnxSession(path, threads=1)
    feeds = {n: random.standard_normal(shapes[n]).astype(session.inputs[n].dtype) for n in graph.inputs}
    assert set(graph.inputs) == set(session.inputs)
    assert {n: t.dtype for n, t in graph.outputs.items()} == {n: t.dtype for n, t in session.outputs.items()}
    wanted = session.run(feeds)
    prepared = graph.prepare({name: array.shape for name, array in feeds.items()})
    assert prepared.outputs == {name: tuple(value.shape()) for name, value in wanted.items()}
    made = made_by(graph, {name: torch.from_numpy(array) for name, array in feeds.items()})
    pairs = zip(graph.outputs, made, strict=True)
    return max(float(np.abs(part.float().numpy() - wanted[name].numpy().astype(np.float32)).max()) for name, part in pairs)


@pytest.mark.parametrize(
    ("variant", "version", "precision", "tolerance"),
    [
        ("tiny", "v1.1", "fp32", 1e-4),
        pytest.param("full", "v1", "fp32", 1e-4, marks=pytest.mark.long),
        ("tiny", "v1.1", "fp16", 0.05),
    ],
)
def test_modules_are_the_exported_graphs(variant: str, version: str, precision: str, tolerance: float) -> None:
    bundle = load_bundle(small_bundle(variant, version, precision))
    section = read_section("test", bundle.section)
    grid = Grid(1, 2)

    def check(part: str, name: str, shapes: dict[str, Shape], layer: int = 0) -> None:
        graph = load_graph(bundle, section, part, layer, place())
        assert same(graph, bundle.path(name), shapes) < tolerance
        assert graph.weights_bytes > 0

    for part, graph in (("first", section.first), ("middle", section.middle), ("last", section.last)):
        for layer, name in enumerate(graph.constant):
            check(part, name, token_shapes(part, 128, REDUCED.dim, 64), layer)
    check("projector", section.projector, projector_shapes(section, grid))
    shapes = decoder_shapes(section, grid, REDUCED.latent_channels, range(len(section.decoder_states)))
    check("decoder", section.decoder, shapes)
    if section.decoder_first is not None:
        check("decoder_first", section.decoder_first, shapes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_what_runs_is_what_is_exported_to_rounding(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exported graphs say every conversion; torch promotes without a copy."""
    torch.manual_seed(1)
    piece = MiddlePiece(REDUCED)
    for parameter in piece.parameters():
        torch.nn.init.normal_(parameter, 0, REDUCED.dim**-0.5)
    piece = to_precision(piece, dtype)
    x, attended = torch.randn(128, REDUCED.dim), torch.randn(128, REDUCED.dim).to(dtype)
    with torch.inference_mode():
        runs = piece(x, attended)
        monkeypatch.setattr("vsflashsr.models.wan.network.pieces.exporting", lambda: True)
        widened = piece(x, attended)
        monkeypatch.setattr("vsflashsr.models.wan.network.dit.exporting", lambda: True)
        exported = piece(x, attended)
    step = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}[dtype]
    for made, same, wanted in zip(runs, widened, exported, strict=True):
        assert torch.equal(made, same), "promotion changes no bit"
        torch.testing.assert_close(made, wanted, rtol=2 * step, atol=2 * step)
