"""TensorRT and TensorRT-RTX on a GPU: one code path for both, on memory and streams that are given to it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..arguments import Arguments, numbered_device
from ..errors import FlashsrError
from ..gpu import probe
from .graph import DeviceGraph, GraphCall, Shape, Tensor
from .weights import DeviceWeights, SharedGraph

if TYPE_CHECKING:
    from ..gpu.device import Device, Stream
    from .engines.key import EngineRequest, ModuleName, Target
    from .engines.progress import Progress
    from .engines.store import EngineStore

_NUMPY = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "BF16": np.uint16,
    "INT8": np.int8,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT8": np.uint8,
    "BOOL": np.bool_,
}
"""NumPy has no bfloat16: its bits are kept as uint16."""

log = logging.getLogger(__name__)


class TensorRTRuntime:
    """What loads engines for one GPU. Engines come from `store`, which builds what is missing.

    Args:
        name: "tensorrt" or "tensorrt_rtx".
        device: the GPU. It is current in every thread that calls this or its graphs.
        store: where engines lie. Its builds run in another thread: give it ``enter_thread=device.make_current``.

    Raises:
        FlashsrError: there is no GPU, the module isn't there, or it makes no engines for this GPU.
    """

    def __init__(self, name: ModuleName, device: Device, store: EngineStore) -> None:
        from .engines.modules import load_module, module_log, target_of

        probe.require_gpu(name)  # where there is no driver, Runtime() ends the process
        self.target: Target = target_of(name, device)
        self._module: Any = load_module(name)
        self._device, self._store = device, store
        self._log, self._complaints = module_log(self._module)
        device.make_current()
        self._runtime: Any = self._module.Runtime(self._log)
        self._kernels: Any = None
        self._kernels_read = b""

    def open(self, request: EngineRequest, progress: Progress | None = None) -> TensorRTGraph:
        """The engine, loaded; it is built first where it isn't stored or doesn't load.

        Args:
            request: made with this runtime's `target`.
            progress: told how far a build is; None: lines in the log.

        Raises:
            FlashsrError: it can't be built, or doesn't load.
        """

        def opened(plan: memoryview) -> TensorRTGraph:
            return TensorRTGraph(self, request.label, self._deserialized(plan), len(plan))

        self._device.make_current()
        return self._store.load(request, opened, progress)

    def keep_kernels(self) -> None:
        """Keeps the kernels that TensorRT-RTX has compiled for the next start; to be called after the first steps.

        Writes only what is new; does nothing for TensorRT.
        """
        if self._kernels is not None:
            self._device.make_current()
            compiled = bytes(self._kernels.serialize())
            if compiled != self._kernels_read:
                self._store.write_cache("kernels", self.target, compiled)
                self._kernels_read = compiled

    def context(self, engine: Any, label: str) -> Any:
        """A new execution context that works in memory it is given.

        Raises:
            FlashsrError: TensorRT refuses.
        """
        module = self._module
        strategy = module.ExecutionContextAllocationStrategy.USER_MANAGED
        if self.target.module == "tensorrt_rtx":
            config = engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(strategy)
            # Steps are captured whole, by their model; a graph inside a graph would be refused.
            config.cuda_graph_strategy = module.CudaGraphStrategy.DISABLED
            # Lazy would compile while frames are made, and frames would differ from those made after.
            config.dynamic_shapes_kernel_specialization_strategy = (
                module.DynamicShapesKernelSpecializationStrategy.EAGER
            )
            self._share_kernels(config)
            context = engine.create_execution_context(config)
        else:
            context = engine.create_execution_context(strategy)
        if context is None:
            raise self.refusal(f"the engine {label!r} can't be run")
        return context

    def refusal(self, what: str) -> FlashsrError:
        """The sentence for something that TensorRT has refused."""
        said = self._complaints.take()
        return FlashsrError(f"{what}{f' ({said})' if said else ''}; use another size or tile=, or backend='onnxruntime'")

    def numpy_type(self, label: str, name: str, dtype: Any) -> np.dtype[Any]:
        """The NumPy type of a tensor."""
        if dtype.name not in _NUMPY:
            raise FlashsrError(f"the tensor {name!r} of the engine {label!r} is {dtype.name}; export it as FLOAT or HALF")
        return np.dtype(_NUMPY[dtype.name])

    def is_input(self, engine: Any, name: str) -> bool:
        """Is the tensor read by the engine?"""
        return bool(engine.get_tensor_mode(name) == self._module.TensorIOMode.INPUT)

    def _deserialized(self, plan: memoryview) -> Any:
        from .engines.store import EngineRejectedError

        self._complaints.take()
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise EngineRejectedError(self._complaints.take() or "TensorRT gives no reason")
        return engine

    def _share_kernels(self, config: Any) -> None:
        """One cache of compiled kernels for all engines of this runtime; an old or foreign one counts as empty."""
        if self._kernels is None:
            self._kernels = config.create_runtime_cache()
            self._kernels_read = self._store.read_cache("kernels", self.target)
            if self._kernels_read and not self._kernels.deserialize(self._kernels_read):
                log.debug("the stored kernels are of another driver: they are compiled again")
        config.set_runtime_cache(self._kernels)


class TensorRTGraph:
    """One loaded engine: a `DeviceGraph`. Made by `TensorRTRuntime.open`."""

    def __init__(self, runtime: TensorRTRuntime, label: str, engine: Any, plan_bytes: int) -> None:
        self._runtime, self._engine = runtime, engine
        self.label = label
        self.plan_bytes = plan_bytes
        tensors = [self._tensor(engine.get_tensor_name(i)) for i in range(engine.num_io_tensors)]
        self.inputs: Mapping[str, Tensor] = {t.name: t for t in tensors if runtime.is_input(engine, t.name)}
        self.outputs: Mapping[str, Tensor] = {t.name: t for t in tensors if t.name not in self.inputs}

    @property
    def weights_bytes(self) -> int:
        """Device memory of the constant weights: what the engine says, or its size on disk where it can't say."""
        if hasattr(self._engine, "get_engine_stat"):
            return max(0, int(self._engine.get_engine_stat()))
        return self.plan_bytes

    def prepare(self, shapes: Mapping[str, Shape]) -> TensorRTCall:
        """The engine for these shapes of its inputs.

        Raises:
            FlashsrError: they aren't those of its inputs, or are outside what it was built for.
        """
        if set(shapes) != set(self.inputs):
            raise FlashsrError(
                f"the engine {self.label!r} reads {', '.join(self.inputs)}, got shapes for {', '.join(shapes)}; "
                "correct the bundle"
            )
        context = self._runtime.context(self._engine, self.label)
        for name, shape in shapes.items():
            if not context.set_input_shape(name, shape):
                low, _, high = (tuple(limit) for limit in self._engine.get_tensor_profile_shape(name, 0))
                raise self._runtime.refusal(
                    f"the engine {self.label!r} takes {name!r} from {low} to {high}, got {shape}"
                )
        try:
            missing = context.infer_shapes()
        except RuntimeError as error:
            raise self._runtime.refusal(f"the engine {self.label!r} can't tell its shapes for {dict(shapes)}") from error
        if missing:
            raise self._runtime.refusal(f"the engine {self.label!r} can't tell its shapes without {', '.join(missing)}")
        outputs = {name: tuple(int(size) for size in context.get_tensor_shape(name)) for name in self.outputs}
        if unknown := [name for name, shape in outputs.items() if any(size < 0 for size in shape)]:
            raise self._runtime.refusal(f"the engine {self.label!r} can't tell the shape of {unknown[0]!r} in advance")
        return TensorRTCall(self, context, outputs, int(context.update_device_memory_size_for_shapes()))

    def refusal(self, what: str) -> FlashsrError:
        """See `TensorRTRuntime.refusal`."""
        return self._runtime.refusal(what)

    def _tensor(self, name: str) -> Tensor:
        shape = tuple(None if size < 0 else int(size) for size in self._engine.get_tensor_shape(name))
        return Tensor(name, shape, self._runtime.numpy_type(self.label, name, self._engine.get_tensor_dtype(name)))


