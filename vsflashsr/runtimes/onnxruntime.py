"""ONNX Runtime on the CPU: graphs on arrays, and the backend that loads them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from weakref import WeakValueDictionary

import numpy as np
import onnxruntime as ort

from ..arguments import Arguments
from ..errors import FlashsrError
from ..onnx_file import loadable
from .graph import Feed, GraphCall, Tensor, Value, WeightFile

if os.environ.get("ORT_DISABLE_TELEMETRY") == "1":
    ort.disable_telemetry_events()  # versions that don't know the variable
# What fails is said in one sentence by whoever asked; ONNX Runtime's own lines are coloured, and on stderr.
ort.set_default_logger_severity(4)

_NUMPY = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}


def _tensor(where: str, arg: Any) -> Tensor:
    try:
        name, kind, shape = arg.name, arg.type, tuple(arg.shape)
    except UnicodeDecodeError as error:
        raise FlashsrError(
            f"{where} calls an input, an output or a size by what is no text ({error}); export or download it again"
        ) from error
    if kind not in _NUMPY:
        raise FlashsrError(f"{where}: {name!r} is of type {kind}; export the model with float32 or float16 tensors")
    return Tensor(name, shape, np.dtype(_NUMPY[kind]))


class OnnxSession:
    """A graph that is ready to run.

    Args:
        path: the ``.onnx`` file; external data lies beside it.
        threads: threads that one call of the graph uses; None: one for each core.
        placed: says in the session's options where it runs, and gives the providers if they aren't said there.

    Raises:
        FlashsrError: the file is no graph that ONNX Runtime can load.
    """

    pending = False
    concurrent = True

    def __init__(
        self,
        path: Path,
        *,
        threads: int | None = None,
        placed: Callable[[ort.SessionOptions], list[Any] | None] = lambda _: ["CPUExecutionProvider"],
    ) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or os.cpu_count() or 1
        options.inter_op_num_threads = 1
        # Threads that wait by spinning take the cores from the filters before and after this one.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4
        where = f"the model {str(path)!r}"
        model = loadable(path)
        try:
            self._session = ort.InferenceSession(model, options, providers=placed(options))
        except Exception as error:  # ONNX Runtime raises a dozen unrelated types, some bare RuntimeError
            raise FlashsrError(
                f"ONNX Runtime can't load {where} ({why_failed(error)}); export or download it again"
            ) from error
        self.path = path
        self.inputs = {t.name: t for t in (_tensor(where, a) for a in self._session.get_inputs())}
        self.outputs = {t.name: t for t in (_tensor(where, a) for a in self._session.get_outputs())}

    def run(self, feeds: Mapping[str, Feed], outputs: Sequence[str] | None = None) -> dict[str, Value]:
        """See ``HostGraph.run``. Arrays are shared, not copied; results are new."""
        names = list(self.outputs) if outputs is None else list(outputs)
        values = {
            k: v if isinstance(v, ort.OrtValue) else ort.OrtValue.ortvalue_from_numpy(v) for k, v in feeds.items()
        }
        try:
            return dict(zip(names, self._session.run_with_ort_values(names, values), strict=True))
        except Exception as error:
            raise FlashsrError(
                f"the model {str(self.path)!r} failed ({why_failed(error)}); check that it fits its bundle.json"
            ) from error


def why_failed(error: Exception) -> str:
    """The first line of what ONNX Runtime says, which is what a user can use."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


_opened: WeakValueDictionary[tuple[Path, int, int, int | None], OnnxSession] = WeakValueDictionary()


def open_session(path: Path, threads: int | None) -> OnnxSession:
    """The graph, loaded once for all who have it open: it has no state of its own, and may be of hundreds of megabytes.

    Raises:
        FlashsrError: see ``OnnxSession``.
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise FlashsrError(f"can't read the model {str(path)!r} ({error.strerror}); export or download it again") from error
    key = (path, stat.st_size, stat.st_mtime_ns, threads)
    session = _opened.get(key)
    if session is None:
        _opened[key] = session = OnnxSession(path, threads=threads)
    return session


class _WithWeights:
    """A ``HostGraph`` whose weights are mapped from their file and passed with each call."""

    def __init__(self, session: OnnxSession, weights: WeightFile) -> None:
        self._session, self._weights = session, _mapped(weights)
        self.path, self.outputs = session.path, session.outputs
        self.pending, self.concurrent = session.pending, session.concurrent
        self.inputs = {name: tensor for name, tensor in session.inputs.items() if name not in self._weights}

    def run(self, feeds: Mapping[str, Feed], outputs: Sequence[str] | None = None) -> dict[str, Value]:
        """See ``HostGraph.run``."""
        return self._session.run({**feeds, **self._weights}, outputs)


def _mapped(weights: WeightFile) -> dict[str, ort.OrtValue]:
    """Tensors of a weight file, not yet read: the system loads pages as they are used, and may drop them again.

    Copy-on-write, because ONNX Runtime takes no array that is read-only.
    """
    size = weights.path.stat().st_size
    if any(entry.offset_bytes + entry.length_bytes > size for entry in weights.tensors):
        raise FlashsrError(
            f"the weights {str(weights.path)!r} are shorter than bundle.json says, got {size} bytes; export again"
        )
    data = np.memmap(weights.path, np.uint8, mode="c")
    return {
        entry.name: ort.OrtValue.ortvalue_from_numpy(
            data[entry.offset_bytes : entry.offset_bytes + entry.length_bytes].view(entry.dtype).reshape(entry.shape)
        )
        for entry in weights.tensors
    }


class CpuBackend:
    """See ``HostBackend``: ONNX Runtime on the CPU, which is everywhere.

    Args:
        threads: that one call of a graph uses; None: one for each core.
    """

    name = "onnxruntime"
    place: Literal["host"] = "host"
    where = "the CPU"

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads

    def load(self, calls: Sequence[GraphCall]) -> list[OnnxSession | _WithWeights]:
        """See ``HostBackend.load``."""
        return [self._loaded(call) for call in calls]

    def keep_compiled(self) -> None:
        """There is nothing to keep."""

    def close(self) -> None:
        """Graphs are freed with the models that run them."""

    def _loaded(self, call: GraphCall) -> OnnxSession | _WithWeights:
        session = open_session(call.path, self._threads)
        return session if call.weights is None else _WithWeights(session, call.weights)


def open_cpu(arguments: Arguments) -> CpuBackend:
    """The CPU with the threads that were asked for."""
    return CpuBackend(arguments.threads)


def why_no_cpu() -> str | None:
    """It is always there."""
    return None
