"""``python -m trt_build.kernels [OUT]``: see `vsflashsr.models.flashvsr.kernels.compile`."""

import sys

from vsflashsr.models.flashvsr.kernels.compile import main

if __name__ == "__main__":
    sys.exit(main())
