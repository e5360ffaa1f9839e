"""Triton sources of the kernels that carry frames."""
