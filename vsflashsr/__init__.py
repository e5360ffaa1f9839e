"""vsflashsr: one-step, streaming, causal video super-resolution for VapourSynth."""

from .filter import flashsr

__all__ = ["flashsr"]
__version__ = "0.1.0"
