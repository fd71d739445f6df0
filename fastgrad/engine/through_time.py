"""One stacked layer of a recurrent net through all steps, forward and backward, blind to which cell it is made of.

Letters as in ``unrolled.py``: T steps, B sequences, H units, G gates of the cell, P pre-activation rows, S states, V local derivatives, N input
features; C steps of which the input product is formed together.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from fastgrad.engine.arrays import copy, fill
from fastgrad.engine.native import product_transposed
from fastgrad.engine.norms import excess, log_size, power_of_two
from fastgrad.engine.parameter_gradients import (
    ACTIVATION,
    CELL_GRADIENT,
    GRADIENT,
    GRADIENT_MAX,
    NOTHING,
    input_gradients,
    put,
    record_step,
    wants_parameters,
)
from fastgrad.engine.shared_norms import largest, log_norms_of, shift_exponent
from fastgrad.engine.steps import backward_steps, forward_steps
from fastgrad.engine.views import as_matrix, as_vector, columns_at, matrix_at, vector_at
from fastgrad.jit import register_jitable


class CellInfo(NamedTuple):
    """The cell as the kernel sees it: addresses of its loops (``pointwise.py``) and of those over steps (``steps.py``), numbers of its contract,
    where W_ih's gates go in pre."""

    forward: int
    backward: int
    forward_steps: int
    backward_steps: int
    gates: int
    n_pre: int
    n_states: int
    n_local: int
    input_rows: Any
    rows_apart: bool
    homogeneous: bool


@register_jitable(error_model="numpy")
def _scaled_pre(pre, bias, biased, hidden, exponent, x_exponent, scaled_hidden):
    """Homogeneous cells: bring U x (in pre), b and h to one exponent, which is returned; h goes to scaled_hidden."""
    flat_pre = as_vector(pre)
    common = NOTHING
    if largest(hidden) > 0:
        common = exponent
    if largest(flat_pre) > 0:
        common = x_exponent if x_exponent > common else common
    if biased:
        common = 0 if common < 0 else common
    if common == NOTHING:
        common = 0
    copy(hidden, scaled_hidden)
    shift_exponent(scaled_hidden, exponent - common)
    shift_exponent(flat_pre, x_exponent - common)
    if biased:  # then common >= 0, and the factor at most 1
        factor = pre.dtype.type(power_of_two(-common))
        for b in range(pre.shape[0]):
            for j in range(bias.size):
                pre[b, j] += bias[j] * factor
    return common


@register_jitable(error_model="numpy")
def _add_from_above(gradient, exponent, above, above_exponent):
    """gradient (S B H,) += above (B H,) in its first row; returns the new exponent."""
    if above_exponent == NOTHING:
        return exponent
    if exponent == NOTHING or above_exponent > exponent:
        if exponent != NOTHING:
            shift_exponent(gradient, exponent - above_exponent)
        exponent = above_exponent
    factor = above.dtype.type(power_of_two(above_exponent - exponent))
    for j in range(above.size):
        gradient[j] += above[j] * factor
    return exponent


@register_jitable(error_model="numpy")
def _renormalise(x, exponent):
    """Take a power of two out of x if it has left the window; returns the new exponent, NOTHING if x is zero."""
    top = largest(x)
    if top == 0.0:
        return NOTHING
    shift = excess(top)
    if shift != 0:
        shift_exponent(x, -shift)
        exponent += shift
    return exponent


@register_jitable(error_model="numpy")
def _record_gradients(out, columns, slots, k, layer, first, units, gradients, totals, exponents, logs):
    """Of the steps from ``first``: derivatives by h, which lead the rows of gradients (steps, S B H), and by the last state (steps, B H)."""
    count = exponents.size
    logs = vector_at(logs, 0, count)
    size = gradients.size // count
    if columns[GRADIENT] >= 0:
        log_norms_of(gradients, size, units, exponents, logs)
        for i in range(count):
            put(out, columns, slots, GRADIENT, k, layer, first + i, logs[i])
    if columns[CELL_GRADIENT] >= 0:
        log_norms_of(totals, units, units, exponents, logs)
        for i in range(count):
            put(out, columns, slots, CELL_GRADIENT, k, layer, first + i, logs[i])
    if columns[GRADIENT_MAX] >= 0:
        for i in range(count):
            put(out, columns, slots, GRADIENT_MAX, k, layer, first + i, log_size(largest(vector_at(gradients, i * size, units)), exponents[i]))


