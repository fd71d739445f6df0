"""The float32 tanh of ``csrc/tanh.c``, where this machine can run it (AVX-512, C extension present); elsewhere the loop of ``pointwise.py`` does.

Its last digits differ from Numba's, as they may between machines; both keep to the bounds of docs/accuracy.md.
"""

from __future__ import annotations

import ctypes

import llvmlite.binding

from fastgrad.engine.native import HAVE_C


def native_tanh_address() -> int | None:
    """Address of the C loop, called as `activate` calls every activation; None where there is none."""
    here = llvmlite.binding.address_of_symbol("fg1_tanh_here") if HAVE_C else None
    if here is None or ctypes.CFUNCTYPE(ctypes.c_int64)(here)() != 1:
        return None
    return int(llvmlite.binding.address_of_symbol("fg1_tanh_f32"))
