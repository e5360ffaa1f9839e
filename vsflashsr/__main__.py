"""``python -m vsflashsr``."""

import sys

from .commands.app import main

sys.exit(main())
