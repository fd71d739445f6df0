"""The normals of ``csrc/normals.c``, where this machine can run them (AVX-512, C extension present); elsewhere the loop of ``random.py`` does.

Same addresses, same bits; the last digits of the float32 results differ, as they may between machines. Compiled kernels that call the C
function are found again only where it can be called: Numba's cache knows the processor, the folder's name the library.
"""

from __future__ import annotations

import ctypes

import llvmlite.binding
from numba import types

from fastgrad.engine.native import HAVE_C

SYMBOL = "fg1_normals_f32"


def _can_run() -> bool:
    address = llvmlite.binding.address_of_symbol("fg1_normals_here") if HAVE_C else None
    return address is not None and ctypes.CFUNCTYPE(ctypes.c_int64)(address)() == 1


HAVE_NORMALS: bool = _can_run()
"""Whether float32 normals come from the C extension."""

draw_by_c = types.ExternalFunction(
    SYMBOL,
    types.void(
        types.int64,  # panels
        types.int64,  # n
        types.CPointer(types.float32),
        types.int64,  # distance of panels
        types.float32,  # scale
        types.int64,  # first counter
        types.uint32,  # layer
        types.int64,  # first realization
        types.uint32,  # role and part
        types.uint32,
        types.uint32,
    ),
)
