"""The pointwise loops of activations and cells: one compiled C function each, called by the drivers through its address.

The first argument of every loop is a pointer, as are all but the sizes; arrays of one call must not overlap (``noalias.py``).
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from numba import types

from fastgrad.activations import ACTIVATIONS
from fastgrad.cells.contract import Cell
from fastgrad.cells.elman import elman_cell
from fastgrad.cells.gru import GRU_CELL
from fastgrad.cells.lstm import LSTM_CELL
from fastgrad.engine.cell_rows import load_rows, store_rows, store_second
from fastgrad.engine.compile import entry_point
from fastgrad.engine.native_tanh import native_activation_address, native_elman_address, native_sums_address
from fastgrad.engine.noalias import load, store
from fastgrad.engine.pointers import caller
from fastgrad.engine.views import vector_at
from fastgrad.engine.wide import rest_in_a_mask, two_at_a_time, widest_vectors
from fastgrad.jit import register_jitable

_NUMBERS = {"float32": types.float32, "float64": types.float64}
VECTOR, TWO_VECTORS = 16, 32  # numbers in one and two of the widest vectors, of float32
_keep_alive: list[Any] = []  # compiled code lives as long as its Python object


def c_function_address(function: Any, dtype: str, pointers: int, sizes: int, returns: Any = types.void) -> int:
    """Address of a function compiled for C: pointers to numbers, then sizes."""
    signature = returns(*[types.CPointer(_NUMBERS[dtype])] * pointers, *[types.int64] * sizes)
    compiled = entry_point(function, signature, counts_references=False)
    _keep_alive.append(compiled)
    return int(compiled.address)


# --- activations -------------------------------------------------------------------------------------------------------------------

_call_activation = caller(*[types.voidptr] * 4, types.int64)


@register_jitable
def activate(address, h, bias, x, slope):
    """x = phi(h + bias), slope = phi'(h + bias) for vectors, by the loop at ``address``."""
    _call_activation(address, (h, bias, x, slope, h.size))


_call_sums = caller(*[types.voidptr] * 4, *[types.int64] * 4)


@register_jitable
def activation_sums(address, count, n, z, spreads, noise, sums):
    """`layer_sums` of rows h = spreads[k] z[k] and x = phi(h), which are stored nowhere, by the loop at ``address``: the same bytes.

    z, noise : (rows, row length).  spreads : (count,) float64.  sums : (SUMS, rows).
    """
    _call_sums(address, (z, spreads, noise, sums, count, n, z.shape[1], sums.shape[1]))


@cache
def activation_sums_address(activation: str, dtype: str) -> int:
    """Address of the loop for `activation_sums`, or 0 where an activation has none."""
    return native_sums_address(activation, dtype) or 0


@cache
def activation_address(activation: str, dtype: str) -> int:
    """Address of the loop for `activate`."""
    return native_activation_address(activation, dtype) or numba_activation_address(activation, dtype)


@cache
def numba_activation_address(activation: str, dtype: str) -> int:
    """`activation_address` of the loop that Numba compiles."""
    pair = ACTIVATIONS[activation].pair

    def activation_loop(h_pointer, bias_pointer, x_pointer, slope_pointer, n):
        widest_vectors()
        h, bias = vector_at(h_pointer, 0, n), vector_at(bias_pointer, 0, n)
        x, slope = vector_at(x_pointer, 0, n), vector_at(slope_pointer, 0, n)
        for j in range(n):
            y, d = pair(load(h, j) + load(bias, j))
            store(x, j, y, 0)
            store(slope, j, d, 1)

    return c_function_address(activation_loop, dtype, 4, 1)


# --- cells -------------------------------------------------------------------------------------------------------------------------

_call_forward = caller(*[types.voidptr] * 4, *[types.int64] * 3)
_call_backward = caller(*[types.voidptr] * 5, *[types.int64] * 3)


@register_jitable
def forward_units(address, pre, state, new_state, local, state_gap):
    """One sequence, one step: pre (P H,), local (V, H); state and new_state: the h rows, whose c rows lie ``state_gap`` numbers behind."""
    n = new_state.size
    _call_forward(address, (pre, state, new_state, local, n, state_gap, n - n % TWO_VECTORS))


