"""From a Python loop to a compiled, cached kernel that cannot be stale.

Numba keys its cache on the file that defines the compiled function alone: with formulas and loops in separate files, an edit (or an
upgrade) of a formula would leave the old machine code in use. Kernels therefore live in a folder named after a hash of every source that can be
inlined into them, of the C extension, and of Numba's version: another source, another folder.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import llvmlite
import numba
import platformdirs

from fastgrad.engine.native import native_fingerprint
from fastgrad.jit import KERNEL_OPTIONS

_PACKAGE = Path(__file__).resolve().parent.parent
_INLINED = ("elementary.py", "activations.py", "jit.py", "linked.py", "cells/*.py", "engine/*.py")
_KEEP_DAYS = 30
_lock = threading.RLock()


@lru_cache(maxsize=1)
def fingerprint() -> str:
    """Hash of everything that compiled kernels depend on."""
    digest = hashlib.sha256()
    for pattern in _INLINED:
        for path in sorted(_PACKAGE.glob(pattern)):
            digest.update(path.relative_to(_PACKAGE).as_posix().encode() + b"\0" + path.read_bytes())
    digest.update(f"{native_fingerprint()} {numba.__version__} {llvmlite.__version__}".encode())
    return digest.hexdigest()[:16]


def cache_root() -> Path:
    """Folder of all kernel caches: ``NUMBA_CACHE_DIR`` if set, else the user's cache folder."""
    chosen = os.environ.get("NUMBA_CACHE_DIR", "")
    return Path(chosen) / "fastgrad" if chosen else Path(platformdirs.user_cache_dir("fastgrad"))


@lru_cache(maxsize=1)
def cache_folder() -> Path | None:
    """Folder of this version's kernels, made if need be; None where it cannot be written (kernels are then compiled anew each time)."""
    folder = cache_root() / f"kernels-{fingerprint()}"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        mark = folder / "used"
        mark.touch()  # also proves that the folder can be written
        _prune(folder)
    except OSError as error:
        warnings.warn(
            f"compiled kernels cannot be kept in {folder} ({error.strerror or error}): they are compiled again in every process; "
            "set NUMBA_CACHE_DIR to a folder that can be written",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    return folder


def _prune(current: Path) -> None:
    """Remove kernel folders of other versions that nobody has used for a month."""
    for folder in current.parent.glob("kernels-*"):
        mark = folder / "used"
        try:
            if folder != current and time.time() - mark.stat().st_mtime > _KEEP_DAYS * 86400:
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue


@contextmanager
def _cache() -> Iterator[bool]:
    """While it lasts, Numba's decorators use this version's folder; yields whether there is one."""
    with _lock:
        folder = cache_folder()
        before = numba.config.CACHE_DIR
        if folder is not None:
            numba.config.CACHE_DIR = str(folder)  # read by Numba when it decorates, not later
        try:
            yield folder is not None
        finally:
            numba.config.CACHE_DIR = before


def kernel(function: Callable[..., Any], counts_references: bool = True) -> Callable[..., Any]:
    """Compile a loop with the project's options, from this version's cache where possible; compilation happens at the first call.

    Without counting references, nothing called by the kernel may allocate an array or return one. It pays: arrays are counted, atomically, up and
    down at every call they are passed to (measured: 4 of 5 microseconds of a layer of width 64).
    """
    with _cache() as cached:
        return numba.njit(cache=cached, _nrt=counts_references, no_cfunc_wrapper=True, **KERNEL_OPTIONS)(function)  # type: ignore[no-any-return]


def entry_point(function: Callable[..., Any], signature: Any, symbol: str = "", counts_references: bool = True) -> Any:
    """Compile a C function now, for kernels to call by its address or, if it gets one, by a symbol.

    Kernels then need not be compiled with it inside. Returns what Numba made, which the caller must keep alive.
    ``counts_references``: as in `kernel`.
    """
    options = {key: value for key, value in KERNEL_OPTIONS.items() if key != "nogil"}  # an entry point never takes the GIL
    with _cache() as cached:
        compiled = numba.cfunc(signature, cache=cached, _nrt=counts_references, **options)(function)
    if symbol:
        llvmlite.binding.add_symbol(symbol, compiled.address)
    return compiled
