"""What is installed here: the facts that a report of a problem needs."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

__all__ = ["installation"]

_PACKAGES = ("numpy", "scipy", "numba", "llvmlite", "xarray", "matplotlib")


def installation() -> dict[str, str | int]:
    """Versions, C extension, threads and cache folder, as text and numbers fit for JSON.

    Returns
    -------
    dict
        Package names and ``python`` with their versions, ``c_extension`` ("in use", or why not), ``random_numbers`` (what
        draws those of float32), ``threads`` (the default), ``cpu`` and ``cache_folder`` (of compiled kernels).
    """
    from fastgrad import __version__
    from fastgrad.engine.blocks import default_threads
    from fastgrad.engine.compile import cache_root
    from fastgrad.engine.native import HAVE_C
    from fastgrad.engine.native_panels import HAVE_PANELS
    from fastgrad.measure import cpu_name

    return {
        "fastgrad": __version__,
        "python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
        "c_extension": "in use" if HAVE_C else _why_no_c(),
        "random_numbers": "C, 512-bit vectors" if HAVE_PANELS else "Numba",
        "threads": default_threads(),
        "cpu": cpu_name(),
        "cache_folder": str(cache_root()),
    }


def _why_no_c() -> str:
    if os.environ.get("FASTGRAD_DISABLE_C", "0") not in {"", "0"}:
        return "switched off by FASTGRAD_DISABLE_C; Numba in its place"
    return "not built; Numba in its place"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
