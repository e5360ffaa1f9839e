"""What loads a model's graphs: the protocol of a backend, the table of all there are, and which of them "auto" takes.

A backend knows graphs and a place to run them, and no model. To add one: a file beside this one, and a row in ``BACKENDS``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, Protocol

from ..arguments import Arguments
from ..errors import FlashsrError, shown
from . import onnxruntime, openvino, providers, tensorrt, torch
from .graph import DeviceGraph, GraphCall, HostGraph

if TYPE_CHECKING:
    from ..gpu.device import Device


class HostBackend(Protocol):
    """Runs graphs on arrays; a step has ended when it returns."""

    @property
    def name(self) -> str:
        """As in ``flashsr(backend=)``."""

    @property
    def place(self) -> Literal["host"]: ...

    @property
    def where(self) -> str:
        """What it runs on, in words."""

    def load(self, calls: Sequence[GraphCall]) -> Sequence[HostGraph]:
        """The graphs, ready for all the shapes they are called with.

        Raises:
            FlashsrError: a graph can't be had here.
        """

    def keep_compiled(self) -> None:
        """Called when a model is open: what was compiled until now is kept for the next start."""

    def close(self) -> None:
        """Free all of it. Idempotent."""


class DeviceBackend(Protocol):
    """Runs graphs on device memory, in the order of streams. See ``HostBackend``."""

    @property
    def name(self) -> str: ...

    @property
    def place(self) -> Literal["device"]: ...

    @property
    def where(self) -> str: ...

    @property
    def device(self) -> Device: ...

    @property
    def captures(self) -> bool:
        """May its calls be captured into CUDA graphs?"""

    def load(self, calls: Sequence[GraphCall]) -> Sequence[DeviceGraph]: ...

    def keep_compiled(self) -> None: ...

    def close(self) -> None: ...


type Backend = HostBackend | DeviceBackend


@dataclass(frozen=True, slots=True)
class Row:
    """A backend that there is."""

    name: str
    open: Callable[[Arguments], Backend]
    """Raises a FlashsrError where it can't be had."""
    missing: Callable[[], str | None]
    """Why it can't be used here, as far as can be told without opening it; None: it may be tried."""
    automatic: bool = True
    """Does "auto" consider it?"""
    plain_only: bool = False
    """Does it run a model's graphs by themselves only, without kernels of ours or weight files between them?"""


BACKENDS: tuple[Row, ...] = (
    Row("tensorrt", tensorrt.open_tensorrt, tensorrt.why_no_tensorrt),
    Row("tensorrt_rtx", tensorrt.open_tensorrt_rtx, tensorrt.why_no_tensorrt_rtx),
    *(
        Row(
            provider.backend,
            partial(providers.open_provider, provider),
            partial(providers.why_no_provider, provider),
            automatic=provider.automatic,
            plain_only=True,
        )
        for provider in providers.PROVIDERS
    ),
    Row("openvino", openvino.open_openvino, openvino.why_no_openvino, automatic=False, plain_only=True),
    Row("torch", torch.open_torch, torch.why_no_torch, automatic=False),
    Row("onnxruntime", onnxruntime.open_cpu, onnxruntime.why_no_cpu),
)
"""In the order in which "auto" tries them; the last runs everywhere."""
AUTO = "auto"


def backend_names() -> tuple[str, ...]:
    """What ``flashsr(backend=)`` takes."""
    return (AUTO, *(row.name for row in BACKENDS))


def open_backend(arguments: Arguments, say: Callable[[str], None], *, plain: bool = True) -> Backend:
    """The backend that was asked for; "auto": the first of the table that can be used, and one line about why.

    Args:
        arguments: of ``flashsr``.
        say: takes that line.
        plain: see ``Kind.plain``.

    Raises:
        FlashsrError: there is none of that name, it can't be had here, or it doesn't run such models.
    """
    rows = [row for row in BACKENDS if plain or not row.plain_only]
    if arguments.backend == AUTO:
        return _first_usable(rows, arguments, say)
    for row in rows:
        if row.name == arguments.backend:
            return row.open(arguments)
    if arguments.backend in backend_names():
        raise FlashsrError(
            f"backend {arguments.backend!r} doesn't run models of this kind, got one whose graphs need more than ONNX between "
            f"them; use one of {', '.join(repr(row.name) for row in rows)}"
        )
    names = ", ".join(map(repr, backend_names()))
    raise FlashsrError(f"backend is one of {names}, got {shown(arguments.backend)}; choose one of them")


def _first_usable(rows: Sequence[Row], arguments: Arguments, say: Callable[[str], None]) -> Backend:
    reasons: list[str] = []
    for row in (row for row in rows if row.automatic):
        if (reason := row.missing()) is None:
            try:
                backend = row.open(arguments)
            except FlashsrError as error:
                reason = f"{row.name}: {error}"
            else:
                because = f" ({'; '.join(dict.fromkeys(reasons))})" if reasons else ""
                say(f"backend 'auto' runs on {backend.where} in {row.name}{because}")
                return backend
        reasons.append(reason)
    raise FlashsrError(f"backend 'auto' found nothing to run on ({'; '.join(reasons)}); install one of the backends")
