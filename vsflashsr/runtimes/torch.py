"""Torch modules as graphs on a device: the reference for every other runtime, and the way where TensorRT is missing.

Needs torch with CUDA, which only ``backend="torch"`` asks for. Inputs and outputs are device addresses of our own; torch's
allocator holds what lies between them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..arguments import Arguments, numbered_device
from ..errors import FlashsrError
from ..gpu import probe
from ..gpu.budget import MemoryRefusedError, amount
from .graph import DeviceGraph, GraphCall, Shape, Tensor

if TYPE_CHECKING:
    import torch

    from ..gpu.device import Stream

_KINDS = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2", "int64": "<i8"}
_NUMPY = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16, "int64": np.int64}


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


@contextlib.contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Torch computes float32 in float32, and the same each time.

    By default its convolutions round float32 to TF32's 11 bits, which moves selections of windows (2026-11-24, emulated: an
    error of 6.5e-3 where float32 has less than 1e-3). Whoever shares this process may have chosen otherwise, too.
    """
    import torch

    chosen = torch.get_float32_matmul_precision()
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(chosen)


class TorchWeights:
    """A module's weights on a device, until they are given back.

    Args:
        module: moved to the device.
        device: where.
    """

    def __init__(self, module: torch.nn.Module, device: torch.device) -> None:
        import torch

        self._module = module.to(device).eval()
        for weight in self._module.parameters():
            if weight.ndim == 4:
                # Convolutions of 16-bit numbers run channels last on a GPU; weights that lie so needn't be turned each time.
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        if device.type == "cuda":
            # Torch copies on its own stream, which none of ours waits for.
            torch.cuda.synchronize(device)
        self.weights_bytes = sum(p.nbytes for p in self._module.parameters())

    def release(self) -> None:
        """Give the weights back; it can't be called any more."""
        self._module.to("meta")


