"""The float32 normals and uniform numbers of ``csrc/``, where this machine can run them (AVX-512, C extension present); elsewhere the loops of
``random.py`` do.

Same addresses, same bits; the last digits of normals differ, as they may between machines, uniform numbers are the same. Compiled kernels that
call the C functions are found again only where they can be called: Numba's cache knows the processor, the folder's name the library.
"""

from __future__ import annotations

import ctypes

import llvmlite.binding
from numba import types

from fastgrad.engine.native import HAVE_C


def _can_run() -> bool:
    names = ("fg1_panels_here", "fg1_normals_f32", "fg1_uniforms_f32")  # the first everywhere, the others where they were compiled
    if not HAVE_C or any(llvmlite.binding.address_of_symbol(name) is None for name in names):
        return False
    return bool(ctypes.CFUNCTYPE(ctypes.c_int64)(int(llvmlite.binding.address_of_symbol(names[0])))() == 1)


HAVE_PANELS: bool = _can_run()
"""Whether float32 numbers come from the C extension."""

_SIGNATURE = types.void(
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
)
normals_by_c = types.ExternalFunction("fg1_normals_f32", _SIGNATURE)
uniforms_by_c = types.ExternalFunction("fg1_uniforms_f32", _SIGNATURE)
