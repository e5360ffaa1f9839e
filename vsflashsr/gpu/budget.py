"""Device memory, stated before it is taken. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import FlashsrError

RESERVE_BYTES = 256 << 20
"""Left alone: the driver's own needs (modules, graphs, launch buffers) and whoever shows the picture."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What a model will take of a device, by purpose, in bytes."""

    items: Mapping[str, int]

    @property
    def total_bytes(self) -> int:
        return sum(self.items.values())

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {gib(size)}" for name, size in self.items.items() if size >= 1 << 20)
        return f"{gib(self.total_bytes)} GiB" + (f" ({parts})" if parts else "")

    def fits(self, free_bytes: int) -> bool:
        """Is there room, with some left over?"""
        return self.total_bytes + RESERVE_BYTES <= free_bytes

    def require(self, free_bytes: int, remedy: str) -> None:
        """Refuse what doesn't fit.

        Raises:
            FlashsrError: with the numbers, and the remedy.
        """
        if not self.fits(free_bytes):
            raise FlashsrError(f"the model needs {self} of GPU memory, got {gib(free_bytes)} GiB free; {remedy}")


def gib(size_bytes: int) -> str:
    """Bytes in GiB, two digits after the point."""
    return f"{size_bytes / (1 << 30):.2f}"