@register_jitable(error_model="numpy")
def _input_product(cell, width, u_transposed, x, bias, biased, pre):
    """pre (n, P H) = U x in the input rows, plus b unless the cell is homogeneous; x (n, N)."""
    rows = cell.gates * width
    flat = as_vector(pre)
    adds_bias = biased and not cell.homogeneous
    if adds_bias:
        for i in range(pre.shape[0]):
            copy(bias, vector_at(flat, i * bias.size, bias.size))
    elif cell.rows_apart:
        fill(flat, 0)
    onto = cell.rows_apart or adds_bias
    if cell.rows_apart:
        for gate in range(cell.gates):
            part = columns_at(u_transposed, gate * width, width)
            product_transposed(part, x, columns_at(pre, cell.input_rows[gate] * width, width), onto)
    else:
        product_transposed(columns_at(u_transposed, 0, rows), x, pre, onto)


@register_jitable(error_model="numpy")
def forward_layer(cell, batch, x, x_exponents, w_t, u_t, bias, biased, states, exponents, local, pre, scaled, logs, out, columns, slots, k, layer):
    """One stacked layer through all steps; returns -1 or the first step that left the number range.

    x (T B N,), states (S (T + 1) B H,), local (T B V H,), pre (C B P H,), scaled (B H,) and logs are vectors.
    """
    steps = x_exponents.size
    features, width = u_t.shape[0], w_t.shape[0]
    units, pre_width, n_local = batch * width, cell.n_pre * width, cell.n_local * width
    gap = (cell.n_states - 1) * (steps + 1) * units  # from a row of h to its row of c
    together = pre.size // (batch * pre_width)
    for s in range(cell.n_states):
        fill(vector_at(states, s * (steps + 1) * units, units), 0)
    exponents[0] = 0
    put(out, columns, slots, ACTIVATION, k, layer, 0, -math.inf)
    for first in range(0, steps, together):
        count = together if together <= steps - first else steps - first
        now = as_matrix(pre, count * batch, pre_width)
        _input_product(cell, width, u_t, matrix_at(x, first * batch * features, count * batch, features), bias, biased, now)
        if cell.homogeneous:
            for t in range(first, first + count):
                now = vector_at(pre, (t - first) * batch * pre_width, batch * pre_width)
                state = vector_at(states, t * units, units)
                exponent = _scaled_pre(as_matrix(now, batch, pre_width), bias, biased, state, exponents[t], x_exponents[t], scaled)
                forward_steps(cell, 1, batch, width, w_t, t, scaled, state, now, vector_at(local, t * batch * n_local, batch * n_local), gap)
                h = vector_at(states, (t + 1) * units, units)
                shift = excess(largest(h))
                if shift != 0:
                    shift_exponent(h, -shift)
                    exponent += shift
                exponents[t + 1] = exponent
        else:
            state = vector_at(states, first * units, units)
            forward_steps(cell, count, batch, width, w_t, first, state, state, pre, vector_at(local, first * batch * n_local, n_local), gap)
            fill(vector_at(exponents, first + 1, count), 0)
        sizes = vector_at(logs, 0, count)
        log_norms_of(vector_at(states, (first + 1) * units, count * units), units, units, vector_at(exponents, first + 1, count), sizes)
        for i in range(count):
            if not sizes[i] < math.inf:  # NaN too
                return first + i + 1
            put(out, columns, slots, ACTIVATION, k, layer, first + i + 1, sizes[i])
    return -1


