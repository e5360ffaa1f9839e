"""A run small enough for the repository: the weights and what the optimizer knows of each one's pace.

Kept are the averaged weights and Adam's second moments, of these the logarithm in 8 bits. The first moments begin anew: they are
means over ten steps. So builtin-hq takes 3.4 MB, where `last.pt` takes 10.7.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .graph import fit, weights_of
from .network import Net, NetConfig

STEPS_PER_OCTAVE = 4
"""Codes for each factor of two: a moment is kept within 9 %, a pace within 5 %."""
LEAST = -62.0
"""The logarithm to base 2 of the smallest moment that is told from 0."""
KNOWN_STEPS = 2000
"""Steps that the second moments, means over a hundred, count as the outcome of."""


def encode(moment: Tensor) -> Tensor:
    """Numbers of 0 and more as 8-bit codes of their logarithms."""
    codes = STEPS_PER_OCTAVE * (torch.log2(moment.clamp(min=2.0**LEAST)) - LEAST)
    return codes.round().clamp(0, 255).to(torch.uint8)


def decode(codes: Tensor) -> Tensor:
    """What `encode` kept."""
    return torch.where(codes > 0, torch.exp2(codes.float() / STEPS_PER_OCTAVE + LEAST), 0.0)


def save(run: Path, path: Path, graph: Path | None = None) -> None:
    """The run's `last.pt` or `best.pt` as a compact checkpoint; with the answers of `graph`, an average of which it is a part."""
    state = torch.load(run, map_location="cpu", weights_only=True)
    net = Net(NetConfig(**state["config"]["net"]))
    net.load_state_dict(state["average"])
    if graph is not None:
        fit(net, weights_of(graph))
    names = [name for name, _ in net.named_parameters()]
    moments = state["optimizer"]["state"]
    compact = {
        "net": state["config"]["net"],
        "steps": state["step"],
        "weights": net.state_dict(),
        # The first layer's kernels over the memory have none in a run that never came to sequences.
        "moments": {name: encode(moments[n]["exp_avg_sq"]) for n, name in enumerate(names) if n in moments},
    }
    part = path.with_suffix(".part")
    torch.save(compact, part)
    part.replace(path)


def load(path: Path) -> dict[str, Any] | None:
    """What `save` wrote, or None if it is another kind of checkpoint."""
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state if "moments" in state else None


def restore(optimizer: torch.optim.Optimizer, net: Net, state: dict[str, Any]) -> None:
    """Give `optimizer`, which is of the parameters of `net`, the moments of a compact checkpoint of the same network."""
    if state["net"] != asdict(net.config):
        return
    for name, parameter in net.named_parameters():
        if name in state["moments"]:
            optimizer.state[parameter] = {
                "step": torch.tensor(float(KNOWN_STEPS)),
                "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                "exp_avg_sq": decode(state["moments"][name]).to(parameter.device),
            }
