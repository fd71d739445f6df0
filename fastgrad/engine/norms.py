"""Norms, powers of two and logarithms: how a vector is kept inside the number range while its true size is not.

A quantity is (vector, exponent): the true vector is ``vector * 2**exponent``. Scaling by a power of two changes no digit, so the pair carries
exactly what an unlimited number range would, as long as the entries that matter stay within the range of the vector's own format.
"""

from __future__ import annotations

import math

import numpy as np
from numba import types
from numba.extending import overload

from fastgrad.engine.native import gram_squares
from fastgrad.jit import CALLED, reduction, register_jitable

LN2 = 0.6931471805599453
WINDOW = 2.0**20  # vectors are rescaled when their largest entry leaves [1/WINDOW, WINDOW]


@reduction
def sum_of_squares(x):
    """Sum of the squares of a contiguous vector, in float64 for either precision."""
    total = 0.0
    for j in range(x.size):
        value = np.float64(x[j])
        total += value * value
    return total


@reduction
def inner(x, y):
    """Inner product of two contiguous vectors, in float64."""
    total = 0.0
    for j in range(x.size):
        total += np.float64(x[j]) * np.float64(y[j])
    return total


# Bits of floats from 0 to infinity are in the order of the numbers, and those of NaN are above. LLVM makes vector code of a maximum of integers; of a
# maximum of floats only under a promise that none is NaN (measured: 52 ns for 64 numbers, 14 ns this way).


@reduction
def _largest_32(x):
    top = np.int32(0)
    for j in range(x.size):
        bits = np.int32(np.float32(x[j]).view(np.int32) & np.int32(0x7FFFFFFF))
        bits = np.int32(0) if bits > np.int32(0x7F800000) else bits
        top = bits if bits > top else top
    return np.int32(top).view(np.float32)


@reduction
def _largest_64(x):
    top = np.int64(0)
    for j in range(x.size):
        bits = np.int64(np.float64(x[j]).view(np.int64) & np.int64(0x7FFFFFFFFFFFFFFF))
        bits = np.int64(0) if bits > np.int64(0x7FF0000000000000) else bits
        top = bits if bits > top else top
    return np.int64(top).view(np.float64)


def largest(x):
    """Largest absolute value of a contiguous vector; NaN entries are passed over."""
    return _largest_32(x) if x.dtype == np.float32 else _largest_64(x)


@overload(largest, jit_options={**CALLED, "error_model": "numpy"})
def _choose_largest(x):
    return _largest_32 if x.dtype == types.float32 else _largest_64


@register_jitable(error_model="numpy")
def power_of_two(exponent):
    """2.0**exponent as float64; 0 far below the range, infinity far above it."""
    if exponent >= -1022 and exponent <= 1023:  # from its bits: the library's call takes as long as drawing twenty numbers
        return np.int64((np.int64(exponent) + np.int64(1023)) << np.int64(52)).view(np.float64)
    bounded = 1100 if exponent > 1100 else exponent  # min and max of two cost 50 ms each to compile
    return math.ldexp(1.0, -1100 if bounded < -1100 else bounded)


@register_jitable(error_model="numpy")
def multiply_by(x, factor):
    """x *= factor for a contiguous vector."""
    for j in range(x.size):
        x[j] = x[j] * factor


@register_jitable(error_model="numpy")
def shift_exponent(x, exponent):
    """x *= 2**exponent for a contiguous vector, in steps whose factors the vector's own format can hold."""
    while exponent != 0:
        step = 120 if exponent > 120 else (-120 if exponent < -120 else exponent)
        multiply_by(x, x.dtype.type(power_of_two(step)))
        exponent = 0 if exponent < -2400 else exponent - step  # all of x is 0 by then


@register_jitable(error_model="numpy")
def excess(top):
    """Exponent to take out of a vector whose largest entry is ``top``: 0 inside the window, or for 0 and non-finite."""
    inside = (top <= WINDOW and top >= 1.0 / WINDOW) or top == 0.0 or not math.isfinite(top)
    return 0 if inside else math.frexp(top)[1]


@register_jitable(error_model="numpy")
def log_norm(squares, exponent):
    """ln of (sqrt(squares) * 2**exponent): -inf for an exact zero, NaN for NaN."""
    if squares == 0.0:
        return -math.inf
    return 0.5 * math.log(squares) + exponent * LN2


@register_jitable(error_model="numpy")
def log_size(top, exponent):
    """ln of (top * 2**exponent)."""
    if top == 0.0:
        return -math.inf
    return math.log(np.float64(top)) + exponent * LN2


@register_jitable(error_model="numpy")
def log_norm_of(x, exponent):
    """ln of the norm of a contiguous vector times 2**exponent, also where squares leave float64; inf or NaN if an entry is."""
    squares = sum_of_squares(x)
    if (squares > 1e-280 and squares < 1e280) or squares != squares:
        return log_norm(squares, exponent)
    top = 0.0
    for j in range(x.size):  # seldom needed: not worth another copy of `largest` in a kernel
        size = abs(np.float64(x[j]))
        top = size if size > top else top
    if top == 0.0 or not math.isfinite(top):
        return log_size(top, exponent)
    shift = math.frexp(top)[1]
    total = 0.0
    for j in range(x.size):
        value = math.ldexp(np.float64(x[j]), -shift)
        total += value * value
    return log_norm(total, exponent + shift)


@register_jitable(error_model="numpy")
def outer_squares(d, x):
    """Squared Frobenius norm of sum_b d_b x_b^T for contiguous rows d (B, m), x (B, n): Gram matrices, no m x n product."""
    if d.shape[0] == 1:
        return sum_of_squares(d[0]) * sum_of_squares(x[0])
    total = gram_squares(d, x)
    return total if total >= 0.0 else _squares_of_the_product(d, x)


@register_jitable(error_model="numpy")
def _squares_of_the_product(d, x):
    """`outer_squares` entry by entry, for sums that nearly cancel."""
    total = 0.0
    for i in range(d.shape[1]):
        for j in range(x.shape[1]):
            entry = 0.0
            for b in range(d.shape[0]):
                entry += np.float64(d[b, i]) * np.float64(x[b, j])
            total += entry * entry
    return total


@register_jitable(error_model="numpy")
def _column(d, i):
    total = 0.0
    for b in range(d.shape[0]):
        total += np.float64(d[b, i])
    return total


@register_jitable(error_model="numpy")
def sum_of_rows_squares(d):
    """Squared norm of the sum of the rows of d (B, m)."""
    if d.shape[0] == 1:
        return sum_of_squares(d[0])
    total = 0.0
    eights = d.shape[1] // 8 * 8
    for i in range(0, eights, 8):  # a cache line of float32 at a time, not a column
        e0, e1, e2, e3, e4, e5, e6, e7 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for b in range(d.shape[0]):
            e0 += np.float64(d[b, i])
            e1 += np.float64(d[b, i + 1])
            e2 += np.float64(d[b, i + 2])
            e3 += np.float64(d[b, i + 3])
            e4 += np.float64(d[b, i + 4])
            e5 += np.float64(d[b, i + 5])
            e6 += np.float64(d[b, i + 6])
            e7 += np.float64(d[b, i + 7])
        total += ((e0 * e0 + e1 * e1) + (e2 * e2 + e3 * e3)) + ((e4 * e4 + e5 * e5) + (e6 * e6 + e7 * e7))
    for i in range(eights, d.shape[1]):
        entry = _column(d, i)
        total += entry * entry
    return total
