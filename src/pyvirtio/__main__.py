"""``python -m pyvirtio`` is ``pyvirtio``."""

import sys

from pyvirtio.cli import main

sys.exit(main())
