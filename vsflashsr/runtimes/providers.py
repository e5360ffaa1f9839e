"""ONNX Runtime's execution providers beside the CPU: GPUs and NPUs of every vendor through one API, a row each.

To add one: a row in ``PROVIDERS``, and an extra with its package in pyproject.toml.

Results stay in the provider's memory where it has any of its own: states never leave it, and a finished frame is fetched by
whoever takes it, while the next step is made.
"""

from __future__ import annotations

import importlib
import logging
import os
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from ..arguments import Arguments, device_number
from ..errors import FlashsrError, shown
from .graph import Feed, GraphCall, Value
from .onnxruntime import OnnxSession, why_failed

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Provider:
    """An execution provider."""

    backend: str
    """As in ``flashsr(backend=)``; the extra has the same name."""
    name: str
    """As ONNX Runtime calls it."""
    package: str | None
    """The Python package with its library; None: it is part of ONNX Runtime where it exists at all."""
    memory: str | None
    """What ONNX Runtime's bindings call its memory; None: results come back to the host's."""
    options: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    automatic: bool = False
    """Does "auto" consider it, where it finds a real GPU?"""
    pure: bool = True
    """Has it been seen to make the same bytes of the same numbers, whatever the order? (tests/runtimes/test_providers.py)"""


PROVIDERS = (
    Provider("webgpu", "WebGpuExecutionProvider", "onnxruntime_ep_webgpu", "webgpu", automatic=True),
    # Part of ONNX Runtime's wheels for macOS; nobody has tried it with this package yet.
    Provider(
        "coreml",
        "CoreMLExecutionProvider",
        None,
        None,
        MappingProxyType({"ModelFormat": "MLProgram", "MLComputeUnits": "CPUAndGPU"}),
        pure=False,
    ),
)



class _Traffic:
    """What all sessions of a provider share in a process: they have one device, and none of its libraries promises threads."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.released: list[ort.OrtValue] = []
        """Memory that nobody reads any more. It goes back between calls: threads that drop frames don't know what runs."""


_traffic = {provider.name: _Traffic() for provider in PROVIDERS}
_registered: dict[str, str | None] = {}
"""By the provider's name: why its library can't be loaded; None: it is."""
_registering = threading.Lock()


def devices(provider: Provider) -> list[Any]:
    """ONNX Runtime's ``OrtEpDevice`` of each device that the provider finds, GPUs first.

    Raises:
        FlashsrError: its package isn't installed, or its library doesn't load.
    """
    if provider.package is not None and (reason := _library(provider, provider.package)) is not None:
        raise FlashsrError(f"backend {provider.backend!r} can't be used, got {reason}; {_remedy(provider)}")
    found = [device for device in ort.get_ep_devices() if device.ep_name == provider.name]
    return sorted(found, key=lambda device: not _is_gpu(device))


def described(device: Any) -> str:
    """What a device is called: what its driver says, or else its maker and what it is."""
    metadata = dict(device.device.metadata)
    return str(metadata.get("Description") or f"{device.device.vendor or 'unknown'} {device.device.type.name}".strip())


def why_no_provider(provider: Provider) -> str | None:
    """Why "auto" can't use it here: nothing is installed, or there is no GPU for it."""
    if provider.package is not None and find_spec(provider.package) is None:
        return f"{provider.backend} isn't installed"
    try:
        gpus = [device for device in devices(provider) if _is_gpu(device)]
    except FlashsrError as error:
        return str(error)
    return None if gpus else f"{provider.backend} finds no GPU"


def open_provider(provider: Provider, arguments: Arguments) -> ProviderBackend:
    """The provider on the device that was asked for.

    Raises:
        FlashsrError: it can't be had, or there is no such device.
    """
    return ProviderBackend(provider, _chosen(provider, arguments.device_id), arguments.threads)


class ProviderBackend:
    """See ``HostBackend``: arrays go in, results stay on the device until they are fetched.

    Args:
        provider: which.
        device: one of ``devices(provider)``; None: the provider is ONNX Runtime's own and chooses itself.
        threads: for what is left to the CPU; None: one for each core.
    """

    place: Literal["host"] = "host"

    def __init__(self, provider: Provider, device: Any, threads: int | None) -> None:
        self.name = provider.backend
        self.where = f"{described(device)} ({provider.name})" if device is not None else provider.name
        self._provider, self._device, self._threads = provider, device, threads

    def load(self, calls: Sequence[GraphCall]) -> list[ProviderSession]:
        """See ``HostBackend.load``."""
        return [self._loaded(call) for call in calls]

    def keep_compiled(self) -> None:
        """The provider keeps what it keeps."""

    def close(self) -> None:
        """Graphs are freed with the models that run them."""

    def _loaded(self, call: GraphCall) -> ProviderSession:
        with _chatter_to_log():
            session = ProviderSession(call.path, self._provider, self._device, self.where, self._threads)
        if left := session.left_to_cpu:
            _log.debug("%s leaves to the CPU: %s", self.name, ", ".join(f"{n} {op}" for op, n in sorted(left.items())))
        return session


