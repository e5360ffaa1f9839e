"""Small tables that kernels look things up in, made on the host."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ....resample import coefficients
from ..rope import angles, rope_split
from ..windows import SLICE_LATENTS, Grid

_FRACTION_BITS = 22

type Floats = npt.NDArray[np.float32]
type Integers = npt.NDArray[np.int32]


def rotary_tables(grid: Grid, head_dim: int, slices: int, first_latent: int) -> tuple[Floats, Floats]:
    """Cosine and sine for the kernel `rotate`: (latents, time pairs), (8 rows, side pairs), (8 cols, side pairs), flat.

    Only the first part depends on `first_latent`, the position of the step's first latent in its segment. Keys that are
    kept turned stay right, since attention sees differences of positions alone.
    """
    time, row, col = rope_split(head_dim)
    latents = np.arange(first_latent, first_latent + slices * SLICE_LATENTS)
    at = np.concatenate(
        [
            angles(latents, time).ravel(),
            angles(np.arange(grid.rows * 8), row).ravel(),
            angles(np.arange(grid.cols * 8), col).ravel(),
        ]
    )
    return np.cos(at).astype(np.float32), np.sin(at).astype(np.float32)


@dataclass(frozen=True)
class ResizeTable:
    """The pre-upscale along one axis: output i is the sum over j of weights[i, j] * input[starts[i] + j]."""

    starts: Integers
    """(target,)."""
    weights: Floats
    """(target, taps)."""
    whole_weights: Integers
    """(target, taps): in units of 2^-22, rounded as Pillow does."""

    @property
    def taps(self) -> int:
        return int(self.weights.shape[1])


def resize_table(size: int, target: int) -> ResizeTable:
    """From the rows of `resample.coefficients`, which are zero outside a short band."""
    matrix = coefficients(size, target)
    used = matrix != 0
    first = used.argmax(axis=1)
    last = size - used[:, ::-1].argmax(axis=1)
    taps = int((last - first).max())
    columns = first[:, None] + np.arange(taps)
    weights = np.where(columns < size, np.take_along_axis(matrix, np.minimum(columns, size - 1), axis=1), 0.0)
    whole = weights * (1 << _FRACTION_BITS)
    whole = np.trunc(whole + np.copysign(0.5, whole))
    return ResizeTable(first.astype(np.int32), weights.astype(np.float32), whole.astype(np.int32))
