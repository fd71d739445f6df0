"""Elementary functions that LLVM can vectorise: the same text runs in Numba (CPU and CUDA) and in plain Python.

libm's ``exp`` and ``tanh`` are calls, and a call stops vectorisation of the loop around it. The functions here are straight-line
polynomials, so a loop over them becomes vector code: float32 at a fraction of a nanosecond per element instead of five to ten.

Each function exists once per precision because the polynomial lengths differ; ``exp(x)`` and friends choose by the type of ``x``.
The measured error of each is tabulated in ``docs/accuracy.md`` and held by ``tests/test_elementary.py``. Nothing here may be compiled
with LLVM's ``reassoc`` flag: it would merge the two-part constants of the argument reduction (Cody & Waite, *Software Manual for the
Elementary Functions*, 1980, chapter 6).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from fastgrad.jit import INLINE, formula

f32 = np.float32
f64 = np.float64
i32 = np.int32
i64 = np.int64


def by_precision(name: str, single: Callable[..., Any], double: Callable[..., Any], doc: str) -> Callable[..., Any]:
    """Return a function of one number that runs ``single`` for float32 and ``double`` for every other float."""

    def function(x: Any) -> Any:
        with np.errstate(all="ignore"):  # compiled code does not warn of overflow and NaN either
            return single(x) if isinstance(x, np.float32) else double(np.float64(x))

    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc

    @overload(function, jit_options=INLINE)
    def _choose(x):  # unannotated: Numba compares the signatures, annotations included
        return single if x == types.float32 else double

    return function


# --- bits ---------------------------------------------------------------------------------------------------------------------


@formula
def _two_to_32(n):
    """2**n as float32 for an int32 n in [-126, 127], by writing the exponent field."""
    return i32(i32(n + i32(127)) << i32(23)).view(f32)


@formula
def _two_to_64(n):
    """2**n as float64 for an int64 n in [-1022, 1023]."""
    return i64(i64(n + i64(1023)) << i64(52)).view(f64)


# An odd function computed from |x| gets its sign back with the bit, so that -0 stays -0.


@formula
def _with_sign_32(y, x):
    return i32((f32(y).view(i32) & i32(0x7FFFFFFF)) | (f32(x).view(i32) & i32(-0x80000000))).view(f32)


@formula
def _with_sign_64(y, x):
    return i64((f64(y).view(i64) & i64(0x7FFFFFFFFFFFFFFF)) | (f64(x).view(i64) & i64(-0x8000000000000000))).view(f64)


# --- exponential: reduction shared by exp, tanh and sigmoid --------------------------------------------------------------------
# x / ln 2 is rounded by adding 1.5 * 2**23 (2**52): the integer is then in the low bits of the sum. A conversion to an integer would be
# undefined for NaN, and NaN has to pass through.


_BIAS_32 = 0x4B400000  # the bits of 1.5 * 2**23


@formula
def _reduce_32(x):
    """x -> (bits, q) with exp(x) = 2**n (1 + q), n = bits - _BIAS_32, |remainder| <= ln(2)/2; minimax, error 0.06 units of 2**-24."""
    shifted = x * f32(1.4426950408889634) + f32(12582912.0)
    n = shifted - f32(12582912.0)
    r = x - n * f32(0.693359375)
    r = r - n * f32(-2.12194440054690583e-4)
    p = f32(0.0013814579)
    p = p * r + f32(0.008368726)
    p = p * r + f32(0.04166839)
    p = p * r + f32(0.16666521)
    p = p * r + f32(0.49999994)
    return f32(shifted).view(i32), r + (r * r) * p


@formula
def _power_32(bits):
    """2**n from the bits of `_reduce_32`, for -126 <= n <= 127: shifting leaves n alone of them."""
    return i32(i32(bits << i32(23)) + i32(0x3F800000)).view(f32)


@formula
def _split_power_32(bits):
    """2**n as a product: a normal number, and one that is 1 as long as 2**n is normal, else 2**-64; for -190 <= n <= 127."""
    far = bits < i32(_BIAS_32 - 126)
    return _power_32(i32(bits + i32(64)) if far else bits), (f32(2.0**-64) if far else f32(1))


@formula
def _reduce_64(x):
    """x -> (n, q) with exp(x) = 2**n (1 + q); Taylor to degree 13."""
    shifted = x * f64(1.4426950408889634) + f64(6755399441055744.0)
    n = shifted - f64(6755399441055744.0)
    r = x - n * f64(0.693145751953125)
    r = r - n * f64(1.42860682030941723212e-6)
    p = f64(1.0 / 6227020800.0)
    p = p * r + f64(1.0 / 479001600.0)
    p = p * r + f64(1.0 / 39916800.0)
    p = p * r + f64(1.0 / 3628800.0)
    p = p * r + f64(1.0 / 362880.0)
    p = p * r + f64(1.0 / 40320.0)
    p = p * r + f64(1.0 / 5040.0)
    p = p * r + f64(1.0 / 720.0)
    p = p * r + f64(1.0 / 120.0)
    p = p * r + f64(1.0 / 24.0)
    p = p * r + f64(1.0 / 6.0)
    p = p * r + f64(0.5)
    return i64(f64(shifted).view(i64) - i64(0x4338000000000000)), r + (r * r) * p


@formula
def _exp_32(x):
    # Clamped so that both halves of the scale stay normal; written so that NaN passes through.
    x = f32(89.0) if x > f32(89.0) else x
    x = f32(-104.0) if x < f32(-104.0) else x
    bits, q = _reduce_32(x)
    n = i32(bits - i32(_BIAS_32))
    half = i32(n >> i32(1))
    return (f32(1) + q) * _two_to_32(half) * _two_to_32(i32(n - half))


@formula
def _exp_64(x):
    x = f64(710.0) if x > f64(710.0) else x
    x = f64(-746.0) if x < f64(-746.0) else x
    n, q = _reduce_64(x)
    half = i64(n >> i64(1))
    return (f64(1) + q) * _two_to_64(half) * _two_to_64(i64(n - half))


exp = by_precision("exp", _exp_32, _exp_64, "e**x; overflows to inf and underflows through the subnormals to 0; NaN stays NaN.")


# --- logistic ------------------------------------------------------------------------------------------------------------------
# Both s and 1 - s come from e = exp(-|x|), so each keeps its relative accuracy where it is tiny, and so does the slope s (1 - s).


@formula
def _sigmoid_pair_32(x):
    a = -abs(x)
    a = f32(-104.0) if f32(-104.0) > a else a  # where e has underflowed
    bits, q = _reduce_32(a)
    power, rest = _split_power_32(bits)
    e = (f32(1) + q) * power  # where rest is not 1, 2**64 times too large and small beside 1 all the same
    large = f32(1) / (f32(1) + e)
    small = e * large * rest  # the product by rest comes last, so a subnormal result is rounded once
    return (large, small) if x >= f32(0) else (small, large)


@formula
def _sigmoid_pair_64(x):
    e = _exp_64(-abs(x))
    large = f64(1) / (f64(1) + e)
    small = e * large
    return (large, small) if x >= f64(0) else (small, large)


sigmoid_pair = by_precision(
    "sigmoid_pair", _sigmoid_pair_32, _sigmoid_pair_64, "(s, 1 - s) with s = 1/(1 + e**-x), both accurate where tiny."
)


# --- hyperbolic tangent ----------------------------------------------------------------------------------------------------------


@formula
def _tanh_pair_32(x):
    a = abs(x)
    a = f32(53.0) if a > f32(53.0) else a  # where sech^2 has underflowed
    bits, q = _reduce_32(f32(-2) * a)
    power, rest = _split_power_32(bits)
    t = power * q + (power - f32(1))  # expm1(-2|x|): no cancellation near 0; -1 where rest is not 1
    d = f32(1) / (f32(2) + t)
    y = t * d  # of the wrong sign, if any
    # exp(-2|x|) = (1 + q) power rest; the product by rest comes last, so a subnormal slope is rounded once.
    return _with_sign_32(y, x), f32(4) * d * d * (f32(1) + q) * power * rest


@formula
def _tanh_pair_64(x):
    a = abs(x)
    a = f64(374.0) if a > f64(374.0) else a
    n, q = _reduce_64(f64(-2) * a)
    scale = i64(n >> i64(1))
    low = _two_to_64(scale)
    high = _two_to_64(i64(n - scale))
    power = low * high
    t = power * q + (power - f64(1))
    d = f64(1) / (f64(2) + t)
    y = -t * d
    # exp(-2|x|) = (1 + q) low high; the product by high comes last, so a subnormal slope is rounded once.
    return _with_sign_64(y, x), f64(4) * d * d * (f64(1) + q) * low * high


tanh_pair = by_precision(
    "tanh_pair", _tanh_pair_32, _tanh_pair_64, "(tanh x, sech^2 x); sech^2 from e**(-2|x|), so it stays accurate where tiny."
)


# --- logarithms in float64: ln(1 + z) = 2 atanh(s), s = z / (2 + z) ----------------------------------------------------------------


@formula
def atanh_tail(s2):
    """(2 atanh(s) - 2 s) / s^3 from s2 = s^2, in float64 for |s| <= 0.172: of z between sqrt(1/2) - 1 and sqrt(2) - 1."""
    p = f64(2.0 / 21.0)
    p = p * s2 + f64(2.0 / 19.0)
    p = p * s2 + f64(2.0 / 17.0)
    p = p * s2 + f64(2.0 / 15.0)
    p = p * s2 + f64(2.0 / 13.0)
    p = p * s2 + f64(2.0 / 11.0)
    p = p * s2 + f64(2.0 / 9.0)
    p = p * s2 + f64(2.0 / 7.0)
    p = p * s2 + f64(2.0 / 5.0)
    return p * s2 + f64(2.0 / 3.0)


# --- log(1 + e) on [0, 1], for softplus --------------------------------------------------------------------------------------------


@formula
def _log1p_unit_32(x):
    t = x / (f32(1) + f32(0.5) * x)  # log(1 + x) = 2 atanh(t/2), t <= 2/3
    u = t * t
    p = f32(1.0 / (17 * 4.0**8))
    p = p * u + f32(1.0 / (15 * 4.0**7))
    p = p * u + f32(1.0 / (13 * 4.0**6))
    p = p * u + f32(1.0 / (11 * 4.0**5))
    p = p * u + f32(1.0 / (9 * 4.0**4))
    p = p * u + f32(1.0 / (7 * 4.0**3))
    p = p * u + f32(1.0 / (5 * 4.0**2))
    p = p * u + f32(1.0 / (3 * 4.0))
    return t + t * u * p


@formula
def _log1p_unit_64(x):
    return f64(math.log1p(x))


log1p_unit = by_precision("log1p_unit", _log1p_unit_32, _log1p_unit_64, "log(1 + x) for x in [0, 1].")


# --- the normal distribution function, for erf and GELU -------------------------------------------------------------------------


@formula
def _erfcx(z):
    """exp(z^2) erfc(z) for 0 <= z <= 11, relative error below 1e-9 (Chebyshev fit in t = 1/(1 + z/2)): enough for float32 results."""
    t = f64(1) / (f64(1) + f64(0.5) * z)
    p = f64(-0.031165923322724323024)
    p = p * t + f64(0.2318677956358310012)
    p = p * t + f64(-0.73692784663096551725)
    p = p * t + f64(1.2669660484394359434)
    p = p * t + f64(-1.2176110364751794047)
    p = p * t + f64(0.63616180342246388886)
    p = p * t + f64(-0.28610198181899726232)
    p = p * t + f64(0.16282156993859498211)
    p = p * t + f64(0.16123830272392230682)
    p = p * t + f64(0.24869062714343573109)
    p = p * t + f64(0.28196165142989966222)
    p = p * t + f64(0.28209898946552767254)
    return p * t


@formula
def _normal_pair_32(x):
    # In float64 inside: x*x is then exact, which the far tail needs.
    w = f64(x)
    a = abs(w)
    a = f64(15.5) if a > f64(15.5) else a
    density = _exp_64(f64(-0.5) * a * a)
    tail = f64(0.5) * density * _erfcx(a * f64(0.7071067811865476))
    return f32(f64(1) - tail if w > f64(0) else tail), f32(density * f64(0.3989422804014327))


@formula
def _normal_pair_64(x):
    return f64(0.5) * math.erfc(x * f64(-0.7071067811865476)), f64(0.3989422804014327) * _exp_64(f64(-0.5) * x * x)


normal_pair = by_precision(
    "normal_pair", _normal_pair_32, _normal_pair_64, "(Phi(x), phi(x)): distribution function and density of N(0, 1)."
)


@formula
def _erf_pair_32(x):
    w = f64(x)
    a = abs(w)
    a = f64(10.9) if a > f64(10.9) else a
    density = _exp_64(-a * a)
    far = f64(1) - density * _erfcx(a)
    s = a * a
    near = f64(-1.0 / 1320.0) * s + f64(1.0 / 216.0)
    near = near * s - f64(1.0 / 42.0)
    near = near * s + f64(0.1)
    near = near * s - f64(1.0 / 3.0)
    near = f64(1.1283791670955126) * (a + a * s * near)
    y = near if a < f64(0.125) else far
    return _with_sign_32(f32(y), x), f32(f64(1.1283791670955126) * density)


@formula
def _erf_pair_64(x):
    return f64(math.erf(x)), f64(1.1283791670955126) * _exp_64(-x * x)


erf_pair = by_precision("erf_pair", _erf_pair_32, _erf_pair_64, "(erf x, 2/sqrt(pi) e**(-x^2)).")


@formula
def _sin_pair_32(x):
    return f32(np.sin(f64(x))), f32(np.cos(f64(x)))


@formula
def _sin_pair_64(x):
    return np.sin(x), np.cos(x)


sin_pair = by_precision("sin_pair", _sin_pair_32, _sin_pair_64, "(sin x, cos x) from libm: not vectorised, right for every x.")
