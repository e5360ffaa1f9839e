"""What the package has to say goes to the host's log: ``vspipe`` shows it on stderr, an editor in its log window."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import vapoursynth as vs


def say(message: str) -> None:
    """One line in the host's log."""
    vs.core.log_message(vs.MESSAGE_TYPE_INFORMATION, f"flashsr: {message}")


@contextmanager
def to_host_log() -> Iterator[None]:
    """What the package logs meanwhile goes to the host's log, from any thread: building engines takes minutes."""
    handler = _ToHost()
    logger = logging.getLogger("vsflashsr")
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(min(level or logging.INFO, logging.INFO))
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


class _ToHost(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._core = vs.core.core

    def emit(self, record: logging.LogRecord) -> None:
        kind = vs.MESSAGE_TYPE_WARNING if record.levelno >= logging.WARNING else vs.MESSAGE_TYPE_INFORMATION
        self._core.log_message(kind, f"flashsr: {record.getMessage()}")
