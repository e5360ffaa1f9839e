"""Bundles of kind ``recurrent``: graphs with explicit state in and out.

Graph: ``frames`` (T, C, h, w) and ``state.NAME`` in, ``out`` (T', C, s*h, s*w) and ``next.NAME`` out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...arguments import Arguments, changed
from ...bundle import Bundle, ColorFix
from ...errors import FlashsrError, shown
from ...geometry import padded
from ...runtimes.backend import Backend, DeviceBackend, HostBackend
from ...runtimes.graph import GraphCall, Shape, Shapes, require_shapes
from ..frame.host import FrameGraph
from ..frame.kind import FrameKind
from ..kind import TILE_REMEDY, LoadedModel, Size, label_of, refuse_options
from .host import FRAMES, NEXT, OUT, STATE, RecurrentModel

CHROMA_MULTIPLE = 8
"""Sides of what a graph that predicts chroma reads are multiples of it."""


@dataclass(frozen=True, slots=True)
class Options:
    """Of bundles that can predict chroma."""

    chroma: bool = True
    """Predict it? Else it is resized with Spline36."""

    def __post_init__(self) -> None:
        if not isinstance(self.chroma, bool):
            raise FlashsrError(f"model_options: chroma is True or False, got {shown(self.chroma)}; give one of them")


@dataclass(frozen=True, slots=True)
class RecurrentKind:
    """See ``Kind``."""

    bundle: Bundle
    scale: int
    color_fix: ColorFix
    chroma: FrameKind | None = None
    fixed: Size | None = None
    multiple: int = 8
    fixes_whole_frames: bool = False
    plain: bool = True

    def graphs(self, size: Size) -> list[GraphCall]:
        """See ``Kind.graphs``: the graph of step 0, if it has one of its own, and that of every step."""
        spec, (cold, warm) = self.bundle.scales[self.scale], self._shapes(size)
        if spec.first is None:
            return [self._call(spec.step, size, (warm,) if warm == cold else (warm, cold))]
        return [self._call(spec.first, size, (cold,)), self._call(spec.step, size, (warm,))]

    def load(self, backend: Backend, size: Size, *, tiles: int | None) -> LoadedModel:
        """See ``Kind.load``."""
        if backend.place == "host":
            return self._on_host(backend, size)
        return self._on_device(backend, size, tiles or 1)

    def _on_host(self, backend: HostBackend, size: Size) -> LoadedModel:
        calls = self.graphs(size)
        *first, step = graphs = backend.load(calls)
        model = RecurrentModel(self.bundle, self.scale, step, first[0] if first else None)
        for graph, call in zip(graphs, calls, strict=True):
            for shapes in call.shapes:
                require_shapes(graph.path, graph.inputs, shapes.inputs)
        return LoadedModel(model)

    def _on_device(self, backend: DeviceBackend, size: Size, runs: int) -> LoadedModel:
        from .device import DeviceGraphs, DeviceRecurrentModel  # what a script on the CPU needn't load

        *first, step = backend.load(self.graphs(size))
        cold, warm = self._shapes(size)
        graphs = DeviceGraphs(step, warm, first[0] if first else None, cold, FRAMES, OUT, self.bundle.value_range)
        model = DeviceRecurrentModel(
            backend.device, self.bundle.spec(self.scale), graphs, size, runs=runs, captured=backend.captures, remedy=TILE_REMEDY
        )
        return LoadedModel(model, model.memory)

    def _call(self, name: str, size: Size, shapes: tuple[Shapes, ...]) -> GraphCall:
        path = self.bundle.path(name)
        return GraphCall(path, label_of(self.bundle, path, size), shapes)

    def _shapes(self, size: Size) -> tuple[Shapes, Shapes]:
        """Of a run's first step, and of every later one."""
        schedule, stateless = self.bundle.schedule, self.bundle.scales[self.scale].first is not None
        return (
            self._step_shapes(size, schedule.first_reads, schedule.first_emits, stateless=stateless),
            self._step_shapes(size, schedule.reads, schedule.emits, stateless=False),
        )

    def _step_shapes(self, size: Size, reads: int, emits: int, *, stateless: bool) -> Shapes:
        rows, columns = (padded(side, self.bundle.size_multiple) for side in size)
        self.bundle.scales[self.scale].check_states(rows, columns)
        channels = 1 if self.bundle.channels == "luma" else 3
        states = {state.name: state.resolve(rows, columns) for state in self.bundle.scales[self.scale].states}
        inputs: dict[str, Shape] = {FRAMES: (reads, channels, rows, columns)}
        if not stateless:
            inputs |= {STATE + name: shape for name, shape in states.items()}
        made: dict[str, Shape] = {OUT: (emits, channels, rows * self.scale, columns * self.scale)}
        return Shapes(inputs, made | {NEXT + name: shape for name, shape in states.items()})


def read_recurrent(bundle: Bundle, scale: int, arguments: Arguments) -> RecurrentKind:
    """See ``KindReader``."""
    color_fix = arguments.color_fix or bundle.color_fix
    if (graph := bundle.scales[scale].chroma) is None:
        refuse_options(bundle.name, arguments)
        return RecurrentKind(bundle, scale, color_fix)
    options = changed(Options(), arguments.model_options, f"the model {bundle.name!r}")
    return RecurrentKind(bundle, scale, color_fix, _chroma(bundle, graph) if options.chroma else None)


def _chroma(bundle: Bundle, name: str) -> FrameKind:
    """The graph that predicts chroma: three planes in (``chroma.to_network``), three out, of which the first doesn't matter."""
    graph = FrameGraph(FRAMES, OUT, 1, "rgb", bundle.precision, CHROMA_MULTIPLE, size=None)
    return FrameKind(replace(bundle, value_range=(0.0, 1.0)), bundle.path(name), graph, color_fix="none")
