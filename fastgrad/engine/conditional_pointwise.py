"""The loops of the conditional sampler: two compiled once for each activation (`phi_addresses`), one for all (`step_address`).

They run over several realizations, one row each: rows are independent, so that one row's long chain of additions at the end hides behind the next
row's beginning. Row k of an array starts ``gap`` numbers behind row k - 1; sums are a row of ``SUMS`` float64 each.

Sums are formed in the precision of the run, in as many accumulators as the vector unit likes (their adding is flagged free to reorder, nothing
else is): float64 sums of float32 numbers would halve the vector length of the whole loop, and the error of n / 8 float32 additions is that
of the numbers added.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.extending import overload

from fastgrad.activations import ACTIVATIONS
from fastgrad.engine.compile import entry_point
from fastgrad.engine.noalias import load, store
from fastgrad.engine.pointers import caller
from fastgrad.engine.views import vector_at
from fastgrad.engine.wide import widest_vectors
from fastgrad.jit import INLINE, REDUCTION_FLAGS, register_jitable

SQUARES, NOISE, G_SQUARES, DELTA_SQUARES, DELTA_Z, TOP = range(6)  # sums of x^2, x z', g^2, delta^2, delta z; largest |g|
SUMS = 6

_NUMBERS = {"float32": types.float32, "float64": types.float64}
_keep_alive: list[Any] = []  # compiled code lives as long as its Python object


@register_jitable(forceinline=True, fastmath=REDUCTION_FLAGS)
def plus(total, a, b):
    """total + a b; may be reordered with its neighbours in a loop."""
    return total + a * b


def _address(loop: Any, dtype: str, pointers: int) -> int:
    number = _NUMBERS[dtype]
    signature = types.void(*[types.int64] * 3, types.CPointer(types.float64), *[types.CPointer(number)] * pointers)
    compiled = entry_point(loop, signature, counts_references=False)
    _keep_alive.append(compiled)
    return int(compiled.address)


class PhiCode(NamedTuple):
    """Addresses of an activation's two loops."""

    forward: int
    backward: int


@cache
def phi_addresses(activation: str, dtype: str) -> PhiCode:
    """The loops of `phi_forward` and `phi_backward`."""
    pair = ACTIVATIONS[activation].pair

    def forward_loop(count, n, gap, sums, spread, factor, z_rows):
        widest_vectors()
        for k in range(count):
            z = vector_at(z_rows, k * gap, n)
            s, f = spread[k], factor[k]
            squares = type(s)(0)
            for j in range(n):
                y = pair(z[j] * s)[0] * f
                squares = plus(squares, y, y)
            sums[SUMS * k + SQUARES] = squares

    def backward_loop(count, n, gap, sums, spread, factor, z_rows, noise_rows, x_rows, slope_rows):
        widest_vectors()
        for k in range(count):
            z, noise = vector_at(z_rows, k * gap, n), vector_at(noise_rows, k * gap, n)
            x, slope = vector_at(x_rows, k * gap, n), vector_at(slope_rows, k * gap, n)
            s, f = spread[k], factor[k]
            product = type(s)(0)
            for j in range(n):
                y, d = pair(load(z, j) * s)
                y = y * f
                store(x, j, y, 0)
                store(slope, j, d, 1)
                product = plus(product, y, load(noise, j))
            sums[SUMS * k + NOISE] = product

    return PhiCode(_address(forward_loop, dtype, 3), _address(backward_loop, dtype, 6))


@cache
def step_address(dtype: str) -> int:
    """The loop of `step`."""

    def step_loop(count, n, gap, sums, a_rows, b_rows, x_rows, noise_rows, slope_rows, z_rows):
        widest_vectors()
        for k in range(count):
            x, noise = vector_at(x_rows, k * gap, n), vector_at(noise_rows, k * gap, n)
            slope, z = vector_at(slope_rows, k * gap, n), vector_at(z_rows, k * gap, n)
            a, b = a_rows[k], b_rows[k]
            g_squares = type(a)(0)
            delta_squares = type(a)(0)
            product = type(a)(0)
            top = 0
            for j in range(n):
                g = a * x[j] + b * noise[j]
                delta = g * slope[j]
                g_squares = plus(g_squares, g, g)
                delta_squares = plus(delta_squares, delta, delta)
                product = plus(product, delta, z[j])
                # Sizes compare as their bits do, and integers have no NaN to stop vectorisation.
                top = max(top, size_bits(g))
            sums[SUMS * k + G_SQUARES] = g_squares
            sums[SUMS * k + DELTA_SQUARES] = delta_squares
            sums[SUMS * k + DELTA_Z] = product
            sums[SUMS * k + TOP] = size_from_bits(top, a)

    return _address(step_loop, dtype, 6)


_call_forward = caller(*[types.int64] * 3, *[types.voidptr] * 4)
_call_ten = caller(*[types.int64] * 3, *[types.voidptr] * 7)


@register_jitable
def phi_forward(address, count, n, gap, sums, spread, factor, z):
    """Sums of x^2 with x = phi(z spread) factor, for ``count`` rows of n numbers; spread, factor: one number a row."""
    _call_forward(address, (count, n, gap, sums, spread, factor, z))


@register_jitable
def phi_backward(address, count, n, gap, sums, spread, factor, z, noise, x, slope):
    """x = phi(z spread) factor, slope = phi'(z spread), and sums of x noise."""
    _call_ten(address, (count, n, gap, sums, spread, factor, z, noise, x, slope))


@register_jitable
def step(address, count, n, gap, sums, a, b, x, noise, slope, z):
    """g = a x + b noise and delta = slope g, of which only sums are kept; a, b: one number a row."""
    _call_ten(address, (count, n, gap, sums, a, b, x, noise, slope, z))


@register_jitable(error_model="numpy")
def line_backward(below, above, spread, factor, z, noise, x, slope):
    """One row of `phi_backward` where phi is a line with slopes ``below`` and ``above`` 0; returns the sums of x^2 and of x noise."""
    squares = type(spread)(0)
    product = type(spread)(0)
    for j in range(x.size):
        h = z[j] * spread
        d = below if h < 0 else above
        y = h * d * factor
        x[j] = y
        slope[j] = d
        squares = plus(squares, y, y)
        product = plus(product, y, noise[j])
    return squares, product


def size_bits(x):
    """The bits of |x| as an integer; they order as the sizes do."""
    raise NotImplementedError("for compiled code")


@overload(size_bits, jit_options=INLINE)
def _choose_size_bits(x):
    if x == types.float32:
        return lambda x: np.int32(np.int32(np.float32(x).view(np.int32)) & np.int32(0x7FFFFFFF))
    return lambda x: np.float64(x).view(np.int64) & np.int64(0x7FFFFFFFFFFFFFFF)


def size_from_bits(bits, like):
    """The number whose size has these bits, as float64."""
    raise NotImplementedError("for compiled code")


@overload(size_from_bits, jit_options=INLINE)
def _choose_size_from_bits(bits, like):
    if like == types.float32:
        return lambda bits, like: np.float64(np.int32(bits).view(np.float32))
    return lambda bits, like: np.int64(bits).view(np.float64)
