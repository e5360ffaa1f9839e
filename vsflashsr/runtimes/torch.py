"""Torch modules as graphs on a device: the reference for every other runtime, and the way where TensorRT is missing.

Needs torch with CUDA, which only ``backend="torch"`` asks for. Inputs and outputs are device addresses of our own; torch's
allocator holds what lies between them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..arguments import Arguments, numbered_device
from ..errors import FlashsrError
from ..gpu import probe
from .graph import DeviceGraph, GraphCall, Shape, Tensor

if TYPE_CHECKING:
    import torch

    from ..gpu.device import Stream

_KINDS = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2"}
_NUMPY = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}


@dataclass(frozen=True, slots=True)
class _Address:
    """Device memory as torch can look at it without a copy. The interface knows no bfloat16: those are taken as bits."""

    address: int
    shape: Shape
    kind: str

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": _KINDS[self.kind],
            "data": (self.address, False),
            "strides": None,
            "version": 3,
        }


def tensor_at(address: int, shape: Shape, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """A view of device memory as a tensor."""
    import torch

    kind = str(dtype).removeprefix("torch.")
    tensor = torch.as_tensor(_Address(address, shape, kind), device=device)
    return tensor.view(torch.bfloat16) if dtype == torch.bfloat16 else tensor


class TorchGraph:
    """``module`` with its weights on a CUDA device.

    Args:
        module: takes the inputs in order, returns one tensor or a tuple.
        inputs, outputs: (name, dtype) in order.
        device: "cuda:0", say.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        inputs: Sequence[tuple[str, torch.dtype]],
        outputs: Sequence[tuple[str, torch.dtype]],
        device: str,
    ) -> None:
        import torch

        self._device = torch.device(device)
        self._module = module.to(self._device).eval()
        for weight in self._module.parameters():
            if weight.ndim == 4:
                # Convolutions of 16-bit numbers run channels last on a GPU; weights that lie so needn't be turned each time.
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        self._inputs, self._outputs = tuple(inputs), tuple(outputs)
        self.inputs = {name: _described(name, dtype) for name, dtype in inputs}
        self.outputs = {name: _described(name, dtype) for name, dtype in outputs}
        self.weights_bytes = sum(p.nbytes for p in self._module.parameters())

    def prepare(self, shapes: Mapping[str, Shape]) -> _PreparedTorch:
        """See ``DeviceGraph.prepare``: shapes go through the module on torch's meta device, which computes nothing."""
        import torch

        weights = {
            name: torch.empty_like(tensor, device="meta")
            for name, tensor in (*self._module.named_parameters(), *self._module.named_buffers())
        }
        examples = [torch.empty(shapes[name], dtype=dtype, device="meta") for name, dtype in self._inputs]
        try:
            made = torch.func.functional_call(self._module, weights, tuple(examples))
        except RuntimeError as error:
            raise FlashsrError(f"the torch module refuses inputs of {dict(shapes)} ({error})") from error
        made = made if isinstance(made, tuple) else (made,)
        outputs = {name: tuple(part.shape) for (name, _), part in zip(self._outputs, made, strict=True)}
        return _PreparedTorch(self._module, self._device, dict(shapes), self._inputs, self._outputs, outputs)


class _PreparedTorch:
    """See ``PreparedGraph``. Torch holds its scratch memory itself."""

    scratch_bytes = 0

    def __init__(
        self,
        module: torch.nn.Module,
        device: torch.device,
        shapes: dict[str, Shape],
        inputs: tuple[tuple[str, torch.dtype], ...],
        outputs: tuple[tuple[str, torch.dtype], ...],
        makes: dict[str, Shape],
    ) -> None:
        self._module, self._device, self._shapes = module, device, shapes
        self._inputs, self._outputs, self.outputs = inputs, outputs, makes

    def enqueue(self, stream: Stream, addresses: Mapping[str, int], scratch: int) -> None:
        """See ``PreparedGraph.enqueue``."""
        import torch

        external: torch.cuda.Stream = torch.cuda.get_stream_from_external(stream.handle, self._device)
        with torch.cuda.stream(external), torch.inference_mode():
            given = [tensor_at(addresses[n], self._shapes[n], dtype, self._device) for n, dtype in self._inputs]
            made = self._module(*given)
            made = made if isinstance(made, tuple) else (made,)
            for (name, dtype), part in zip(self._outputs, made, strict=True):
                tensor_at(addresses[name], self.outputs[name], dtype, self._device).copy_(part)


def _described(name: str, dtype: torch.dtype) -> Tensor:
    return Tensor(name, (), np.dtype(_NUMPY[str(dtype).removeprefix("torch.")]))


class TorchBackend:
    """See ``DeviceBackend``: the modules that graphs were exported from. The reference on a GPU.

    Raises:
        FlashsrError: there is no such GPU, or no torch that can use it.
    """

    name = "torch"
    place: Literal["device"] = "device"
    captures = False
    """Torch's allocator works while it runs."""

    def __init__(self, ordinal: int) -> None:
        from ..gpu.device import Device

        probe.require_gpu(self.name)
        try:
            import torch
        except ImportError as error:
            raise FlashsrError(f"backend 'torch' needs torch ({error}); pip install 'vsflashsr[export]'") from error
        if not torch.cuda.is_available():
            raise FlashsrError(f"this torch has no CUDA, got torch {torch.__version__}; install a CUDA build of it")
        self.device = Device(ordinal)
        self.where = self.device.name

    def load(self, calls: Sequence[GraphCall]) -> list[DeviceGraph]:
        """See ``HostBackend.load``."""
        return [self._loaded(call) for call in calls]

    def keep_compiled(self) -> None:
        """There is nothing to keep."""

    def close(self) -> None:
        """See ``HostBackend.close``."""
        self.device.close()

    def _loaded(self, call: GraphCall) -> DeviceGraph:
        if call.module is None:
            raise FlashsrError(
                f"backend 'torch' runs models that have torch modules, such as FlashVSR, got the graph {call.label!r}; "
                "use 'tensorrt', 'tensorrt_rtx' or 'onnxruntime'"
            )
        return call.module(f"cuda:{self.device.ordinal}")


def open_torch(arguments: Arguments) -> TorchBackend:
    """Torch on the GPU that was asked for."""
    return TorchBackend(numbered_device(arguments))


def why_no_torch() -> str | None:
    """No GPU."""
    return "there is no NVIDIA GPU with a driver" if probe.device_count() == 0 else None
