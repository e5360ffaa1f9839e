"""The LQ projector for backend "torch": channels last, each convolution an implicit product, its norm and SiLU one kernel.

What unshuffles, pads and joins frames for a convolution is one pass that writes what the convolution reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ....gpu.device import Stream
from ....runtimes.graph import Shape
from ....runtimes.torch import held_by
from ...wan.network.loading import Types
from ...wan.network.precision import DTYPE_NAMES
from ..kernels.channel_launches import CLIP_CHANNELS, ChannelNorm, norm_silu, pack_clip, pad_maps
from ..kernels.table import MOST_CHANNELS
from .config import LQ_PATCH
from .place import KINDS, FusedGraph, Place, Run, laid_out
from .projector import Projector, ProjectorV1

_PAIR = 2
"""Maps of features that a call makes."""


def fits(projector: Projector) -> bool:
    """Are there kernels for its widths?"""
    widths = projector.conv1.weight.shape[0], projector.conv2.weight.shape[0]
    return max(widths) <= MOST_CHANNELS and not any(width % 8 for width in widths)


class FusedProjector(FusedGraph):
    """A ``DeviceGraph``. Its context is channels last in the step's buffers; nobody else reads it.

    Args:
        projector: with its weights; `fits` says whether it can be one.
        inputs, outputs: (name, dtype) in order.
        place: where it runs.
    """

    def __init__(self, projector: Projector, inputs: Types, outputs: Types, place: Place) -> None:
        super().__init__(projector, inputs, outputs, place)
        self.projector = projector
        self.own_past = isinstance(projector, ProjectorV1)
        """Is a clip its own left context (v1)?"""
        layers = (projector.conv1, projector.norm1), (projector.conv2, projector.norm2)
        self.norms = [(conv.bias.detach().float(), norm.gamma.detach().float().flatten()) for conv, norm in layers]
        self.weights_bytes += sum(tensor.nbytes for pair in self.norms for tensor in pair)

    def release(self) -> None:
        """See ``TorchWeights``."""
        super().release()
        self.norms.clear()

    def prepare(self, shapes: Mapping[str, Shape]) -> PreparedFusedProjector:
        """See ``DeviceGraph.prepare``."""
        return PreparedFusedProjector(self, dict(shapes))


@dataclass(frozen=True, slots=True)
class _Scratch:
    """Offsets of what a call keeps between its passes."""

    clip: int
    """(2, h + 2, w + 2, 3072)."""
    features: int
    """(2, h, w, hidden): where there is no context to put them."""
    joined: int
    """(h + 2, w + 2, 4 hidden)."""
    normed: int
    """(h w, width)."""
    size_bytes: int


class PreparedFusedProjector:
    """See ``PreparedGraph``."""

    def __init__(self, graph: FusedProjector, shapes: dict[str, Shape]) -> None:
        self._graph, self._place, self._shapes = graph, graph.place, shapes
        projector = graph.projector
        self._dtype = projector.conv1.weight.dtype
        self._kind = KINDS[self._dtype]
        self._rows, self._cols = (side // LQ_PATCH for side in shapes["clip"][2:])
        self._hidden, self._width = projector.conv1.weight.shape[0], projector.conv2.weight.shape[0]
        linear = projector.linear_layers[0]
        assert isinstance(linear, nn.Linear)
        self._linear = linear
        self.outputs: dict[str, Shape] = {"tokens": (self._rows * self._cols, linear.out_features)}
        if "next2" in graph.outputs:
            self.outputs["next2"] = shapes["ctx2"]
        padded = (self._rows + 2) * (self._cols + 2)
        values = (
            _PAIR * padded * CLIP_CHANNELS,
            _PAIR * self._rows * self._cols * self._hidden,
            padded * 4 * self._hidden,
            self._rows * self._cols * self._width,
        )
        self._offsets = _Scratch(*laid_out(count * self._dtype.itemsize for count in values))
        self.scratch_bytes = self._offsets.size_bytes
        self.held_bytes = 0
        if self._place.device.type == "cuda":
            key = "projector", DTYPE_NAMES[self._dtype], tuple(sorted(shapes.items()))
            self.held_bytes = held_by(self._place.device, key, self._rehearse)

    def enqueue(self, stream: Stream, addresses: Mapping[str, int], scratch: int) -> None:
        """See ``PreparedGraph.enqueue``."""
        self._place.queue(stream, lambda run: self._work(run, dict(addresses), scratch))

    def _work(self, run: Run, at: dict[str, int], scratch: int) -> None:
        place, kind, rows, cols, offsets = self._place, self._kind, self._rows, self._cols, self._offsets
        two_frames = 2 * 3 * rows * cols * LQ_PATCH**2 * 4
        before = at["clip"] + two_frames if self._graph.own_past else at["ctx1"]
        features = at.get("next2", scratch + offsets.features)
        packed, joined, normed = scratch + offsets.clip, scratch + offsets.joined, scratch + offsets.normed
        run(pack_clip(kind, before, at["clip"], packed, rows, cols))
        first = self._first(self._map(packed, _PAIR, rows + 2, cols + 2, CLIP_CHANNELS))
        run(norm_silu(kind, place.address(first), self._norm(0), features, _PAIR * rows * cols, self._hidden))
        run(pad_maps(kind, at.get("ctx2", features), features, joined, rows, cols, self._hidden))
        second = self._second(self._map(joined, 1, rows + 2, cols + 2, 4 * self._hidden))
        run(norm_silu(kind, place.address(second), self._norm(1), normed, rows * cols, self._width))
        wide = place.tensor(normed, (rows * cols, self._width), self._dtype)
        tokens = place.tensor(at["tokens"], self.outputs["tokens"], self._dtype)
        torch.addmm(self._linear.bias, wide, self._linear.weight.t(), out=tokens)

    def _first(self, packed: Tensor) -> Tensor:
        made = F.conv2d(packed, self._graph.projector.conv1.weight)
        return made.contiguous(memory_format=torch.channels_last)

    def _second(self, joined: Tensor) -> Tensor:
        made = F.conv2d(joined, self._graph.projector.conv2.weight)
        return made.contiguous(memory_format=torch.channels_last)

    def _norm(self, layer: int) -> ChannelNorm:
        return ChannelNorm(*(self._place.address(tensor) for tensor in self._graph.norms[layer]))

    def _map(self, address: int, frames: int, rows: int, cols: int, channels: int) -> Tensor:
        return self._place.tensor(address, (frames, rows, cols, channels), self._dtype).permute(0, 3, 1, 2)

    def _rehearse(self) -> None:
        """Its convolutions on zeros."""

        def zeros(frames: int, channels: int) -> Tensor:
            shape = frames, self._rows + 2, self._cols + 2, channels
            return torch.zeros(shape, dtype=self._dtype, device=self._place.device).permute(0, 3, 1, 2)

        self._first(zeros(_PAIR, CLIP_CHANNELS))
        self._second(zeros(1, 4 * self._hidden))