class ProviderSession(OnnxSession):
    """See ``HostGraph``. Calls may return before they have ended; one call at a time."""

    concurrent = False

    def __init__(self, path: Path, provider: Provider, device: Any, where: str, threads: int | None) -> None:
        self._where, self._memory = where, provider.memory
        self.pending = provider.memory is not None
        self._traffic = _traffic[provider.name]

        def placed(options: ort.SessionOptions) -> list[Any] | None:
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
            if device is None:
                return [(provider.name, dict(provider.options)), "CPUExecutionProvider"]
            options.add_provider_for_devices([device], dict(provider.options))
            return None

        super().__init__(path, threads=threads, placed=placed)

    @property
    def left_to_cpu(self) -> Counter[str]:
        """How many nodes of which operator the provider doesn't run itself."""
        groups = self._session.get_provider_graph_assignment_info()
        return Counter(
            node.op_type for group in groups if group.ep_name == "CPUExecutionProvider" for node in group.get_nodes()
        )

    def run(self, feeds: Mapping[str, Feed], outputs: Sequence[str] | None = None) -> dict[str, Value]:
        """See ``HostGraph.run``."""
        names = list(self.outputs) if outputs is None else list(outputs)
        with self._traffic.lock:
            self._traffic.released.clear()
            try:
                binding = self._session.io_binding()
                for name, value in feeds.items():
                    self._bind(binding, name, value)
                for name in names:
                    binding.bind_output(name, self._memory or "cpu", 0)
                self._session.run_with_iobinding(binding)
                made = binding.get_outputs()
            except Exception as error:  # ONNX Runtime raises a dozen unrelated types, some bare RuntimeError
                raise self._failed(error) from error
        if not self.pending:
            return dict(zip(names, made, strict=True))
        return {name: _OnDevice(value, self) for name, value in zip(names, made, strict=True)}

    def fetched(self, value: ort.OrtValue) -> NDArray[Any]:
        """A result's numbers, waited for.

        Raises:
            FlashsrError: the device failed.
        """
        with self._traffic.lock:
            try:
                array: NDArray[Any] = value.numpy()
            except Exception as error:
                raise self._failed(error) from error
        return array

    def release(self, value: ort.OrtValue) -> None:
        """Nobody reads the value any more."""
        self._traffic.released.append(value)

    def _bind(self, binding: Any, name: str, value: Feed) -> None:
        if isinstance(value, _OnDevice):
            binding.bind_ortvalue_input(name, value.value)
        elif isinstance(value, ort.OrtValue):
            binding.bind_ortvalue_input(name, value)
        else:
            binding.bind_cpu_input(name, np.ascontiguousarray(value))

    def _failed(self, error: Exception) -> FlashsrError:
        return FlashsrError(
            f"the model {str(self.path)!r} failed on {self._where} ({why_failed(error)}); "
            "try smaller tiles such as tile=256, or backend='onnxruntime'"
        )


class _OnDevice:
    """See ``Value``: a tensor in the provider's memory."""

    def __init__(self, value: ort.OrtValue, session: ProviderSession) -> None:
        self.value, self._session = value, session

    def __del__(self) -> None:
        self._session.release(self.value)

    def shape(self) -> Sequence[int]:
        """See ``Value.shape``."""
        shape: Sequence[int] = self.value.shape()
        return shape

    def numpy(self) -> NDArray[Any]:
        """See ``Value.numpy``."""
        return self._session.fetched(self.value)


def _chosen(provider: Provider, wanted: int | str) -> Any:
    """The device of that number or (part of a) name; None where ONNX Runtime's own provider chooses itself."""
    if provider.package is None:
        if provider.name not in ort.get_available_providers():
            raise FlashsrError(
                f"backend {provider.backend!r} isn't part of this ONNX Runtime, got {ort.__version__} for this platform; "
                "use backend='auto' or 'onnxruntime'"
            )
        if wanted != 0:
            raise FlashsrError(
                f"backend {provider.backend!r} chooses its device itself, got device_id={shown(wanted)}; leave it out"
            )
        return None
    found = devices(provider)
    if not found:
        raise FlashsrError(
            f"backend {provider.backend!r} finds no device, got none from {provider.package}; "
            "install the GPU's driver, or use backend='auto' or 'onnxruntime'"
        )
    return found[device_number(provider.backend, wanted, [described(device) for device in found])]


def _is_gpu(device: Any) -> bool:
    return bool(device.device.type == ort.OrtHardwareDeviceType.GPU)


def _library(provider: Provider, package: str) -> str | None:
    """Loads the provider's library, once in a process; why that fails."""
    with _registering:
        if provider.name not in _registered:
            try:
                with _chatter_to_log():
                    ort.register_execution_provider_library(provider.name, importlib.import_module(package).get_library_path())
                _registered[provider.name] = None
            except ImportError:
                return f"no package {package}"
            except Exception as error:  # noqa: BLE001  # ONNX Runtime raises a dozen unrelated types; kept, and said
                _registered[provider.name] = why_failed(error)
        return _registered[provider.name]


def _remedy(provider: Provider) -> str:
    return f"pip install 'vsflashsr[{provider.backend}]', or use backend='auto' or 'onnxruntime'"


@contextmanager
def _chatter_to_log() -> Iterator[None]:
    """What libraries write to stderr by themselves (Dawn warns of its limits at every start) goes to the debug log."""
    try:
        kept = os.dup(2)
    except OSError:  # there is no stderr
        yield
        return
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            said.seek(0)
            for line in said.read().decode("utf-8", "replace").splitlines():
                _log.debug("%s", line)
