"""The graphs of FlashVSR's step, with the shapes they are called with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ...errors import FlashsrError
from ...onnx_file import OnnxFile, read_onnx
from ...runtimes.graph import DeviceGraph, GraphCall, Shape, Shapes, WeightFile
from ..wan.section import Graph
from .options import Options
from .plan import FIRST_SLICES
from .section import Section
from .windows import BLOCK_PX, Grid


@dataclass(frozen=True, slots=True)
class StepOf[G]:
    """Something for each graph of a step: how it is called, or the graph itself once it is loaded."""

    projector: G
    first: tuple[G, ...]
    """One for each layer; so are `middle` and `last`."""
    middle: tuple[G, ...]
    last: tuple[G, ...]
    decoder_first: G | None
    """For a segment's first latent, where `decoder` doesn't do it too."""
    decoder: G

    def __iter__(self) -> Iterator[G]:
        """In the order in which they are first called."""
        yield from (self.projector, *self.first, *self.middle, *self.last)
        if self.decoder_first is not None:
            yield self.decoder_first
        yield self.decoder

    def loaded[H](self, graphs: Sequence[H]) -> StepOf[H]:
        """The same with `graphs`, which are in this order."""
        rest = iter(graphs)

        def taken(of: tuple[G, ...]) -> tuple[H, ...]:
            return tuple(next(rest) for _ in of)

        projector = next(rest)
        first, middle, last = taken(self.first), taken(self.middle), taken(self.last)
        decoder_first = None if self.decoder_first is None else next(rest)
        return StepOf(projector, first, middle, last, decoder_first, next(rest))


type Modules = Callable[[str, int, str], DeviceGraph]
"""(part, layer, device) → the part's torch module on the device; parts are the fields of `StepOf`."""


def step_calls(
    folder: Path,
    section: Section,
    options: Options,
    grid: Grid,
    label: Callable[[Path], str],
    modules: Modules | None = None,
) -> StepOf[GraphCall]:
    """How a step of this size calls its graphs.

    The pieces of the DiT take a segment's first step (three slices of tokens) and every later one (one slice).

    Args:
        folder: the bundle's.
        section: what it says.
        options: its own with the user's changes.
        grid: of the padded output.
        label: of a graph's file.
        modules: the torch modules that the graphs were exported from.

    Raises:
        FlashsrError: a file isn't what the section says.
    """
    dim = section.heads * section.head_dim
    tokens = (grid.slice_tokens, FIRST_SLICES * grid.slice_tokens)

    def call(
        part: str, name: str, sets: Sequence[Mapping[str, Shape]], layer: int = 0, weights: WeightFile | None = None
    ) -> GraphCall:
        path = folder / name
        read = {declared.name for declared in read_onnx(path).inputs}
        shapes = tuple(Shapes({n: s for n, s in own.items() if n in read}, {}) for own in sets)
        module = None if modules is None else partial(modules, part, layer)
        return GraphCall(path, label(path), shapes, weights, module)

    def pieces(part: str, graph: Graph) -> tuple[GraphCall, ...]:
        constant = options.piece_weights == "constant"
        names = graph.constant if constant else (graph.shared,) * len(graph.weights)
        files = [None if constant else WeightFile(folder / name, graph.tensors) for name in graph.weights]
        patches = _patch_values(read_onnx(folder / names[0]))
        sets = [token_shapes(part, count, dim, patches) for count in tokens]
        return tuple(call(part, name, sets, n, file) for n, (name, file) in enumerate(zip(names, files, strict=True)))

    decoder = [decoder_shapes(section, grid, _latent_channels(folder / section.decoder), range(len(section.decoder_states)))]
    return StepOf(
        projector=call("projector", section.projector, [projector_shapes(section, grid)]),
        first=pieces("first", section.first),
        middle=pieces("middle", section.middle),
        last=pieces("last", section.last),
        decoder_first=None if section.decoder_first is None else call("decoder_first", section.decoder_first, decoder),
        decoder=call("decoder", section.decoder, decoder),
    )


def token_shapes(kind: str, tokens: int, dim: int, patch_values: int) -> dict[str, Shape]:
    """Shapes of the inputs of a piece (`first`, `middle`, `last`), weights aside."""
    wide, patches = (tokens, dim), (tokens, patch_values)
    match kind:
        case "first":
            return {"patches": patches, "lq": wide}
        case "middle":
            return {"x": wide, "attended": wide}
        case _:
            return {"x": wide, "attended": wide, "patches": patches}


def projector_shapes(section: Section, grid: Grid) -> dict[str, Shape]:
    """Shapes of the projector's inputs."""
    pixels = (grid.height_px, grid.width_px)
    if section.version == "v1":
        return {"clip": (4, 3, *pixels)}
    hidden = (2, section.projector_hidden, grid.height_px // 16, grid.width_px // 16)
    return {"clip": (4, 3, *pixels), "ctx1": (2, 3, *pixels), "ctx2": hidden}


def decoder_shapes(section: Section, grid: Grid, channels: int, states: Sequence[int]) -> dict[str, Shape]:
    """Shapes of the decoder's inputs, with those of its memories that it reads."""
    rows, cols = grid.height_px // 8, grid.width_px // 8
    shapes: dict[str, Shape] = {"latent": (1, channels, rows, cols)}
    if section.variant == "tiny":
        shapes["lq"] = (4, 3, grid.rows * BLOCK_PX, grid.cols * BLOCK_PX)
    for n in states:
        state = section.decoder_states[n]
        shapes[f"state{n}"] = (state.frames, state.channels, rows * state.factor, cols * state.factor)
    return shapes


def _patch_values(piece: OnnxFile) -> int:
    return next((i.shape[1] for i in piece.inputs if i.name == "patches" and i.shape[1] is not None), 0)


def _latent_channels(decoder: Path) -> int:
    for declared in read_onnx(decoder).inputs:
        if declared.name == "latent" and len(declared.shape) == 4 and declared.shape[1] is not None:
            return declared.shape[1]
    raise FlashsrError(f"the decoder {str(decoder)!r} has no input 'latent' of 4 dimensions; export the bundle again")
