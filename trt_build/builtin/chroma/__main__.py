"""``python -m trt_build.builtin.chroma``."""

from .command import main

main()
