"""One ONNX graph on ONNX Runtime, on the CPU."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from ..errors import FlashsrError
from ..onnx_file import examined, read_graph
from .graph import Tensor

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
    if arg.type not in _NUMPY:
        raise FlashsrError(
            f"{where}: {arg.name!r} is of type {arg.type}; export the model with float32 or float16 tensors"
        )
    return Tensor(arg.name, tuple(arg.shape), np.dtype(_NUMPY[arg.type]))


class OnnxSession:
    """A graph that is ready to run.

    Args:
        path: the ``.onnx`` file; external data lies beside it.
        threads: threads that one call of the graph uses; None: one for each core.

    Raises:
        FlashsrError: the file is no graph that ONNX Runtime can load.
    """

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or os.cpu_count() or 1
        options.inter_op_num_threads = 1
        # Threads that wait by spinning take the cores from the filters before and after this one.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4
        where = f"the model {str(path)!r}"
        graph = read_graph(path)
        # What was looked at is what is loaded; only a graph with weights in other files needs its name, to find them.
        model: bytes | Path = path if examined(path, graph).external else graph
        try:
            self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises a dozen unrelated types, some bare RuntimeError
            reason = str(error).strip().splitlines()[0]
            raise FlashsrError(f"ONNX Runtime can't load {where} ({reason}); export or download it again") from error
        self.path = path
        self.inputs = {t.name: t for t in (_tensor(where, a) for a in self._session.get_inputs())}
        self.outputs = {t.name: t for t in (_tensor(where, a) for a in self._session.get_outputs())}

    def run(
        self, feeds: Mapping[str, NDArray[Any] | ort.OrtValue], outputs: Sequence[str] | None = None
    ) -> dict[str, ort.OrtValue]:
        """Run the graph once. Arrays are shared, not copied; results are new, and never written again.

        Raises:
            FlashsrError: the graph refuses these inputs, or fails.
        """
        names = list(self.outputs) if outputs is None else list(outputs)
        values = {
            k: v if isinstance(v, ort.OrtValue) else ort.OrtValue.ortvalue_from_numpy(v) for k, v in feeds.items()
        }
        try:
            return dict(zip(names, self._session.run_with_ort_values(names, values), strict=True))
        except Exception as error:
            reason = str(error).strip().splitlines()[0]
            raise FlashsrError(
                f"the model {str(self.path)!r} failed ({reason}); check that it fits its bundle.json"
            ) from error
