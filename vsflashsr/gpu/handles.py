"""What the driver has made for us and must take back: closed once, each by itself or all with their device."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import ClassVar

from ..errors import FlashsrError


class Handles:
    """The handles of a device that aren't closed yet."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[int, Handle] = {}

    def add(self, handle: Handle) -> None:
        """Called by the handle itself."""
        with self._lock:
            self._open[id(handle)] = handle

    def remove(self, handle: Handle) -> None:
        """Called by the handle itself."""
        with self._lock:
            self._open.pop(id(handle), None)

    def newest_first(self) -> list[Handle]:
        """The order in which they may be closed: what was made later may use what was there before."""
        with self._lock:
            return list(self._open.values())[::-1]


class Handle(ABC):
    """One thing of the driver's. Lives until ``close``, or until its device is closed.

    Args:
        owner: closes it at the latest.
        value: what the driver calls it.
    """

    what: ClassVar[str]
    """As errors call it: "an event"."""

    def __init__(self, owner: Handles, value: int) -> None:
        self._owner = owner
        self._value: int | None = value
        owner.add(self)

    @property
    def handle(self) -> int:
        """What the driver calls it. Raises ``FlashsrError`` once it, or its device, was closed."""
        if self._value is None:
            raise FlashsrError(f"{self.what} was used after it, or its device, was closed; make another one")
        return self._value

    @property
    def closed(self) -> bool:
        return self._value is None

    def close(self) -> None:
        """Give it back. Idempotent."""
        value, self._value = self._value, None
        if value is not None:
            self._owner.remove(self)
            self._destroy(value)

    @abstractmethod
    def _destroy(self, value: int) -> None:
        """Called once."""