class TensorRTCall:
    """An engine for one set of shapes: a `PreparedGraph`, with an execution context of its own.

    A call must have been queued before the next one is, from one thread at a time.
    """

    def __init__(self, graph: TensorRTGraph, context: Any, outputs: Mapping[str, Shape], scratch_bytes: int) -> None:
        self._graph, self._context = graph, context
        self.outputs = outputs
        self.scratch_bytes = scratch_bytes
        """The memory's address must be a multiple of 256."""
        self.held_bytes = 0
        self._addresses: dict[str, int] = {}
        self._scratch: int | None = None

    def enqueue(self, stream: Stream, addresses: Mapping[str, int], scratch: int) -> None:
        """Queue one call; all inputs and outputs lie at `addresses`.

        Raises:
            FlashsrError: an address is missing, or TensorRT refuses.
        """
        context, label = self._context, self._graph.label
        if missing := [n for n in (*self._graph.inputs, *self._graph.outputs) if n not in addresses]:
            raise FlashsrError(f"the engine {label!r} was given no address for {missing[0]!r}; this is a fault of vsflashsr")
        if self.scratch_bytes and scratch != self._scratch:
            context.set_device_memory(scratch, self.scratch_bytes)
            self._scratch = scratch
        for name, address in addresses.items():
            if self._addresses.get(name) != address:
                if not context.set_tensor_address(name, address):
                    raise self._graph.refusal(f"the engine {label!r} doesn't take the address of {name!r}")
                self._addresses[name] = address
        if not context.execute_async_v3(stream.handle):
            raise self._graph.refusal(f"the engine {label!r} failed")


