"""``python -m trt_build``: see ``cli``."""

import sys

from .cli import main

sys.exit(main())
