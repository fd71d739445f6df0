"""The functions of ``norms.py`` that loop over arrays, compiled once per precision and called by symbol from the kernels.

Inlined, their vector loops are most of a kernel's machine code, and Numba optimises what it inlines anew at every level of nesting. Arrays must be
contiguous and in the precision of the run, the one that `prepare_norms` was called with.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from numba import types

from fastgrad.engine import logarithms, norms
from fastgrad.engine.compile import entry_point
from fastgrad.engine.pointers import SHARED, Shared, by_symbol
from fastgrad.engine.views import as_matrix, vector_at
from fastgrad.engine.wide import widest_vectors

__all__ = ["largest", "log_norm_of", "log_norms_of", "outer_squares", "prepare_norms", "shift_exponent", "sum_of_rows_squares"]


def largest(x: Any) -> Any:
    """Largest absolute value of a contiguous vector; NaN entries are passed over."""
    return norms.largest(x)


def shift_exponent(x: Any, exponent: Any) -> None:
    """x *= 2**exponent for a contiguous vector, in steps whose factors the vector's own format can hold."""
    norms.shift_exponent(x, exponent)


def log_norm_of(x: Any, exponent: Any) -> Any:
    """ln of the norm of a contiguous vector times 2**exponent, also where squares leave float64; inf or NaN if an entry is."""
    return norms.log_norm_of(x, exponent)


def log_norms_of(x: Any, gap: Any, n: Any, exponents: Any, values: Any) -> None:
    """values[i] = ln of the norm of n numbers of a contiguous vector, from number i gap, times 2**exponents[i]."""
    logarithms.log_norms_of(x, gap, n, exponents, values)


def outer_squares(d: Any, x: Any) -> Any:
    """Squared Frobenius norm of sum_b d_b x_b^T for rows d (B, m), x (B, n): Gram matrices, no m x n product."""
    return norms.outer_squares(d, x)


def sum_of_rows_squares(d: Any) -> Any:
    """Squared norm of the sum of the rows of d (B, m)."""
    return norms.sum_of_rows_squares(d)


def _largest_entry(pointer: Any, n: Any) -> Any:
    widest_vectors()
    return norms.largest(vector_at(pointer, 0, n))


def _shift_entry(pointer: Any, n: Any, exponent: Any) -> None:
    norms.shift_exponent(vector_at(pointer, 0, n), exponent)


def _log_norm_entry(pointer: Any, n: Any, exponent: Any) -> Any:
    return norms.log_norm_of(vector_at(pointer, 0, n), exponent)


def _log_norms_entry(pointer: Any, size: Any, gap: Any, n: Any, exponents: Any, _: Any, values: Any, count: Any) -> None:
    widest_vectors()
    logarithms.log_norms_of(vector_at(pointer, 0, size), gap, n, vector_at(exponents, 0, count), vector_at(values, 0, count))


def _outer_entry(d_pointer: Any, d_rows: Any, d_columns: Any, x_pointer: Any, x_rows: Any, x_columns: Any) -> Any:
    return norms.outer_squares(as_matrix(d_pointer, d_rows, d_columns), as_matrix(x_pointer, x_rows, x_columns))


def _rows_entry(pointer: Any, rows: Any, columns: Any) -> Any:
    return norms.sum_of_rows_squares(as_matrix(pointer, rows, columns))


_EXPONENTS, _VALUES = types.Array(types.int64, 1, "C"), types.Array(types.float64, 1, "C")

by_symbol(largest, Shared("largest", _largest_entry, (1,), (), None))
by_symbol(shift_exponent, Shared("shift_exponent", _shift_entry, (1,), (types.int64,), types.void))
by_symbol(log_norm_of, Shared("log_norm_of", _log_norm_entry, (1,), (types.int64,), types.float64))
by_symbol(log_norms_of, Shared("log_norms_of", _log_norms_entry, (1,), (types.int64, types.int64, _EXPONENTS, _VALUES), types.void))
by_symbol(outer_squares, Shared("outer_squares", _outer_entry, (2, 2), (), types.float64))
by_symbol(sum_of_rows_squares, Shared("sum_of_rows_squares", _rows_entry, (2,), (), types.float64))


@cache
def _prepared(shared: Shared, dtype: str) -> Any:
    number = types.float32 if dtype == "float32" else types.float64
    return entry_point(shared.entry, shared.c_signature(number), f"fastgrad_{shared.symbol}_{dtype}", counts_references=False)


def prepare_norms(dtype: str, of_rows: bool = False) -> None:
    """Compile (or load) these functions in one precision; must have been called before a kernel that uses them runs.

    ``of_rows``: with `log_norms_of` in place of `log_norm_of`; a kernel uses one of the two.
    """
    unused = "log_norm_of" if of_rows else "log_norms_of"
    for shared in SHARED:
        if shared.symbol != unused:
            _prepared(shared, dtype)
