"""The tanh of csrc/tanh.c: within the bounds of Numba's, special values, underflow of the slope, lengths; clean beyond its ends."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import ulp
from test_elementary import AT_SPECIAL, BOUNDS, SPECIAL

from fastgrad.engine.native_tanh import native_tanh_address

pytestmark = pytest.mark.skipif(native_tanh_address() is None, reason="needs the C extension and AVX-512")

CASE = next(case for case in ulp.CASES if case.name == "tanh, sech^2")


def tanh(h, bias=None, room=0):
    """(x, slope, everything that was written, `room` numbers beyond the end included)."""
    h = np.ascontiguousarray(h, np.float32)
    bias = np.full_like(h, -0.0) if bias is None else np.ascontiguousarray(bias, np.float32)  # -0 leaves even -0 alone
    out = np.full((2, h.size + room), 7, np.float32)
    pointers = [array.ctypes.data for array in (h, bias, out[0], out[1])]
    ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4, ctypes.c_int64)(native_tanh_address())(*pointers, h.size)
    return out[0, : h.size], out[1, : h.size], out


def loop(x, first, second):
    first[:], second[:], _ = tanh(x)


@pytest.mark.parametrize("start", [0, 2**31])
def test_errors_are_within_the_bounds_of_the_loop_it_replaces(start):
    found = ulp.sweep(CASE, loop, start, start + 2**31, 997)
    for name, (error, at) in zip(CASE.results, found, strict=True):
        assert error <= BOUNDS[name][0], (name, error, at)


def test_special_values():
    for length in (1, 6, 64, 70):
        x, slope, _ = tanh((SPECIAL * 12)[:length])
        for got, want in zip((x, slope), AT_SPECIAL["tanh, sech^2"], strict=True):
            wanted = np.array((want * 12)[:length], np.float32)
            np.testing.assert_array_equal(got, wanted)
            np.testing.assert_array_equal(np.signbit(got[wanted == 0]), np.signbit(wanted[wanted == 0]))


def test_the_slope_underflows_through_the_subnormal_numbers():
    h = np.linspace(39.9, 53.0, 4000).astype(np.float32)
    x, slope, _ = tanh(h)
    np.testing.assert_array_equal(x, 1.0)
    assert np.all(np.diff(slope) <= 0)
    exact = 4 * np.exp(-2 * h.astype(np.float64))
    assert np.all(np.abs(slope - exact) <= 4e-7 * exact + 2.0**-149)
    assert tanh([53.0, 1e6, np.finfo(np.float32).max])[1].max() == 0


def test_odd_to_the_bit_and_the_same_wherever_a_number_stands():
    h, bias = np.random.default_rng(3).standard_normal((2, 150)).astype(np.float32) * 3
    whole = tanh(h, bias)
    np.testing.assert_array_equal(whole[0], -tanh(-h, -bias)[0])
    np.testing.assert_array_equal(whole[0], tanh(h + bias)[0])
    for n in range(1, 150):
        x, slope, out = tanh(h[:n], bias[:n], room=20)
        np.testing.assert_array_equal(x, whole[0][:n])
        np.testing.assert_array_equal(slope, whole[1][:n])
        assert np.all(out[:, n:] == 7)
