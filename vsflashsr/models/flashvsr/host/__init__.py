"""FlashVSR's step on the host, over an executor: NumPy with ONNX Runtime, or torch."""
