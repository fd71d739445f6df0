"""Random numbers by address: counters -> bits -> uniforms and normals.

Bits are Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"). The key comes from the seed; the counter *is* the
address of four numbers:

    word 0   which four numbers of the tensor
    word 1   layer (or stacked layer) the tensor belongs to
    word 2   realization, low 32 bits
    word 3   role of the tensor (`Roles`, 8 bits) | gate or probe (8 bits) | realization, high 16 bits

so two tensors can never share a stream, and any number can be drawn again alone, in any order, by anybody.

A run of n numbers ("panel") takes Q = ceil(n/4) counters: number k is word k // Q of counter k % Q. Stores are then contiguous and the loop
over counters is vector code. A matrix is drawn in panels of whole rows (``panel_rows``), a vector is one panel.

Normals are Box & Muller (1958) pairs. The radius comes from a 32-bit uniform u = (w + 1/2) 2^-32, so no normal is beyond
sqrt(66 ln 2) = 6.764 standard deviations; a true normal is, once in 7.4e10 draws. Both precisions read the same bits: a float32 and a float64
run of one seed see the same network up to rounding. Random bits are the same on every machine; floats are the same on one machine.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import types
from numba.extending import overload

from fastgrad.elementary import atanh_tail
from fastgrad.engine.noalias import store
from fastgrad.jit import INLINE, formula, register_jitable

f32 = np.float32
f64 = np.float64
i32 = np.int32
u32 = np.uint32
u64 = np.uint64

STREAM = "v2"  # changes when any of the numbers do
MAX_REALIZATIONS = 2**48
PANEL = 4096  # numbers drawn together: a short panel spends its time on its start and its end
MAX_PANEL_COUNTERS = 2**32


class Roles(NamedTuple):
    """What a tensor is for. Part of the address: values must never change within a stream version."""

    WEIGHT: int = 1
    BIAS: int = 2
    INPUT: int = 3
    PROBE: int = 4
    INPUT_WEIGHT: int = 5
    INPUT_BIAS: int = 6
    PREACTIVATION: int = 7
    BACKWARD_NOISE: int = 8
    BLUR: int = 9


Role = Roles()


# --- bits ----------------------------------------------------------------------------------------------------------------------


@formula
def _round(c0, c1, c2, c3, k0, k1):
    """One round on words in the low halves of uint64; the high halves hold rubbish, which no product reads."""
    low = u64(0xFFFFFFFF)
    p0 = u64(0xD2511F53) * (c0 & low)
    p1 = u64(0xCD9E8D57) * (c2 & low)
    return (p1 >> u64(32)) ^ c1 ^ k0, p1, (p0 >> u64(32)) ^ c3 ^ k1, p0


@formula
def philox(c0, c1, c2, c3, k0, k1):
    """Four uint32 words from a counter and a key: Philox4x32 with ten rounds.

    In 64-bit lanes from end to end: a product then needs no packing and unpacking, half the instructions of 32-bit lanes.
    """
    low = u64(0xFFFFFFFF)
    c0, c1, c2, c3, k0, k1 = u64(c0), u64(c1), u64(c2), u64(c3), u64(k0), u64(k1)
    for _ in range(10):  # unrolled by LLVM
        c0, c1, c2, c3 = _round(c0, c1, c2, c3, k0, k1)
        k0 = (k0 + u64(0x9E3779B9)) & low
        k1 = (k1 + u64(0xBB67AE85)) & low
    return u32(c0 & low), u32(c1 & low), u32(c2 & low), u32(c3 & low)


@formula
def address(role, part, layer, realization):
    """Counter words 1, 2, 3 of a tensor (word 0 runs inside it)."""
    return (
        u32(u64(layer) & u64(0xFFFFFFFF)),
        u32(u64(realization) & u64(0xFFFFFFFF)),
        u32((u64(role) << u64(24)) | (u64(part) << u64(16)) | ((u64(realization) >> u64(32)) & u64(0xFFFF))),
    )


# --- words -> uniforms -----------------------------------------------------------------------------------------------------------


@formula
def _symmetric_32(word):
    """Uniform from -1 to 1: an odd multiple of 2^-32, rounded, first the word, then its sum with 1/2; the ends come of 64 words of 2^32 each."""
    return (f32(i32(word)) + f32(0.5)) * f32(2.0**-31)


@formula
def _symmetric_64(word):
    return (f64(i32(word)) + f64(0.5)) * f64(2.0**-31)


# --- words -> normals ------------------------------------------------------------------------------------------------------------


@formula
def _minus_log_32(word):
    """-ln((word + 1/2) 2^-32) to float32 relative accuracy, also next to u = 1, where 1 - u is taken from the integer."""
    top = word >= u32(0xB504F334)  # u > sqrt(1/2)
    rest = (f32(u32(~word)) + f32(0.5)) * f32(2.0**-32)
    bits = f32(f32(word) + f32(0.5)).view(i32) - i32(0x3F3504F3)
    exponent = f32(i32(bits) >> i32(23)) - f32(32)
    mantissa = i32((bits & i32(0x7FFFFF)) + i32(0x3F3504F3)).view(f32)
    z = -rest if top else mantissa - f32(1)
    e = f32(0) if top else exponent
    p = f32(0.0697161147145)  # Chebyshev fit of (log(1 + z) - z + z^2/2) / z^3 between sqrt(1/2) - 1 and sqrt(2) - 1, error 3e-8
    p = p * z + f32(-0.114797338466)
    p = p * z + f32(0.116854199235)
    p = p * z + f32(-0.124256873315)
    p = p * z + f32(0.142490576457)
    p = p * z + f32(-0.166678023195)
    p = p * z + f32(0.200007157489)
    p = p * z + f32(-0.24999996958)
    p = p * z + f32(0.3333333118)
    z2 = z * z
    log1p = z + z2 * (z * p - f32(0.5))
    return -(e * f32(0.6931471805599453) + log1p)


@formula
def _minus_log_64(word):
    top = word >= u32(0xB504F334)
    rest = (f64(u32(~word)) + f64(0.5)) * f64(2.0**-32)
    bits = f64(f64(word) + f64(0.5)).view(np.int64) - np.int64(0x3FE6A09E667F3BCD)
    exponent = f64(i32(bits >> np.int64(52))) - f64(32)
    mantissa = np.int64((bits & np.int64(0xFFFFFFFFFFFFF)) + np.int64(0x3FE6A09E667F3BCD)).view(f64)
    z = -rest if top else mantissa - f64(1)
    e = f64(0) if top else exponent
    s = z / (f64(2) + z)  # log(1 + z) = 2 atanh(s), |s| <= 0.172
    s2 = s * s
    return -(e * f64(0.6931471805599453) + (f64(2) * s + s * s2 * atanh_tail(s2)))


@formula
def _quadrant(word):
    """word -> (k, r): the angle (word + 1/2) 2 pi 2^-32 is k quarter turns and (r + 1/2) 2 pi 2^-32, |r| <= 2^29; k modulo 4."""
    s = np.int64(i32(word))
    k = (s + np.int64(1 << 29)) >> np.int64(30)
    return i32(k), i32(s - (k << np.int64(30)))


@formula
def _turn_32(word):
    """(cos, sin) of a uniformly random angle; never exactly zero."""
    k, r = _quadrant(word)
    a = (f32(r) + f32(0.5)) * f32(1.4629180792671596e-09)
    a2 = a * a
    s = f32(1.0 / 362880.0)
    s = s * a2 - f32(1.0 / 5040.0)
    s = s * a2 + f32(1.0 / 120.0)
    s = s * a2 - f32(1.0 / 6.0)
    s = a + a * a2 * s
    c = f32(-1.0 / 3628800.0)
    c = c * a2 + f32(1.0 / 40320.0)
    c = c * a2 - f32(1.0 / 720.0)
    c = c * a2 + f32(1.0 / 24.0)
    c = f32(1) + a2 * (a2 * c - f32(0.5))
    odd = (k & i32(1)) != i32(0)
    x = s if odd else c
    y = c if odd else s
    return (-x if ((k + i32(1)) & i32(2)) != i32(0) else x), (-y if (k & i32(2)) != i32(0) else y)


@formula
def _turn_64(word):
    k, r = _quadrant(word)
    a = (f64(r) + f64(0.5)) * f64(1.4629180792671596e-09)
    a2 = a * a
    s = f64(1.0 / 355687428096000.0)
    s = s * a2 - f64(1.0 / 1307674368000.0)
    s = s * a2 + f64(1.0 / 6227020800.0)
    s = s * a2 - f64(1.0 / 39916800.0)
    s = s * a2 + f64(1.0 / 362880.0)
    s = s * a2 - f64(1.0 / 5040.0)
    s = s * a2 + f64(1.0 / 120.0)
    s = s * a2 - f64(1.0 / 6.0)
    s = a + a * a2 * s
    c = f64(1.0 / 20922789888000.0)
    c = c * a2 - f64(1.0 / 87178291200.0)
    c = c * a2 + f64(1.0 / 479001600.0)
    c = c * a2 - f64(1.0 / 3628800.0)
    c = c * a2 + f64(1.0 / 40320.0)
    c = c * a2 - f64(1.0 / 720.0)
    c = c * a2 + f64(1.0 / 24.0)
    c = f64(1) + a2 * (a2 * c - f64(0.5))
    odd = (k & i32(1)) != i32(0)
    x = s if odd else c
    y = c if odd else s
    return (-x if ((k + i32(1)) & i32(2)) != i32(0) else x), (-y if (k & i32(2)) != i32(0) else y)


@formula
def _normal_pair_32(radius_word, angle_word):
    r = np.sqrt(f32(2) * _minus_log_32(radius_word))
    c, s = _turn_32(angle_word)
    return r * c, r * s


@formula
def _normal_pair_64(radius_word, angle_word):
    r = np.sqrt(f64(2) * _minus_log_64(radius_word))
    c, s = _turn_64(angle_word)
    return r * c, r * s


def normal_pair(like, radius_word, angle_word):
    """Two independent standard normals of the precision of ``like``."""
    single = isinstance(like, np.float32)
    return _normal_pair_32(radius_word, angle_word) if single else _normal_pair_64(radius_word, angle_word)


@overload(normal_pair, jit_options=INLINE)
def _choose_normal_pair(like, radius_word, angle_word):
    if like == types.float32:
        return lambda like, radius_word, angle_word: _normal_pair_32(radius_word, angle_word)
    return lambda like, radius_word, angle_word: _normal_pair_64(radius_word, angle_word)


def symmetric_uniform(like, word):
    """A uniform number from -1 to 1 of the precision of ``like``."""
    return _symmetric_32(word) if isinstance(like, np.float32) else _symmetric_64(word)


@overload(symmetric_uniform, jit_options=INLINE)
def _choose_symmetric_uniform(like, word):
    if like == types.float32:
        return lambda like, word: _symmetric_32(word)
    return lambda like, word: _symmetric_64(word)


# --- panels ----------------------------------------------------------------------------------------------------------------------
# Buffers must hold 4 * panel_counters(n) numbers: the last few may be numbers that nobody asked for.


@formula
def panel_counters(n):
    """Counters that a panel of n numbers takes."""
    return (n + 3) // 4


@formula
def panel_rows(columns):
    """Rows drawn together: as many as make a panel of ``PANEL`` numbers at most, one at least."""
    return PANEL // columns if columns <= PANEL else 1


@register_jitable(error_model="numpy")
def fill_normal(out, n, scale, base, where, key):
    """out[:n] = independent normals of standard deviation ``scale``; base: first counter; where, key: address and key."""
    counters = panel_counters(n)
    for q in range(counters):
        w0, w1, w2, w3 = philox(u32(base + q), where[0], where[1], where[2], key[0], key[1])
        a, b = normal_pair(scale, w0, w1)
        c, d = normal_pair(scale, w2, w3)
        store(out, q, a * scale, 0)
        store(out, counters + q, b * scale, 1)
        store(out, 2 * counters + q, c * scale, 2)
        store(out, 3 * counters + q, d * scale, 3)


@register_jitable(error_model="numpy")
def fill_uniform(out, n, scale, base, where, key):
    """out[:n] = independent uniforms from -scale to scale."""
    counters = panel_counters(n)
    for q in range(counters):
        w0, w1, w2, w3 = philox(u32(base + q), where[0], where[1], where[2], key[0], key[1])
        store(out, q, symmetric_uniform(scale, w0) * scale, 0)
        store(out, counters + q, symmetric_uniform(scale, w1) * scale, 1)
        store(out, 2 * counters + q, symmetric_uniform(scale, w2) * scale, 2)
        store(out, 3 * counters + q, symmetric_uniform(scale, w3) * scale, 3)
