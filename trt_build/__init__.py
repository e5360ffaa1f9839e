"""Offline tools of vsflashsr: checkpoints in, ONNX bundles and engines out (``python -m trt_build``)."""
