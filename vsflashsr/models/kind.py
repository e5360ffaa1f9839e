"""What a kind of model is: it says which graphs it needs, with shapes, and makes a model of them once they are loaded.

To add one: a folder beside this file whose ``kind.py`` has a ``Kind`` and what reads it, and a line in ``opening.KINDS``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..arguments import Arguments, OptionValue
from ..bundle import Bundle, ColorFix
from ..errors import FlashsrError, shown
from ..gpu.budget import MemoryPlan
from ..model import Model
from ..runtimes.backend import Backend
from ..runtimes.graph import GraphCall

type Size = tuple[int, int]
"""(height, width) of low-resolution frames, or of the tiles they are cut into."""

TILE_REMEDY = "use tile='auto' or smaller tiles, such as tile=256, or a smaller model"


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model whose graphs are loaded."""

    model: Model[Any]
    memory: MemoryPlan | None = None
    """What it takes of a GPU; None on the CPU."""


class Kind(Protocol):
    """A bundle at one of its scales, with the user's options, before any graph is loaded."""

    @property
    def bundle(self) -> Bundle: ...

    @property
    def plain(self) -> bool:
        """Are its graphs all there is to a step, so that it runs wherever ONNX graphs do?"""

    @property
    def fixed(self) -> Size | None:
        """The one size that the graphs take; None: any."""

    @property
    def multiple(self) -> int:
        """Sides of tiles that cost no padding are multiples of it, in input pixels."""

    @property
    def color_fix(self) -> ColorFix:
        """What the user wants, or else the bundle."""

    @property
    def fixes_whole_frames(self) -> bool:
        """Does the model make the colour fix itself where it sees whole frames? Tiles are always left to the filter, because
        their own statistics would give each a tint of its own."""

    @property
    def chroma(self) -> Kind | None:
        """What predicts the chroma of what it makes, of scale 1 (``chroma.to_network``); None: there is nothing to predict, or
        the core's resizer does."""

    @property
    def scale(self) -> int:
        """Output size over input size."""

    def graphs(self, size: Size) -> Sequence[GraphCall]:
        """All graphs for frames or tiles of this size, in the order in which they are first called.

        Raises:
            FlashsrError: a graph isn't what its bundle says.
        """

    def load(self, backend: Backend, size: Size, *, tiles: int | None) -> LoadedModel:
        """The model for frames of this size, or for so many tiles of it (None: whole frames).

        Raises:
            FlashsrError: a graph can't be had there, or doesn't fit its description.
            MemoryRefusedError: the device has too little memory for this size.
        """


type KindReader = Callable[[Bundle, int, Arguments], Kind]
"""(bundle, one of its scales, what the user wants) → its kind; refuses options that it doesn't have."""


def label_of(bundle: Bundle, path: Path, size: Size) -> str:
    """What logs and lists of engines call a bundle's graph."""
    name = path.stem if bundle.name == path.name else f"{bundle.name}/{path.stem}"
    return f"{name} {size[1]}x{size[0]}"


def refuse_options(name: str, arguments: Arguments) -> None:
    """For kinds that have none.

    Raises:
        FlashsrError: the user gave some.
    """
    if arguments.model_options:
        raise FlashsrError(
            f"the model {name!r} has no options, got model_options={shown(dict(arguments.model_options))}; leave it out"
        )


def said_once(arguments: Arguments, own: Mapping[str, OptionValue | None]) -> dict[str, OptionValue]:
    """A kind's options as the user gave them: ``model_options`` and those arguments of ``flashsr`` that are options, too.

    Args:
        arguments: of ``flashsr``.
        own: those arguments by name; None: not given.

    Raises:
        FlashsrError: one is said twice, and differently.
    """
    options = dict(arguments.model_options)
    for name, value in own.items():
        if value is None:
            continue
        if options.setdefault(name, value) != value:
            raise FlashsrError(
                f"{name} is said twice and differently, got {name}={shown(value)} and "
                f"model_options={{{name!r}: {shown(options[name])}}}; give one of them"
            )
    return options
