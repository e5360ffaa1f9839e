"""The kernels themselves, in Triton: one subject a file. Only `..compile` and the tests import them."""
