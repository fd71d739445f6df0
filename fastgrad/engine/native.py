"""The small matrix products of ``csrc/`` as Numba kernels call them, each with a twin in Numba.

``multiply_transposed`` and ``multiply`` are ordinary NumPy functions in plain Python. Inside a compiled
kernel they become a call of the C function, by its *name*, so that the kernel's machine code holds no
address and can be cached; or, where the C extension is absent (no compiler, or ``FASTGRAD_DISABLE_C=1``),
the loops below. Kernels that were compiled for the one must not run with the other: ``native_fingerprint``
belongs in the stamp of every cached kernel.

Letters as in ``csrc/products.h``: B vectors, sums over K terms, M outputs each. One output's terms are added
in an order that does not depend on B, so cutting a batch into blocks changes no byte. Fastest when rows of
P and A start at multiples of 64 bytes (AVX-512 then never loads across two cache lines).
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import lower_builtin, overload, type_callable

from fastgrad.engine.pointers import WORD, call_symbol
from fastgrad.jit import reduction, register_jitable

CANCELS = 1e-4  # a Gram sum, formed in float64, this far below its diagonal has lost digits

_FORMATS = {types.float32: ("f32", 2), types.float64: ("f64", 3)}  # suffix of the symbol, log2 of the bytes


# By name, one of each kind; a call of a missing symbol would end the process, without a Python error.
_NEEDED = ("fg1_transposed_f32", "fg1_outer_f32", "fg1_layer_sums_f32", "fg1_forward_steps_f32", "fg1_transpose_f32")


def _load_library() -> Path | None:
    """Make the C functions known to LLVM by name; the library's path, or None where the twins are to run."""
    spec = importlib.util.find_spec("fastgrad._native")
    if spec is None or spec.origin is None or os.environ.get("FASTGRAD_DISABLE_C", "0") not in {"", "0"}:
        return None
    llvmlite.binding.load_library_permanently(spec.origin)
    if any(llvmlite.binding.address_of_symbol(name) is None for name in _NEEDED):
        raise ImportError(
            f"the C extension {spec.origin} was built from another version of fastgrad; install fastgrad "
            "again, or set FASTGRAD_DISABLE_C=1 to do without it"
        )
    return Path(spec.origin)


_LIBRARY = _load_library()

HAVE_C: bool = _LIBRARY is not None
"""Whether compiled kernels call the C extension (else the Numba twins)."""


@functools.cache
def native_fingerprint() -> str:
    """Sixteen hexadecimal digits that change with the C library's contents and with its absence."""
    content = b"without C" if _LIBRARY is None else _LIBRARY.read_bytes()
    return hashlib.sha256(content).hexdigest()[:16]


def multiply_transposed(P: Any, X: Any, out: Any, accumulate: bool) -> None:
    """``out[b, i] = sum_k P[k, i] X[b, k]``, added to what ``out`` holds if ``accumulate``.

    Parameters
    ----------
    P : (K, M) array, rows contiguous
    X : (B, K) array, any strides: one step, all steps at once, or a transposed view
    out : (B, M) array, rows contiguous; must not overlap P or X
    accumulate : bool

    Raises
    ------
    ValueError
        If the shapes do not fit together, or if rows that C reads as contiguous are not (plain Python and the
        twins do not mind).
    """
    _plain(P, X, out, accumulate)


def multiply(A: Any, X: Any, out: Any, accumulate: bool) -> None:
    """``out[b, i] = sum_k A[i, k] X[b, k]``, added to what ``out`` holds if ``accumulate``.

    Parameters
    ----------
    A : (M, K) array, rows contiguous
    X : (B, K) array, rows contiguous
    out : (B, M) array, rows contiguous; must not overlap A or X
    accumulate : bool

    Raises
    ------
    ValueError
        If the shapes do not fit together, or if rows that C reads as contiguous are not (plain Python and the
        twins do not mind).
    """
    _plain(A.T, X, out, accumulate)