@register_jitable(error_model="numpy")
def _steps_alone(above_exponents, t, most):
    """How many steps from step t back nothing is added to from above, the first of them aside; at most ``most``."""
    most = most if most < t else t
    count = 1
    while count < most and above_exponents[t - count] == NOTHING:
        count += 1
    return count


@register_jitable(error_model="numpy")
def backward_layer(
    cell, batch, width, w, states, exponents, x, x_exponents, local, above, above_exponents, d_pre, gradients, totals, gradient_exponents,
    rows, logs, out, columns, slots, k, layer,
):  # fmt: skip
    """One stacked layer back through all steps; fills d_pre (T B P H,), or (B P H,) again and again, and the exponents (T + 1,).

    gradients and totals hold some steps at a time, whose norms are then recorded. All arrays but w (G H, row of at least H) and rows (B, G H)
    are vectors, in the order of `Work`.
    """
    steps = x_exponents.size
    units, pre_width, n_local, features = batch * width, cell.n_pre * width, cell.n_local * width, x.size // (steps * batch)
    size = cell.n_states * units
    gap = (cell.n_states - 1) * units
    d_pre_gap = batch * pre_width if d_pre.size > batch * pre_width else 0
    records_parameters = wants_parameters(columns)
    last = gradients.size // size - 1
    row = last
    gradient = vector_at(gradients, row * size, size)
    fill(gradient, 0)
    exponent = NOTHING
    t = steps
    while t > 0:
        exponent = _add_from_above(gradient, exponent, vector_at(above, t * units, units), above_exponents[t])
        count = 1 if records_parameters else _steps_alone(above_exponents, t, row)
        d_now = vector_at(d_pre, (t - 1) * d_pre_gap, batch * pre_width)
        ran = backward_steps(
            cell, count, batch, width, w, t, gradient, vector_at(local, (t - 1) * batch * n_local, n_local), d_now, d_pre_gap,
            vector_at(totals, row * units, units), gap,
        )  # fmt: skip
        for i in range(abs(ran)):
            gradient_exponents[t - i] = exponent
        if records_parameters:
            record_step(
                out, columns, slots, cell.input_rows, k, layer, t, as_matrix(d_now, batch, pre_width),
                matrix_at(states, (t - 1) * units, batch, width), matrix_at(x, (t - 1) * batch * features, batch, features),
                0 if exponent == NOTHING else exponent, exponents[t - 1], x_exponents[t - 1], rows,
            )  # fmt: skip
        row -= abs(ran)
        t -= abs(ran)
        gradient = vector_at(gradients, row * size, size)
        if ran < 0:
            exponent = _renormalise(gradient, exponent)
        if row > 0 and t > 0:
            continue
        first, lowest = t + 1, 1
        if t == 0:  # then row holds step 0, which is recorded too
            gradient_exponents[0] = exponent
            copy(vector_at(gradient, gap, units), vector_at(totals, row * units, units))
            first, lowest = 0, row
        count = last + 1 - lowest
        _record_gradients(
            out, columns, slots, k, layer, first, units, vector_at(gradients, lowest * size, count * size),
            vector_at(totals, lowest * units, count * units), vector_at(gradient_exponents, first, count), logs,
        )  # fmt: skip
        if t > 0:
            row = last
            copy(gradient, vector_at(gradients, row * size, size))
            gradient = vector_at(gradients, row * size, size)


@register_jitable(error_model="numpy")
def gradient_below(cell, batch, u, d_pre, gradient_exponents, below, below_exponents, rows):
    """dl/dx_t = U^T d_pre_t for all steps, in below ((T + 1) B H,); u (G H, H), d_pre (T B P H,), rows (B, G H)."""
    width = u.shape[1]
    pre_width = cell.n_pre * width
    below_exponents[0] = NOTHING
    for t in range(1, below_exponents.size):
        input_gradients(matrix_at(d_pre, (t - 1) * batch * pre_width, batch, pre_width), cell.input_rows, width, rows)
        product_transposed(u, rows, matrix_at(below, t * batch * width, batch, width), False)
        below_exponents[t] = gradient_exponents[t]
