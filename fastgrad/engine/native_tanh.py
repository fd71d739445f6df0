"""The float32 tanh of ``csrc/tanh.c`` and ``csrc/tanh_sums.c``, where this machine can run it (AVX-512, C extension present); elsewhere the loops
of ``pointwise.py`` and ``layer_sums.py`` do.

Its last digits differ from Numba's, as they may between machines; both keep to the bounds of docs/accuracy.md.
"""

from __future__ import annotations

import ctypes

import llvmlite.binding

from fastgrad.engine.native import HAVE_C

# (activation, precision): its loop, the one that sums too, and the forward loop of the simple recurrent cell
_LOOPS = {("tanh", "float32"): ("fg1_tanh_f32", "fg1_tanh_sums_f32", "fg1_tanh_cell_f32")}


def _address(activation: str, dtype: str, which: int) -> int | None:
    here = llvmlite.binding.address_of_symbol("fg1_tanh_here") if HAVE_C else None
    if (activation, dtype) not in _LOOPS or here is None or ctypes.CFUNCTYPE(ctypes.c_int64)(here)() != 1:
        return None
    address = llvmlite.binding.address_of_symbol(_LOOPS[activation, dtype][which])
    return None if address is None else int(address)


def native_activation_address(activation: str, dtype: str) -> int | None:
    """Address of the C loop, called as `activate` calls every activation; None where there is none."""
    return _address(activation, dtype, 0)


def native_sums_address(activation: str, dtype: str) -> int | None:
    """Address of the C loop that `activation_sums` calls, or None."""
    return _address(activation, dtype, 1)


def native_elman_address(activation: str, dtype: str) -> int | None:
    """Address of the C loop that `forward_units` calls for a simple recurrent cell with this activation, or None: also with a library without it."""
    return _address(activation, dtype, 2)
