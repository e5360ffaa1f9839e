"""Torch's products on the CPU and our kernels beside them, by NumPy on the mock device or interpreted."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vsflashsr.models.flashvsr.network.place import Run
from vsflashsr.runtimes.graph import Shape

from .host_kernels import run_on_host
from .mock_cuda import MockDriver

_TYPES: dict[torch.dtype, Any] = {
    torch.float32: np.float32,
    torch.float16: np.float16,
    torch.bfloat16: np.uint16,
    torch.int32: np.int32,
}


class HostPlace:
    """See ``Place``.

    Args:
        view: (address, count, dtype) → memory.
        launch: does what a launch does, now.
        enqueue: does work when its stream comes to it.
        lend: is told of memory of torch's that launches read.
    """

    device = torch.device("cpu")

    def __init__(
        self,
        view: Callable[..., Any],
        launch: Run,
        enqueue: Callable[[Any, Callable[[], None]], None] = lambda _, run: run(),
        lend: Callable[[int, int], object] = lambda address, size_bytes: None,
    ) -> None:
        self._view, self._launch, self._enqueue, self._lend = view, launch, enqueue, lend

    def tensor(self, address: int, shape: Shape, dtype: torch.dtype) -> Tensor:
        """See ``Place``."""
        tensor = torch.from_numpy(self._view(address, math.prod(shape), _TYPES[dtype]))
        return tensor.view(dtype).reshape(shape)

    def address(self, tensor: Tensor) -> int:
        """See ``Place``. Torch's memory on the CPU begins anywhere."""
        self._lend(tensor.data_ptr(), tensor.nbytes)
        return tensor.data_ptr()

    def queue(self, stream: Any, work: Callable[[Run], None]) -> None:
        """See ``Place``."""

        def run() -> None:
            with torch.inference_mode():
                work(self._launch)

        self._enqueue(stream, run)

    def product_gelu(self, linear: nn.Linear, x: Tensor, out: Tensor) -> None:
        """See ``Place``: before it is rounded, as a product's own kernel does it."""
        wide = F.linear(x.float(), linear.weight.float(), linear.bias.float())
        out.copy_(F.gelu(wide, approximate="tanh"))

    def conv_relu(self, x: Tensor, weight: Tensor, bias: Tensor, added: Tensor, share: float) -> Tensor:
        """See ``Place``."""
        return F.relu_(F.conv2d(x, weight, bias, padding=1).add_(added, alpha=share))


def mock_place(mock: MockDriver) -> HostPlace:
    """On the mock device, in the order of its streams."""
    return HostPlace(
        mock.view,
        lambda launch: run_on_host(launch, mock.view),
        lambda stream, run: mock.enqueue(stream.handle, run, name="torch and kernels"),
        mock.lend,
    )


def interpreted_place() -> HostPlace:
    """In this process's memory, kernels interpreted: where `triton_host.interpreting`."""
    from .triton_host import run_launch

    return HostPlace(process_view, run_launch)


def process_view(address: int, count: int, dtype: Any = np.uint8) -> Any:
    """Memory of this process."""
    size = count * np.dtype(dtype).itemsize
    data: Any = (ctypes.c_uint8 * size).from_address(address)
    return np.frombuffer(data, np.uint8).view(dtype)