@register_jitable
def backward_units(address, gradient, local, d_pre, before, total, gap):
    """One sequence, one step back: gradient and before as h rows with their c rows ``gap`` numbers behind, d_pre (P H,), total (H,)."""
    n = total.size
    _call_backward(address, (gradient, local, d_pre, before, total, n, gap, n - n % VECTOR))


class CellCode(NamedTuple):
    """A compiled cell: addresses of its two loops."""

    forward: int
    backward: int


def cell_of(kind: str, activation: str | None) -> Cell:
    """The cell of a network kind."""
    if kind == "lstm":
        return LSTM_CELL
    return GRU_CELL if kind == "gru" else elman_cell(activation or "tanh")


@cache
def cell_addresses(kind: str, activation: str | None, dtype: str) -> CellCode:
    """Addresses of a cell's loops for `forward_units` and `backward_units`."""
    cell = cell_of(kind, activation)
    in_c = native_elman_address(activation or "tanh", dtype) if kind == "rnn" else None
    return CellCode(in_c or numba_forward_address(cell, dtype), numba_backward_address(cell, dtype))


def numba_forward_address(cell: Cell, dtype: str) -> int:
    """Address of a cell's loop for `forward_units` that Numba compiles."""
    forward, n_pre, n_states, n_local = cell.forward, cell.n_pre, cell.n_states, cell.n_local

    def cell_forward_loop(pre_pointer, state_pointer, new_pointer, local_pointer, n, gap, paired):
        widest_vectors()
        pre, local = vector_at(pre_pointer, 0, n_pre * n), vector_at(local_pointer, 0, n_local * n)
        state, new_state = vector_at(state_pointer, 0, gap + n), vector_at(new_pointer, 0, gap + n)
        for j in range(paired):  # two loops: the rest of one that takes two vectors at a time would run on narrow ones
            new, derivatives = forward(load_rows(pre, n, j, n_pre), load_rows(state, gap, j, n_states))
            store_rows(new_state, gap, j, new, 0)
            store_rows(local, n, j, derivatives, 2)
        two_at_a_time()
        for j in range(paired, n):
            new, derivatives = forward(load_rows(pre, n, j, n_pre), load_rows(state, gap, j, n_states))
            store_rows(new_state, gap, j, new, 0)
            store_rows(local, n, j, derivatives, 2)
        rest_in_a_mask()

    return c_function_address(cell_forward_loop, dtype, 4, 3)


def numba_backward_address(cell: Cell, dtype: str) -> int:
    """Address of a cell's loop for `backward_units` that Numba compiles."""
    backward, n_pre, n_states, n_local = cell.backward, cell.n_pre, cell.n_states, cell.n_local

    def cell_backward_loop(gradient_pointer, local_pointer, d_pre_pointer, before_pointer, total_pointer, n, gap, whole):
        widest_vectors()
        gradient, before = vector_at(gradient_pointer, 0, gap + n), vector_at(before_pointer, 0, gap + n)
        local, d_pre = vector_at(local_pointer, 0, n_local * n), vector_at(d_pre_pointer, 0, n_pre * n)
        total = vector_at(total_pointer, 0, n)
        for j in range(whole, n):  # a loop of its own: what is stored through a mask is slow to load again, and the product loads it next
            d, d_state, through = backward(load_rows(gradient, gap, j, n_states), load_rows(local, n, j, n_local))
            store_rows(d_pre, n, j, d, 2)
            store_rows(before, gap, j, d_state, 0)
            store_second(total, j, through, 8)
        rest_in_a_mask()
        for j in range(whole):
            d, d_state, through = backward(load_rows(gradient, gap, j, n_states), load_rows(local, n, j, n_local))
            store_rows(d_pre, n, j, d, 2)
            store_rows(before, gap, j, d_state, 0)
            store_second(total, j, through, 8)

    return c_function_address(cell_backward_loop, dtype, 5, 3)
