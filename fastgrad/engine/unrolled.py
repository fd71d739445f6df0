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
from numba.extending import register_jitable

from fastgrad.engine.arrays import copy, copy_rows, fill, transpose
from fastgrad.engine.compile import kernel
from fastgrad.engine.draws import NORMAL, SLACK, draw_probe, draw_vector
from fastgrad.engine.native import multiply_transposed
from fastgrad.engine.norms import (
    excess,
    largest,
    log_norm_of,
    log_size,
    power_of_two,
    shift_exponent,
)
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
    WEIGHT_TOTAL,
    bias_total,
    input_gradients,
    put,
    record_step,
    weight_total,
)
from fastgrad.engine.pointwise import backward_units, forward_units
from fastgrad.engine.random import Role, address
from fastgrad.engine.recurrent_weights import Weights, draw_weights, pre_bias
from fastgrad.engine.views import as_matrix, as_vector

CHUNK = 64  # steps of input product at once: enough to share each load of U, few enough that their pre-activations stay in cache


class Block(NamedTuple):
    """What is run and kept.

    first, count : realizations.  key : two uint32.  inputs : (T, B, N), read only if ``given_inputs``, else overwritten by each realization.
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

    w_t, first_t, rest_t : transposed W_hh, W_ih of the first layer and of one above.  bias : (P H,).  pre : (CHUNK, B, P H).
    states : (K, S, T + 1, B, H) with exponents (K, T + 1).  local : (K, T, B, V, H).  scaled, total : (B, H).  d_pre : (T, B, P H) with
    d_exponents (T,).  above : (2, T + 1, B, H) with above_exponents (2, T + 1), gradients from the layer above and for the one below.
    gradient, before : (S, B, H), at this step and the one before.  rows : (SUM_CHUNK, B, G H).  none : (T,) zero exponents.  orders : (T,).
    product_first, product_rest : (N, G H), (H, G H), sums over steps.  sums : (G H,) float64.  scratch : any one tensor that is drawn.
    """

    w_t: Any
    first_t: Any
    rest_t: Any
    bias: Any
    pre: Any
    states: Any
    exponents: Any
    local: Any
    scaled: Any
    total: Any
    d_pre: Any
    d_exponents: Any
    above: Any
    above_exponents: Any
    gradient: Any
    before: Any
    rows: Any
    none: Any
    orders: Any
    product_first: Any
    product_rest: Any
    sums: Any
    scratch: Any


