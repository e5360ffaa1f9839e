"""OpenVINO: graphs on any CPU, and on Intel's GPUs and NPUs.

Its own runtime, since ONNX Runtime's provider for it lists no device on a machine without Intel's hardware
(onnxruntime-ep-openvino 1.8.1 on an AMD CPU, 2026-11-24), where its CPU part runs well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..arguments import Arguments, device_number
from ..errors import FlashsrError
from ..onnx_file import loadable
from .graph import Feed, GraphCall, Tensor, Value
from .onnxruntime import why_failed

_NUMPY = {"f32": np.float32, "f16": np.float16, "i64": np.int64, "boolean": np.bool_}
_ORDER = ("GPU", "CPU", "NPU")


class OpenVinoBackend:
    """See ``HostBackend``.

    Args:
        device: as OpenVINO calls it, "CPU" or "GPU.1".
        threads: that one call of a graph uses on a CPU; None: what OpenVINO finds best.
    """

    name = "openvino"
    place: Literal["host"] = "host"

    def __init__(self, device: str, threads: int | None) -> None:
        import openvino

        self._core: Any = openvino.Core()
        self._device = device
        self.where = f"{self._core.get_property(device, 'FULL_DEVICE_NAME')} ({device})"
        # The numbers of the CPU in fp32, as far as the device can: GPUs would take half precision by themselves.
        self._options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        if device.startswith("NPU"):
            del self._options["INFERENCE_PRECISION_HINT"]  # it has half precision only
        if device == "CPU" and threads is not None:
            self._options["INFERENCE_NUM_THREADS"] = threads

    def load(self, calls: Sequence[GraphCall]) -> list[OpenVinoGraph]:
        """See ``HostBackend.load``."""
        return [self._loaded(call) for call in calls]

    def keep_compiled(self) -> None:
        """Compiling takes seconds and isn't kept."""

    def close(self) -> None:
        """Graphs are freed with the models that run them."""

    def _loaded(self, call: GraphCall) -> OpenVinoGraph:
        source = loadable(call.path)
        try:
            model = self._core.read_model(source)
            if len(call.shapes) == 1:
                model.reshape({name: list(shape) for name, shape in call.shapes[0].inputs.items()})
            compiled = self._core.compile_model(model, self._device, self._options)
        except Exception as error:  # OpenVINO raises bare RuntimeError, and its bindings others
            raise FlashsrError(
                f"OpenVINO can't load the model {str(call.path)!r} on {self.where} ({why_failed(error)}); "
                "use backend='onnxruntime'"
            ) from error
        return OpenVinoGraph(call.path, compiled, self.where)


class OpenVinoGraph:
    """See ``HostGraph``."""

    pending = False
    concurrent = False

    def __init__(self, path: Path, compiled: Any, where: str) -> None:
        self.path, self._where = path, where
        self._request = compiled.create_infer_request()
        self.inputs = {t.name: t for t in map(_tensor, compiled.inputs)}
        self._outputs = {port.get_any_name(): port for port in compiled.outputs}
        self.outputs = {t.name: t for t in map(_tensor, compiled.outputs)}

    def run(self, feeds: Mapping[str, Feed], outputs: Sequence[str] | None = None) -> dict[str, Value]:
        """See ``HostGraph.run``."""
        given = {name: value if isinstance(value, np.ndarray) else value.numpy() for name, value in feeds.items()}
        try:
            made = self._request.infer(given, share_inputs=True, share_outputs=False)
        except Exception as error:  # see above
            raise FlashsrError(
                f"the model {str(self.path)!r} failed on {self._where} ({why_failed(error)}); use backend='onnxruntime'"
            ) from error
        return {name: _OnHost(made[self._outputs[name]]) for name in outputs or self._outputs}


class _OnHost:
    """See ``Value``."""

    def __init__(self, array: NDArray[Any]) -> None:
        self._array = array

    def shape(self) -> Sequence[int]:
        """See ``Value.shape``."""
        return self._array.shape

    def numpy(self) -> NDArray[Any]:
        """See ``Value.numpy``."""
        return self._array


def why_no_openvino() -> str | None:
    """Why it can't be used here, as far as can be told without opening it."""
    return None if find_spec("openvino") else "openvino isn't installed"


def open_openvino(arguments: Arguments) -> OpenVinoBackend:
    """OpenVINO on the device that was asked for: of a number in the order GPU, CPU, NPU, or of (part of) a name.

    Raises:
        FlashsrError: it isn't installed, or has no such device.
    """
    found = devices()
    chosen = device_number("openvino", arguments.device_id, [name for _, name in found])
    return OpenVinoBackend(found[chosen][0], arguments.threads)


def devices() -> list[tuple[str, str]]:
    """(OpenVINO's name, "GPU.0 Intel(R) Arc(TM)…") of each device, GPUs first.

    Raises:
        FlashsrError: OpenVINO isn't installed, or doesn't start.
    """
    try:
        import openvino

        core = openvino.Core()
        names = sorted(core.available_devices, key=lambda name: _ORDER.index(name.partition(".")[0]))
        return [(name, f"{name} {core.get_property(name, 'FULL_DEVICE_NAME')}".strip()) for name in names]
    except ImportError as error:
        raise FlashsrError(
            f"backend 'openvino' needs OpenVINO, got none ({error}); pip install 'vsflashsr[openvino]'"
        ) from error
    except (RuntimeError, ValueError) as error:
        raise FlashsrError(f"OpenVINO doesn't start ({why_failed(error)}); use backend='onnxruntime'") from error


def _tensor(port: Any) -> Tensor:
    kind = port.get_element_type().get_type_name()
    name = port.get_any_name()
    if kind not in _NUMPY:
        raise FlashsrError(f"{name!r} is of type {kind}; export the model with float32 or float16 tensors")
    shape = tuple(None if d.is_dynamic else int(d.get_length()) for d in port.get_partial_shape())
    return Tensor(name, shape, np.dtype(_NUMPY[kind]))
