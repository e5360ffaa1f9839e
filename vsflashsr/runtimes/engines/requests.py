"""Which engines a model needs: asked by ``trt_build build`` ahead of time, and by the filter when a script runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ...bundle import Bundle, load_bundle
from ...errors import FlashsrError
from ...geometry import padded
from ...onnx_file import read_onnx
from .key import EngineRequest, Shape, ShapeRange, Target

type Size = tuple[int, int]
"""(width, height) of low-resolution frames, or of the tiles they are cut into."""


def engine_requests(
    model: Bundle | Path, sizes: Sequence[Size], target: Target, *, scale: float = 4, piece_weights: str | None = None
) -> tuple[EngineRequest, ...]:
    """The engines that `model` needs for frames of these sizes, each once, in the order in which they are used.

    Sizes are padded as the model pads them. Engines are for one size; the pieces of FlashVSR's DiT take a segment's first
    step (three slices of tokens) and every later one (one slice).

    Args:
        model: a bundle, its folder, or a bare ``.onnx`` single-frame upscaler.
        scale: what the filter is asked for; the model's nearest is taken.
        piece_weights: "shared" or "constant"; see the option of that name. None: the bundle's own.

    Raises:
        FlashsrError: the model can't be read.
    """
    if isinstance(model, Path) and model.is_dir():
        model = load_bundle(model)
    found: list[EngineRequest] = []
    for width, height in sizes:
        if isinstance(model, Path):
            own: Iterable[tuple[Path, Mapping[str, ShapeRange]]] = [_frame(model, width, height)]
            prefix = ""
        else:
            own = _of_bundle(model, width, height, scale, piece_weights)
            prefix = f"{model.name}/"
        found += [EngineRequest(path, s, target, f"{prefix}{path.stem} {width}x{height}") for path, s in own]
    once: dict[object, EngineRequest] = {}
    for request in found:
        once.setdefault((request.graph, frozenset(request.shapes.items())), request)
    return tuple(once.values())


def _of_bundle(
    bundle: Bundle, width: int, height: int, scale: float, piece_weights: str | None
) -> Iterable[tuple[Path, Mapping[str, ShapeRange]]]:
    from ...models.opening import nearest_scale

    nearest = nearest_scale(bundle.scales, scale)
    match bundle.kind:
        case "recurrent":
            return _recurrent(bundle, nearest, width, height)
        case "frame":
            path = bundle.path(bundle.scales[nearest].step)
            return [_frame(path, width, height, value_range=bundle.value_range, scale=nearest)]
        case "flashvsr":
            return _flashvsr(bundle, nearest, width, height, piece_weights)


def _recurrent(bundle: Bundle, scale: int, width: int, height: int) -> Iterable[tuple[Path, Mapping[str, ShapeRange]]]:
    spec = bundle.scales[scale]
    rows, columns = padded(height, bundle.size_multiple), padded(width, bundle.size_multiple)
    channels = 1 if bundle.channels == "luma" else 3
    numbers = bundle.schedule
    counts = {numbers.reads} if spec.first is not None else {numbers.reads, numbers.first_reads}
    frames = ShapeRange(*((count, channels, rows, columns) for count in (min(counts), numbers.reads, max(counts))))
    if spec.first is not None:
        yield bundle.path(spec.first), {"frames": ShapeRange.fixed((numbers.first_reads, channels, rows, columns))}
    states = {f"state.{state.name}": ShapeRange.fixed(state.resolve(rows, columns)) for state in spec.states}
    yield bundle.path(spec.step), {"frames": frames, **states}


def _frame(
    path: Path, width: int, height: int, *, value_range: tuple[float, float] = (0.0, 1.0), scale: int | None = None
) -> tuple[Path, Mapping[str, ShapeRange]]:
    from ...models.frame.host import FrameModel

    # What sizes it takes is found by running it once on a small picture, by the code that does so without a GPU.
    graph = FrameModel(path, value_range=value_range, scale=scale).graph
    if graph.size is not None:
        rows, columns = graph.size
    else:
        rows, columns = padded(height, graph.size_multiple), padded(width, graph.size_multiple)
    (only,) = read_onnx(path).inputs
    return path, {only.name: ShapeRange.fixed((1, 1 if graph.channels == "luma" else 3, rows, columns))}


def _flashvsr(
    bundle: Bundle, scale: int, width: int, height: int, piece_weights: str | None
) -> Iterable[tuple[Path, Mapping[str, ShapeRange]]]:
    from ...models.flashvsr.device.graphs import decoder_shapes, projector_shapes, token_shapes
    from ...models.flashvsr.plan import FIRST_SLICES
    from ...models.flashvsr.section import read_section
    from ...models.flashvsr.windows import BLOCK_PX, Grid

    section = read_section(f"bundle {str(bundle.folder)!r}", bundle.section)
    grid = Grid(*(padded(scale * side, BLOCK_PX) // BLOCK_PX for side in (height, width)))
    tokens = (grid.slice_tokens, grid.slice_tokens, FIRST_SLICES * grid.slice_tokens)
    dim = section.heads * section.head_dim

    def taken(path: Path, shapes: Iterable[Mapping[str, Shape]]) -> tuple[Path, Mapping[str, ShapeRange]]:
        """The shapes of inputs that the graph has; the weights' are fixed in it."""
        low, usual, high = shapes
        names = {declared.name for declared in read_onnx(path).inputs}
        return path, {name: ShapeRange(low[name], usual[name], high[name]) for name in low if name in names}

    yield taken(bundle.path(section.projector), [projector_shapes(section, grid)] * 3)
    for kind, graph in (("first", section.first), ("middle", section.middle), ("last", section.last)):
        form = piece_weights or section.options.piece_weights
        for name in graph.constant if form == "constant" else (graph.shared,):
            path = bundle.path(name)
            patches = next((i.shape[1] for i in read_onnx(path).inputs if i.name == "patches"), None) or 0
            yield taken(path, [token_shapes(kind, count, dim, patches) for count in tokens])
    channels = _latent_channels(bundle.path(section.decoder))
    for name in filter(None, (section.decoder_first, section.decoder)):
        yield taken(bundle.path(name), [decoder_shapes(section, grid, channels, range(len(section.decoder_states)))] * 3)


def _latent_channels(decoder: Path) -> int:
    for declared in read_onnx(decoder).inputs:
        if declared.name == "latent" and len(declared.shape) == 4 and declared.shape[1] is not None:
            return declared.shape[1]
    raise FlashsrError(f"the decoder {str(decoder)!r} has no input 'latent' of 4 dimensions; export the bundle again")
