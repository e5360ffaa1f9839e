"""What bundles say of the pieces of their DiT."""

from __future__ import annotations

from dataclasses import dataclass

from ...runtimes.graph import TensorEntry


@dataclass(frozen=True, slots=True)
class Graph:
    """A graph in its two forms, and the weights both read: one file per layer it serves."""

    shared: str
    """Graph with its weights as inputs: one for all layers."""
    constant: tuple[str, ...]
    """Graphs with constant weights, one per layer."""
    weights: tuple[str, ...]
    """Weight files, one per layer, all laid out the same."""
    tensors: tuple[TensorEntry, ...]
    """What lies where in each weight file."""
