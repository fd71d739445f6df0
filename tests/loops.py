"""The engine's pointwise loops, compiled anew: to be called on NumPy arrays, and to have their machine code read."""

from __future__ import annotations

import ctypes
import platform
import re
from unittest import mock

import numba
import numpy as np
import pytest

from fastgrad.engine import pointwise
from fastgrad.jit import KERNEL_OPTIONS

PRECISIONS = {"float32": np.float32, "float64": np.float64}


def compile_loops(make):
    """What ``make()`` compiles: one of the address functions of ``pointwise.py``, past its memory and its cache."""
    made = []

    def compile_anew(function, signature, symbol="", counts_references=True):
        options = {key: value for key, value in KERNEL_OPTIONS.items() if key != "nogil"}
        made.append(numba.cfunc(signature, _nrt=counts_references, **options)(function))  # one loaded from a cache has no assembly
        return made[-1]

    with mock.patch.object(pointwise, "entry_point", compile_anew):
        make()
    return made


def activation_loop(name, dtype):
    """The loop of one activation."""
    (loop,) = compile_loops(lambda: pointwise.numba_activation_address.__wrapped__(name, dtype))
    return loop


def cell_loops(kind, activation, dtype):
    """The forward and the backward loop of a cell, as Numba compiles them."""
    cell = pointwise.cell_of(kind, activation)
    return compile_loops(lambda: (pointwise.numba_forward_address(cell, dtype), pointwise.numba_backward_address(cell, dtype)))


def call(loop, arrays, *sizes):
    """Run a loop on contiguous arrays."""
    assert all(array.flags.c_contiguous for array in arrays)
    function = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * len(arrays), *[ctypes.c_int64] * len(sizes))(loop.address)
    function(*[array.ctypes.data for array in arrays], *sizes)


def activate(loop, x):
    """(phi(x), phi'(x)) by a loop of `activation_loop`."""
    bias, value, slope = np.zeros_like(x), np.full_like(x, 7), np.full_like(x, 7)
    call(loop, (x, bias, value, slope), x.size)
    return value, slope


def assert_vector_code(loop):
    """Vector arithmetic and comparisons, as much of them as in the scalar loop for the remainder."""
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("NOT TESTED: that loops are vector code is read from x86 instructions, and this machine has others")
    assembly = loop._library.get_asm_str()
    arithmetic = r"\bv?(?:add|sub|mul|div|sqrt|max|min|cmp\w*?|fn?m(?:add|sub)\d{3})"
    vector = len(re.findall(arithmetic + r"p[sd]\b", assembly))
    scalar = len(re.findall(arithmetic + r"s[sd]\b", assembly))
    assert vector > 0
    assert vector >= scalar, f"{vector} vector instructions, {scalar} scalar ones"


def conversions(loop):
    """Instructions that turn float32 into float64 or back (x86)."""
    return len(re.findall(r"\bv?cvt(?:s[sd]2s[sd]|p[sd]2p[sd])\b", loop._library.get_asm_str()))
