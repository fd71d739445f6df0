"""Forward and backward through time for stacked recurrent nets, blind to which cell they are made of.

Letters: T steps, B sequences, H units, K stacked layers, G gates of the cell, P pre-activation rows, S states, V local derivatives, N input
features (H above the first layer), R realizations.

    forward    pre_t = U x_t + W h_{t-1} + b (rows as the cell's contract says),  (h_t, c_t) = cell.forward(pre_t, (h_{t-1}, c_{t-1}))
    backward   gradient_t = from step t + 1 + from the layer above,  (d_pre_t, d_state) = cell.backward(gradient_t),
               dl/dh_{t-1} = d_state + W^T d_pre_t,  dl/dx_t = U^T d_pre_t

Weights are shared through time, so they are drawn once per realization and kept in both orientations; every product is then a sum of contiguous
rows. (vector, exponent) pairs keep both passes in range (``norms.py``); forward they move only for positively homogeneous cells.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from fastgrad.engine.aligned import aligned_empty, aligned_zeros, odd_lines, whole_lines
from fastgrad.engine.arrays import copy, copy_rows, fill, transpose
from fastgrad.engine.compile import kernel
from fastgrad.engine.draws import NORMAL, SLACK, draw_probe, draw_vector
from fastgrad.engine.native import product_transposed
from fastgrad.engine.norms import excess, log_size, power_of_two
from fastgrad.engine.parameter_gradients import (
    ACTIVATION,
    BIAS_TOTAL,
    CELL_GRADIENT,
    GRADIENT,
    GRADIENT_MAX,
    INPUT_BIAS_TOTAL,
    INPUT_WEIGHT_TOTAL,
    NOTHING,
    SUM_CHUNK,
    bias_total,
    input_gradients,
    put,
    record_step,
    wants_parameters,
    weight_total,
)
from fastgrad.engine.pointwise import backward_units, forward_units
from fastgrad.engine.random import Role, address
from fastgrad.engine.recurrent_weights import Weights, draw_weights, pre_bias
from fastgrad.engine.shared_norms import largest, log_norms_of, shift_exponent
from fastgrad.engine.views import as_matrix, as_vector, columns_at, columns_turned, matrix_at, rows_turned, vector_at
from fastgrad.jit import register_jitable

CHUNK = 64  # rows (steps times sequences) of input product at once: enough to share each load of U, and their pre-activations stay in cache
NEAREST = 32 * 1024  # bytes of the cache that a core reads without waiting


class Block(NamedTuple):
    """What is run and kept.

    first, count : realizations.  key : two uint32.  inputs : (T, B, N), read only if ``given_inputs``, else overwritten by each realization and
    followed by room for ``SLACK`` numbers.
    unit_probe : v on the unit sphere, else ones.  slots : (T + 1,) output column of step t or -1.  columns, total_columns : output row of
    each variable or -1.
    """

    first: int
    count: int  # type: ignore[assignment]  # tuple.count is not missed
    key: Any
    inputs: Any
    given_inputs: bool
    unit_probe: bool
    slots: Any
    columns: Any
    total_columns: Any


class Work(NamedTuple):
    """Arrays that one block works in.

    w : W_hh; w_t, first_t, rest_t : transposed W_hh, W_ih of the first layer and of one above; rows of all four start at cache lines.
    bias : (P H,).  pre : (C, B, P H) for the C steps of an input product (`steps_at_once`).
    states : (K, S, T + 1, B, H) with exponents (K, T + 1).  local : (K, T, B, V, H).  scaled : (B, H).  above : (2, T + 1, B, H) with
    above_exponents (2, T + 1), gradients from the layer above and for the one below.  rows : (SUM_CHUNK, B, G H).  none : (T,) zero exponents.
    orders : (T,).  product_first, product_rest : (N, G H), (H, G H), sums over steps.  sums : (G H,) float64.  probe : (B H,) and
    ``SLACK`` numbers.  Of each stacked layer in turn: d_pre (layers, T, B, P H); at each step in turn gradients (layers, rows, S, B, H), and totals
    (layers, rows, B, H), the full derivative by the last state; exponents of all three gradient_exponents (layers, T + 1).  logs : as many
    numbers as these have rows, or C.

    With K layers and T + 1 rows in these, everything is still there afterwards; a run needs one layer, C + 1 rows of gradients and totals,
    and one step of d_pre unless layers below or sums over the steps ask for all.
    """

    w: Any
    w_t: Any
    first_t: Any
    rest_t: Any
    bias: Any
    pre: Any
    states: Any
    exponents: Any
    local: Any
    scaled: Any
    d_pre: Any
    gradients: Any
    totals: Any
    gradient_exponents: Any
    above: Any
    above_exponents: Any
    rows: Any
    none: Any
    orders: Any
    product_first: Any
    product_rest: Any
    sums: Any
    logs: Any
    probe: Any


def steps_at_once(batch: int, steps: int) -> int:
    """Steps whose input products are formed, and whose norms are taken, together."""
    return max(1, min(CHUNK // batch, steps))


def work_arrays(weights: Weights, inputs: Any, cell: CellInfo, keep_d_pre: bool, keep_all: bool = False) -> Work:
    """Room for a block; ``keep_d_pre``: that of every step of a layer; ``keep_all``: nothing of the last realization is overwritten."""
    steps, batch, features = inputs.shape
    stacked, rows, width = weights.recurrent.shape
    dtype = inputs.dtype
    together = steps_at_once(batch, steps)
    layers, at_once = (stacked, steps + 1) if keep_all else (1, together + 1)
    # Behind the rows of weights are zeros: narrow products take them along, and what memory held before may be subnormal, each a hundred cycles.
    return Work(
        w=aligned_zeros((rows, whole_lines(width)), dtype),
        w_t=aligned_zeros((width, whole_lines(rows)), dtype),
        first_t=aligned_zeros((features, odd_lines(rows, dtype)), dtype),
        rest_t=aligned_zeros((width, odd_lines(rows, dtype)), dtype),
        bias=aligned_empty(cell.n_pre * width, dtype),
        pre=aligned_empty((together, batch, cell.n_pre * width), dtype),
        states=aligned_zeros((stacked, cell.n_states, steps + 1, batch, width), dtype),
        exponents=aligned_zeros((stacked, steps + 1), np.int64),
        local=aligned_empty((stacked, steps, batch, cell.n_local, width), dtype),
        scaled=aligned_empty((batch, width), dtype),
        d_pre=aligned_empty((layers, steps if keep_all or keep_d_pre else 1, batch, cell.n_pre * width), dtype),
        gradients=aligned_empty((layers, at_once, cell.n_states, batch, width), dtype),
        totals=aligned_empty((layers, at_once, batch, width), dtype),
        gradient_exponents=aligned_empty((layers, steps + 1), np.int64),
        above=aligned_zeros((2, steps + 1, batch, width), dtype),
        above_exponents=aligned_empty((2, steps + 1), np.int64),
        rows=aligned_empty((SUM_CHUNK, batch, rows), dtype),
        none=aligned_zeros(steps, np.int64),
        orders=aligned_empty(steps, np.int64),
        product_first=aligned_empty((features, rows), dtype),
        product_rest=aligned_empty((width, rows), dtype),
        sums=aligned_empty(rows),
        logs=aligned_empty(at_once),
        probe=aligned_empty(batch * width + SLACK, dtype),
    )


class CellInfo(NamedTuple):
    """The cell as the kernel sees it: addresses of its loops (``pointwise.py``), numbers of its contract, where W_ih's gates go in pre."""

    forward: int
    backward: int
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
def _alternates(weights):
    """Whether successive steps read the weights in opposite orders: what the nearest cache still holds of the last step is then read first."""
    return weights.shape[0] * weights.shape[1] * weights.itemsize > NEAREST


