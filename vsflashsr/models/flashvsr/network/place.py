"""Where graphs run that are torch's products and our kernels in turns: on memory of ours, in the order of one stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from itertools import accumulate
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from ....gpu.kernels.kernel import Launch
from ....runtimes.graph import Shape
from ....runtimes.graph import Tensor as Declared
from ....runtimes.torch import TorchWeights, declared, exact_arithmetic, tensor_at
from ...wan.network.loading import Types

if TYPE_CHECKING:
    from ....gpu.device import Stream
    from ....gpu.kernels.library import KernelLibrary

type Run = Callable[[Launch], None]
"""Queues a launch behind what torch was told before, and before what it is told next."""

KINDS: Mapping[torch.dtype, str] = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
"""What kernels call torch's types."""
WORKSPACE_BYTES = 64 << 20
"""What torch holds for its products on one stream: two workspaces, of cuBLAS and of cuBLASLt, of at most 32 MiB each (torch's
notes on CUDA, cuBLAS workspaces)."""


_ALIGNMENT_BYTES = 256


def laid_out(sizes: Iterable[int]) -> list[int]:
    """Where parts of these sizes begin in one piece of memory, aligned, and what they take together."""
    return [0, *accumulate(-(-size // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES for size in sizes)]


class Place(Protocol):
    """A device, as graphs of torch and our kernels see it."""

    @property
    def device(self) -> torch.device: ...

    def tensor(self, address: int, shape: Shape, dtype: torch.dtype) -> Tensor:
        """Memory of ours as a tensor."""

    def address(self, tensor: Tensor) -> int:
        """Where a tensor of torch's lies, for a launch."""

    def queue(self, stream: Stream, work: Callable[[Run], None]) -> None:
        """Do `work` on the stream: what it tells torch, and the launches that it runs."""

    def product_gelu(self, linear: nn.Linear, x: Tensor, out: Tensor) -> None:
        """out = gelu(linear(x)), GELU in its tanh form."""

    def conv_relu(self, x: Tensor, weight: Tensor, bias: Tensor, added: Tensor, share: float) -> Tensor:
        """relu(3x3 convolution of x, padded with zeros, + share * added + bias), channels last.

        `added` has the result's shape and is finite; where `share` is 0 it may be read all the same.
        """


class CudaPlace:
    """A CUDA device.

    Args:
        library: its kernels.
        device: as torch calls it, such as "cuda:0".
    """

    def __init__(self, library: KernelLibrary, device: str) -> None:
        self.device = torch.device(device)
        self._library = library
        # A step has a few hundred of them, the same again and again; made anew each would cost it milliseconds.
        self._tensors = lru_cache(maxsize=1 << 14)(tensor_at)

    def tensor(self, address: int, shape: Shape, dtype: torch.dtype) -> Tensor:
        """See ``Place``."""
        return self._tensors(address, shape, dtype, self.device)

    def address(self, tensor: Tensor) -> int:
        """See ``Place``."""
        return tensor.data_ptr()

    def queue(self, stream: Stream, work: Callable[[Run], None]) -> None:
        """See ``Place``."""
        external: torch.cuda.Stream = torch.cuda.get_stream_from_external(stream.handle, self.device)
        with torch.cuda.stream(external), torch.inference_mode(), exact_arithmetic():
            work(lambda launch: self._library.run(stream, launch))

    def product_gelu(self, linear: nn.Linear, x: Tensor, out: Tensor) -> None:
        """See ``Place``: the product's own kernel applies GELU before it stores. On a GPU that is the tanh form; on the CPU it
        would be the other."""
        torch._addmm_activation(linear.bias, x, linear.weight.t(), use_gelu=True, out=out)

    def conv_relu(self, x: Tensor, weight: Tensor, bias: Tensor, added: Tensor, share: float) -> Tensor:
        """See ``Place``: one kernel of cuDNN's. Torch's own convolution adds the bias in a pass of its own."""
        return torch.cudnn_convolution_add_relu(x, weight, added, share, bias, (1, 1), (1, 1), (1, 1), 1)


class FusedGraph(TorchWeights):
    """What is alike in all ``DeviceGraph`` that run in a place.

    Args:
        module: with its weights.
        inputs, outputs: (name, dtype) in order.
        place: where it runs.
    """

    def __init__(self, module: nn.Module, inputs: Types, outputs: Types, place: Place) -> None:
        super().__init__(module, place.device)
        self.place = place
        self.types = dict([*inputs, *outputs])
        self.inputs: dict[str, Declared] = {name: declared(name, dtype) for name, dtype in inputs}
        self.outputs: dict[str, Declared] = {name: declared(name, dtype) for name, dtype in outputs}
