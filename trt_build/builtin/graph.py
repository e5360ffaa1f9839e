"""A shipped graph back as the network it was exported from, so that training can go on from what people use."""

from __future__ import annotations

import math
from pathlib import Path
from typing import cast

import onnx
import onnx.numpy_helper
import torch
from torch import Tensor

from .network import GAIN, FoldedConv, Net, NetConfig, ScaledConv, Stem


def weights_of(path: Path) -> dict[str, Tensor]:
    """The learned tensors of a graph that `export_graph` wrote, by the names of the folded network."""
    graph = onnx.load(path).graph
    return {t.name: torch.from_numpy(onnx.numpy_helper.to_array(t).copy()) for t in graph.initializer}


def config_of(weights: dict[str, Tensor]) -> NetConfig:
    """The network's shape, from the tensors'."""
    layers = sum(name.startswith("trunk.") and name.endswith(".weight") for name in weights)
    return NetConfig(math.isqrt(len(weights["head.bias"])), len(weights["stem.1.bias"]), layers)


def unfold(path: Path) -> Net:
    """The network of a graph as it is trained: its answers are the graph's, its branches are new (the wide one at random)."""
    weights = weights_of(path)
    net = Net(config_of(weights))
    fit(net, weights)
    return net


def fit(net: Net, weights: dict[str, Tensor]) -> None:
    """Give `net` the answers of a folded one of the same shape.

    Of a convolution that is a sum of branches only the direct one changes: by what is missing to the sum.
    """
    stem = cast(Stem, net.stem)
    with torch.no_grad():
        stem.luma.copy_(weights["stem.1.weight"][:, :1] / GAIN)
        stem.past.copy_(weights["stem.1.weight"][:, 1:] / GAIN)
        stem.bias.copy_(weights["stem.1.bias"])
        for name in ("head", "gate"):
            conv = cast(ScaledConv, getattr(net, name))
            conv.weight.copy_(weights[f"{name}.weight"] / conv.gain)
            cast(Tensor, conv.bias).copy_(weights[f"{name}.bias"] / conv.gain)
        for n, module in enumerate(net.trunk):
            folded = cast(FoldedConv, module)
            folded.direct.add_(weights[f"trunk.{n}.weight"] - folded.weight())
            folded.bias.copy_(weights[f"trunk.{n}.bias"])


def average(graphs: list[dict[str, Tensor]], shares: list[float]) -> Net:
    """The folded network whose weights are the means, by `shares`, of those of graphs of one shape."""
    net = Net(config_of(graphs[0])).fold()
    whole = sum(shares)
    means = {
        name: torch.stack([s / whole * g[name] for g, s in zip(graphs, shares, strict=True)]).sum(0)
        for name, _ in net.named_parameters()
    }
    net.load_state_dict(means, strict=False)
    return net