def product_transposed(P: Any, X: Any, out: Any, accumulate: bool) -> None:
    """`multiply_transposed` for kernels whose arrays fit: nothing is checked, so nothing has to be compiled for each combination of layouts."""
    _plain(P, X, out, accumulate)


def product(A: Any, X: Any, out: Any, accumulate: bool) -> None:
    """`multiply` for kernels whose arrays fit: nothing is checked."""
    _plain(A.T, X, out, accumulate)


def gram_squares(D: Any, X: Any) -> float:
    """``sum_{a,b} (d_a . d_b)(x_a . x_b)``, the squared Frobenius norm of ``D^T X``; -1 where cancellation has taken its digits.

    Parameters
    ----------
    D : (B, M) contiguous array
    X : (B, N) contiguous array
    """
    of_d, of_x = D.astype(np.float64), X.astype(np.float64)
    products = (of_d @ of_d.T) * (of_x @ of_x.T)
    return float(products.sum()) if products.sum() >= CANCELS * products.trace() else -1.0


def _plain(P: Any, X: Any, out: Any, accumulate: bool) -> None:
    if X.shape[1] != P.shape[0] or out.shape != (X.shape[0], P.shape[1]):
        raise ValueError("matrix product: shapes of matrix, vectors and out do not fit together")
    np.add(out if accumulate else np.zeros_like(out), X @ P, out=out)


@reduction
def _transposed_twin(P: Any, X: Any, out: Any, accumulate: bool) -> None:
    K = P.shape[0]
    for b in range(X.shape[0]):
        y = out[b]
        if not accumulate:
            y[:] = 0
        first = K % 4
        for k in range(first):
            p, x = P[k], X[b, k]
            for i in range(y.size):
                y[i] += p[i] * x
        for k in range(first, K, 4):  # four terms for each load and store of y
            p0, p1, p2, p3 = P[k], P[k + 1], P[k + 2], P[k + 3]
            x0, x1, x2, x3 = X[b, k], X[b, k + 1], X[b, k + 2], X[b, k + 3]
            for i in range(y.size):
                y[i] += (p0[i] * x0 + p1[i] * x1) + (p2[i] * x2 + p3[i] * x3)


@reduction
def _twin(A: Any, X: Any, out: Any, accumulate: bool) -> None:
    zero = A.dtype.type(0)
    for b in range(X.shape[0]):
        x = X[b]
        for i in range(A.shape[0]):
            a = A[i]
            total = zero
            for k in range(x.size):
                total += a[k] * x[k]
            out[b, i] = out[b, i] + total if accumulate else total


@reduction
def _inner(u: Any, v: Any) -> float:
    total = 0.0
    for k in range(u.size):
        total += np.float64(u[k]) * np.float64(v[k])
    return total


@reduction
def _gram_twin(D: Any, X: Any) -> float:
    total, diagonal = 0.0, 0.0
    for a in range(D.shape[0]):
        diagonal += _inner(D[a], D[a]) * _inner(X[a], X[a])
        for b in range(a):
            total += 2.0 * _inner(D[a], D[b]) * _inner(X[a], X[b])
    total += diagonal
    return total if total >= CANCELS * diagonal else -1.0


@register_jitable
def _rows_contiguous(matrix: Any, itemsize: int) -> bool:
    return bool(matrix.strides[1] == itemsize or matrix.shape[1] == 1 or matrix.size == 0)


def _symbol(name: str, suffix: str, number: Any, n_strides: int) -> Any:
    """The C function: sizes; matrix, vectors and out, each followed by its strides; accumulate."""
    pointer, size = types.CPointer(number), types.int64
    return types.ExternalFunction(
        f"fg1_{name}_{suffix}",
        types.void(size, size, size, pointer, size, pointer, *[size] * n_strides, pointer, size, size),
    )


