"""The two loops of the conditional sampler, compiled once for each activation (``phi_loop``) and once for all (``step_loop``).

Sums are formed in the precision of the run, in as many accumulators as the vector unit likes (their adding is flagged free to reorder, nothing
else is): float64 sums of float32 numbers would halve the vector length of the whole loop, and the error of n / 8 float32 additions is that
of the numbers added.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import carray, types
from numba.extending import overload

from fastgrad.activations import ACTIVATIONS
from fastgrad.engine.compile import entry_point
from fastgrad.engine.noalias import load, store
from fastgrad.engine.pointers import caller
from fastgrad.jit import INLINE, REDUCTION_FLAGS, register_jitable

_NUMBERS = {"float32": types.float32, "float64": types.float64}
_keep_alive: list[Any] = []  # compiled code lives as long as its Python object


@register_jitable(forceinline=True, fastmath=REDUCTION_FLAGS)
def plus(total, a, b):
    """total + a b; may be reordered with its neighbours in a loop."""
    return total + a * b


_call_phi = {
    name: caller(*[types.voidptr] * 5, number, number, types.int64) for name, number in _NUMBERS.items()
}  # by precision, because two of the arguments are numbers of that precision
_call_phi_32, _call_phi_64 = _call_phi["float32"], _call_phi["float64"]


def _phi_signature(number: Any) -> Any:
    pointer = types.CPointer(number)
    return types.void(pointer, pointer, pointer, pointer, types.CPointer(types.float64), number, number, types.int64)


@cache
def phi_address(activation: str, dtype: str) -> int:
    """Address of the loop

    x = phi(z spread) post,  slope = phi'(z spread),  sums = (sum x^2, sum x noise)

    over vectors of n numbers, C signature (z, noise, x, slope, sums, spread, post, n).
    """
    pair = ACTIVATIONS[activation].pair

    def phi_loop(z_pointer, noise_pointer, x_pointer, slope_pointer, sums_pointer, spread, post, n):
        z, noise = carray(z_pointer, (n,)), carray(noise_pointer, (n,))
        x, slope = carray(x_pointer, (n,)), carray(slope_pointer, (n,))
        sums = carray(sums_pointer, (2,))
        squares = type(spread)(0)
        product = type(spread)(0)
        for j in range(n):
            y, d = pair(load(z, j) * spread)
            y = y * post
            store(x, j, y, 0)
            store(slope, j, d, 1)
            squares = plus(squares, y, y)
            product = plus(product, y, load(noise, j))
        sums[0] = squares
        sums[1] = product

    compiled = entry_point(phi_loop, _phi_signature(_NUMBERS[dtype]))
    _keep_alive.append(compiled)
    return int(compiled.address)


def phi_pass(address, z, noise, x, slope, sums, spread, post, n):
    """Run the loop at ``address`` (`phi_address`) on vectors whose first n numbers count."""
    raise NotImplementedError("only compiled code can call an address")


@overload(phi_pass)
def _choose_phi_pass(address, z, noise, x, slope, sums, spread, post, n):
    call = _call_phi_32 if spread == types.float32 else _call_phi_64

    def implementation(address, z, noise, x, slope, sums, spread, post, n):
        data = (z.ctypes.data, noise.ctypes.data, x.ctypes.data, slope.ctypes.data, sums.ctypes.data, spread, post, n)
        call(address, data)

    return implementation


@register_jitable(error_model="numpy")
def line_pass(below, above, z, noise, x, slope, sums, spread, post, n):
    """The same where phi is a line with slopes ``below`` and ``above`` 0."""
    squares = type(spread)(0)
    product = type(spread)(0)
    for j in range(n):
        h = z[j] * spread
        d = below if h < 0 else above
        y = h * d * post
        x[j] = y
        slope[j] = d
        squares = plus(squares, y, y)
        product = plus(product, y, noise[j])
    sums[0] = squares
    sums[1] = product


@register_jitable(error_model="numpy")
def step_pass(a, b, x, noise, slope, z, sums, n):
    """g = a x + b noise and delta = slope g, of which only sums are kept:

    sums[2:] = (sum g^2, sum delta^2, sum delta z, largest |g|).
    """
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
    sums[2] = g_squares
    sums[3] = delta_squares
    sums[4] = product
    sums[5] = size_from_bits(top, a)


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
