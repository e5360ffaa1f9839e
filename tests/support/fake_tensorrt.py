"""TensorRT without a GPU, for tests: its Python API as far as vsflashsr calls it. Engines run in ONNX Runtime.

What TensorRT would refuse or crash on (a shape outside the profile, a missing address, memory that is too small) is refused
here, and every attribute that is used is written down, so that a test can look for it in the real module.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Buffer
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import onnxruntime

from .mock_cuda import MockDriver

type Shape = tuple[int, ...]

SCRATCH_BYTES_PER_VALUE = 2
USED: set[tuple[str, str]] = set()
"""(class of the API, attribute) of everything that was used."""
_KINDS = {1: "FLOAT", 10: "HALF", 7: "INT64", 6: "INT32", 9: "BOOL", 16: "BF16", 2: "UINT8", 3: "INT8"}
_NUMPY: dict[str, Any] = {"FLOAT": np.float32, "HALF": np.float16, "INT64": np.int64, "BOOL": np.bool_}


class Noted:
    """Notes each attribute that is read or set from outside under the name of the class in the real module."""

    api: ClassVar[str]

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_") and name != "api":
            USED.add((type(self).api, name))
        return super().__getattribute__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_"):
            USED.add((type(self).api, name))
        super().__setattr__(name, value)


class ExecutionContextAllocationStrategy(Enum):
    STATIC, ON_PROFILE_CHANGE, USER_MANAGED = range(3)


class CudaGraphStrategy(Enum):
    DISABLED, WHOLE_GRAPH_CAPTURE = range(2)


class DynamicShapesKernelSpecializationStrategy(Enum):
    LAZY, EAGER, NONE = range(3)


class TensorIOMode(Enum):
    NONE, INPUT, OUTPUT = range(3)


class LayerInformationFormat(Enum):
    ONELINE, JSON = range(2)


class Severity(IntEnum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


@dataclass(frozen=True)
class DataType:
    name: str


class ILogger:
    Severity: ClassVar[Any] = Severity

    def __init__(self) -> None:
        self.told = True

    def log(self, level: Any, message: str) -> None:
        raise NotImplementedError


class IProgressMonitor:
    def __init__(self) -> None:
        self.told = True


class ITensor(Noted):
    api = "ITensor"

    def __init__(self, value: onnx.ValueInfoProto) -> None:
        kind = value.type.tensor_type
        self.name = value.name
        self.shape = tuple(size.dim_value or -1 for size in kind.shape.dim)
        self.dtype = DataType(_KINDS[kind.elem_type])


class Network(Noted):
    api = "INetworkDefinition"

    def __init__(self) -> None:
        self._model: onnx.ModelProto | None = None
        self._inputs: list[ITensor] = []
        self._outputs: list[ITensor] = []

    def _read(self, model: onnx.ModelProto) -> None:
        self._model = model
        constants = {tensor.name for tensor in model.graph.initializer}
        self._inputs = [ITensor(v) for v in model.graph.input if v.name not in constants]
        self._outputs = [ITensor(v) for v in model.graph.output]

    @property
    def num_inputs(self) -> int:
        return len(self._inputs)

    @property
    def num_outputs(self) -> int:
        return len(self._outputs)

    def get_input(self, index: int) -> ITensor:
        return self._inputs[index]

    def get_output(self, index: int) -> ITensor:
        return self._outputs[index]


class ParserError(Noted):
    api = "ParserError"

    def __init__(self, text: str) -> None:
        self._text = text

    def desc(self) -> str:
        return self._text

    def node_operator(self) -> str:
        return ""


class OnnxParser(Noted):
    api = "OnnxParser"

    def __init__(self, network: Network, logger: ILogger) -> None:
        self._network = network
        self._errors: list[str] = []

    def parse(self, data: bytes, path: str | None = None) -> bool:
        try:
            model = onnx.load_model_from_string(data)
            onnx.load_external_data_for_model(model, str(Path(path or ".").parent))
        except Exception as error:  # noqa: BLE001  (whatever is wrong with it)
            self._errors.append(str(error))
            return False
        self._network._read(model)
        return True

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return ParserError(self._errors[index])


class Profile(Noted):
    api = "IOptimizationProfile"

    def __init__(self) -> None:
        self._shapes: dict[str, list[Shape]] = {}

    def set_shape(self, name: str, low: Shape, usual: Shape, high: Shape) -> None:
        self._shapes[name] = [tuple(low), tuple(usual), tuple(high)]


class TimingCache(Noted):
    api = "ITimingCache"

    def __init__(self, data: bytes) -> None:
        self._data = data

    def serialize(self) -> bytes:
        return self._data


class Config(Noted):
    api = "IBuilderConfig"

    def __init__(self) -> None:
        self._timings: TimingCache | None = None
        self._profiles: list[Profile] = []
        self._capabilities: list[str] = []
        self.progress_monitor: Any = None
        self.num_compute_capabilities = 0

    def create_timing_cache(self, data: bytes) -> TimingCache | None:
        return None if b"damaged" in data else TimingCache(data)

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if b"another GPU" in cache._data:
            return False
        self._timings = cache
        return True

    def get_timing_cache(self) -> TimingCache | None:
        return self._timings

    def set_compute_capability(self, capability: str, index: int) -> bool:
        self._capabilities.append(capability)
        return True

    def add_optimization_profile(self, profile: Profile) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1


class Builder(Noted):
    api = "Builder"

    def __init__(self, owner: FakeTensorRT, logger: ILogger) -> None:
        self._owner, self._logger = owner, logger

    def create_network(self, flags: int = 0) -> Network:
        self._owner.flags.append(flags)
        return Network()

    def create_builder_config(self) -> Config:
        return Config()

    def create_optimization_profile(self) -> Profile:
        return Profile()

    def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
        owner = self._owner
        owner.builds += 1
        owner.threads.append(threading.current_thread())
        if owner.build_error:
            self._logger.log(Severity.ERROR, owner.build_error)
            return None
        monitor = config.progress_monitor
        monitor.phase_start("Building", None, owner.steps)
        for step in range(owner.steps):
            if not monitor.step_complete("Building", step):
                self._logger.log(Severity.ERROR, "canceled")
                return None
        monitor.phase_finish("Building")
        if config._timings is not None:
            config._timings._data += b"+"
        assert network._model is not None
        profile = config._profiles[0]._shapes if config._profiles else {}
        fixed = {t.name: [t.shape] * 3 for t in network._inputs if -1 not in t.shape}
        head = json.dumps({"version": owner.__version__, "profile": {**fixed, **profile}}).encode()
        return len(head).to_bytes(8, "little") + head + bytes(network._model.SerializeToString())


class RuntimeCache(Noted):
    api = "IRuntimeCache"

    def __init__(self) -> None:
        self._data = b""

    def serialize(self) -> bytes:
        return self._data

    def deserialize(self, data: bytes) -> bool:
        if not data.startswith(b"kernels"):
            return False
        self._data = bytes(data)
        return True


class RuntimeConfig(Noted):
    api = "IRuntimeConfig"

    def __init__(self) -> None:
        self._strategy = ExecutionContextAllocationStrategy.STATIC
        self._cache: RuntimeCache | None = None
        self.cuda_graph_strategy = CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        self.dynamic_shapes_kernel_specialization_strategy = DynamicShapesKernelSpecializationStrategy.LAZY

    def set_execution_context_allocation_strategy(self, strategy: ExecutionContextAllocationStrategy) -> None:
        self._strategy = strategy

    def create_runtime_cache(self) -> RuntimeCache:
        return RuntimeCache()

    def set_runtime_cache(self, cache: RuntimeCache) -> bool:
        self._cache = cache
        return True


class Inspector(Noted):
    api = "EngineInspector"

    def get_engine_information(self, form: LayerInformationFormat) -> str:
        return f"one layer ({form.name})"


class Engine(Noted):
    api = "ICudaEngine"

    def __init__(self, owner: FakeTensorRT, plan: bytes) -> None:
        length = int.from_bytes(plan[:8], "little")
        head = json.loads(plan[8 : 8 + length])
        if head["version"] != owner.__version__:
            raise ValueError(f"built by {head['version']}")
        self._owner = owner
        self._profile: dict[str, list[Shape]] = {k: [tuple(s) for s in v] for k, v in head["profile"].items()}
        network = Network()
        network._read(onnx.load_model_from_string(plan[8 + length :]))
        self._inputs, self._outputs = network._inputs, network._outputs
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            plan[8 + length :], options, providers=["CPUExecutionProvider"]
        )
        self._weights_bytes = len(plan) - 8 - length

    def _tensors(self) -> list[ITensor]:
        return [*self._inputs, *self._outputs]

    def _named(self, name: str) -> ITensor:
        return next(tensor for tensor in self._tensors() if tensor.name == name)

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors())

    def get_tensor_name(self, index: int) -> str:
        return self._tensors()[index].name

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if any(t.name == name for t in self._inputs) else TensorIOMode.OUTPUT

    def get_tensor_shape(self, name: str) -> Shape:
        return self._named(name).shape

    def get_tensor_dtype(self, name: str) -> DataType:
        return self._named(name).dtype

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[Shape]:
        assert profile == 0
        return self._profile[name]

    def get_engine_stat(self) -> int:
        return self._weights_bytes

    def create_runtime_config(self) -> RuntimeConfig:
        return RuntimeConfig()

    def create_engine_inspector(self) -> Inspector:
        return Inspector()

    def create_execution_context(self, given: RuntimeConfig | ExecutionContextAllocationStrategy) -> Context | None:
        if self._owner.context_error:
            self._owner.complain(self._owner.context_error)
            return None
        if isinstance(given, RuntimeConfig):
            assert given.cuda_graph_strategy == CudaGraphStrategy.DISABLED
            assert given.dynamic_shapes_kernel_specialization_strategy == DynamicShapesKernelSpecializationStrategy.EAGER
            if given._cache is not None:
                given._cache._data = given._cache._data or b"kernels of this GPU"
        strategy = given._strategy if isinstance(given, RuntimeConfig) else given
        return Context(self, strategy)


class Context(Noted):
    api = "IExecutionContext"

    def __init__(self, engine: Engine, strategy: ExecutionContextAllocationStrategy) -> None:
        assert strategy == ExecutionContextAllocationStrategy.USER_MANAGED
        self._engine = engine
        self._shapes: dict[str, Shape] = {}
        self._outputs: dict[str, Shape] = {}
        self._addresses: dict[str, int] = {}
        self._memory: tuple[int, int] | None = None
        engine._owner.contexts += 1

    def set_input_shape(self, name: str, shape: Shape) -> bool:
        low, _, high = self._engine._profile[name]
        if len(shape) != len(low) or any(
            not a <= size <= b for a, size, b in zip(low, shape, high, strict=True)
        ):
            self._engine._owner.complain(f"{name} is out of range")
            return False
        self._shapes[name] = tuple(shape)
        return True

    def infer_shapes(self) -> list[str]:
        missing = [tensor.name for tensor in self._engine._inputs if tensor.name not in self._shapes]
        if not missing:
            zeros = {t.name: np.zeros(self._shapes[t.name], _NUMPY[t.dtype.name]) for t in self._engine._inputs}
            made = self._engine._session.run(None, zeros)
            self._outputs = {t.name: v.shape for t, v in zip(self._engine._outputs, made, strict=True)}
        return missing

    def get_tensor_shape(self, name: str) -> Shape:
        return self._shapes.get(name) or self._outputs.get(name) or self._engine._named(name).shape

    def update_device_memory_size_for_shapes(self) -> int:
        if set(self._shapes) != {tensor.name for tensor in self._engine._inputs}:
            raise RuntimeError("shapes are missing")
        return SCRATCH_BYTES_PER_VALUE * sum(int(np.prod(shape)) for shape in self._outputs.values())

    def set_device_memory(self, memory: int, size: int) -> None:
        assert memory % 256 == 0 and size >= self.update_device_memory_size_for_shapes()
        self._memory = (memory, size)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if name not in {tensor.name for tensor in self._engine._tensors()}:
            self._engine._owner.complain(f"there is no tensor {name}")
            return False
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        owner, engine = self._engine._owner, self._engine
        if owner.enqueue_error:
            owner.complain(owner.enqueue_error)
            return False
        names = {tensor.name for tensor in engine._tensors()}
        if self._memory is None or set(self._addresses) != names:
            owner.complain("memory or addresses are missing")
            return False
        assert owner.driver is not None, "give FakeTensorRT a MockDriver to run engines on"
        inputs = {t.name: (self._addresses[t.name], self._shapes[t.name], t.dtype.name) for t in engine._inputs}
        outputs = {t.name: (self._addresses[t.name], self._outputs[t.name], t.dtype.name) for t in engine._outputs}
        view = owner.driver.view

        def run() -> None:
            feeds = {k: view(a, int(np.prod(s)), _NUMPY[d]).reshape(s).copy() for k, (a, s, d) in inputs.items()}
            made = engine._session.run(list(outputs), feeds)
            for (address, shape, dtype), value in zip(outputs.values(), made, strict=True):
                view(address, int(np.prod(shape)), _NUMPY[dtype])[:] = value.reshape(-1)

        def ranges(tensors: dict[str, tuple[int, Shape, str]]) -> list[tuple[int, int]]:
            return [(a, int(np.prod(s)) * np.dtype(_NUMPY[d]).itemsize) for a, s, d in tensors.values()]

        owner.driver.enqueue(
            stream_handle, run, reads=ranges(inputs), writes=[*ranges(outputs), self._memory], name="engine"
        )
        return True


class Runtime(Noted):
    api = "Runtime"

    def __init__(self, owner: FakeTensorRT, logger: ILogger) -> None:
        self._owner = owner
        owner.runtime_logger = logger

    def deserialize_cuda_engine(self, plan: Buffer) -> Engine | None:
        owner = self._owner
        owner.loads += 1
        if owner.rejects:
            owner.rejects -= 1
            owner.complain("the engine was made for another GPU")
            return None
        return Engine(owner, bytes(plan))


class _Flags(IntEnum):
    STRONGLY_TYPED = 1


class _Nothing:
    """No flags, as TensorRT 11 may have none."""


class _Capabilities:
    SM75, SM80, SM86, SM89, SM120 = "SM75", "SM80", "SM86", "SM89", "SM120"


@dataclass(eq=False)
class FakeTensorRT:
    """Stands in for the module `tensorrt` or `tensorrt_rtx`; put it into `sys.modules`."""

    driver: MockDriver | None = None
    """Whose memory and streams engines run on."""
    __name__: str = "tensorrt"
    __version__: str = "10.12.0.36"
    __spec__: ModuleSpec = field(default_factory=lambda: ModuleSpec("tensorrt", None))
    steps: int = 3
    build_error: str = ""
    context_error: str = ""
    enqueue_error: str = ""
    rejects: int = 0
    """So many engines are rejected when they are loaded."""
    has_flag: bool = True
    builds: int = 0
    loads: int = 0
    contexts: int = 0
    flags: list[int] = field(default_factory=list)
    """What networks were made with."""
    threads: list[threading.Thread] = field(default_factory=list)
    """Where engines were built."""
    runtime_logger: Any = None

    ILogger: ClassVar[Any] = ILogger
    IProgressMonitor = IProgressMonitor
    OnnxParser = OnnxParser
    ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy
    CudaGraphStrategy = CudaGraphStrategy
    DynamicShapesKernelSpecializationStrategy = DynamicShapesKernelSpecializationStrategy
    TensorIOMode = TensorIOMode
    LayerInformationFormat = LayerInformationFormat
    ComputeCapability = _Capabilities

    @property
    def NetworkDefinitionCreationFlag(self) -> type[Any]:
        return _Flags if self.has_flag else _Nothing

    def Builder(self, logger: Any) -> Builder:
        return Builder(self, logger)

    def Runtime(self, logger: Any) -> Runtime:
        return Runtime(self, logger)

    def complain(self, text: str) -> None:
        """An error in the runtime's log."""
        self.runtime_logger.log(Severity.ERROR, text)