@register_jitable(error_model="numpy")
def _recurrent_product(weights, x, out, turned):
    """out += x (B, n) times weights (n, m), with the sum's terms in the opposite order if ``turned``."""
    product_transposed(rows_turned(weights, turned), columns_turned(x, turned), out, True)


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
def _forward_layer(cell, batch, x, x_exponents, w_t, u_t, bias, biased, states, exponents, local, pre, scaled, logs, out, columns, slots, k, layer):
    """One stacked layer through all steps; returns -1 or the first step that left the number range.

    x (T B N,), states (S (T + 1) B H,), local (T B V H,), pre (C B P H,), scaled (B H,) and logs are vectors.
    """
    steps = x_exponents.size
    features, width = u_t.shape[0], w_t.shape[0]
    units, pre_width, n_local = batch * width, cell.n_pre * width, cell.n_local * width
    gap = (cell.n_states - 1) * (steps + 1) * units  # from a row of h to its row of c
    together = pre.size // (batch * pre_width)
    weights = columns_at(w_t, 0, cell.gates * width)
    alternates = _alternates(weights)
    for s in range(cell.n_states):
        fill(vector_at(states, s * (steps + 1) * units, units), 0)
    exponents[0] = 0
    put(out, columns, slots, ACTIVATION, k, layer, 0, -math.inf)
    for first in range(0, steps, together):
        count = together if together <= steps - first else steps - first
        now = as_matrix(pre, count * batch, pre_width)
        _input_product(cell, width, u_t, matrix_at(x, first * batch * features, count * batch, features), bias, biased, now)
        for t in range(first, first + count):
            now = matrix_at(pre, (t - first) * batch * pre_width, batch, pre_width)
            exponent = 0
            hidden = matrix_at(states, t * units, batch, width)
            if cell.homogeneous:
                exponent = _scaled_pre(now, bias, biased, as_vector(hidden), exponents[t], x_exponents[t], scaled)
                hidden = as_matrix(scaled, batch, width)
            _recurrent_product(weights, hidden, columns_at(now, 0, cell.gates * width), alternates and t % 2 == 1)
            for b in range(batch):
                forward_units(
                    cell.forward, vector_at(now, b * pre_width, pre_width), vector_at(states, t * units + b * width, width),
                    vector_at(states, (t + 1) * units + b * width, width), vector_at(local, (t * batch + b) * n_local, n_local), gap,
                )  # fmt: skip
            if cell.homogeneous:
                h = vector_at(states, (t + 1) * units, units)
                shift = excess(largest(h))
                if shift != 0:
                    shift_exponent(h, -shift)
                    exponent += shift
            exponents[t + 1] = exponent
        sizes = vector_at(logs, 0, count)
        log_norms_of(vector_at(states, (first + 1) * units, count * units), units, units, vector_at(exponents, first + 1, count), sizes)
        for i in range(count):
            if not sizes[i] < math.inf:  # NaN too
                return first + i + 1
            put(out, columns, slots, ACTIVATION, k, layer, first + i + 1, sizes[i])
    return -1


