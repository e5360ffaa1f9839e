"""Runtimes: what executes a graph on tensors it owns. They know neither models nor VapourSynth."""
