"""The modules that `backend="torch"` runs are the bundle's graphs, with the bundle's weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'export'")

import torch

from vsflashsr.bundle import load_bundle
from vsflashsr.models.flashvsr.device.graphs import decoder_shapes, projector_shapes, token_shapes
from vsflashsr.models.flashvsr.network.graphs import torch_graphs
from vsflashsr.models.flashvsr.section import read_section
from vsflashsr.models.flashvsr.windows import Grid
from vsflashsr.runtimes.graph import Shape
from vsflashsr.runtimes.onnxruntime import OnnxSession
from vsflashsr.runtimes.torch import TorchGraph

from ...support.flashvsr_small import SMALL, small_bundle


def same(graph: Any, path: Path, shapes: dict[str, Shape]) -> float:
    """The largest difference between what a module and an ONNX graph make of the same numbers."""
    assert isinstance(graph, TorchGraph)
    random = np.random.default_rng(1)
    session = OnnxSession(path, threads=1)
    feeds = {n: random.standard_normal(shapes[n]).astype(session.inputs[n].dtype) for n in graph.inputs}
    assert set(graph.inputs) == set(session.inputs)
    assert {n: t.dtype for n, t in graph.outputs.items()} == {n: t.dtype for n, t in session.outputs.items()}
    wanted = session.run(feeds)
    prepared = graph.prepare({name: array.shape for name, array in feeds.items()})
    assert prepared.outputs == {name: tuple(value.shape()) for name, value in wanted.items()}
    with torch.inference_mode():
        made = graph._module(*(torch.from_numpy(array) for array in feeds.values()))
    made = made if isinstance(made, tuple) else (made,)
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
    graphs = torch_graphs(bundle, section, "cpu")
    grid = Grid(1, 2)
    for kind, piece, graph in (
        ("first", graphs.first, section.first),
        ("middle", graphs.middle, section.middle),
        ("last", graphs.last, section.last),
    ):
        assert len(piece.graphs) == len(graph.constant)
        for layer, name in enumerate(graph.constant):
            shapes = token_shapes(kind, 128, SMALL.dim, 64)
            assert same(piece.graphs[layer], bundle.path(name), shapes) < tolerance
    assert same(graphs.projector, bundle.path(section.projector), projector_shapes(section, grid)) < tolerance
    states = range(len(section.decoder_states))
    shapes = decoder_shapes(section, grid, SMALL.latent_channels, states)
    assert same(graphs.decoder, bundle.path(section.decoder), shapes) < tolerance
    if section.decoder_first is not None:
        assert same(graphs.decoder_first, bundle.path(section.decoder_first), shapes) < tolerance
    assert graphs.weights_bytes > 0