def work_arrays(weights: Weights, inputs: Any, draws_inputs: bool, cell: CellInfo) -> Work:
    """Room for a block."""
    steps, batch, features = inputs.shape
    stacked, rows, width = weights.recurrent.shape
    dtype = inputs.dtype
    longest = max(width * max(width, features), rows, batch * width, steps * batch * features if draws_inputs else 0)
    states = (cell.n_states, batch, width)
    return Work(
        w_t=np.empty((width, rows), dtype),
        first_t=np.empty((features, rows), dtype),
        rest_t=np.empty((width, rows), dtype),
        bias=np.empty(cell.n_pre * width, dtype),
        pre=np.empty((min(CHUNK, steps), batch, cell.n_pre * width), dtype),
        states=np.zeros((stacked, cell.n_states, steps + 1, batch, width), dtype),
        exponents=np.zeros((stacked, steps + 1), np.int64),
        local=np.empty((stacked, steps, batch, cell.n_local, width), dtype),
        scaled=np.empty((batch, width), dtype),
        total=np.empty((batch, width), dtype),
        d_pre=np.empty((steps, batch, cell.n_pre * width), dtype),
        d_exponents=np.empty(steps, np.int64),
        above=np.zeros((2, steps + 1, batch, width), dtype),
        above_exponents=np.empty((2, steps + 1), np.int64),
        gradient=np.empty(states, dtype),
        before=np.empty(states, dtype),
        rows=np.empty((SUM_CHUNK, batch, rows), dtype),
        none=np.zeros(steps, np.int64),
        orders=np.empty(steps, np.int64),
        product_first=np.empty((features, rows), dtype),
        product_rest=np.empty((width, rows), dtype),
        sums=np.empty(rows),
        scratch=np.empty(longest + SLACK, dtype),
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


class Trace(NamedTuple):
    """Where the last realization leaves its arrays in float64, exponents applied; nowhere if all axes but the stacked layers are empty.

    states, gradients : (K, S, T + 1, B, H).  The others: total derivatives, shaped as in ``Weights``.
    """

    states: Any
    gradients: Any
    recurrent: Any
    input_first: Any
    input_rest: Any
    biases: Any
    input_biases: Any


@register_jitable(error_model="numpy")
def _scaled_pre(pre, bias, biased, hidden, exponent, x_exponent, scaled_hidden):
    """Homogeneous cells: bring U x (in pre), b and h to one exponent, which is returned; h goes to scaled_hidden."""
    flat_pre = as_vector(pre)
    common = NOTHING
    if largest(as_vector(hidden)) > 0:
        common = exponent
    if largest(flat_pre) > 0:
        common = max(common, x_exponent)
    if biased:
        common = max(common, 0)
    if common == NOTHING:
        common = 0
    copy_rows(hidden, scaled_hidden)
    shift_exponent(as_vector(scaled_hidden), exponent - common)
    shift_exponent(flat_pre, x_exponent - common)
    if biased:  # then common >= 0, and the factor at most 1
        factor = pre.dtype.type(power_of_two(-common))
        for b in range(pre.shape[0]):
            for j in range(bias.size):
                pre[b, j] += bias[j] * factor
    return common


@register_jitable(error_model="numpy")
def _add_from_above(gradient, exponent, above, above_exponent):
    """gradient (S, B, H) += above (B, H) in its first row; returns the new exponent."""
    if above_exponent == NOTHING:
        return exponent
    if exponent == NOTHING or above_exponent > exponent:
        if exponent != NOTHING:
            shift_exponent(as_vector(gradient), exponent - above_exponent)
        exponent = above_exponent
    first = as_vector(gradient[0])
    source = as_vector(above)
    factor = above.dtype.type(power_of_two(above_exponent - exponent))
    for j in range(first.size):
        first[j] += source[j] * factor
    return exponent


@register_jitable(error_model="numpy")
def _renormalise(gradient, exponent):
    """Take a power of two out of the gradient if it has left the window; returns the new exponent."""
    flat = as_vector(gradient)
    top = largest(flat)
    if top == 0.0:
        return NOTHING
    shift = excess(top)
    if shift != 0:
        shift_exponent(flat, -shift)
        exponent += shift
    return exponent


@register_jitable(error_model="numpy")
def _record_gradients(out, columns, slots, k, layer, t, gradient, total, exponent):
    """gradient (S, B, H), total (B, H): the full derivative by the cell state."""
    h = as_vector(gradient[0])
    scale = 0 if exponent == NOTHING else exponent
    put(out, columns, slots, GRADIENT, k, layer, t, log_norm_of(h, scale))
    put(out, columns, slots, GRADIENT_MAX, k, layer, t, log_size(largest(h), scale))
    if gradient.shape[0] == 2:
        put(out, columns, slots, CELL_GRADIENT, k, layer, t, log_norm_of(as_vector(total), scale))


@register_jitable(error_model="numpy")
def _trace_gradients(traced, t, gradient, total, exponent):
    if traced.size == 0:
        return
    scale = 0 if exponent == NOTHING else exponent
    for s in range(gradient.shape[0]):
        kept = traced[s, t]
        copy_rows(gradient[s] if s == 0 else total, kept)
        shift_exponent(as_vector(kept), scale)


@register_jitable(error_model="numpy")
def _trace_states(trace, states, exponents):
    if trace.states.size == 0:
        return
    for layer in range(states.shape[0]):
        for s in range(states.shape[1]):
            for t in range(states.shape[2]):
                kept = trace.states[layer, s, t]
                copy_rows(states[layer, s, t], kept)
                shift_exponent(as_vector(kept), exponents[layer, t])


@register_jitable(error_model="numpy")
def _input_product(cell, u_transposed, x, bias, pre):
    """pre (t, B, P H) = U x_t in the input rows, plus b unless the cell is cell.homogeneous; x (t, B, N)."""
    steps, batch, columns = x.shape
    flat_x = as_matrix(as_vector(x), steps * batch, columns)
    flat = as_matrix(as_vector(pre), steps * batch, pre.shape[2])
    width = u_transposed.shape[1] // cell.gates
    if cell.rows_apart:
        fill(as_vector(flat), 0)
        for gate in range(cell.gates):
            row = cell.input_rows[gate]
            part = u_transposed[:, gate * width : (gate + 1) * width]
            multiply_transposed(part, flat_x, flat[:, row * width : (row + 1) * width], False)
    else:
        multiply_transposed(u_transposed, flat_x, flat, False)
    if not cell.homogeneous:
        for row in range(flat.shape[0]):
            for j in range(bias.size):
                flat[row, j] += bias[j]

@register_jitable(error_model="numpy")
def _forward_layer(cell, x, x_exponents, w_t, u_t, bias, biased, states, exponents, local, pre, scaled, out, columns, slots, k, layer):
    """One stacked layer through all steps; returns -1 or the first step that left the number range."""
    steps, batch, _ = x.shape
    width = w_t.shape[0]
    gap = (cell.n_states - 1) * (steps + 1) * batch * width  # from a row of h to its row of c
    for s in range(cell.n_states):
        fill(as_vector(states[s, 0]), 0)
    exponents[0] = 0
    put(out, columns, slots, ACTIVATION, k, layer, 0, -math.inf)
    for t in range(steps):
        if t % CHUNK == 0:
            n = min(CHUNK, steps - t)
            _input_product(cell, u_t, x[t : t + n], bias, pre[:n])
        now = pre[t % CHUNK]
        exponent = 0
        hidden = states[0, t]
        if cell.homogeneous:
            exponent = _scaled_pre(now, bias, biased, hidden, exponents[t], x_exponents[t], scaled)
            hidden = scaled
        multiply_transposed(w_t, hidden, now[:, : cell.gates * width], True)
        for b in range(batch):
            forward_units(cell.forward, now[b], states[0, t, b], states[0, t + 1, b], local[t, b], gap)
        flat = as_vector(states[0, t + 1])
        if cell.homogeneous:
            shift = excess(largest(flat))
            if shift != 0:
                shift_exponent(flat, -shift)
                exponent += shift
        exponents[t + 1] = exponent
        size = log_norm_of(flat, exponent)
        if not size < math.inf:  # NaN too
            return t + 1
        put(out, columns, slots, ACTIVATION, k, layer, t + 1, size)
    return -1

@register_jitable(error_model="numpy")
def _backward_layer(
    cell, work, w, states, exponents, x, x_exponents, local, above, above_exponents, d_pre, d_exponents, out, columns, slots, k, layer, traced
):
    """One stacked layer back through all steps; fills d_pre (T, B, P H) and its exponents (T,)."""
    steps, batch, _ = d_pre.shape
    width = w.shape[1]
    gradient, before, total = work.gradient, work.before, work.total
    fill(as_vector(gradient), 0)
    gap = (cell.n_states - 1) * batch * width
    exponent = NOTHING
    for t in range(steps, 0, -1):
        exponent = _add_from_above(gradient, exponent, above[t], above_exponents[t])
        d_now = d_pre[t - 1]
        for b in range(batch):
            backward_units(cell.backward, gradient[0, b], local[t - 1, b], d_now[b], before[0, b], total[b], gap)
        _record_gradients(out, columns, slots, k, layer, t, gradient, total, exponent)
        _trace_gradients(traced, t, gradient, total, exponent)
        d_exponents[t - 1] = exponent
        scale = 0 if exponent == NOTHING else exponent
        h, h_exponent, x_exponent = states[0, t - 1], exponents[t - 1], x_exponents[t - 1]
        record_step(out, columns, slots, cell.input_rows, k, layer, t, d_now, h, x[t - 1], scale, h_exponent, x_exponent, work.rows[0])
        multiply_transposed(w, d_now[:, : cell.gates * width], before[0], True)
        gradient, before = before, gradient
        exponent = _renormalise(gradient, exponent)
    _record_gradients(out, columns, slots, k, layer, 0, gradient, gradient[cell.n_states - 1], exponent)
    _trace_gradients(traced, 0, gradient, gradient[cell.n_states - 1], exponent)

@register_jitable(error_model="numpy")
def _gradient_below(cell, work, u, d_pre, d_exponents, below, below_exponents):
    """dl/dx_t = U^T d_pre_t for all steps, in below (T + 1, B, N)."""
    steps, batch, _ = d_pre.shape
    width = u.shape[0] // cell.gates
    rows = work.rows[0]
    below_exponents[0] = NOTHING
    for t in range(steps):
        input_gradients(d_pre[t], cell.input_rows, width, rows)
        multiply_transposed(u, rows, below[t + 1], False)
        below_exponents[t + 1] = d_exponents[t]

@register_jitable(error_model="numpy")
def _record_totals(cell, work, totals, total_columns, k, layer, d_pre, d_exponents, states, exponents, x, x_exponents, traced):
    """The derivatives by W_hh, W_ih, b_hh, b_ih of one stacked layer, summed over the steps."""
    batch, width = states.shape[2], states.shape[3]
    traced_w, traced_u, traced_b, traced_input_b = traced
    tracing = traced_w.size > 0
    rows = work.rows
    hidden = states[0, :-1]
    row = total_columns[WEIGHT_TOTAL]
    if row >= 0 or tracing:
        value = weight_total(d_pre, d_exponents, hidden, exponents, False, cell.input_rows, width, rows, work.product_rest, work.orders, traced_w)
        if row >= 0:
            totals[row, k, layer] = value
    row = total_columns[INPUT_WEIGHT_TOTAL]
    if row >= 0 or tracing:
        product = work.product_first if layer == 0 else work.product_rest
        value = weight_total(d_pre, d_exponents, x, x_exponents, True, cell.input_rows, width, rows, product, work.orders, traced_u)
        if row >= 0:
            totals[row, k, layer] = value
    row = total_columns[BIAS_TOTAL]
    if row >= 0 or tracing:
        value = bias_total(d_pre, d_exponents, False, cell.input_rows, width, rows, work.sums, traced_b)
        if row >= 0:
            totals[row, k, layer] = value
    row = total_columns[INPUT_BIAS_TOTAL]
    if row >= 0 or tracing:
        value = bias_total(d_pre, d_exponents, True, cell.input_rows, width, rows, work.sums, traced_input_b)
        if row >= 0:
            totals[row, k, layer] = value

def _run(one, cell, weights, block, work, out, totals, left, trace):
    steps, batch, features = block.inputs.shape
    stacked, _, width = weights.recurrent.shape
    n_inputs = steps * batch * features
    x = block.inputs
    columns, slots = block.columns, block.slots
    w_t, first_t, rest_t, bias, scaled, pre = work.w_t, work.first_t, work.rest_t, work.bias, work.scaled, work.pre
    states, exponents, local, d_pre, d_exponents = work.states, work.exponents, work.local, work.d_pre, work.d_exponents
    above, above_exponents, none, scratch = work.above, work.above_exponents, work.none, work.scratch

    for k in range(block.count):
        realization = block.first + k
        if not weights.given:
            draw_weights(one, weights, cell.gates, realization, block.key, scratch)
        if not block.given_inputs:
            draw_vector(scratch, n_inputs, NORMAL, one, address(Role.INPUT, 0, 0, realization), block.key)
            copy(scratch, as_vector(x))

        left[k] = -1
        for layer in range(stacked):
            transpose(weights.recurrent[layer], w_t)
            biased = pre_bias(weights, cell.gates, cell.input_rows, layer, bias)
            x_layer, x_exponents, u_t = x, none, first_t
            if layer == 0:
                transpose(weights.input_first, first_t)
            else:
                transpose(weights.input_rest[layer - 1], rest_t)
                x_layer, x_exponents, u_t = states[layer - 1, 0, 1:], exponents[layer - 1, 1:], rest_t
            left[k] = _forward_layer(
                cell, x_layer, x_exponents, w_t, u_t, bias, biased, states[layer], exponents[layer], local[layer], pre, scaled,
                out, columns, slots, k, layer,
            )  # fmt: skip
            if left[k] >= 0:
                break
        if left[k] >= 0:
            continue  # NaN stays in every gradient of this realization

        draw_probe(scratch, batch * width, block.unit_probe, address(Role.PROBE, 0, 0, realization), block.key)
        fill(as_vector(above[0]), 0)
        fill(above_exponents[0], NOTHING)
        copy(scratch, as_vector(above[0, steps]))
        above_exponents[0, steps] = 0
        for layer in range(stacked - 1, -1, -1):
            now = (stacked - 1 - layer) % 2
            x_layer, x_exponents = x, none
            traced_u = trace.input_first
            if layer > 0:
                x_layer, x_exponents = states[layer - 1, 0, 1:], exponents[layer - 1, 1:]
                traced_u = trace.input_rest[layer - 1]
            _backward_layer(
                cell, work, weights.recurrent[layer], states[layer], exponents[layer], x_layer, x_exponents, local[layer],
                above[now], above_exponents[now], d_pre, d_exponents, out, columns, slots, k, layer, trace.gradients[layer],
            )  # fmt: skip
            if layer > 0:
                _gradient_below(cell, work, weights.input_rest[layer - 1], d_pre, d_exponents, above[1 - now], above_exponents[1 - now])
            traced = (trace.recurrent[layer], traced_u, trace.biases[layer], trace.input_biases[layer])
            _record_totals(
                cell, work, totals, block.total_columns, k, layer, d_pre, d_exponents, states[layer], exponents[layer], x_layer, x_exponents, traced
            )
        _trace_states(trace, states, exponents)


@lru_cache(maxsize=1)
def unrolled_kernel() -> Callable[..., Any]:
    """The kernel ``run(one, cell, weights, block, work, out, totals, left, trace)``; ``draws.prepare`` must have been called.

    one : the number 1 in the precision of the run.  out : (variables, R, K, kept steps) and totals : (variables, R, K), float64, nats,
    prefilled with NaN.  left : (R,) int64, -1 or the first step whose activations left the number range.
    """
    return kernel(_run)