def _transposed_by_c(suffix: str, shift: int, number: Any) -> Callable[..., None]:
    product = _symbol("transposed", suffix, number, 2)
    itemsize = 1 << shift

    def implementation(P: Any, X: Any, out: Any, accumulate: bool) -> None:
        K, M = P.shape
        B = X.shape[0]
        if X.shape[1] != K or out.shape[0] != B or out.shape[1] != M:
            raise ValueError("multiply_transposed: shapes of P, X and out do not fit together")
        if not (_rows_contiguous(P, itemsize) and _rows_contiguous(out, itemsize)):
            raise ValueError("multiply_transposed: rows of P and out must be contiguous")
        product(
            B, M, K, P.ctypes, P.strides[0] >> shift, X.ctypes, X.strides[0] >> shift, X.strides[1] >> shift,
            out.ctypes, out.strides[0] >> shift, 1 if accumulate else 0,
        )  # fmt: skip

    return implementation


def _by_c(suffix: str, shift: int, number: Any) -> Callable[..., None]:
    product = _symbol("dot", suffix, number, 1)
    itemsize = 1 << shift

    def implementation(A: Any, X: Any, out: Any, accumulate: bool) -> None:
        M, K = A.shape
        B = X.shape[0]
        if X.shape[1] != K or out.shape[0] != B or out.shape[1] != M:
            raise ValueError("multiply: shapes of A, X and out do not fit together")
        inputs_contiguous = _rows_contiguous(A, itemsize) and _rows_contiguous(X, itemsize)
        if not (inputs_contiguous and _rows_contiguous(out, itemsize)):
            raise ValueError("multiply: rows of A, X and out must be contiguous")
        product(
            B, M, K, A.ctypes, A.strides[0] >> shift, X.ctypes, X.strides[0] >> shift,
            out.ctypes, out.strides[0] >> shift, 1 if accumulate else 0,
        )  # fmt: skip

    return implementation


def _transposed_in_numba(P: Any, X: Any, out: Any, accumulate: bool) -> None:
    if X.shape[1] != P.shape[0] or out.shape[0] != X.shape[0] or out.shape[1] != P.shape[1]:
        raise ValueError("multiply_transposed: shapes of P, X and out do not fit together")
    _transposed_twin(P, X, out, accumulate)


def _in_numba(A: Any, X: Any, out: Any, accumulate: bool) -> None:
    if X.shape[1] != A.shape[1] or out.shape[0] != X.shape[0] or out.shape[1] != A.shape[0]:
        raise ValueError("multiply: shapes of A, X and out do not fit together")
    _twin(A, X, out, accumulate)


def _format(*arrays: Any) -> tuple[str, int, Any] | None:
    """Symbol suffix, shift and number type if all are matrices of one supported format."""
    if not all(isinstance(a, types.Array) and a.ndim == 2 and a.dtype == arrays[0].dtype for a in arrays):
        return None
    number = arrays[0].dtype
    return (*_FORMATS[number], number) if number in _FORMATS else None


@overload(multiply_transposed, jit_options={"error_model": "numpy"})
def _choose_transposed(P: Any, X: Any, out: Any, accumulate: bool) -> Callable[..., None] | None:
    chosen = _format(P, X, out)
    if chosen is None:
        return None
    return _c_transposed[chosen] if HAVE_C else _transposed_in_numba


@overload(multiply, jit_options={"error_model": "numpy"})
def _choose(A: Any, X: Any, out: Any, accumulate: bool) -> Callable[..., None] | None:
    chosen = _format(A, X, out)
    if chosen is None:
        return None
    return _c_dot[chosen] if HAVE_C else _in_numba


_ALL_FORMATS: list[tuple[str, int, Any]] = [(*names, number) for number, names in _FORMATS.items()]
_c_transposed = {chosen: _transposed_by_c(*chosen) for chosen in _ALL_FORMATS}
_c_dot = {chosen: _by_c(*chosen) for chosen in _ALL_FORMATS}


def _signature(matrix: Any, X: Any, out: Any) -> Any:
    return types.void(matrix, X, out, types.boolean) if _format(matrix, X, out) is not None else None


