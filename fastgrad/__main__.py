"""``python -m fastgrad``."""

from __future__ import annotations

import sys

from fastgrad.cli import main

sys.exit(main())
