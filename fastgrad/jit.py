"""Every Numba option of the project.

Formulas (activations, cells, elementary functions) are ``@formula``: plain Python functions that Numba compiles into whatever loop calls
them, forced inline because one call left in a loop stops its vectorisation. Kernels are compiled by ``engine/compile.py`` with
``KERNEL_OPTIONS``. Full ``fastmath`` is never used: it would let LLVM delete the tests for NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
from numba import extending

F = TypeVar("F", bound=Callable[..., Any])

# error_model="numpy": a division that may raise is a branch, and a branch out of the loop stops vectorisation.
# "contract" only: "reassoc" would merge the split constants of the argument reductions in elementary.py.
KERNEL_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}, "boundscheck": False}


def _linked() -> dict[str, Any]:
    """The pipeline of `linked`, which is built from Numba's inner parts, with the releases it was tested with; others compile as they always do."""
    if tuple(numba.__version__.split(".")[:2]) not in {("0", "68")}:
        return {}
    from fastgrad.linked import Linked

    return {"pipeline_class": Linked}


# Options of every function that kernels call; a wrapper for callers from C would be as much code again as a small function. What is not set here a
# function takes over from whoever calls it, inlining too, and it is compiled once for each way in which it is called: so it is set.
CALLED: dict[str, Any] = {**_linked(), "no_cfunc_wrapper": True, "forceinline": False, "error_model": "numpy"}

INLINE: dict[str, Any] = {**CALLED, "forceinline": True}

# Sums may be reordered into vector accumulators. The order is fixed at compile time, so results do not depend on threads.
REDUCTION_FLAGS = {"contract", "reassoc", "nsz", "arcp"}


def register_jitable(*functions: Any, **options: Any) -> Any:
    """Numba's decorator of the same name, with the project's options."""
    decorate = extending.register_jitable(**CALLED | options)
    return decorate(*functions) if functions else decorate


def formula(function: F) -> F:
    """Compile into the calling loop; also callable in plain Python."""
    return extending.register_jitable(**INLINE)(function)  # type: ignore[no-any-return]


def part(function: F) -> F:
    """A piece of one kernel, compiled into its place: a call would copy the kernel's named tuples of arrays, over a kilobyte, each time.

    It rounds as it is written, without fused multiply-adds: a formula gives the same bytes in a loop of vectors and for one row.
    """
    return extending.register_jitable(**INLINE, fastmath=False)(function)  # type: ignore[no-any-return]


def reduction(function: F) -> F:
    """A sum or maximum over an array that LLVM may vectorise by reordering."""
    return register_jitable(fastmath=REDUCTION_FLAGS, error_model="numpy")(function)  # type: ignore[no-any-return]
