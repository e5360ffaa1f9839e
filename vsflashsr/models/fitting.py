"""Whole frames or tiles: what the user wants, what a graph of one size needs, and the largest that a GPU has room for."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from ..arguments import Arguments, Tile
from ..bundle import ColorFix
from ..errors import FlashsrError
from ..geometry import Tiling, tile_sizes, tiling
from ..gpu.budget import MemoryRefusedError
from ..model import Model
from ..runtimes.backend import Backend
from .kind import Kind, LoadedModel, Size
from .tiled import TiledModel

DEFAULT_OVERLAP = 16

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """A model and what the filter does around it."""

    model: Model[Any]
    name: str
    color_fix: ColorFix
    """Left to the filter; "none" where the model has seen to it itself."""
    memory: str = ""
    """What it takes of a GPU, in words; empty on the CPU."""


def fit(kind: Kind, arguments: Arguments, size: Size, backend: Backend) -> OpenedModel:
    """The model for frames of ``size``, in the fewest tiles that were asked for and fit.

    Raises:
        FlashsrError: tiles and graphs contradict each other, or the model can't be loaded.
        MemoryRefusedError: not even the smallest tiles fit.
    """
    choices = _choices(kind, arguments, size)
    for tile in choices:
        try:
            return _opened(kind, arguments.overlap, size, tile, backend)
        except MemoryRefusedError as error:
            if tile == choices[-1]:
                raise
            _log.info("%s", error)
    raise AssertionError("there is always a choice")


def _choices(kind: Kind, arguments: Arguments, size: Size) -> list[Size | None]:
    """Sizes of tiles in the order in which they are tried; None: the whole frame."""
    first = _asked(arguments.tile, arguments.overlap, size, kind.fixed)
    if arguments.tile != "auto" or kind.fixed is not None:
        return [first]
    height, width = size
    overlap = DEFAULT_OVERLAP if arguments.overlap is None else arguments.overlap
    return [first, *((h, w) for w, h in tile_sizes(width, height, kind.multiple, overlap))]


def _asked(tile: Tile, overlap: int | None, size: Size, fixed: Size | None) -> Size | None:
    """The tiles that were asked for, or that a graph of one size needs."""
    match tile:
        case None | "auto":
            wanted = fixed
        case int() as side:
            wanted = (side, side)
        case (int() as width, int() as height):
            wanted = (height, width)
    if fixed is not None and wanted != fixed:
        raise FlashsrError(f"the model takes {fixed[1]}x{fixed[0]} only, got tile={tile}; leave tile out")
    if wanted is None:
        if overlap is not None and tile is None:
            raise FlashsrError(f"overlap is between tiles, got overlap={overlap} without tile; give tile too")
        return None
    if fixed is None:
        # A tile larger than the picture would only be padding.
        return min(wanted[0], size[0]), min(wanted[1], size[1])
    return None if wanted == size else wanted


def _opened(kind: Kind, overlap: int | None, size: Size, tile: Size | None, backend: Backend) -> OpenedModel:
    if tile is None:
        loaded = kind.load(backend, size, tiles=None)
        left: ColorFix = "none" if kind.fixes_whole_frames else kind.color_fix
        return OpenedModel(loaded.model, kind.bundle.name, left, _statement(loaded, ""))
    plan = _tiling(size, tile, overlap)
    loaded = kind.load(backend, tile, tiles=len(plan.tiles))
    statement = _statement(loaded, f", in {len(plan.tiles)} tiles of {tile[1]}x{tile[0]}")
    return OpenedModel(TiledModel(loaded.model, plan), kind.bundle.name, kind.color_fix, statement)


def _statement(loaded: LoadedModel, tiles: str) -> str:
    return "" if loaded.memory is None else f"{loaded.memory}{tiles}"


def _tiling(size: Size, tile: Size, overlap: int | None) -> Tiling:
    height, width = size
    between = overlap if overlap is not None else min(DEFAULT_OVERLAP, (min(tile) - 1) // 4)
    return tiling(width, height, tile[1], tile[0], between)
