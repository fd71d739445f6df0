"""Eight sums over a layer's units: all that the conditional sampler's backward pass needs of the layer.

A gradient that arrives at a layer is g = a x + b w, with the layer's activations x, noise w and two numbers (``conditional_gradient.py``). Of it and
of delta = phi'(h) g only |g|, |delta| and h^T delta matter, and these are quadratic and linear forms in (a, b) whose coefficients are

    x.x   x.w   w.w   a.a   a.b   b.b   h.a   h.b         a = phi'(h) x,  b = phi'(h) w,  entry by entry.

They do not depend on the gradient, so they can be formed in the forward pass, while the layer is in the first-level cache.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import lower_builtin, overload, type_callable

from fastgrad.engine.native import HAVE_C
from fastgrad.engine.pointers import call_symbol
from fastgrad.engine.views import vector_at
from fastgrad.jit import CALLED, REDUCTION_FLAGS, reduction, register_jitable

SUMS = 8
XX, XW, WW, AA, AB, BB, HA, HB = range(SUMS)
LEAST_32, LEAST_64 = 1e-30, 1e-290  # sums of squares below may have lost terms to underflow, those above 1/LEAST to overflow

_SUFFIXES = {types.float32: "f32", types.float64: "f64"}


def layer_sums(count, n, h, x, slope, noise, sums):
    """The sums of each of ``count`` rows, in the rows' precision.

    Parameters
    ----------
    count, n : int
        Rows that count, and numbers of each.
    h, x, slope, noise : (rows, row length) contiguous arrays
        Pre-activations, activations, slopes phi'(h), noise.
    sums : (SUMS, rows) contiguous array
        What comes out: rows `XX` to `HB`.
    """
    h, x, slope, noise = (rows[:count, :n] for rows in (h, x, slope, noise))
    a, b = slope * x, slope * noise
    pairs = ((x, x), (x, noise), (noise, noise), (a, a), (a, b), (b, b), (h, a), (h, b))
    sums[:, :count] = np.stack([np.sum(u * v, axis=1) for u, v in pairs])


@register_jitable(forceinline=True, fastmath=REDUCTION_FLAGS)
def _plus(total, a, b):
    """total + a b; may be reordered with its neighbours in a loop."""
    return total + a * b


@reduction
def _row_sums(h, x, slope, noise, sums, gap):
    """The sums of one row, in its precision, to every ``gap``-th of ``sums``."""
    number = h.dtype.type
    xx = xw = ww = aa = ab = bb = ha = hb = number(0)
    for j in range(x.size):
        y, w, d, p = x[j], noise[j], slope[j], h[j]
        a, b = d * y, d * w
        xx, xw, ww = _plus(xx, y, y), _plus(xw, y, w), _plus(ww, w, w)
        aa, ab, bb = _plus(aa, a, a), _plus(ab, a, b), _plus(bb, b, b)
        ha, hb = _plus(ha, p, a), _plus(hb, p, b)
    sums[XX * gap], sums[XW * gap], sums[WW * gap] = xx, xw, ww
    sums[AA * gap], sums[AB * gap], sums[BB * gap] = aa, ab, bb
    sums[HA * gap], sums[HB * gap] = ha, hb


@reduction
def exact_products(x, noise, factor):
    """(x.x, x.w) of one row in float64, x multiplied by ``factor`` (float64) first: where the quick sums overflow, underflow or cancel.

    Products of two float32 numbers are exact here; of what remains, eight digits more than the quick sums have.
    """
    xx, xw = 0.0, 0.0
    for j in range(x.size):
        y = x[j] * factor
        xx += y * y
        xw += y * noise[j]
    return xx, xw


@register_jitable
def layer_sums_twin(count, n, h, x, slope, noise, sums):
    """`layer_sums` without the C extension."""
    gap = h.shape[1]
    for k in range(count):
        start = k * gap
        rows = vector_at(h, start, n), vector_at(x, start, n), vector_at(slope, start, n), vector_at(noise, start, n)
        _row_sums(*rows, vector_at(sums, k, sums.size - k), sums.shape[1])


def _fit(h, x, slope, noise, sums):
    return all(isinstance(a, types.Array) and a.ndim == 2 and a.layout == "C" and a.dtype in _SUFFIXES for a in (h, x, slope, noise, sums))


def _choose_twin(count, n, h, x, slope, noise, sums):
    def implementation(count, n, h, x, slope, noise, sums):
        layer_sums_twin(count, n, h, x, slope, noise, sums)

    return implementation if _fit(h, x, slope, noise, sums) else None


def _type_layer_sums(context):
    def typer(count, n, h, x, slope, noise, sums):
        arrays = h, x, slope, noise, sums
        return types.void(types.int64, types.int64, *arrays) if _fit(*arrays) else None

    return typer


def _lower_layer_sums(context, builder, signature, args):
    views = [context.make_array(given)(context, builder, value) for given, value in zip(signature.args[2:], args[2:], strict=True)]
    gap, sums_gap = (cgutils.unpack_tuple(builder, view.shape, 2)[1] for view in (views[0], views[4]))
    symbol = f"fg1_layer_sums_{_SUFFIXES[signature.args[2].dtype]}"
    return call_symbol(context, builder, symbol, [args[0], args[1], gap, *[view.data for view in views], sums_gap])


if HAVE_C:
    type_callable(layer_sums)(_type_layer_sums)
    lower_builtin(layer_sums, types.Integer, types.Integer, *[types.Array] * 5)(_lower_layer_sums)
else:
    overload(layer_sums, jit_options=CALLED)(_choose_twin)