@register_jitable(error_model="numpy")
def _backward_layer(
    cell, batch, w, states, exponents, x, x_exponents, local, above, above_exponents, d_pre, gradients, totals, gradient_exponents,
    rows, logs, out, columns, slots, k, layer,
):  # fmt: skip
    """One stacked layer back through all steps; fills d_pre (T B P H,), or (B P H,) again and again, and the exponents (T + 1,).

    gradients and totals hold some steps at a time, whose norms are then recorded. All arrays but w (G H, H) and rows (B, G H) are vectors, in
    the order of `Work`.
    """
    steps = x_exponents.size
    width, gate_rows = w.shape[1], w.shape[0]
    units, pre_width, n_local, features = batch * width, cell.n_pre * width, cell.n_local * width, x.size // (steps * batch)
    size = cell.n_states * units
    gap = (cell.n_states - 1) * units
    d_pre_gap = batch * pre_width if d_pre.size > batch * pre_width else 0
    alternates = _alternates(w)
    records_parameters = wants_parameters(columns)
    last = gradients.size // size - 1
    row = last
    gradient = vector_at(gradients, row * size, size)
    fill(gradient, 0)
    exponent = NOTHING
    for t in range(steps, 0, -1):
        exponent = _add_from_above(gradient, exponent, vector_at(above, t * units, units), above_exponents[t])
        before = vector_at(gradients, (row - 1) * size, size)
        total = vector_at(totals, row * units, units)
        d_now = matrix_at(d_pre, (t - 1) * d_pre_gap, batch, pre_width)
        for b in range(batch):
            backward_units(
                cell.backward, vector_at(gradient, b * width, width), vector_at(local, ((t - 1) * batch + b) * n_local, n_local),
                vector_at(d_now, b * pre_width, pre_width), vector_at(before, b * width, width), vector_at(total, b * width, width), gap,
            )  # fmt: skip
        gradient_exponents[t] = exponent
        if records_parameters:
            record_step(
                out, columns, slots, cell.input_rows, k, layer, t, d_now, matrix_at(states, (t - 1) * units, batch, width),
                matrix_at(x, (t - 1) * batch * features, batch, features), 0 if exponent == NOTHING else exponent,
                exponents[t - 1], x_exponents[t - 1], rows,
            )  # fmt: skip
        _recurrent_product(w, columns_at(d_now, 0, gate_rows), as_matrix(before, batch, width), alternates and t % 2 == 1)
        gradient = before
        exponent = _renormalise(gradient, exponent)
        row -= 1
        if row > 0 and t > 1:
            continue
        first, lowest = t, 1
        if t == 1:  # then row holds step 0, which is recorded too
            gradient_exponents[0] = exponent
            copy(vector_at(gradient, gap, units), vector_at(totals, row * units, units))
            first, lowest = 0, row
        count = last + 1 - lowest
        _record_gradients(
            out, columns, slots, k, layer, first, units, vector_at(gradients, lowest * size, count * size),
            vector_at(totals, lowest * units, count * units), vector_at(gradient_exponents, first, count), logs,
        )  # fmt: skip
        if t > 1:
            row = last
            gradient = vector_at(gradients, row * size, size)
            copy(before, gradient)


