"""A model run on overlapping tiles, each with a state of its own: for sizes that don't fit, or fixed-size graphs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..geometry import Array, Tiling, blend, cut
from ..model import Frame, Model, ModelSpec, fetched


class _Blended:
    """A frame whose tiles may still be in the making."""

    def __init__(self, parts: Sequence[Frame], plan: Tiling, scale: int) -> None:
        self._parts, self._plan, self._scale = parts, plan, scale

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self._parts)

    def array(self) -> Array:
        return blend([fetched(part) for part in self._parts], self._plan, self._scale)


class TiledModel[State]:
    """``inner``, which works on frames of a tile's size, seen through the tiles of ``plan``."""

    def __init__(self, inner: Model[State], plan: Tiling) -> None:
        self._inner, self._plan = inner, plan

    @property
    def spec(self) -> ModelSpec:
        # Where tiles overlap, single floats come of halves.
        return replace(self._inner.spec, half=False)

    def step(
        self, frames: Sequence[Array], numbers: Sequence[int], state: tuple[State, ...] | None
    ) -> tuple[Sequence[Frame], tuple[State, ...]]:
        """See ``Model.step``: every tile makes the same step, with its own state."""
        parts: list[Sequence[Frame]] = []
        states: list[State] = []
        for i, tile in enumerate(self._plan.tiles):
            emitted, new = self._inner.step(
                [cut(f, tile) for f in frames], numbers, None if state is None else state[i]
            )
            parts.append(emitted)
            states.append(new)
        frames_out = [_Blended(tiles, self._plan, self.spec.scale) for tiles in zip(*parts, strict=True)]
        return [f if self.spec.in_flight else f.array() for f in frames_out], tuple(states)

    def state_bytes(self, state: tuple[State, ...]) -> int:
        """Of all tiles together."""
        return sum(self._inner.state_bytes(s) for s in state)
