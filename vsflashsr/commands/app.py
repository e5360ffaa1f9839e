"""The command line ``vsflashsr``: a table of commands, each imported when it is called, and what all of them share.

A command returns its exit status (None: 0), writes its result to stdout and everything else to stderr. Status 1: it failed,
with one sentence on stderr. 2: it was called wrongly. 130: interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from cyclopts import App, CycloptsError

from ..errors import FlashsrError
from ..version import __version__

HELP_FLAGS = ("--help", "-h")
COMMANDS = {
    "upscale": ("vsflashsr.commands.upscale:upscale", "Upscale a video file, with everything that belongs to it."),
    "pipe": ("vsflashsr.commands.pipe:pipe", "Upscale a y4m stream from stdin to stdout."),
    "flags": (
        "vsflashsr.commands.flags:flags",
        "Print an encoder's options for what a script's frames say of themselves.",
    ),
    "compare": (
        "vsflashsr.commands.compare:compare",
        "Upscale a part of a clip in several ways, in one HTML file to look at.",
    ),
    "models": ("vsflashsr.commands.models:app", "List models, check them, and get published ones."),
    "doctor": ("vsflashsr.commands.doctor:doctor", "Say what runs where on this machine, and why."),
}
"""Name on the command line → where the function lies, which isn't imported before it is called, and its line in the list."""


def make_app(*, listing: bool = False) -> App:
    """The application, with nothing of VapourSynth or of a runtime imported.

    Args:
        listing: the commands are only going to be listed, with a line each; else each has its function's whole docstring.
    """
    app = App(
        name="vsflashsr",
        version=__version__,
        help="Streaming, causal video super-resolution: files, pipes, models.",
        help_flags=HELP_FLAGS,
        help_format="plaintext",
        help_on_error=False,
        suppress_keyboard_interrupt=False,
        print_error=False,
        exit_on_error=False,
        result_action="return_value",
    )
    for name, (where, summary) in COMMANDS.items():
        app.command(where, name=name, **({"help": summary} if listing else {}))
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; an error is one sentence on stderr.

    Args:
        arguments: what follows the program's name; None: the process's own.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        result: Any = make_app(listing=not given or given[0] in HELP_FLAGS)(given)
    except CycloptsError as error:
        return _said(_sentence(str(error)), 2)
    except FlashsrError as error:
        return _said(str(error), 1)
    except KeyboardInterrupt:
        return _said("interrupted", 130)
    except Exception as error:
        if not _is_core_error(error):
            raise
        return _said(_one_line(str(error)).removeprefix("flashsr: "), 1)
    return result if isinstance(result, int) else 0


def _said(sentence: str, status: int) -> int:
    sys.stderr.write(f"vsflashsr: {sentence}\n")
    return status


def _sentence(message: str) -> str:
    """A usage error in one line."""
    return f"{_one_line(message).rstrip('.')}; see vsflashsr --help"


def _one_line(message: str) -> str:
    return " ".join(message.split())


def _is_core_error(error: Exception) -> bool:
    """Is it what VapourSynth and its filters say of themselves? It is imported by now if it is."""
    vapoursynth = sys.modules.get("vapoursynth")
    return vapoursynth is not None and isinstance(error, vapoursynth.Error)