@register_jitable(error_model="numpy")
def _gradient_below(cell, batch, u, d_pre, gradient_exponents, below, below_exponents, rows):
    """dl/dx_t = U^T d_pre_t for all steps, in below ((T + 1) B H,); u (G H, H), d_pre (T B P H,), rows (B, G H)."""
    width = u.shape[1]
    pre_width = cell.n_pre * width
    below_exponents[0] = NOTHING
    for t in range(1, below_exponents.size):
        input_gradients(matrix_at(d_pre, (t - 1) * batch * pre_width, batch, pre_width), cell.input_rows, width, rows)
        product_transposed(u, rows, matrix_at(below, t * batch * width, batch, width), False)
        below_exponents[t] = gradient_exponents[t]


@register_jitable(error_model="numpy")
def _record_totals(cell, work, totals, total_columns, k, layer, d_pre, d_exponents, hidden, exponents, x, x_exponents):
    """The derivatives by W_hh, W_ih, b_hh, b_ih of one stacked layer, summed over the steps; d_pre (T, B, P H), hidden and x vectors."""
    width = work.w_t.shape[0]
    rows, orders = work.rows, work.orders
    for variable in range(total_columns.size):
        row = total_columns[variable]
        if row < 0:
            continue
        for_input = variable in (INPUT_WEIGHT_TOTAL, INPUT_BIAS_TOTAL)
        if variable in (BIAS_TOTAL, INPUT_BIAS_TOTAL):
            value = bias_total(d_pre, d_exponents, for_input, cell.input_rows, width, rows, work.sums)
        else:
            source, source_exponents = (x, x_exponents) if for_input else (hidden, exponents)
            total = work.product_first if for_input and layer == 0 else work.product_rest
            value = weight_total(d_pre, d_exponents, source, source_exponents, for_input, cell.input_rows, width, rows, total, orders)
        totals[row, k, layer] = value


@register_jitable(error_model="numpy")
def _draw(one, cell, weights, block, k):
    """Weights and inputs of realization k of the block, where they are not given."""
    realization = block.first + k
    if not weights.given:
        draw_weights(one, weights, cell.gates, realization, block.key)
    if not block.given_inputs:
        x = as_vector(block.inputs)
        draw_vector(x, x.size, NORMAL, one, address(Role.INPUT, 0, 0, realization), block.key)


