"""Device memory, stated before it is taken. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import FlashsrError

RESERVE_BYTES = 256 << 20
"""Left alone: the driver's own needs (modules, graphs, launch buffers) and whoever shows the picture."""


class MemoryRefusedError(FlashsrError):
    """A device has too little memory for what was asked."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What a model will take of a device, by purpose, in bytes."""

    items: Mapping[str, int]

    @property
    def total_bytes(self) -> int:
        return sum(self.items.values())

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {amount(size)}" for name, size in self.items.items() if size >= 1 << 20)
        return amount(self.total_bytes) + (f" ({parts})" if parts else "")

    def require(self, free_bytes: int, remedy: str, *, taken_bytes: int = 0) -> None:
        """Refuse what doesn't fit into what is free, beside what the model has taken already.

        Raises:
            MemoryRefusedError: with the numbers, and the remedy.
        """
        if self.total_bytes - taken_bytes + RESERVE_BYTES > free_bytes:
            free = f"{amount(free_bytes)} free" + (f" beside {amount(taken_bytes)} taken by it" if taken_bytes >> 20 else "")
            raise MemoryRefusedError(f"the model needs {self} of GPU memory, got {free}; {remedy}")


def amount(size_bytes: int) -> str:
    """Bytes in GiB, or MiB where it is less than one."""
    gib = size_bytes / (1 << 30)
    return f"{gib:.2f} GiB" if gib >= 1 else f"{size_bytes / (1 << 20):.0f} MiB"
