"""Offline tools of vsflashsr: checkpoints in, ONNX bundles and engines out (``python -m trt_build``)."""

import vsflashsr as _first  # noqa: F401  # keeps ONNX Runtime from sending telemetry, if it comes before it