class TorchGraph(TorchWeights):
    """``module`` with its weights on a CUDA device.

    Args:
        module: takes the inputs in order, returns one tensor or a tuple.
        inputs, outputs: (name, dtype) in order.
        device: "cuda:0", say.
        pool: where torch takes what lies between inputs and outputs; None: where it always does. Work that is captured needs
            one, since the graph keeps the addresses.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        inputs: Sequence[tuple[str, torch.dtype]],
        outputs: Sequence[tuple[str, torch.dtype]],
        device: str,
        *,
        pool: torch.cuda.MemPool | None = None,
    ) -> None:
        import torch

        self._device, self._pool = torch.device(device), pool
        super().__init__(module, self._device)
        self._inputs, self._outputs = tuple(inputs), tuple(outputs)
        self.inputs = {name: declared(name, dtype) for name, dtype in inputs}
        self.outputs = {name: declared(name, dtype) for name, dtype in outputs}

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
        prepared = _PreparedTorch(
            self._module, self._device, dict(shapes), self._inputs, self._outputs, outputs, self._pool
        )
        if self._device.type == "cuda":
            prepared.held_bytes = self._held_bytes(shapes)
        return prepared

    def _held_bytes(self, shapes: Mapping[str, Shape]) -> int:
        """What torch takes for one call on zeros; layers that are alike are asked once."""
        import torch

        weights = tuple((tuple(p.shape), p.dtype) for p in self._module.parameters())
        key = type(self._module), weights, tuple(sorted(shapes.items()))

        def call() -> None:
            self._module(*(torch.zeros(shapes[name], dtype=dtype, device=self._device) for name, dtype in self._inputs))

        return held_by(self._device, key, call)


def held_by(device: torch.device, key: Hashable, call: Callable[[], object]) -> int:
    """What torch takes for a call, on a stream of its own, since torch keeps memory by stream; found out once for each key.

    Raises:
        MemoryRefusedError: there isn't so much.
    """
    import torch

    if (device, key) in _HELD:
        return _HELD[device, key]
    new_stream: Any = torch.cuda.Stream
    torch.cuda.empty_cache()
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_reserved(device)
    try:
        with torch.cuda.stream(new_stream(device)), torch.inference_mode(), exact_arithmetic():
            call()
            torch.cuda.current_stream(device).synchronize()
        _HELD[device, key] = int(torch.cuda.max_memory_reserved(device)) - before
    except torch.cuda.OutOfMemoryError as error:
        free, _ = torch.cuda.mem_get_info(device)
        raise MemoryRefusedError(
            f"torch has no room for one call of the model at this size, got {amount(free)} free; "
            "use tile='auto' or smaller tiles, such as tile=256"
        ) from error
    finally:
        torch.cuda.empty_cache()
    return _HELD[device, key]


_HELD: dict[Any, int] = {}
"""What was found out, by device, module and shapes."""


class _PreparedTorch:
    """See ``PreparedGraph``. Torch holds its scratch memory itself."""

    scratch_bytes = 0
    held_bytes = 0

    def __init__(
        self,
        module: torch.nn.Module,
        device: torch.device,
        shapes: dict[str, Shape],
        inputs: tuple[tuple[str, torch.dtype], ...],
        outputs: tuple[tuple[str, torch.dtype], ...],
        makes: dict[str, Shape],
        pool: torch.cuda.MemPool | None,
    ) -> None:
        self._pool = pool
        self._module, self._device, self._shapes = module, device, shapes
        self._inputs, self._outputs, self.outputs = inputs, outputs, makes

    def enqueue(self, stream: Stream, addresses: Mapping[str, int], scratch: int) -> None:
        """See ``PreparedGraph.enqueue``."""
        import torch

        external: torch.cuda.Stream = torch.cuda.get_stream_from_external(stream.handle, self._device)
        pooled = contextlib.nullcontext() if self._pool is None else torch.cuda.use_mem_pool(self._pool)
        with pooled, torch.cuda.stream(external), torch.inference_mode(), exact_arithmetic():
            given = [tensor_at(addresses[n], self._shapes[n], dtype, self._device) for n, dtype in self._inputs]
            made = self._module(*given)
            made = made if isinstance(made, tuple) else (made,)
            for (name, dtype), part in zip(self._outputs, made, strict=True):
                tensor_at(addresses[name], self.outputs[name], dtype, self._device).copy_(part)


def declared(name: str, dtype: torch.dtype) -> Tensor:
    """A graph's input or output, of any shape."""
    return Tensor(name, (), np.dtype(_NUMPY[str(dtype).removeprefix("torch.")]))


class TorchBackend:
    """See ``DeviceBackend``: the modules that graphs were exported from, and ONNX graphs operator by operator.

    The reference on a GPU, and what there is on those that TensorRT-RTX leaves out (A100, H100, H200) without TensorRT.

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
        self._graphs: list[TorchWeights] = []

    def load(self, calls: Sequence[GraphCall]) -> list[DeviceGraph]:
        """See ``HostBackend.load``."""
        return [self._loaded(call) for call in calls]

    def keep_compiled(self) -> None:
        """There is nothing to keep."""

    def close(self) -> None:
        """See ``HostBackend.close``."""
        import torch

        self.device.close()
        # Whoever still holds a model holds no weights by it.
        while self._graphs:
            self._graphs.pop().release()
        torch.cuda.empty_cache()

    def _loaded(self, call: GraphCall) -> DeviceGraph:
        where = f"cuda:{self.device.ordinal}"
        graph = onnx_graph(call.path, where) if call.module is None else call.module(where)
        if isinstance(graph, TorchWeights):
            self._graphs.append(graph)
        return graph


def onnx_graph(path: Path, device: str) -> TorchGraph:
    """An ONNX file as a graph on `device`, such as "cuda:0".

    Raises:
        FlashsrError: it has operators that aren't known here.
    """
    from .onnx_torch import OnnxModule

    module = OnnxModule(path)
    return TorchGraph(module, module.inputs, module.outputs, device)


def open_torch(arguments: Arguments) -> TorchBackend:
    """Torch on the GPU that was asked for."""
    return TorchBackend(numbered_device(arguments))


def why_no_torch() -> str | None:
    """No GPU."""
    return "there is no NVIDIA GPU with a driver" if probe.device_count() == 0 else None
