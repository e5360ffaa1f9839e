"""Tables of the pre-upscale: bilinear with half-pixel centres and no antialiasing, padded with black."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Axis:
    """Along one axis, output i is the sum over both sides of weights[side, i] * input[sources[side, i]]."""

    sources: NDArray[np.int64]
    """(2, target)."""
    weights: NDArray[np.float32]
    """(2, target); zeros beyond the picture."""


@lru_cache(maxsize=16)
def axis(size: int, target: int, padded: int) -> Axis:
    """From ``size`` pixels to ``target``, and black from there to ``padded``; edges repeat beyond themselves."""
    at = np.maximum((np.arange(target) + 0.5) * (size / target) - 0.5, 0)
    low = np.minimum(at.astype(np.int64), size - 1)
    weight = (at - low).astype(np.float32)
    black = (0, padded - target)
    sources = np.stack([np.pad(side, black) for side in (low, np.minimum(low + 1, size - 1))])
    weights = np.stack([np.pad(side, black) for side in (1 - weight, weight)])
    sources.flags.writeable = weights.flags.writeable = False
    return Axis(sources, weights)


def upscale_tables(low: tuple[int, int], scale: int, padded: tuple[int, int]) -> dict[str, NDArray[np.generic]]:
    """What the graph is given beside the frames, by its inputs' names.

    Args:
        low: (height, width) of what comes in.
        scale: of both sides.
        padded: (height, width) of what comes out.
    """
    rows, cols = (axis(size, scale * size, whole) for size, whole in zip(low, padded, strict=True))
    return {"rows": rows.sources, "row_weights": rows.weights, "cols": cols.sources, "col_weights": cols.weights}
