"""What to launch to carry planes of frames, and to look at them: the kernels of ``sources/planes.py``. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np

from .kernel import Kernel, KernelSet, Launch, Tuning, arguments_of, launch

_SAMPLES = ("fp16", "fp32")
_NAMES = {"float16": "fp16", "float32": "fp32"}
ROWS, COLUMNS = 8, 128
"""What one program carries."""
THUMBNAIL_ROWS, THUMBNAIL_COLUMNS = 8, 64


@cache
def kernels() -> Mapping[str, Kernel]:
    """All of them, by name."""
    return MappingProxyType({kernel.name: kernel for kernel in _kernels()})


def _kernels() -> Iterator[Kernel]:
    tile: dict[str, int | float | str] = {"BLOCK_Y": ROWS, "BLOCK_X": COLUMNS}
    for source in _SAMPLES:
        for out in _SAMPLES:
            for check in (False, True):
                yield Kernel(
                    f"move.{source}.{out}{'.checked' if check else ''}",
                    "planes",
                    "move",
                    arguments_of(
                        f"source *{source}, out *{out}, flag *i32, height, width, rows, columns, source_stride i64, "
                        "out_stride i64, gain fp32, lift fp32"
                    ),
                    {**tile, "CHECK": int(check)},
                    aligned=False,
                )
        yield Kernel(
            f"finite.{source}",
            "planes",
            "finite",
            arguments_of(f"source *{source}, flag *i32, height, width, stride i64"),
            tile,
            aligned=False,
        )
        for channels in (1, 3):
            yield Kernel(
                f"block_means.{source}.c{channels}",
                "planes",
                "block_means",
                arguments_of(
                    f"first *{source}, second *{source}, third *{source}, out *fp32, rows, columns, stride i64"
                ),
                {"CHANNELS": channels, "BLOCK_Y": THUMBNAIL_ROWS, "BLOCK_X": THUMBNAIL_COLUMNS},
                aligned=False,
            )


def tuning(kernel: Kernel, capability: int) -> Tuning:
    """See `Tuning`."""
    return Tuning(4, fused=False)


PLANES = KernelSet(__package__, kernels, tuning)


@dataclass(frozen=True, slots=True)
class Surface:
    """A plane in memory, as a kernel sees it."""

    address: int
    stride: int
    """From row to row, in bytes."""
    dtype: np.dtype[Any]

    @property
    def name(self) -> str:
        """Of its type."""
        return _NAMES[self.dtype.name]

    @property
    def values(self) -> int:
        """From row to row."""
        return self.stride // self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Levels:
    """How values change on the way: ``value * gain + lift``."""

    gain: float = 1.0
    lift: float = 0.0


AS_THEY_ARE = Levels()


def move(
    source: Surface,
    out: Surface,
    size: tuple[int, int],
    padded: tuple[int, int],
    levels: Levels = AS_THEY_ARE,
    *,
    flag: int | None = None,
) -> Launch:
    """A plane of ``size`` = (height, width) becomes one of ``padded`` = (rows, columns): cropped, or its edges repeated.

    Args:
        flag: address of an i32 that becomes 1 where a value isn't finite; None: nobody looks.
    """
    kernel = kernels()[f"move.{source.name}.{out.name}{'' if flag is None else '.checked'}"]
    rows, columns = padded
    return launch(
        kernel,
        (-(-columns // COLUMNS), -(-rows // ROWS), 1),
        source.address,
        out.address,
        source.address if flag is None else flag,
        *size,
        rows,
        columns,
        source.values,
        out.values,
        levels.gain,
        levels.lift,
    )


def finite(source: Surface, size: tuple[int, int], flag: int) -> Launch:
    """The i32 at ``flag`` becomes 1 where a value of the plane isn't finite."""
    height, width = size
    grid = (-(-width // COLUMNS), -(-height // ROWS), 1)
    return launch(kernels()[f"finite.{source.name}"], grid, source.address, flag, height, width, source.values)


def block_means(planes: Sequence[Surface], block: tuple[int, int], blocks: tuple[int, int], out: int) -> Launch:
    """float32 (blocks down, blocks across) at ``out``: the means of blocks of (rows, columns) pixels over 1 or 3 planes."""
    first = planes[0]
    addresses = [plane.address for plane in planes] * (3 // len(planes))
    kernel = kernels()[f"block_means.{first.name}.c{len(planes)}"]
    return launch(kernel, (blocks[1], blocks[0], 1), *addresses, out, *block, first.values)
