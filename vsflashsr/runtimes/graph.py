"""What a graph looks like that runs on tensors in device memory, whoever executes it: TensorRT, torch, or a test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

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


class PreparedGraph(Protocol):
    """A graph for one set of input shapes."""

    @property
    def outputs(self) -> Mapping[str, Shape]:
        """Shapes of the outputs."""

    @property
    def scratch_bytes(self) -> int:
        """Memory that a call works in; calls that don't overlap in time may share it."""

    def enqueue(self, stream: Stream, addresses: Mapping[str, int], scratch: int) -> None:
        """Queue one call. Every input and output lies at its device address, in C order.

        After one plain call it may be captured into a CUDA graph.

        Raises:
            FlashsrError: the runtime refuses.
        """


class DeviceGraph(Protocol):
    """A graph that is loaded on a device."""

    @property
    def inputs(self) -> Mapping[str, Tensor]: ...

    @property
    def outputs(self) -> Mapping[str, Tensor]: ...

    @property
    def weights_bytes(self) -> int:
        """Device memory that the loaded graph holds."""

    def prepare(self, shapes: Mapping[str, Shape]) -> PreparedGraph:
        """The graph for these input shapes.

        Raises:
            FlashsrError: it doesn't take them.
        """