class TensorRTBackend:
    """See ``DeviceBackend``: engines of ``tensorrt`` or ``tensorrt_rtx``.

    Args:
        name: which of the two.
        ordinal: which GPU.
        engine_dir: where engines are kept; None: the user's cache folder.

    Raises:
        FlashsrError: there is no such GPU, the module isn't installed, or it makes no engines for this GPU.
    """

    place: Literal["device"] = "device"
    captures = True

    def __init__(self, name: ModuleName, ordinal: int, engine_dir: Path | None) -> None:
        from ..gpu.device import Device
        from .engines.store import EngineStore

        probe.require_gpu(name)
        self.name = name
        self.device = Device(ordinal)
        try:
            self._runtime = TensorRTRuntime(name, self.device, EngineStore(engine_dir, enter_thread=self.device.make_current))
        except BaseException:
            self.device.close()
            raise
        self.where = self.device.name
        self._weights = DeviceWeights(self.device)

    def load(self, calls: Sequence[GraphCall]) -> list[DeviceGraph]:
        """See ``HostBackend.load``: engines are built where they aren't stored. One serves all layers that share a graph."""
        from .engines.requests import engine_request, identity

        engines: dict[object, TensorRTGraph] = {}
        shared: dict[object, SharedGraph] = {}
        loaded: list[DeviceGraph] = []
        for call in calls:
            request = engine_request(call, self._runtime.target)
            key = identity(request)
            if key not in engines:
                engines[key] = self._runtime.open(request)
                shared[key] = SharedGraph(engines[key])
            loaded.append(engines[key] if call.weights is None else shared[key].bound(call.weights, self._weights))
        return loaded

    def keep_compiled(self) -> None:
        """See ``HostBackend.keep_compiled``: a killed vspipe keeps nothing, so it isn't left to the end."""
        self._runtime.keep_kernels()

    def close(self) -> None:
        """See ``HostBackend.close``."""
        if not self.device.closed:
            self._runtime.keep_kernels()
        self.device.close()


def open_tensorrt(arguments: Arguments) -> TensorRTBackend:
    """TensorRT on the GPU that was asked for."""
    return TensorRTBackend("tensorrt", numbered_device(arguments), arguments.engine_dir)


def open_tensorrt_rtx(arguments: Arguments) -> TensorRTBackend:
    """TensorRT-RTX on the GPU that was asked for."""
    return TensorRTBackend("tensorrt_rtx", numbered_device(arguments), arguments.engine_dir)


def why_no_tensorrt() -> str | None:
    """No GPU, or no module."""
    return _why_not("tensorrt")


def why_no_tensorrt_rtx() -> str | None:
    """No GPU, or no module."""
    return _why_not("tensorrt_rtx")


def _why_not(name: ModuleName) -> str | None:
    from .engines.modules import installed

    if probe.device_count() == 0:
        return "there is no NVIDIA GPU with a driver"
    return None if installed(name) else f"{name} isn't installed"