@register_jitable(error_model="numpy")
def _forward(cell, weights, block, work, out, k):
    """All stacked layers through all steps; returns -1 or the first step that left the number range."""
    steps, batch, _ = block.inputs.shape
    stacked, rows, width = weights.recurrent.shape
    units = batch * width
    states_size, local_size = cell.n_states * (steps + 1) * units, steps * cell.n_local * units
    x, x_exponents, u_t = as_vector(block.inputs), work.none, work.first_t
    for layer in range(stacked):
        transpose(matrix_at(weights.recurrent, layer * rows * width, rows, width), work.w_t)
        biased = pre_bias(weights.biases[layer], weights.input_biases[layer], cell.gates, cell.input_rows, width, work.bias)
        if layer == 0:
            transpose(weights.input_first, work.first_t)
        else:
            transpose(matrix_at(weights.input_rest, (layer - 1) * rows * width, rows, width), work.rest_t)
            x = vector_at(work.states, (layer - 1) * states_size + units, steps * units)
            x_exponents, u_t = vector_at(work.exponents, (layer - 1) * (steps + 1) + 1, steps), work.rest_t
        left = _forward_layer(
            cell, batch, x, x_exponents, work.w_t, u_t, work.bias, biased, vector_at(work.states, layer * states_size, states_size),
            work.exponents[layer], vector_at(work.local, layer * local_size, local_size), as_vector(work.pre), as_vector(work.scaled),
            work.logs, out, block.columns, block.slots, k, layer,
        )  # fmt: skip
        if left >= 0:
            return left
    return -1


@register_jitable(error_model="numpy")
def _backward(one, cell, weights, block, work, out, totals, k):
    """All stacked layers from the loss down."""
    steps, batch, _ = block.inputs.shape
    stacked, rows, width = weights.recurrent.shape
    units = batch * width
    states_size, local_size = cell.n_states * (steps + 1) * units, steps * cell.n_local * units
    above_size = (steps + 1) * units
    draw_probe(work.probe, units, block.unit_probe, address(Role.PROBE, 0, 0, block.first + k), block.key)
    fill(work.above_exponents[0], NOTHING)
    copy(work.probe, vector_at(work.above, steps * units, units))
    work.above_exponents[0, steps] = 0
    step_rows = as_matrix(work.rows, batch, rows)
    w = columns_at(work.w, 0, width)
    for layer in range(stacked - 1, -1, -1):
        now = (stacked - 1 - layer) % 2
        turn = layer % work.d_pre.shape[0]
        x, x_exponents = as_vector(block.inputs), work.none
        if layer > 0:
            x = vector_at(work.states, (layer - 1) * states_size + units, steps * units)
            x_exponents = vector_at(work.exponents, (layer - 1) * (steps + 1) + 1, steps)
        states, exponents = vector_at(work.states, layer * states_size, states_size), work.exponents[layer]
        d_pre, gradient_exponents = work.d_pre[turn], work.gradient_exponents[turn]
        flat_d_pre = as_vector(d_pre)
        copy_rows(matrix_at(weights.recurrent, layer * rows * width, rows, width), w)
        _backward_layer(
            cell, batch, w, states, exponents, x, x_exponents,
            vector_at(work.local, layer * local_size, local_size), vector_at(work.above, now * above_size, above_size),
            work.above_exponents[now], flat_d_pre, as_vector(work.gradients[turn]), as_vector(work.totals[turn]), gradient_exponents,
            step_rows, work.logs, out, block.columns, block.slots, k, layer,
        )  # fmt: skip
        if layer > 0:
            u = matrix_at(weights.input_rest, (layer - 1) * rows * width, rows, width)
            below, below_exponents = vector_at(work.above, (1 - now) * above_size, above_size), work.above_exponents[1 - now]
            _gradient_below(cell, batch, u, flat_d_pre, gradient_exponents, below, below_exponents, step_rows)
        d_exponents, hidden = vector_at(gradient_exponents, 1, steps), vector_at(states, 0, steps * units)
        _record_totals(cell, work, totals, block.total_columns, k, layer, d_pre, d_exponents, hidden, vector_at(exponents, 0, steps), x, x_exponents)


def _run(one, cell, weights, block, work, out, totals, left):
    for k in range(block.count):
        _draw(one, cell, weights, block, k)
        left[k] = _forward(cell, weights, block, work, out, k)
        if left[k] < 0:  # else NaN stays in every gradient of this realization
            _backward(one, cell, weights, block, work, out, totals, k)


@lru_cache(maxsize=1)
def unrolled_kernel() -> Callable[..., Any]:
    """The kernel ``run(one, cell, weights, block, work, out, totals, left)``; ``draws.prepare``, `prepare_norms` and `matrix_drawer` come first.

    one : the number 1 in the precision of the run.  out : (variables, R, K, kept steps) and totals : (variables, R, K), float64, nats,
    prefilled with NaN.  left : (R,) int64, -1 or the first step whose activations left the number range.
    """
    return kernel(_run, counts_references=False)