def _type_product_transposed(context: Any) -> Any:
    return lambda P, X, out, accumulate: _signature(P, X, out)


def _type_product(context: Any) -> Any:
    return lambda A, X, out, accumulate: _signature(A, X, out)


def _choose_transposed_twin(P: Any, X: Any, out: Any, accumulate: bool) -> Callable[..., None] | None:
    def implementation(P: Any, X: Any, out: Any, accumulate: bool) -> None:
        _transposed_twin(P, X, out, accumulate)

    return implementation if _format(P, X, out) is not None else None


def _choose_twin(A: Any, X: Any, out: Any, accumulate: bool) -> Callable[..., None] | None:
    def implementation(A: Any, X: Any, out: Any, accumulate: bool) -> None:
        _twin(A, X, out, accumulate)

    return implementation if _format(A, X, out) is not None else None


def _lower_product(name: str, both_strides: bool) -> Any:
    """Code for a call of the C function ``name``; a transposed product takes both strides of X."""

    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        number = signature.args[0].dtype
        suffix, shift = _FORMATS[number]
        shift = ir.Constant(WORD, shift)
        views = [context.make_array(given)(context, builder, value) for given, value in zip(signature.args[:3], args[:3], strict=True)]
        shapes = [cgutils.unpack_tuple(builder, view.shape, 2) for view in views]
        strides = [[builder.ashr(stride, shift) for stride in cgutils.unpack_tuple(builder, view.strides, 2)] for view in views]
        matrix, X, out = views
        values = [shapes[1][0], shapes[2][1], shapes[1][1], matrix.data, strides[0][0], X.data]
        values += [*strides[1][: 2 if both_strides else 1], out.data, strides[2][0], builder.zext(args[3], WORD)]
        return call_symbol(context, builder, f"fg1_{name}_{suffix}", values)

    return lower


def _type_gram(context: Any) -> Any:
    return lambda D, X: types.float64(D, X) if _format(D, X) is not None and D.layout == X.layout == "C" else None


def _lower_gram(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    views = [context.make_array(given)(context, builder, value) for given, value in zip(signature.args, args, strict=True)]
    (batch, rows), (_, columns) = (cgutils.unpack_tuple(builder, view.shape, 2) for view in views)
    symbol = f"fg1_outer_{_FORMATS[signature.args[0].dtype][0]}"
    return call_symbol(context, builder, symbol, [batch, rows, columns, views[0].data, views[1].data], types.float64)


def _choose_gram_twin(D: Any, X: Any) -> Callable[..., float] | None:
    def implementation(D: Any, X: Any) -> float:
        return _gram_twin(D, X)

    return implementation if _format(D, X) is not None else None


def transposes_in_c(matrix: Any, out: Any) -> bool:
    """Whether the C extension transposes arrays of these Numba types (`fastgrad.engine.arrays.transpose`)."""
    return HAVE_C and _format(matrix, out) is not None and matrix.layout == out.layout == "C"


def transpose_symbol(matrix: Any) -> str:
    """The C function that does: rows, columns; matrix and out, each followed by its row length."""
    return f"fg1_transpose_{_FORMATS[matrix.dtype][0]}"


def _register_products() -> None:
    if not HAVE_C:
        overload(gram_squares, jit_options={"error_model": "numpy"})(_choose_gram_twin)
        overload(product_transposed, jit_options={"error_model": "numpy"})(_choose_transposed_twin)
        overload(product, jit_options={"error_model": "numpy"})(_choose_twin)
        return
    matrices = (types.Array, types.Array, types.Array, types.Boolean)
    type_callable(product_transposed)(_type_product_transposed)
    type_callable(product)(_type_product)
    type_callable(gram_squares)(_type_gram)
    lower_builtin(gram_squares, types.Array, types.Array)(_lower_gram)
    lower_builtin(product_transposed, *matrices)(_lower_product("transposed", True))
    lower_builtin(product, *matrices)(_lower_product("dot", False))


_register_products()
