"""vsflashsr: one-step, streaming, causal video super-resolution for VapourSynth."""

__version__ = "0.1.0"
