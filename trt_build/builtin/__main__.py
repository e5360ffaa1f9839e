"""``python -m trt_build.builtin``."""

from .command import main

main()
