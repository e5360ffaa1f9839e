"""``python -m trt_build.gpu_check``."""

import sys

from vsflashsr.errors import FlashsrError

from .check import main

try:
    sys.exit(main())
except FlashsrError as failure:
    sys.exit(str(failure))
