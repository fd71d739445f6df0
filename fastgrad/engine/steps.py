"""Runs of steps of a recurrent layer: the product and the cell's loop by turns, in ``csrc/steps.inc`` or, without it, in Numba.

Letters: B sequences, H units, G gates, P pre-activation rows, S states, V local derivatives. Arrays are contiguous, the next step's numbers behind
this one's; rows of weights may be longer than what is used of them.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import llvmlite.binding
from numba import types

from fastgrad.engine.native import HAVE_C, product_transposed
from fastgrad.engine.norms import WINDOW, largest
from fastgrad.engine.pointers import caller
from fastgrad.engine.pointwise import TWO_VECTORS, VECTOR, backward_units, c_function_address, forward_units
from fastgrad.engine.views import as_matrix, columns_at, columns_turned, rows_turned, vector_at
from fastgrad.jit import register_jitable

NEAREST = 32 * 1024  # bytes of the cache that a core reads without waiting

_call_forward = caller(*[types.voidptr] * 5, *[types.int64] * 12)
_call_backward = caller(*[types.voidptr] * 5, *[types.int64] * 15, returns=types.int64)


@register_jitable
def _alternates(cell, width, weights):
    """1 if successive steps read the weights in opposite orders: what the nearest cache still holds of the last step is then read first."""
    return 1 if cell.gates * width * width * weights.itemsize > NEAREST else 0


@register_jitable
def forward_steps(cell, count, batch, width, weights, t, hidden, state, pre, local, gap):
    """States of steps t + 1 … t + count, behind the one at ``state`` (B, H), and local derivatives, from pre, which holds U x + b of these steps.

    weights : (H, row of at least G H).  hidden : what they multiply, ``state`` unless it is scaled; then count is 1.  gap : from a row of h to
    its row of c.
    """
    turning = _alternates(cell, width, weights)
    _call_forward(
        cell.forward_steps,
        (
            weights, hidden, pre, state, local, cell.forward, count, batch, width, cell.gates * width, weights.shape[1], cell.n_pre * width,
            cell.n_local * width, gap, width - width % TWO_VECTORS, t % 2 * turning, turning,
        ),
    )  # fmt: skip


@register_jitable
def backward_steps(cell, count, batch, width, weights, t, gradient, local, d_pre, d_pre_gap, total, gap):
    """From the gradient by the states of step t back to that of step t - count, or to where the first leaves the window of ``norms.py``.

    weights : (G H, row of at least H).  gradient, local, d_pre, total : step t's; earlier steps' lie in front, of d_pre ``d_pre_gap`` numbers.
    gap : from a row of h to its row of c.  Returns the number of steps, negative if the gradient has left the window.
    """
    turning = _alternates(cell, width, weights)
    return _call_backward(
        cell.backward_steps,
        (
            weights, gradient, local, d_pre, total, cell.backward, count, batch, width, cell.gates * width, weights.shape[1],
            cell.n_pre * width, cell.n_local * width, gap, cell.n_states * batch * width, d_pre_gap, width - width % VECTOR, t % 2 * turning,
            turning, WINDOW,
        ),
    )  # fmt: skip


@register_jitable
def _add_product(weights, x, out, turned):
    """out += x (B, K) times weights (K, M), with the sum's terms in the opposite order if ``turned``."""
    product_transposed(rows_turned(weights, turned), columns_turned(x, turned), out, True)


def _forward_twin(
    weights, hidden, pre, state, local, cell, count, batch, width, rows, row_length, pre_width, local_width, gap, paired, turned, turning
):  # fmt: skip
    matrix = columns_at(as_matrix(weights, width, row_length), 0, rows)
    units = batch * width
    for s in range(count):
        now = as_matrix(vector_at(pre, s * batch * pre_width, batch * pre_width), batch, pre_width)
        x = as_matrix(vector_at(hidden, s * units, units), batch, width)
        _add_product(matrix, x, columns_at(now, 0, rows), (turned + s * turning) % 2 == 1)
        for b in range(batch):
            forward_units(
                cell, vector_at(pre, (s * batch + b) * pre_width, pre_width), vector_at(state, s * units + b * width, width),
                vector_at(state, (s + 1) * units + b * width, width), vector_at(local, (s * batch + b) * local_width, local_width), gap,
            )  # fmt: skip


def _backward_twin(
    weights, gradient, local, d_pre, total, cell, count, batch, width, rows, row_length, pre_width, local_width, gap, size, d_pre_gap, whole,
    turned, turning, window,
):  # fmt: skip
    matrix = columns_at(as_matrix(weights, rows, row_length), 0, width)
    for s in range(count):
        for b in range(batch):
            backward_units(
                cell, vector_at(gradient, b * width - s * size, width), vector_at(local, (b - s * batch) * local_width, local_width),
                vector_at(d_pre, b * pre_width - s * d_pre_gap, pre_width), vector_at(gradient, b * width - (s + 1) * size, width),
                vector_at(total, (b - s * batch) * width, width), gap,
            )  # fmt: skip
        before = vector_at(gradient, -(s + 1) * size, size)
        d_now = as_matrix(vector_at(d_pre, -s * d_pre_gap, batch * pre_width), batch, pre_width)
        _add_product(matrix, columns_at(d_now, 0, rows), as_matrix(before, batch, width), (turned + s * turning) % 2 == 1)
        top = largest(before)  # passes over NaN, at which C ends its run too: nothing comes of that, since whoever rescales passes over it
        if not (top * window >= 1.0 and top <= window):
            return -(s + 1)
    return count


class StepCode(NamedTuple):
    """Addresses of `forward_steps` and `backward_steps` in one precision."""

    forward: int
    backward: int


def native_step_addresses(dtype: str) -> StepCode | None:
    """Addresses in the C extension, or None."""
    suffix = "f32" if dtype == "float32" else "f64"
    if not HAVE_C:
        return None
    return StepCode(*(int(llvmlite.binding.address_of_symbol(f"fg1_{way}_steps_{suffix}")) for way in ("forward", "backward")))


def numba_step_addresses(dtype: str) -> StepCode:
    """Addresses of the twins that Numba compiles."""
    return StepCode(
        c_function_address(_forward_twin, dtype, pointers=5, sizes=12),
        c_function_address(_backward_twin, dtype, pointers=5, sizes=15, returns=types.int64),
    )


@cache
def step_addresses(dtype: str) -> StepCode:
    """Addresses for a kernel's cell."""
    return native_step_addresses(dtype) or numba_step_addresses(dtype)
