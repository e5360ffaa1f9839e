"""Which engines the graphs of a model become: asked ahead of time by ``trt_build build``, and when a script runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..graph import GraphCall, Shape
from .key import EngineRequest, ShapeRange, Target


def engine_request(call: GraphCall, target: Target) -> EngineRequest:
    """The engine of one graph: fastest at the usual shapes, built for all between the smallest and the largest."""
    return EngineRequest(call.path, shape_ranges(call), target, call.label)


def engine_requests(calls: Iterable[GraphCall], target: Target) -> tuple[EngineRequest, ...]:
    """The engines of several graphs, each once, in the order in which they are first needed."""
    once: dict[object, EngineRequest] = {}
    for call in calls:
        request = engine_request(call, target)
        once.setdefault(identity(request), request)
    return tuple(once.values())


def identity(request: EngineRequest) -> object:
    """What two requests for the same target share if one engine serves both. Reads no file."""
    return request.graph, frozenset(request.shapes.items())


def shape_ranges(call: GraphCall) -> Mapping[str, ShapeRange]:
    """Of every input, over all shapes that the graph is called with."""
    sets = [shapes.inputs for shapes in call.shapes]
    return {name: _range([shapes[name] for shapes in sets]) for name in sets[0]}


def _range(shapes: list[Shape]) -> ShapeRange:
    columns = list(zip(*shapes, strict=True))
    return ShapeRange(tuple(map(min, columns)), shapes[0], tuple(map(max, columns)))
