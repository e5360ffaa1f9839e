"""What the tests build on: small bundles and clips, `vspipe`, a mock of the CUDA driver, NumPy twins of the kernels."""
