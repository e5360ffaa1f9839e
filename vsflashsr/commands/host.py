"""A process that uses VapourSynth without vspipe: what goes to stdout, and what the core and its filters say."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def binary_stdout() -> Iterator[io.FileIO]:
    """The process's stdout for our own bytes alone; whatever anything else prints meanwhile goes to stderr."""
    sys.stdout.flush()
    own = os.dup(1)
    text = sys.stdout
    try:
        os.dup2(2, 1)
        sys.stdout = sys.stderr
        with io.FileIO(own, "wb", closefd=False) as out:
            yield out
    finally:
        sys.stdout = text
        os.dup2(own, 1)
        os.close(own)


@contextmanager
def core_messages() -> Iterator[None]:
    """What the core and its filters log goes to stderr, as in vspipe, without debugging messages."""
    import vapoursynth as vs

    def say(kind: int, message: str) -> None:
        if kind != vs.MESSAGE_TYPE_DEBUG:
            sys.stderr.write(f"{message}\n")

    core = vs.core.core
    handler = core.add_log_handler(say)
    try:
        yield
    finally:
        core.remove_log_handler(handler)
