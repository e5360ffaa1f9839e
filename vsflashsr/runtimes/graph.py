"""What a model says of the graphs it needs, and what a graph looks like that is loaded, whoever executes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import FlashsrError

if TYPE_CHECKING:
    from ..gpu.device import Stream

type Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output of a graph, as the graph declares it."""

    name: str
    shape: tuple[int | str | None, ...]
    """A name or None where the size is free."""
    dtype: np.dtype[Any]


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where a tensor lies in a weight file."""

    name: str
    dtype: str
    shape: Shape
    offset_bytes: int
    length_bytes: int


@dataclass(frozen=True, slots=True)
class WeightFile:
    """Weights that a graph reads as inputs: one graph serves all layers, each with a file of its own."""

    path: Path
    tensors: tuple[TensorEntry, ...]


@dataclass(frozen=True, slots=True)
class Shapes:
    """One set of shapes that a graph is called with."""

    inputs: Mapping[str, Shape]
    """Weights aside."""
    outputs: Mapping[str, Shape]
    """What it must make of them; those that are left out aren't checked."""


@dataclass(frozen=True, slots=True)
class GraphCall:
    """A graph that a model needs: the one place where its file and shapes are stated.

    Engines are built, graphs are loaded and memory is counted from it.
    """

    path: Path
    label: str
    """What logs and lists of engines call it."""
    shapes: tuple[Shapes, ...]
    """All that it is called with, the usual set first."""
    weights: WeightFile | None = None
    """Where the graph has its weights as inputs."""
    module: Callable[[str], DeviceGraph] | None = None
    """Loads the torch module that the graph was exported from on a device such as "cuda:0"; None: there is none."""


def require_shapes(path: Path, declared: Mapping[str, Tensor], given: Mapping[str, Shape]) -> None:
    """Can a graph's inputs have these shapes, by what it declares? A size that it names is the same wherever it stands.

    Args:
        path: of the graph, for the message.
        declared: its inputs; those that aren't in ``given`` aren't looked at.
        given: what it will be called with.

    Raises:
        FlashsrError: an input has other dimensions, another size where it is fixed, or two sizes for one name.
    """
    named: dict[str, int] = {}
    for name, tensor in declared.items():
        if name not in given:
            continue
        shape = given[name]
        fits = len(tensor.shape) == len(shape)
        for size, got in zip(tensor.shape, shape, strict=False):
            wanted = named.setdefault(size, got) if isinstance(size, str) else size
            fits &= wanted in (None, got)
        if not fits:
            raise FlashsrError(
                f"the model {str(path)!r} takes {name!r} of shape {list(tensor.shape)}, "
                f"bundle.json implies {list(shape)}; correct the bundle"
            )


class Value(Protocol):
    """A tensor that a host graph has made, wherever it keeps it. Never written again."""

    def shape(self) -> Sequence[int]: ...

    def numpy(self) -> NDArray[Any]:
        """Its numbers as an array; fetched from a device if need be."""


type Feed = NDArray[Any] | Value


class HostGraph(Protocol):
    """A graph that takes arrays, and results of its own without a copy."""

    @property
    def path(self) -> Path: ...

    @property
    def inputs(self) -> Mapping[str, Tensor]:
        """Without those that a weight file fills."""

    @property
    def outputs(self) -> Mapping[str, Tensor]: ...

    @property
    def pending(self) -> bool:
        """May a call return before it has ended? Fetching a result then waits for it."""

    @property
    def concurrent(self) -> bool:
        """May calls overlap, from several threads?"""

    def run(self, feeds: Mapping[str, Feed], outputs: Sequence[str] | None = None) -> Mapping[str, Value]:
        """One call; ``outputs``: those that are wanted, None: all.

        Raises:
            FlashsrError: the graph refuses these inputs, or fails.
        """


class PreparedGraph(Protocol):
    """A graph for one set of input shapes."""

    @property
    def outputs(self) -> Mapping[str, Shape]:
        """Shapes of the outputs."""

    @property
    def scratch_bytes(self) -> int:
        """Memory that a call works in; calls that don't overlap in time may share it."""

    @property
    def held_bytes(self) -> int:
        """Memory that the runtime takes by itself in a call, and keeps for the next call on the same stream."""

    def enqueue(self, stream: Stream, addresses: Mapping[str, int], scratch: int) -> None:
        """Queue one call. Every input and output lies at its device address, in C order.

        After one plain call it may be captured into a CUDA graph.

        Raises:
            FlashsrError: the runtime refuses.
        """


class DeviceGraph(Protocol):
    """A graph that is loaded on a device."""

    @property
    def inputs(self) -> Mapping[str, Tensor]:
        """Without those that a weight file fills."""

    @property
    def outputs(self) -> Mapping[str, Tensor]: ...

    @property
    def weights_bytes(self) -> int:
        """Device memory that the loaded graph holds, beside what it shares with one that was loaded before it."""

    def prepare(self, shapes: Mapping[str, Shape]) -> PreparedGraph:
        """The graph for these input shapes.

        Raises:
            FlashsrError: it doesn't take them.
        """


def weights_bytes(graphs: Iterable[DeviceGraph]) -> int:
    """Device memory that graphs of one model hold together."""
    return sum(graph.weights_bytes for graph in graphs)
