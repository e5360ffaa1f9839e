"""Bundles of kind ``frame``, and bare ``.onnx`` files: single-frame upscalers, which the CPU has a look at first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...arguments import Arguments
from ...bundle import Bundle, ColorFix, ScaleSpec
from ...errors import FlashsrError
from ...geometry import padded
from ...runtimes.backend import Backend
from ...runtimes.graph import GraphCall, Shapes, require_shapes
from ...runtimes.onnxruntime import open_session
from ...schedule import Schedule
from ..kind import TILE_REMEDY, LoadedModel, Size, label_of, refuse_options
from .host import FrameGraph, FrameModel, examine

_ALONE = Schedule(1, 1, 1, 1)


@dataclass(frozen=True, slots=True)
class FrameKind:
    """See ``Kind``."""

    bundle: Bundle
    path: Path
    graph: FrameGraph
    color_fix: ColorFix
    multiple: int = 8
    fixes_whole_frames: bool = False
    plain: bool = True
    chroma: None = None

    @property
    def fixed(self) -> Size | None:
        """See ``Kind.fixed``."""
        return self.graph.size

    @property
    def scale(self) -> int:
        """See ``Kind.scale``."""
        return self.graph.scale

    def graphs(self, size: Size) -> list[GraphCall]:
        """See ``Kind.graphs``."""
        graph = self.graph
        rows, columns = graph.size or (padded(side, graph.size_multiple) for side in size)
        channels = 1 if graph.channels == "luma" else 3
        shapes = Shapes(
            {graph.input: (1, channels, rows, columns)},
            {graph.output: (1, channels, rows * graph.scale, columns * graph.scale)},
        )
        return [GraphCall(self.path, label_of(self.bundle, self.path, size), (shapes,))]

    def load(self, backend: Backend, size: Size, *, tiles: int | None) -> LoadedModel:
        """See ``Kind.load``."""
        graph, value_range = self.graph, self.bundle.value_range
        if backend.place == "host":
            (call,) = self.graphs(size)
            (loaded,) = backend.load([call])
            (shapes,) = call.shapes
            require_shapes(loaded.path, loaded.inputs, shapes.inputs)
            if set(loaded.inputs) != set(shapes.inputs) or set(loaded.outputs) != set(shapes.outputs):
                raise FlashsrError(
                    f"{loaded.path.name!r} reads {list(loaded.inputs)} and makes {list(loaded.outputs)}, expected "
                    f"{graph.input!r} and {graph.output!r}; correct the bundle"
                )
            return LoadedModel(FrameModel(loaded, graph, value_range))
        from ..recurrent.device import DeviceGraphs, DeviceRecurrentModel  # what a script on the CPU needn't load

        (call,) = self.graphs(size)
        ((on_device,), (shapes,)) = backend.load([call]), call.shapes
        graphs = DeviceGraphs(on_device, shapes, None, shapes, graph.input, graph.output, value_range)
        model = DeviceRecurrentModel(
            backend.device, graph.spec, graphs, size, captured=backend.captures, remedy=TILE_REMEDY
        )
        return LoadedModel(model, model.memory)


def read_frame(bundle: Bundle, scale: int, arguments: Arguments) -> FrameKind:
    """See ``KindReader``."""
    refuse_options(bundle.name, arguments)
    path = bundle.path(bundle.scales[scale].step)
    graph = examine(open_session(path, arguments.threads), bundle.value_range)
    if graph.scale != scale:
        raise FlashsrError(f"{path.name!r} upscales by {graph.scale}, its bundle says {scale}; correct the bundle")
    return FrameKind(bundle, path, graph, arguments.color_fix or bundle.color_fix)


def read_frame_file(path: Path, arguments: Arguments) -> FrameKind:
    """A bare file, as the bundle that it might be.

    Raises:
        FlashsrError: it is no single-frame upscaler.
    """
    refuse_options(path.name, arguments)
    graph = examine(open_session(path, arguments.threads))
    bundle = Bundle(
        folder=path.parent,
        name=path.name,
        kind="frame",
        channels=graph.channels,
        precision=graph.precision,
        value_range=(0.0, 1.0),
        size_multiple=graph.size_multiple,
        schedule=_ALONE,
        preroll=0,
        max_segment=1,
        scales={graph.scale: ScaleSpec(path.name, None, ())},
        color_fix="none",
        files={},
        licence="",
        provenance={},
        section={},
    )
    return FrameKind(bundle, path, graph, arguments.color_fix or "none")
