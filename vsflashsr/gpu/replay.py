"""The same work on the same memory, again and again: run plainly once, captured the second time, replayed from then on."""

from __future__ import annotations

from collections.abc import Callable

from .graphs import Graph
from .stream import Stream


class Replay:
    """Work whose every address and size stays the same. The device frees the captured graph when it is closed.

    Args:
        enqueue: queues the work on the stream it is given. It runs plainly the first time, because runtimes load kernels and
            take memory in their first call, which a capture can't hold.
        captured: False: always plainly, for work that can't be captured (torch).
    """

    def __init__(self, enqueue: Callable[[Stream], None], *, captured: bool = True) -> None:
        self._enqueue, self._captured = enqueue, captured
        self._warm = False
        self._graph: Graph | None = None

    def __call__(self, stream: Stream) -> None:
        """Queue the work."""
        if self._graph is not None:
            stream.replay(self._graph)
        elif not self._warm or not self._captured:
            self._enqueue(stream)
            self._warm = True
        else:
            with stream.capture() as capture:
                self._enqueue(stream)
            self._graph = capture.graph
            stream.replay(self._graph)
