"""Weights, biases, inputs and probes of one realization, drawn from their addresses (``random.py``).

``draw_panel`` and ``draw_matrix`` are compiled once per precision as functions of their own, which kernels reach by symbol: drawing is the
largest piece of machine code here, and each kernel that inlined it took ten seconds longer to compile.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numba import carray, types
from numba.extending import overload, register_jitable

from fastgrad.engine.compile import entry_point
from fastgrad.engine.norms import inner, sum_of_squares
from fastgrad.engine.random import fill_normal, fill_uniform, panel_counters, panel_rows
from fastgrad.jit import reduction

NORMAL, UNIFORM, CONSTANT, ORTHOGONAL = range(4)  # codes of the kinds of `weights.draw`, as kernels see them
KINDS = {"normal": NORMAL, "uniform": UNIFORM, "constant": CONSTANT, "orthogonal": ORTHOGONAL}
SLACK = 4  # numbers that a buffer must hold beyond its tensor


_NAMES = {types.float32: "float32", types.float64: "float64"}
_WORDS = (types.uint32,) * 5


# --- panels ------------------------------------------------------------------------------------------------------------------------


def draw_panel(out, n, kind, scale, base, where, key):
    """out[:n] from a law with independent entries; out holds ``SLACK`` numbers more. base: the panel's first counter in its tensor."""
    if kind == NORMAL:
        fill_normal(out, n, scale, base, where, key)
    elif kind == UNIFORM:
        fill_uniform(out, n, scale, base, where, key)
    else:
        for j in range(n):
            out[j] = scale


def _panel_entry(pointer, n, kind, scale, base, w0, w1, w2, k0, k1):
    out = carray(pointer, (n + SLACK,))
    if kind == NORMAL:
        fill_normal(out, n, scale, base, (w0, w1, w2), (k0, k1))
    elif kind == UNIFORM:
        fill_uniform(out, n, scale, base, (w0, w1, w2), (k0, k1))
    else:
        for j in range(n):
            out[j] = scale


def _panel_signature(number):
    return types.void(types.CPointer(number), types.int64, types.int64, number, types.int64, *_WORDS)


@overload(draw_panel)
def _choose_draw_panel(out, n, kind, scale, base, where, key):
    call = types.ExternalFunction(f"fastgrad_draw_panel_{_NAMES[out.dtype]}", _panel_signature(out.dtype))

    def implementation(out, n, kind, scale, base, where, key):
        call(out.ctypes, n, kind, scale, base, where[0], where[1], where[2], key[0], key[1])

    return implementation


@register_jitable
def draw_vector(out, n, kind, scale, where, key):
    """out[:n] from a law with independent entries: one panel."""
    draw_panel(out, n, kind, scale, 0, where, key)


# --- matrices ----------------------------------------------------------------------------------------------------------------------


@reduction
def _subtract(x, y, factor):
    for j in range(x.size):
        x[j] -= factor * y[j]


@register_jitable(error_model="numpy")
def fill_orthogonal(out, rows, columns, scale, where, key):
    """scale times a Haar-distributed matrix with orthonormal rows (rows <= columns) or columns.

    Householder reflections of independent normal vectors of lengths p, p - 1, … (Stewart 1980, "The efficient generation of random orthogonal
    matrices", SIAM J. Numer. Anal. 17), applied to the identity.
    """
    p = max(rows, columns)
    k = min(rows, columns)
    q = np.zeros((k, p), dtype=out.dtype)  # orthonormal rows
    u = np.empty(p + SLACK, dtype=out.dtype)
    one = type(scale)(1)
    counters = panel_counters(p)
    for j in range(k - 1, -1, -1):
        n = p - j
        draw_panel(u, n, NORMAL, one, j * counters, where, key)
        squares = sum_of_squares(u[:n])
        length = math.sqrt(squares)
        sign = 1.0 if u[0] >= 0.0 else -1.0
        # The reflection of u[:n] + sign |u| e_0 sends e_0 to -sign u/|u|; the sign in front makes it u/|u|, uniform on the sphere.
        q[j, j] = -sign
        u[0] = u[0] + type(scale)(sign * length)
        norm = sum_of_squares(u[:n])
        for row in range(j, k):
            _subtract(q[row, j:], u[:n], type(scale)(2.0 * inner(q[row, j:], u[:n]) / norm))
    for i in range(rows):
        for j in range(columns):
            out[i * columns + j] = scale * (q[i, j] if rows <= columns else q[j, i])


@register_jitable(error_model="numpy")
def _fill_matrix(out, rows, columns, kind, scale, where, key):
    if kind == ORTHOGONAL:
        fill_orthogonal(out, rows, columns, scale, where, key)
        return
    height = panel_rows(columns)
    counters = panel_counters(height * columns)
    for panel in range((rows + height - 1) // height):
        first = panel * height
        n = min(height, rows - first) * columns
        draw_panel(out[first * columns :], n, kind, scale, panel * counters, where, key)


def draw_matrix(out, rows, columns, kind, scale, where, key):
    """A row-major matrix in out[: rows * columns] from any law, ``SLACK`` numbers of room behind it.

    Drawn panel by panel, each the next run of whole rows; a Haar matrix all at once.
    """
    _fill_matrix(out, rows, columns, kind, scale, where, key)


def _matrix_entry(pointer, rows, columns, kind, scale, w0, w1, w2, k0, k1):
    _fill_matrix(carray(pointer, (rows * columns + SLACK,)), rows, columns, kind, scale, (w0, w1, w2), (k0, k1))


def _matrix_signature(number):
    return types.void(types.CPointer(number), types.int64, types.int64, types.int64, number, *_WORDS)


@overload(draw_matrix)
def _choose_draw_matrix(out, rows, columns, kind, scale, where, key):
    call = types.ExternalFunction(f"fastgrad_draw_matrix_{_NAMES[out.dtype]}", _matrix_signature(out.dtype))

    def implementation(out, rows, columns, kind, scale, where, key):
        call(out.ctypes, rows, columns, kind, scale, where[0], where[1], where[2], key[0], key[1])

    return implementation


@lru_cache(maxsize=None)
def prepare(dtype: str) -> tuple[Any, Any]:
    """Compile (or load) the two functions for one precision; must have been called before a kernel of that precision runs."""
    number = types.float32 if dtype == "float32" else types.float64
    return (
        entry_point(_panel_entry, _panel_signature(number), f"fastgrad_draw_panel_{dtype}"),
        entry_point(_matrix_entry, _matrix_signature(number), f"fastgrad_draw_matrix_{dtype}"),
    )


@register_jitable(error_model="numpy")
def draw_probe(v, n, unit, where, key):
    """The direction v[:n] of the loss <v, x>: uniform on the unit sphere, or ones."""
    if not unit:
        for j in range(n):
            v[j] = 1
        return
    draw_vector(v, n, NORMAL, v.dtype.type(1), where, key)
    factor = v.dtype.type(1.0 / math.sqrt(sum_of_squares(v[:n])))
    for j in range(n):
        v[j] = v[j] * factor
