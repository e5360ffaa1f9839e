"""The graphs of SwiftVR's step, with the shapes they are called with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...runtimes.graph import GraphCall, Shape, Shapes, WeightFile
from ..wan.section import Graph
from .options import Options
from .section import Memory, Section
from .step import FRAMES_PER_LATENT, TOKEN_PX
from .windows import windows


@dataclass(frozen=True, slots=True)
class StepOf[G]:
    """Something for each graph of a step: how it is called, or the graph itself once it is loaded."""

    encoder: G
    first: G
    attention: G
    middle: tuple[G, ...]
    """One for each layer but the last."""
    last: G
    decoder: G

    def __iter__(self) -> Iterator[G]:
        """In the order in which they are first called."""
        yield from (self.encoder, self.first, self.attention, *self.middle, self.last, self.decoder)

    def loaded[H](self, graphs: Sequence[H]) -> StepOf[H]:
        """The same with `graphs`, which are in this order."""
        encoder, first, attention, *middle, last, decoder = graphs
        return StepOf(encoder, first, attention, tuple(middle), last, decoder)


def step_calls(
    folder: Path, section: Section, options: Options, rows: int, cols: int, label: Callable[[Path], str]
) -> StepOf[GraphCall]:
    """How a step calls its graphs for pictures of so many rows and columns of tokens; its first step has one latent more."""
    usual = options.clip_len // FRAMES_PER_LATENT
    counts = (usual, usual + 1)
    dim, values = section.heads * section.head_dim, 4 * section.latent_channels
    height, width = TOKEN_PX * rows, TOKEN_PX * cols

    def call(name: str, shapes: Sequence[Shapes], weights: WeightFile | None = None) -> GraphCall:
        return GraphCall(folder / name, label(folder / name), tuple(shapes), weights)

    def tokens(frames: int) -> dict[str, Shape]:
        count = frames * rows * cols
        return {"x": (count, dim), "attended": (count, dim), "patches": (count, values)}

    def piece(graph: Graph, layer: int, *names: str) -> GraphCall:
        shapes = [Shapes({name: tokens(frames)[name] for name in names}, {}) for frames in counts]
        return call(graph.shared, shapes, WeightFile(folder / graph.weights[layer], graph.tensors))

    def attention() -> Iterator[Shapes]:
        for frames in counts:
            for shifted in (False, True):
                over = windows(frames, rows, cols, section.window, shifted=shifted)
                count = frames * rows * cols
                made: dict[str, Shape] = dict.fromkeys(("q", "k", "v"), (count, dim))
                made |= dict.fromkeys(("cos", "sin"), (count, section.head_dim // 2))
                yield Shapes(made | {"gather": over.gather.shape, "owner": over.owner.shape}, {"out": (count, dim)})

    def autoencoder(name: str, memories: tuple[Memory, ...], own: str, shape: Shape) -> GraphCall:
        states: dict[str, Shape] = {
            f"state{n}": (1, memory.channels, height // memory.pixels, width // memory.pixels)
            for n, memory in enumerate(memories)
        }
        return call(name, [Shapes({own: shape, **states}, {})])

    latent = (1, section.latent_channels, 2 * rows, 2 * cols)
    return StepOf(
        encoder=autoencoder(
            section.encoder, section.encoder_memories, "frames", (FRAMES_PER_LATENT, 3, height, width)
        ),
        first=piece(section.first, 0, "patches"),
        attention=call(section.attention, list(attention())),
        middle=tuple(piece(section.middle, layer, "x", "attended") for layer in range(section.layers - 1)),
        last=piece(section.last, 0, "x", "attended", "patches"),
        decoder=autoencoder(section.decoder, section.decoder_memories, "latent", latent),
    )
