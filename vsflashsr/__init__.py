"""vsflashsr: one-step, streaming, causal video super-resolution for VapourSynth."""

import os
from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from .filter import flashsr
    from .scaler import FlashSR as FlashSR

# ONNX Runtime (1.32) sends telemetry from its import on: a database in the user's cache, look-ups of a collector. This package
# comes before it in every process. Who has set the variable keeps his choice.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = ["__version__", "flashsr"]


def __getattr__(name: str) -> Any:
    """``flashsr`` and ``FlashSR``, on first use: the offline tools and a host that only checks a GPU have no VapourSynth.

    ``FlashSR`` is a scaler for vs-jetpack, and isn't in ``__all__``, since it needs that to be installed.
    """
    if name == "flashsr":
        from .filter import flashsr

        return flashsr
    if name == "FlashSR":
        try:
            from .scaler import FlashSR
        except ImportError as error:
            raise ImportError(f"vsflashsr.FlashSR is a vs-jetpack scaler ({error}); pip install vsjetpack") from error
        return FlashSR
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
