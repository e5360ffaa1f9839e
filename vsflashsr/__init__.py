"""vsflashsr: one-step, streaming, causal video super-resolution for VapourSynth."""

import os
from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from .filter import flashsr

# ONNX Runtime (1.32) sends telemetry from its import on: a database in the user's cache, look-ups of a collector. This package
# comes before it in every process. Who has set the variable keeps his choice.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = ["__version__", "flashsr"]


def __getattr__(name: str) -> Any:
    """``flashsr``, on first use: the offline tools and a host that only checks a GPU have no VapourSynth."""
    if name == "flashsr":
        from .filter import flashsr

        return flashsr
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
