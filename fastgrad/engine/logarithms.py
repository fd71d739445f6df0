"""Recorded squares and sizes become logarithms at the end, many at once: one at a time, ln was a third of a narrow layer's time."""

from __future__ import annotations

import numpy as np

from fastgrad.elementary import atanh_tail
from fastgrad.engine.norms import LN2, log_norm_of, sum_of_squares
from fastgrad.engine.views import vector_at
from fastgrad.jit import formula, register_jitable

f64 = np.float64
i64 = np.int64


@formula
def natural_log(x):
    """ln x for x >= 0 in float64, within 1 ULP: -inf for 0, inf for inf, NaN for NaN. x = 2^e m, ln m = 2 atanh((m - 1) / (m + 1))."""
    tiny = x < f64(2.0**-1022)
    scaled = x * f64(2.0**54) if tiny else x
    bits = f64(scaled).view(i64) - i64(0x3FE6A09E667F3BCD)  # of sqrt(1/2)
    e = f64(bits >> i64(52)) - (f64(54) if tiny else f64(0))
    z = i64((bits & i64(0xFFFFFFFFFFFFF)) + i64(0x3FE6A09E667F3BCD)).view(f64) - f64(1)
    s = z / (f64(2) + z)
    s2 = s * s
    # ln(1 + z) = z - z s + s^3 atanh_tail, z exact; ln 2 in two parts, the first with enough zeros to make e times it exact.
    rest = e * f64(1.90821492927058770002e-10) + (s * s2 * atanh_tail(s2) - z * s)
    value = e * f64(6.93147180369123816490e-01) + (z + rest)
    value = f64(-np.inf) if x == f64(0) else value
    return value if x < f64(np.inf) else x  # also NaN


@register_jitable(error_model="numpy")
def take_logs(values, exponents, half):
    """values = half ln(values) + exponents ln 2, for float64 vectors."""
    for j in range(values.size):
        values[j] = half * natural_log(values[j]) + exponents[j] * LN2


@register_jitable(error_model="numpy")
def add_half_logs(values, squares):
    """values += ln(squares) / 2."""
    for j in range(values.size):
        values[j] += 0.5 * natural_log(squares[j])


_SAFE = 320.0  # ln of a norm whose square is far inside float64


@register_jitable(error_model="numpy")
def log_norms_of(x, gap, n, exponents, values):
    """values[i] = ln of the norm of n numbers of a contiguous vector, from number i gap, times 2**exponents[i]; as `norms.log_norm_of`."""
    for i in range(values.size):
        values[i] = sum_of_squares(vector_at(x, i * gap, n))
    far = False
    for i in range(values.size):
        values[i] = 0.5 * natural_log(values[i])
        far |= abs(values[i]) > _SAFE
    if far:
        for i in range(values.size):
            if abs(values[i]) > _SAFE:
                values[i] = log_norm_of(vector_at(x, i * gap, n), 0)
    for i in range(values.size):
        values[i] += exponents[i] * LN2
