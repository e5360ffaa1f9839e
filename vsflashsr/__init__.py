"""vsflashsr: one-step, streaming, causal video super-resolution for VapourSynth."""

from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from .filter import flashsr

__all__ = ["__version__", "flashsr"]


def __getattr__(name: str) -> Any:
    """``flashsr``, on first use: the offline tools and a host that only checks a GPU have no VapourSynth."""
    if name == "flashsr":
        from .filter import flashsr

        return flashsr
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
