"""Frames of a stream that can only be read once, for a reader that jumps: a window that moves with what is delivered."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError

from ..errors import FlashsrError

type Data = bytes | bytearray


class FrameWindow:
    """Reads frames in a thread of its own and keeps those that may be asked for again. For any number of callers.

    After the stream's end its last frame stands for every later one, which is what tail padding is: a clip whose last frame is
    repeated has the same frames before.

    Args:
        read: the next frame, or None at the end; called from the thread only. A FlashsrError ends the stream, too.
        behind: frames before ``floor`` that are kept.
        ahead: frames beyond the newest that was asked for that are read.
    """

    def __init__(self, read: Callable[[], Data | None], *, behind: int, ahead: int = 4) -> None:
        self._read = read
        self._behind = behind
        self._ahead = ahead
        self._frames: dict[int, Data] = {}
        self._count = 0
        """Frames read so far."""
        self._wanted = 0
        """The newest frame that was asked for."""
        self._floor = 0
        self._ended = False
        self._stopped = False
        self.failure: FlashsrError | None = None
        """What ended the stream, if it wasn't its end. The frames before it are good."""
        self._changed = threading.Condition()
        # A daemon: nothing can end a read that waits for another program.
        threading.Thread(target=self._run, name="y4m reader", daemon=True).start()

    def frame(self, n: int) -> Data:
        """Frame n, waited for; the last one if the stream ends before it.

        Raises:
            CancelledError: the window was stopped.
        """
        with self._changed:
            self._want(n)
            self._changed.wait_for(lambda: self._stopped or self._ended or n < self._count)
            if self._stopped:
                raise CancelledError
            n = min(n, self._count - 1)
            if n not in self._frames:
                raise AssertionError(f"frame {n} is asked for again, {self._floor - n} before the one that is due")
            return self._frames[n]

    def wait(self, n: int) -> bool:
        """Is there a frame n? Waits for it, or for the stream's end."""
        with self._changed:
            self._want(n)
            self._changed.wait_for(lambda: self._stopped or self._ended or n < self._count)
            return n < self._count

    def has(self, n: int) -> bool:
        """Has frame n been read?"""
        with self._changed:
            return n < self._count

    def move(self, floor: int) -> None:
        """Nothing before ``floor`` less ``behind`` is asked for any more, but for the last frame."""
        with self._changed:
            self._floor = floor
            for n in [n for n in self._frames if n < floor - self._behind and n < self._count - 1]:
                del self._frames[n]

    def stop(self) -> None:
        """Let go of everyone who waits."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _want(self, n: int) -> None:
        if n > self._wanted:
            self._wanted = n
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or self._count <= self._wanted + self._ahead)
                if self._stopped:
                    return
            try:
                data = self._read()
            except FlashsrError as error:
                self.failure, data = error, None
            except OSError as error:
                self.failure, data = FlashsrError(f"the stream can't be read ({error.strerror}); write it anew"), None
            with self._changed:
                if data is None:
                    self._ended = True
                else:
                    self._frames[self._count] = data
                    self._count += 1
                self._changed.notify_all()
                if self._ended:
                    return
