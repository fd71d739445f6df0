"""Weights, biases, inputs and probes of one realization, drawn from their addresses (``random.py``).

``draw_panel`` is compiled once per precision as a function of its own, which kernels reach by symbol, and what draws matrices once per family of
laws, which they reach by address: drawing is the largest piece of machine code here, and each kernel that inlined it took ten seconds longer to
compile.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import lower_builtin, overload, type_callable

from fastgrad.engine.compile import entry_point
from fastgrad.engine.native_panels import HAVE_PANELS, normals_by_c, uniforms_by_c
from fastgrad.engine.norms import inner, sum_of_squares
from fastgrad.engine.pointers import NAMES, WORD, array_data, call_address, call_symbol
from fastgrad.engine.random import address, fill_normal, fill_uniform, panel_counters, panel_rows
from fastgrad.engine.views import vector_at
from fastgrad.engine.wide import one_copy
from fastgrad.jit import CALLED, reduction, register_jitable

NORMAL, UNIFORM, CONSTANT, ORTHOGONAL = range(4)  # codes of the kinds of `weights.draw`, as kernels see them
KINDS = {"normal": NORMAL, "uniform": UNIFORM, "constant": CONSTANT, "orthogonal": ORTHOGONAL}
SLACK = 4  # numbers that a buffer must hold beyond its tensor


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


def _panels_of(fill, by_c):
    """What fills panels of n numbers each, ``gap`` numbers apart, of ``count`` realizations: float32 by the C function ``by_c`` where it can run."""

    def in_numba(pointer, count, n, gap, scale, base, layer, realization, role, k0, k1):
        for p in range(count):
            r = realization + p
            where = (layer, np.uint32(r & 0xFFFFFFFF), np.uint32(role | ((r >> 32) & 0xFFFF)))
            fill(vector_at(pointer, p * gap, n + SLACK), n, scale, base, where, (k0, k1))

    def in_c(pointer, count, n, gap, scale, base, layer, realization, role, k0, k1):
        by_c(count, n, pointer, gap, scale, base, layer, realization, role, k0, k1)

    def panels(*arguments):
        in_numba(*arguments)

    @overload(panels, jit_options=CALLED)
    def choose(pointer, count, n, gap, scale, base, layer, realization, role, k0, k1):
        return in_c if HAVE_PANELS and scale == types.float32 else in_numba

    return panels


_fill_normals = _panels_of(fill_normal, normals_by_c)
_fill_uniforms = _panels_of(fill_uniform, uniforms_by_c)


def _panel_entry(pointer, count, n, gap, kind, scale, base, layer, realization, role, k0, k1):
    if kind == NORMAL:
        _fill_normals(pointer, count, n, gap, scale, base, layer, realization, role, k0, k1)
    elif kind == UNIFORM:
        _fill_uniforms(pointer, count, n, gap, scale, base, layer, realization, role, k0, k1)
    else:  # one panel
        out = vector_at(pointer, 0, n)
        for j in range(n):
            out[j] = scale


def _panel_signature(number):
    size, word = types.int64, types.uint32
    return types.void(types.CPointer(number), size, size, size, size, number, size, word, size, word, word, word)


_ADDRESS, _KEY = types.UniTuple(types.uint32, 3), types.UniTuple(types.uint32, 2)


def _drawable(out):
    return isinstance(out, types.Array) and out.dtype in NAMES


def _words(builder, where, key):
    """Address and key as five words, while code is generated."""
    return cgutils.unpack_tuple(builder, where, 3) + cgutils.unpack_tuple(builder, key, 2)


@type_callable(draw_panel)
def _type_draw_panel(context):
    def typer(out, n, kind, scale, base, where, key):
        return types.void(out, types.int64, types.int64, out.dtype, types.int64, _ADDRESS, _KEY) if _drawable(out) else None

    return typer


def _panel_symbol(number):
    return f"fastgrad_draw_panel_{NAMES[number]}"


@lower_builtin(draw_panel, types.Array, types.Integer, types.Integer, types.Float, types.Integer, types.BaseTuple, types.BaseTuple)
def _lower_draw_panel(context, builder, signature, args):
    data = array_data(context, builder, signature.args[0], args[0])
    layer, realization, role = cgutils.unpack_tuple(builder, args[5], 3)  # the role holds the realization's high bits too
    single, apart = ir.Constant(WORD, 1), ir.Constant(WORD, 0)
    values = [data, single, args[1], apart, *args[2:5], layer, builder.zext(realization, WORD), role, *cgutils.unpack_tuple(builder, args[6], 2)]
    return call_symbol(context, builder, _panel_symbol(signature.args[0].dtype), values)


@register_jitable
def draw_vector(out, n, kind, scale, where, key):
    """out[:n] from a law with independent entries: one panel."""
    draw_panel(out, n, kind, scale, 0, where, key)


def draw_normals(out, count, n, layer, role, realization, key):
    """out[k, :n] = standard normals of realization ``realization + k``, for k < count: one panel each, drawn in one call.

    Rows hold at least 4 * `panel_counters` (n) numbers. role, layer: of the tensor, as `address` takes them.
    """
    for k in range(count):
        draw_vector(out[k], n, NORMAL, out.dtype.type(1), address(role, 0, layer, realization + k), key)


@type_callable(draw_normals)
def _type_draw_normals(context):
    def typer(out, count, n, layer, role, realization, key):
        fits = _drawable(out) and out.ndim == 2 and out.layout == "C"
        return types.void(out, *[types.int64] * 5, _KEY) if fits else None

    return typer


@lower_builtin(draw_normals, types.Array, *[types.Integer] * 5, types.BaseTuple)
def _lower_draw_normals(context, builder, signature, args):
    view = context.make_array(signature.args[0])(context, builder, args[0])
    gap = cgutils.unpack_tuple(builder, view.shape, 2)[1]
    kind, base = ir.Constant(WORD, NORMAL), ir.Constant(WORD, 0)
    scale = ir.Constant(view.data.type.pointee, 1.0)
    word = ir.IntType(32)
    role = builder.shl(builder.trunc(args[4], word), ir.Constant(word, 24))
    key = cgutils.unpack_tuple(builder, args[6], 2)
    layer = builder.trunc(args[3], word)
    values = [view.data, args[1], args[2], gap, kind, scale, base, layer, args[5], role, *key]
    return call_symbol(context, builder, _panel_symbol(signature.args[0].dtype), values)


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
def fill_panels(out, rows, columns, kind, scale, where, key):
    """A matrix with independent entries, panel by panel, each the next run of whole rows."""
    height = panel_rows(columns)
    counters = panel_counters(height * columns)
    for panel in range((rows + height - 1) // height):
        first = panel * height
        n = (height if height <= rows - first else rows - first) * columns
        draw_panel(vector_at(out, first * columns, n + SLACK), n, kind, scale, panel * counters, where, key)


def _panels_entry(pointer, rows, columns, kind, scale, w0, w1, w2, k0, k1):
    fill_panels(vector_at(pointer, 0, rows * columns + SLACK), rows, columns, kind, scale, (w0, w1, w2), (k0, k1))


def _orthogonal_entry(pointer, rows, columns, kind, scale, w0, w1, w2, k0, k1):
    fill_orthogonal(vector_at(pointer, 0, rows * columns + SLACK), rows, columns, scale, (w0, w1, w2), (k0, k1))


def _matrix_signature(number):
    return types.void(types.CPointer(number), types.int64, types.int64, types.int64, number, *_WORDS)


_NUMBERS = {"float32": types.float32, "float64": types.float64}


def draw_matrix(out, rows, columns, kind, scale, where, key, drawer=0):
    """A row-major matrix in out[: rows * columns], ``SLACK`` numbers of room behind it.

    Compiled code calls ``drawer``, the law's `matrix_drawer`; plain Python needs none.
    """
    if kind == ORTHOGONAL:
        fill_orthogonal(out, rows, columns, scale, where, key)
    else:
        fill_panels(out, rows, columns, kind, scale, where, key)


@type_callable(draw_matrix)
def _type_draw_matrix(context):
    def typer(out, rows, columns, kind, scale, where, key, drawer):
        size = types.int64
        return types.void(out, size, size, size, out.dtype, _ADDRESS, _KEY, size) if _drawable(out) else None

    return typer


@lower_builtin(draw_matrix, types.Array, *[types.Integer] * 3, types.Float, types.BaseTuple, types.BaseTuple, types.Integer)
def _lower_draw_matrix(context, builder, signature, args):
    data = array_data(context, builder, signature.args[0], args[0])
    return call_address(context, builder, args[7], [data, *args[1:5], *_words(builder, args[5], args[6])])


@cache
def _compiled_drawer(orthogonal: bool, dtype: str) -> Any:
    prepare(dtype)
    return entry_point(_orthogonal_entry if orthogonal else _panels_entry, _matrix_signature(_NUMBERS[dtype]), counts_references=orthogonal)


def matrix_drawer(kind: int, dtype: str) -> int:
    """Address of the function that draws matrices of a law, compiled (or loaded) now; the two precisions' functions are not the same."""
    return int(_compiled_drawer(kind == ORTHOGONAL, dtype).address)


@cache
def prepare(dtype: str) -> tuple[Any, ...]:
    """Compile (or load) what draws vectors of one precision; must have been called before a kernel of that precision runs."""
    return (entry_point(_panel_entry, _panel_signature(_NUMBERS[dtype]), _panel_symbol(_NUMBERS[dtype]), counts_references=False),)


@register_jitable(error_model="numpy")
def draw_probe(v, n, unit, where, key):
    """The direction v[:n] of the loss <v, x>: uniform on the unit sphere, or ones."""
    one_copy()
    if not unit:
        for j in range(n):
            v[j] = 1
        return
    draw_vector(v, n, NORMAL, v.dtype.type(1), where, key)
    factor = v.dtype.type(1.0 / math.sqrt(sum_of_squares(vector_at(v, 0, n))))
    for j in range(n):
        v[j] = v[j] * factor
