"""The graphs of SwiftVR's step, with the shapes they are called with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ...runtimes.graph import DeviceGraph, GraphCall, Shape, Shapes, WeightFile
from ..wan.section import Graph
from .options import Options
from .section import Memory, Section
from .step import FRAMES_PER_LATENT, Grid
from .windows import windows


@dataclass(frozen=True, slots=True)
class StepOf[G]:
    """Something for each graph of a step: how it is called, or the graph itself once it is loaded."""

    upscale: G
    encoder: G
    first: G
    attention: G
    middle: tuple[G, ...]
    """One for each layer but the last."""
    last: G
    decoder: G

    def __iter__(self) -> Iterator[G]:
        """In the order in which they are first called."""
        yield from (self.upscale, self.encoder, self.first, self.attention, *self.middle, self.last, self.decoder)

    def loaded[H](self, graphs: Sequence[H]) -> StepOf[H]:
        """The same with `graphs`, which are in this order."""
        upscale, encoder, first, attention, *middle, last, decoder = graphs
        return StepOf(upscale, encoder, first, attention, tuple(middle), last, decoder)


type Modules = Callable[[str, int, str], DeviceGraph]
"""(part, layer, device) → the part's torch module on the device; parts are the fields of `StepOf`."""


def step_calls(
    folder: Path,
    section: Section,
    options: Options,
    low: tuple[int, int],
    grid: Grid,
    label: Callable[[Path], str],
    modules: Modules | None = None,
) -> StepOf[GraphCall]:
    """How a step of this size calls its graphs; a run's first step has one latent more than the others.

    Args:
        folder: the bundle's.
        section: what it says.
        options: its own with the user's changes.
        low: (height, width) of the frames that come in.
        grid: of the padded output.
        label: of a graph's file.
        modules: the torch modules that the graphs were exported from.
    """
    usual = options.clip_len // FRAMES_PER_LATENT
    counts = (usual, usual + 1)
    dim, values = section.heads * section.head_dim, 4 * section.latent_channels
    height, width = grid.height_px, grid.width_px

    def call(
        part: str, name: str, shapes: Sequence[Shapes], layer: int = 0, weights: WeightFile | None = None
    ) -> GraphCall:
        module = None if modules is None else partial(modules, part, layer)
        return GraphCall(folder / name, label(folder / name), tuple(shapes), weights, module)

    def piece(part: str, graph: Graph, layer: int, *names: str) -> GraphCall:
        sizes = {"x": dim, "attended": dim, "patches": values}
        shapes = [Shapes({name: (count * grid.tokens, sizes[name]) for name in names}, {}) for count in counts]
        return call(part, graph.shared, shapes, layer, WeightFile(folder / graph.weights[layer], graph.tensors))

    def attention() -> Iterator[Shapes]:
        for frames in counts:
            for shifted in (False, True):
                over = windows(frames, grid.rows, grid.cols, section.window, shifted=shifted)
                count = frames * grid.tokens
                made: dict[str, Shape] = dict.fromkeys(("q", "k", "v"), (count, dim))
                made |= dict.fromkeys(("cos", "sin"), (count, section.head_dim // 2))
                yield Shapes(made | {"gather": over.gather.shape, "owner": over.owner.shape}, {"out": (count, dim)})

    def autoencoder(part: str, name: str, memories: tuple[Memory, ...], own: str, shape: Shape) -> GraphCall:
        states = {f"state{n}": memory_shape(memory, grid) for n, memory in enumerate(memories)}
        return call(part, name, [Shapes({own: shape, **states}, {})])

    frames, upscaled = (FRAMES_PER_LATENT, 3, *low), (FRAMES_PER_LATENT, 3, height, width)
    tables: dict[str, Shape] = {"rows": (2, height), "row_weights": (2, height), "cols": (2, width), "col_weights": (2, width)}
    return StepOf(
        upscale=call("upscale", section.upscale, [Shapes({"frames": frames, **tables}, {"upscaled": upscaled})]),
        encoder=autoencoder("encoder", section.encoder, section.encoder_memories, "frames", upscaled),
        first=piece("first", section.first, 0, "patches"),
        attention=call("attention", section.attention, list(attention())),
        middle=tuple(piece("middle", section.middle, layer, "x", "attended") for layer in range(section.layers - 1)),
        last=piece("last", section.last, 0, "x", "attended", "patches"),
        decoder=autoencoder("decoder", section.decoder, section.decoder_memories, "patches", (grid.tokens, values)),
    )


def memory_shape(memory: Memory, grid: Grid) -> Shape:
    """Of a memory of the autoencoder."""
    return 1, memory.channels, grid.height_px // memory.pixels, grid.width_px // memory.pixels
