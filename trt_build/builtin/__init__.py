"""Training of the built-in model: clips in, a bundle out (``python -m trt_build.builtin``)."""
