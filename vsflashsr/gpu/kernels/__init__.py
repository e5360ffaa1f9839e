"""Kernels of ours: how they are described, compiled ahead of time, found and launched; and those that carry frames."""
