"""Measure how gradients grow or vanish through thousands of layers and time steps.

The public names are listed in ``__init__.pyi`` and are imported when first used (SPEC 1), so that
``import fastgrad`` costs no more than a few milliseconds and ``fastgrad --help`` stays quick.
"""

from __future__ import annotations

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
