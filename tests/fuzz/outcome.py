"""What became of one hostile input."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

type Outcome = Literal["accepted", "refused", "late", "unclear", "raw", "silent", "hang", "crash"]
"""``refused``: one sentence that says what to do, when the script runs. Faults: ``late``: when a frame is asked for; ``unclear``:
without what to do; ``raw``: another exception, or control characters; ``silent``: accepted, though it can't be right."""

_SENTENCE = re.compile(r"flashsr: [^\n]+; [^\n]+")


@dataclass(frozen=True)
class Case:
    """One input, written to disk or held in ``run``."""

    what: str
    """How it was made, for whoever reads a failure."""
    run: Callable[[], Callable[[], object] | None]
    """Opens it; what it returns makes the first frame."""
    wrong: bool
    """Is it certain that it can't be right?"""


def outcome_of(case: Case) -> tuple[Outcome, str]:
    """Run it."""
    try:
        render = case.run()
    except Exception as error:  # noqa: BLE001  # whatever comes is what is counted
        return _judged(error, "refused")
    try:
        if render is not None:
            render()
    except Exception as error:  # noqa: BLE001
        return _judged(error, "late")
    return ("silent" if case.wrong else "accepted"), ""


def _judged(error: Exception, otherwise: Outcome) -> tuple[Outcome, str]:
    text = str(error)
    if isinstance(error, TimeoutError):
        return "hang", text
    if isinstance(error, AssertionError):
        return "silent", text
    if type(error).__name__ not in ("Error", "FlashsrError") or "flashsr: " not in text:
        return "raw", f"{type(error).__name__}: {text[-300:]}"
    line = next(line for line in text.splitlines() if "flashsr: " in line)
    if any(not (c.isprintable() or c in "\n\t") for c in text):
        return "raw", repr(text[:300])
    return (otherwise if _SENTENCE.search(line) else "unclear"), line[:400]
