"""A GPU as a backend: the device and what executes graphs on it, opened for one filter and closed with it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ..bundle import Bundle
from ..errors import FlashsrError
from ..gpu.device import Device
from ..gpu.probe import device_count
from ..models.flashvsr.device.graphs import Piece, StepGraphs
from ..models.flashvsr.device.model import DeviceFlashVSRModel, step_shape
from ..models.flashvsr.device.step import DeviceStep
from ..models.flashvsr.kernels.library import KernelLibrary
from ..models.flashvsr.section import Graph, Section, read_section
from ..models.frame.host import FrameModel
from ..models.recurrent.device import DeviceGraphs, DeviceRecurrentModel

if TYPE_CHECKING:
    from ..gpu.device import Buffer
    from .graph import DeviceGraph

type BackendName = Literal["tensorrt", "tensorrt_rtx", "torch"]
type Size = tuple[int, int]
"""(height, width) of low-resolution frames or tiles."""

_log = logging.getLogger(__name__)
_ALIGNMENT = 512
_TILE_REMEDY = "use tile='auto' or smaller tiles, such as tile=256, or a smaller model"


class DeviceBackend(Protocol):
    """What opens models on a device."""

    name: BackendName
    device: Device

    def recurrent(self, bundle: Bundle, scale: int, size: Size, *, runs: int) -> DeviceRecurrentModel:
        """A recurrent bundle for frames of this size, with so many states at once."""

    def frame(self, path: Path, frame: FrameModel, size: Size) -> DeviceRecurrentModel:
        """A single-frame upscaler, which the CPU has had a look at."""

    def flashvsr(
        self, bundle: Bundle, scale: int, size: Size, *, runs: int, options: Mapping[str, Any]
    ) -> DeviceFlashVSRModel:
        """A FlashVSR bundle."""

    def close(self) -> None:
        """Free all of it. Idempotent."""


class TensorRTBackend:
    """See ``DeviceBackend``: engines of ``tensorrt`` or ``tensorrt_rtx``.

    Args:
        name: which of the two.
        ordinal: which GPU.
        engine_dir: where engines are kept; None: the user's cache folder.

    Raises:
        FlashsrError: there is no such GPU, the module isn't installed, or it makes no engines for this GPU.
    """

    def __init__(self, name: Literal["tensorrt", "tensorrt_rtx"], ordinal: int, engine_dir: Path | None) -> None:
        from .engines.store import EngineStore
        from .tensorrt import TensorRTRuntime

        self.name: BackendName = name
        self.device = Device(ordinal)
        try:
            self._runtime = TensorRTRuntime(name, self.device, EngineStore(engine_dir, enter_thread=self.device.make_current))
        except BaseException:
            self.device.close()
            raise
        # Kernels that RTX compiled are kept when a model is open, since a killed vspipe keeps nothing, and at the end.
        self._weights: dict[Path, tuple[Buffer, dict[str, int]]] = {}
        """Uploaded weights of layers, and where each tensor lies."""

    def recurrent(self, bundle: Bundle, scale: int, size: Size, *, runs: int) -> DeviceRecurrentModel:
        """See ``DeviceBackend.recurrent``."""
        spec = bundle.scales[scale]
        opened = self._open(bundle, size, scale)
        graphs = DeviceGraphs(
            opened[bundle.path(spec.step)],
            None if spec.first is None else opened[bundle.path(spec.first)],
            "frames",
            "out",
            spec.states,
            bundle.size_multiple,
            bundle.value_range,
        )
        model = DeviceRecurrentModel(self.device, bundle.spec(scale), graphs, size, runs=runs, remedy=_TILE_REMEDY)
        self._runtime.keep_kernels()
        return model

    def frame(self, path: Path, frame: FrameModel, size: Size) -> DeviceRecurrentModel:
        """See ``DeviceBackend.frame``."""
        (graph,) = self._open(path, size, frame.graph.scale).values()
        graphs = DeviceGraphs(
            graph, None, *frame.names, size_multiple=frame.graph.size_multiple, value_range=frame.value_range
        )
        model = DeviceRecurrentModel(self.device, frame.spec, graphs, size, remedy=_TILE_REMEDY)
        self._runtime.keep_kernels()
        return model

    def flashvsr(
        self, bundle: Bundle, scale: int, size: Size, *, runs: int, options: Mapping[str, Any]
    ) -> DeviceFlashVSRModel:
        """See ``DeviceBackend.flashvsr``."""
        section = read_section(f"bundle {str(bundle.folder)!r}", bundle.section)
        form = section.options.overridden(options).piece_weights
        library = KernelLibrary(self.device)
        opened = self._open(bundle, size, scale, form)

        def at(name: str) -> DeviceGraph:
            return opened[bundle.path(name)]

        first, middle, last = (
            self._piece(bundle, graph, form, opened) for graph in (section.first, section.middle, section.last)
        )
        graphs = StepGraphs(
            first=first,
            middle=middle,
            last=last,
            projector=at(section.projector),
            decoder=at(section.decoder),
            decoder_first=None if section.decoder_first is None else at(section.decoder_first),
            weights_bytes=sum(g.weights_bytes for g in opened.values()) + sum(b.size_bytes for b, _ in self._weights.values()),
        )
        model = open_flashvsr(self.device, library, graphs, bundle, section, scale, size, runs=runs, options=options)
        self._runtime.keep_kernels()
        return model

    def close(self) -> None:
        """See ``DeviceBackend.close``."""
        if not self.device.closed:
            self._runtime.keep_kernels()
        self.device.close()

    def _open(
        self, model: Bundle | Path, size: Size, scale: int, piece_weights: str | None = None
    ) -> dict[Path, DeviceGraph]:
        from .engines.requests import engine_requests

        height, width = size
        requests = engine_requests(
            model, [(width, height)], self._runtime.target, scale=scale, piece_weights=piece_weights
        )
        return {request.graph: self._runtime.open(request) for request in requests}

    def _piece(self, bundle: Bundle, graph: Graph, form: str, opened: Mapping[Path, DeviceGraph]) -> Piece:
        """A piece with constant weights, or one graph and the weights of every layer on the device."""
        if form == "constant":
            return Piece([opened[bundle.path(name)] for name in graph.constant], [{}] * len(graph.constant), {})
        shapes = {entry.name: entry.shape for entry in graph.tensors}
        placed = [self._upload_weights(bundle.path(name), graph) for name in graph.weights]
        return Piece([opened[bundle.path(graph.shared)]], placed, shapes)

    def _upload_weights(self, path: Path, graph: Graph) -> dict[str, int]:
        """One layer's weights on the device: addresses by name. TensorRT wants each at a multiple of 256 bytes."""
        if path in self._weights:
            return self._weights[path][1]
        offsets, end = {}, 0
        for entry in graph.tensors:
            offsets[entry.name] = end
            end += -(-entry.length_bytes // _ALIGNMENT) * _ALIGNMENT
        data = np.memmap(path, np.uint8, mode="r")

        def fill(raw: NDArray[np.uint8]) -> None:
            for entry in graph.tensors:
                part = data[entry.offset_bytes : entry.offset_bytes + entry.length_bytes]
                if part.size != entry.length_bytes:
                    raise FlashsrError(
                        f"the weights {str(path)!r} are shorter than bundle.json says, got {data.size} bytes; export again"
                    )
                raw[offsets[entry.name] : offsets[entry.name] + part.size] = part

        buffer = self.device.constant(end, fill)
        places = {name: buffer.address + offset for name, offset in offsets.items()}
        self._weights[path] = buffer, places
        return places


class TorchBackend:
    """See ``DeviceBackend``: torch executes FlashVSR's graphs, between our kernels. The reference on a GPU.

    Raises:
        FlashsrError: there is no such GPU, or no torch that can use it.
    """

    def __init__(self, ordinal: int) -> None:
        try:
            import torch
        except ImportError as error:
            raise FlashsrError(f"backend 'torch' needs torch ({error}); pip install 'vsflashsr[export]'") from error
        if not torch.cuda.is_available():
            raise FlashsrError(f"this torch has no CUDA, got torch {torch.__version__}; install a CUDA build of it")
        self.name: BackendName = "torch"
        self.device = Device(ordinal)

    def recurrent(self, bundle: Bundle, scale: int, size: Size, *, runs: int) -> DeviceRecurrentModel:
        """See ``DeviceBackend.recurrent``."""
        raise _only_flashvsr(bundle.name)

    def frame(self, path: Path, frame: FrameModel, size: Size) -> DeviceRecurrentModel:
        """See ``DeviceBackend.frame``."""
        raise _only_flashvsr(path.name)

    def flashvsr(
        self, bundle: Bundle, scale: int, size: Size, *, runs: int, options: Mapping[str, Any]
    ) -> DeviceFlashVSRModel:
        """See ``DeviceBackend.flashvsr``."""
        from ..models.flashvsr.network.graphs import torch_graphs

        section = read_section(f"bundle {str(bundle.folder)!r}", bundle.section)
        library = KernelLibrary(self.device)
        graphs = torch_graphs(bundle, section, f"cuda:{self.device.ordinal}")
        return open_flashvsr(
            self.device, library, graphs, bundle, section, scale, size, runs=runs, options=options, captured=False
        )

    def close(self) -> None:
        """See ``DeviceBackend.close``."""
        self.device.close()


def open_flashvsr(
    device: Device,
    library: KernelLibrary,
    graphs: StepGraphs,
    bundle: Bundle,
    section: Section,
    scale: int,
    size: Size,
    *,
    runs: int,
    options: Mapping[str, Any],
    captured: bool = True,
) -> DeviceFlashVSRModel:
    """A FlashVSR whose graphs are loaded, for frames of this size.

    Raises:
        FlashsrError: an option is wrong, a graph refuses the size, or the device has too little memory.
    """
    chosen = section.options.overridden(options)
    step = DeviceStep(
        device,
        library,
        graphs,
        section,
        step_shape(section, chosen, dtype=bundle.precision, low=size, scale=scale),
        padding=chosen.padding,
        color_fix=chosen.color_fix,
        runs=runs,
        captured=captured,
        remedy=f"{_TILE_REMEDY}, or a smaller kv_ratio in model_options",
    )
    return DeviceFlashVSRModel(bundle.spec(scale), step, chosen.seed)


def _only_flashvsr(name: str) -> FlashsrError:
    return FlashsrError(
        f"backend 'torch' runs FlashVSR bundles only, got the model {name!r}; use 'tensorrt', 'tensorrt_rtx' or 'onnxruntime'"
    )


def open_backend(
    name: str, ordinal: int, engine_dir: Path | None, say: Callable[[str], None]
) -> DeviceBackend | None:
    """The backend that was asked for; None: ONNX Runtime on the CPU.

    "auto" takes the first of TensorRT and TensorRT-RTX that is installed and can use the GPU, and says in one line why it
    doesn't use it if not.

    Raises:
        FlashsrError: what was named can't be had here.
    """
    if name == "onnxruntime":
        return None
    devices = device_count()
    if name == "auto":
        backend = _found(ordinal, engine_dir, say) if devices else None
        if not devices:
            say("backend 'auto' runs on the CPU in ONNX Runtime: there is no NVIDIA GPU with a driver")
        return backend
    if devices == 0:
        raise FlashsrError(
            f"backend {name!r} needs an NVIDIA GPU and its driver, none found; use backend='auto' or 'onnxruntime'"
        )
    if name == "torch":
        return TorchBackend(ordinal)
    return TensorRTBackend("tensorrt" if name == "tensorrt" else "tensorrt_rtx", ordinal, engine_dir)


def _found(ordinal: int, engine_dir: Path | None, say: Callable[[str], None]) -> DeviceBackend | None:
    from .engines.modules import installed

    choices: Sequence[Literal["tensorrt", "tensorrt_rtx"]] = ("tensorrt", "tensorrt_rtx")
    reasons: list[str] = []
    for choice in choices:
        if not installed(choice):
            reasons.append(f"{choice} isn't installed")
            continue
        try:
            backend = TensorRTBackend(choice, ordinal, engine_dir)
        except FlashsrError as error:
            reasons.append(f"{choice}: {error}")
            continue
        say(f"backend 'auto' runs on {backend.device.name} in {choice}")
        return backend
    say(f"backend 'auto' runs on the CPU in ONNX Runtime ({'; '.join(reasons)})")
    return None
