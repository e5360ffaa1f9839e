"""The TCDecoder for backend "torch": channels last from end to end, and each convolution one kernel with all that follows it.

Three exact changes of form, to rounding:
- A convolution of x beside the frame before it is two convolutions, whose sum the second one's kernel makes: nothing is joined.
- A 1x1 convolution, nearest-neighbour doubling and a 3x3 convolution are linear together: one transposed convolution of 4x4 taps
  and stride 2, in which every output pixel sees 2x2 input pixels (`grown`). That is 4 products a pixel in the place of 9, and
  what was doubled is never stored.
- Frames go one by one from where time grows, since channels-last maps of one frame are views of anything, those of several not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ....gpu.device import Stream
from ....runtimes.graph import Shape
from ....runtimes.torch import held_by
from ...wan.network.loading import Types
from ...wan.network.memory import MemoryBlock, TimeGrow
from ...wan.network.precision import DTYPE_NAMES
from ..kernels.channel_launches import CONDITION_CHANNELS, pack_condition, unpack_frame
from .config import FRAMES_PER_LATENT
from .place import KINDS, FusedGraph, Place, Run
from .tcdecoder import MEMORY_BLOCKS, TCDecoder

_GROWTHS = (("9", "10"), ("15", "16"), ("21", "22"))
_DOUBLED = ((0, 0, 1), (0, 1, 1), (1, 1, 0), (1, 0, 0))
"""Rows: taps of the transposed convolution; columns: taps of the 3x3 one that fall on the same input pixel."""


def grown(mix: Tensor, weight: Tensor) -> Tensor:
    """A 1x1 convolution `mix` (C, C_in, 1, 1), nearest doubling and a padded 3x3 one `weight` (C_out, C, 3, 3) as one:
    (C_in, C_out, 4, 4) of a transposed convolution with stride 2 and padding 1. Summed in the weights' type, at least float32."""
    wide = torch.promote_types(weight.dtype, torch.float32)
    doubled = torch.tensor(_DOUBLED, dtype=wide, device=weight.device)
    taps = torch.einsum("ocyx,ky,lx->ockl", weight.to(wide), doubled, doubled)
    return torch.einsum("ockl,ci->iokl", taps, mix.to(wide)[..., 0, 0])


class Forms(nn.Module):
    """The decoder's weights in the forms that are run, in the precision of the decoder."""

    def __init__(self, decoder: TCDecoder) -> None:
        super().__init__()
        layers, dtype = decoder.decoder, decoder.dtype

        def kept(weight: Tensor) -> nn.Parameter:
            return nn.Parameter(weight.detach().to(dtype).contiguous(memory_format=torch.channels_last), requires_grad=False)

        def convolution(name: str) -> nn.Conv2d:
            layer = layers[name]
            assert isinstance(layer, nn.Conv2d)
            return layer

        first, second, third, last = (convolution(name) for name in ("1", "3", "24", "26"))
        self.first, self.second, self.third, self.last = (kept(layer.weight) for layer in (first, second, third, last))
        assert first.bias is not None and last.bias is not None
        self.first_bias = nn.Parameter(first.bias.detach(), requires_grad=False)
        self.last_bias = nn.Parameter(last.bias.detach().float(), requires_grad=False)
        self.none = nn.ParameterList(
            [nn.Parameter(torch.zeros_like(layer.weight[:, 0, 0, 0]), requires_grad=False) for layer in (second, third)]
        )
        self.own, self.past, self.inner, self.outer = (nn.ParameterList() for _ in range(4))
        self.biases = nn.ParameterList()
        for index in MEMORY_BLOCKS:
            block = layers[str(index)]
            assert isinstance(block, MemoryBlock)
            joined, inner, outer = (layer for layer in block.conv if isinstance(layer, nn.Conv2d))
            width = joined.out_channels
            self.own.append(kept(joined.weight[:, :width]))
            self.past.append(kept(joined.weight[:, width:]))
            self.inner.append(kept(inner.weight))
            self.outer.append(kept(outer.weight))
            for layer in (joined, inner, outer):
                assert layer.bias is not None
                self.biases.append(nn.Parameter(layer.bias.detach(), requires_grad=False))
        self.growths = nn.ModuleList()
        for mixing, growing in _GROWTHS:
            mix = layers[mixing]
            assert isinstance(mix, TimeGrow)
            parts = mix.conv.weight.chunk(mix.stride)
            self.growths.append(nn.ParameterList(kept(grown(part, convolution(growing).weight)) for part in parts))

    def block(self, place: Place, n: int, x: Tensor, before: Tensor) -> Tensor:
        """The n-th memory block on one frame and its input before that."""
        bias, inner_bias, outer_bias = self.biases[3 * n : 3 * n + 3]
        own = F.conv2d(x, self.own[n], padding=1)
        y = place.conv_relu(before, self.past[n], bias, own, 1.0)
        # Where nothing is added, something finite is given to be multiplied with 0.
        y = place.conv_relu(y, self.inner[n], inner_bias, y, 0.0)
        return place.conv_relu(y, self.outer[n], outer_bias, x, 1.0)

    def run(self, place: Place, packed: Tensor, memories: Sequence[Tensor], after: Sequence[Tensor]) -> list[Tensor]:
        """(1, 784, h, w) and nine memories (1, C, h', w') → four frames (1, 3, 8 h, 8 w), bias and range left to do.

        `after`: where the next memories go.
        """
        x = place.conv_relu(packed, self.first, self.first_bias, memories[0], 0.0)
        frames = [place.conv_relu(x, self.second, self.none[0], x, 0.0)]
        for level, growth in enumerate(self.growths):
            for n in range(3 * level, 3 * level + 3):
                after[n].copy_(frames[-1])
                before = [memories[n], *frames[:-1]]
                frames = [self.block(place, n, frame, past) for frame, past in zip(frames, before, strict=True)]
            assert isinstance(growth, nn.ParameterList)
            frames = [F.conv_transpose2d(frame, weight, stride=2, padding=1) for frame in frames for weight in growth]
        made: list[Tensor] = []
        for frame in frames:
            y = place.conv_relu(frame.relu_(), self.third, self.none[1], frame, 0.0)
            made.append(F.conv2d(y, self.last, padding=1))
        return made


