"""What a kernel is called, which function makes it, what it takes and how it is compiled for a GPU; sets of them; launches.

Nothing here needs Triton: a user's machine has the compiled kernels and these lists. The sources are Triton's; they are
compiled ahead of time by `compile`, and run in Triton's interpreter by the tests.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType

CAPABILITIES = (80, 86, 89, 90, 120)
"""GPUs that kernels are compiled for: Ampere (A100, then RTX 30), Ada (RTX 40), Hopper, Blackwell (RTX 50)."""
SHARED_LIMIT_BYTES = MappingProxyType({80: 163 << 10, 86: 99 << 10, 89: 99 << 10, 90: 227 << 10, 120: 99 << 10})
"""Shared memory that one block may have (CUDA C++ programming guide, technical specifications per compute capability)."""

type Constant = int | float | str | None


@dataclass(frozen=True)
class Kernel:
    """One compiled form of a kernel."""

    name: str
    """What a `Launch` calls it: function, then types and sizes."""
    module: str
    """File among the set's sources."""
    function: str
    arguments: tuple[tuple[str, str], ...]
    """Name and type of what is passed at run time, in order: "*fp16", "*i32", "i32", "i64", "fp32", "i32/16" (a
    multiple of 16)."""
    constants: Mapping[str, Constant] = field(default_factory=dict)
    """What is fixed at compile time; None: an argument that this form does without."""
    aligned: bool = True
    """All pointers passed are multiples of 16, so that loads are wide."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """Of each argument, what a `Launch` passes: "p", "i32", "i64" or "f32"."""
        return tuple("p" if type_.startswith("*") else _KINDS.get(type_, "i32") for _, type_ in self.arguments)


_KINDS = {"i64": "i64", "fp32": "f32"}


@dataclass(frozen=True)
class Tuning:
    """How a kernel is compiled for a GPU. Chosen by shared memory, registers and what Triton makes of it; not yet timed."""

    warps: int
    stages: int = 2
    constants: Mapping[str, int] = field(default_factory=dict)
    """Further constants, which the grid doesn't depend on."""
    fused: bool = True
    """May products and sums be rounded once? False where the host's bytes are to come out."""


@dataclass(frozen=True)
class KernelSet:
    """The kernels of one package, whose sources are its `sources` and whose compiled kernels lie in its `cubins`."""

    package: str
    """With dots."""
    kernels: Callable[[], Mapping[str, Kernel]]
    """All of them, by name."""
    tuning: Callable[[Kernel, int], Tuning]
    """See `Tuning`; the second is 10 * major + minor of the compute capability."""

    @property
    def folder(self) -> Path:
        """Where the package's own compiled kernels lie."""
        return _folder(self.package) / "cubins"

    @property
    def digest(self) -> str:
        """sha256 over the sources. Compiled kernels that were made of others aren't used."""
        return _digest(_folder(self.package) / "sources")


@cache
def _folder(package: str) -> Path:
    found = importlib.util.find_spec(package)
    assert found is not None and found.origin is not None
    return Path(found.origin).parent


@cache
def _digest(sources: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(sources.glob("*.py")):
        total.update(path.name.encode() + b"\0" + path.read_bytes().replace(b"\r\n", b"\n") + b"\0")
    return total.hexdigest()


def arguments_of(text: str) -> tuple[tuple[str, str], ...]:
    """ "q *fp16, heads" → (("q", "*fp16"), ("heads", "i32")): an argument without a type is an i32."""
    words = [argument.split() for argument in text.split(",")]
    return tuple((word[0], word[1] if len(word) > 1 else "i32") for word in words)


@dataclass(frozen=True)
class Launch:
    """One kernel on one grid."""

    kernel: str
    """Its name in the set."""
    grid: tuple[int, int, int]
    args: tuple[tuple[str, int | float], ...]
    """(kind, value) in the kernel's order: "p" a device address, "i32", "i64", "f32"."""


def launch(kernel: Kernel, grid: tuple[int, int, int], *values: int | float) -> Launch:
    """Of a kernel, checked.

    Raises:
        ValueError: a value isn't what the kernel was compiled for.
    """
    kinds = kernel.kinds
    for (argument, type_), kind, value in zip(kernel.arguments, kinds, values, strict=True):
        step = 16 if kernel.aligned else 4
        if kind == "p" and (value <= 0 or value % step):
            raise ValueError(f"{kernel.name} needs {argument} at a multiple of {step} bytes, got {value:#x}")
        if kind == "i32" and not -(2**31) <= value < 2**31:
            raise ValueError(f"{kernel.name} takes {argument} as 32 bits, got {value}")
        if type_.endswith("/16") and value % 16:
            raise ValueError(f"{kernel.name} needs {argument} to be a multiple of 16, got {value}")
    if grid[0] < 1 or not 1 <= grid[1] < 2**16 or not 1 <= grid[2] < 2**16:
        raise ValueError(f"{kernel.name} can't run on a grid of {grid}")
    return Launch(kernel.name, grid, tuple(zip(kinds, values, strict=True)))