class FusedDecoder(FusedGraph):
    """A ``DeviceGraph``. Its memories are channels last in the step's buffers; nobody else reads them.

    Args:
        decoder: with its weights.
        inputs, outputs: (name, dtype) in order.
        place: where it runs.
    """

    def __init__(self, decoder: TCDecoder, inputs: Types, outputs: Types, place: Place) -> None:
        self.dtype, self.channels = decoder.dtype, decoder.channels
        self.forms = Forms(decoder)
        super().__init__(self.forms, inputs, outputs, place)

    def prepare(self, shapes: Mapping[str, Shape]) -> PreparedFusedDecoder:
        """See ``DeviceGraph.prepare``."""
        return PreparedFusedDecoder(self, dict(shapes))


class PreparedFusedDecoder:
    """See ``PreparedGraph``."""

    def __init__(self, graph: FusedDecoder, shapes: dict[str, Shape]) -> None:
        self._graph, self._place, self._shapes = graph, graph.place, shapes
        _, _, self._rows, self._cols = shapes["latent"]
        self._kind = KINDS[graph.dtype]
        self.outputs: dict[str, Shape] = {"frames": shapes["lq"]}
        self.outputs |= {f"next{n}": shapes[f"state{n}"] for n in range(len(graph.channels))}
        self.scratch_bytes = self._rows * self._cols * CONDITION_CHANNELS * graph.dtype.itemsize
        self.held_bytes = 0
        if self._place.device.type == "cuda":
            key = "decoder", DTYPE_NAMES[graph.dtype], tuple(sorted(shapes.items()))
            self.held_bytes = held_by(self._place.device, key, self._rehearse)

    def enqueue(self, stream: Stream, addresses: Mapping[str, int], scratch: int) -> None:
        """See ``PreparedGraph.enqueue``."""
        self._place.queue(stream, lambda run: self._work(run, dict(addresses), scratch))

    def _work(self, run: Run, at: dict[str, int], scratch: int) -> None:
        place, kind = self._place, self._kind
        run(pack_condition(kind, at["lq"], at["latent"], scratch, self._rows, self._cols))
        count = len(self._graph.channels)
        memories, after = (
            [self._map(at[f"{side}{n}"], self._shapes[f"state{n}"]) for n in range(count)] for side in ("state", "next")
        )
        packed = self._map(scratch, (1, CONDITION_CHANNELS, self._rows, self._cols))
        bias = place.address(self._graph.forms.last_bias)
        height, width = self._shapes["lq"][2:]
        for n, frame in enumerate(self._graph.forms.run(place, packed, memories, after)):
            source = frame.contiguous(memory_format=torch.channels_last)
            run(unpack_frame(kind, place.address(source), bias, at["frames"] + n * 12 * height * width, height * width))

    def _map(self, address: int, shape: Shape) -> Tensor:
        """(frames, channels, rows, columns) of a channels-last map."""
        frames, channels, rows, cols = shape
        return self._place.tensor(address, (frames, rows, cols, channels), self._graph.dtype).permute(0, 3, 1, 2)

    def _rehearse(self) -> None:
        """One call on zeros."""

        def zeros(shape: Shape) -> Tensor:
            frames, channels, rows, cols = shape
            made = torch.zeros((frames, rows, cols, channels), dtype=self._graph.dtype, device=self._place.device)
            return made.permute(0, 3, 1, 2)

        states = [self._shapes[f"state{n}"] for n in range(len(self._graph.channels))]
        packed = zeros((1, CONDITION_CHANNELS, self._rows, self._cols))
        frames = self._graph.forms.run(self._place, packed, [zeros(s) for s in states], [zeros(s) for s in states])
        assert len(frames) == FRAMES_PER_LATENT
