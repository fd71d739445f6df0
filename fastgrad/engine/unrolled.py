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

from fastgrad.activations import ACTIVATIONS
from fastgrad.cells.contract import Cell
from fastgrad.cells.elman import elman_cell
from fastgrad.cells.gru import GRU_CELL
from fastgrad.cells.lstm import LSTM_CELL
from fastgrad.engine.cell_rows import LOAD, STATE_ROWS, STATE_ROWS_AT, STORE, STORE_STATE, STORE_TOTAL
from fastgrad.engine.compile import kernel
from fastgrad.engine.draws import NORMAL, SLACK, fill_probe, fill_vector
from fastgrad.engine.native import multiply_transposed
from fastgrad.engine.norms import (
    excess,
    largest,
    log_norm,
    log_size,
    power_of_two,
    shift_exponent,
    sum_of_squares,
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
from fastgrad.engine.random import Role, address
from fastgrad.engine.recurrent_weights import draw_weights, pre_bias, transpose
from fastgrad.jit import formula

CHUNK = 64  # steps of input product at once: enough to share each load of U, few enough that their pre-activations stay in cache


class Block(NamedTuple):
    """What is run and kept.

    first, count : realizations.  key : two uint32.  inputs : (T, B, N), read only if ``given_inputs``, else overwritten by each realization.
    unit_probe : v on the unit sphere, else ones.  slots : (T + 1,) output column of step t or -1.  columns, total_columns : output row of
    each variable or -1.
    """

    first: int
    count: int
    key: Any
    inputs: Any
    given_inputs: bool
    unit_probe: bool
    slots: Any
    columns: Any
    total_columns: Any


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


def cell_of(kind: str, activation: str | None) -> Cell:
    """The cell of a network kind."""
    if kind == "lstm":
        return LSTM_CELL
    return GRU_CELL if kind == "gru" else elman_cell(activation or "tanh")


@register_jitable(error_model="numpy")
def _scaled_pre(pre, bias, biased, hidden, exponent, x_exponent, scaled_hidden):
    """Homogeneous cells: bring U x (in pre), b and h to one exponent, which is returned; h goes to scaled_hidden."""
    flat_pre = pre.reshape(pre.size)
    common = NOTHING
    if largest(hidden.reshape(hidden.size)) > 0:
        common = exponent
    if largest(flat_pre) > 0:
        common = max(common, x_exponent)
    if biased:
        common = max(common, 0)
    if common == NOTHING:
        common = 0
    scaled_hidden[:] = hidden
    shift_exponent(scaled_hidden.reshape(hidden.size), exponent - common)
    shift_exponent(flat_pre, x_exponent - common)
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
            shift_exponent(gradient.reshape(gradient.size), exponent - above_exponent)
        exponent = above_exponent
    first = gradient[0].reshape(gradient[0].size)
    source = above.reshape(above.size)
    factor = above.dtype.type(power_of_two(above_exponent - exponent))
    for j in range(first.size):
        first[j] += source[j] * factor
    return exponent


@register_jitable(error_model="numpy")
def _renormalise(gradient, exponent):
    """Take a power of two out of the gradient if it has left the window; returns the new exponent."""
    flat = gradient.reshape(gradient.size)
    top = largest(flat)
    if top == 0.0:
        return NOTHING
    shift = excess(top)
    if shift != 0:
        shift_exponent(flat, -shift)
        exponent += shift
    return exponent


@register_jitable(error_model="numpy")
def _record_gradients(out, block, k, layer, t, gradient, total, exponent):
    """gradient (S, B, H), total (B, H): the full derivative by the cell state."""
    h = gradient[0].reshape(gradient[0].size)
    scale = 0 if exponent == NOTHING else exponent
    put(out, block, GRADIENT, k, layer, t, log_norm(sum_of_squares(h), scale))
    put(out, block, GRADIENT_MAX, k, layer, t, log_size(largest(h), scale))
    if gradient.shape[0] == 2:
        put(out, block, CELL_GRADIENT, k, layer, t, log_norm(sum_of_squares(total.reshape(total.size)), scale))


@register_jitable(error_model="numpy")
def _trace_gradients(trace, layer, t, gradient, total, exponent):
    if trace.gradients.size == 0:
        return
    scale = 0 if exponent == NOTHING else exponent
    for s in range(gradient.shape[0]):
        kept = trace.gradients[layer, s, t]
        kept[:] = gradient[s] if s == 0 else total
        shift_exponent(kept.reshape(kept.size), scale)


@register_jitable(error_model="numpy")
def _trace_states(trace, states, exponents):
    if trace.states.size == 0:
        return
    trace.states[:] = states
    for layer in range(states.shape[0]):
        for s in range(states.shape[1]):
            for t in range(states.shape[2]):
                kept = trace.states[layer, s, t]
                shift_exponent(kept.reshape(kept.size), exponents[layer, t])


@lru_cache(maxsize=None)
def unrolled_kernel(kind: str, activation: str | None) -> Callable[..., Any]:
    """The kernel for one cell: ``run(one, weights, block, out, totals, left, trace)``.

    one : the number 1 in the precision of the run.  out : (variables, R, K, kept steps) and totals : (variables, R, K), float64, nats,
    prefilled with NaN.  left : (R,) int64, -1 or the first step whose activations left the number range.
    """
    cell = cell_of(kind, activation)
    if cell.recurrent_rows != tuple(range(len(cell.recurrent_rows))):
        raise ValueError(f"cell {cell.name!r}: recurrent_rows must be the first rows of pre, got {cell.recurrent_rows}")
    forward, backward = cell.forward, cell.backward
    gates, n_pre, n_states, n_local = len(cell.recurrent_rows), cell.n_pre, cell.n_states, cell.n_local
    input_rows = cell.input_rows
    rows_apart = input_rows != cell.recurrent_rows
    load_pre, load_state, load_local = LOAD[n_pre], LOAD[n_states], LOAD[n_local]
    store_state, store_local, store_pre = STORE_STATE[n_states], STORE[n_local], STORE[n_pre]
    store_total = STORE_TOTAL[n_states]
    state_rows, state_rows_at = STATE_ROWS[n_states], STATE_ROWS_AT[n_states]
    homogeneous = kind == "rnn" and ACTIVATIONS[activation or "tanh"].homogeneous

    @formula
    def forward_units(pre, state, new_state, local):
        """One sequence, one step: pre (P, H), local (V, H), states as tuples of rows."""
        for j in range(pre.shape[1]):
            new, derivatives = forward(load_pre(pre, j), load_state(state, j))
            store_state(new_state, j, new)
            store_local(local, j, derivatives)

    @formula
    def backward_units(gradient, local, d_pre, d_state, total):
        for j in range(d_pre.shape[1]):
            d, before, through = backward(load_state(gradient, j), load_local(local, j))
            store_pre(d_pre, j, d)
            store_state(d_state, j, before)
            store_total(total, j, through)

    @register_jitable(error_model="numpy")
    def input_product(u_transposed, x, bias, pre):
        """pre (t, B, P H) = U x_t in the input rows, plus b unless the cell is homogeneous; x (t, B, N)."""
        steps, batch, columns = x.shape
        flat_x = x.reshape((steps * batch, columns))
        flat = pre.reshape((steps * batch, pre.shape[2]))
        width = u_transposed.shape[1] // gates
        if rows_apart:
            flat[:] = 0
            for gate in range(gates):
                row = input_rows[gate]
                part = u_transposed[:, gate * width : (gate + 1) * width]
                multiply_transposed(part, flat_x, flat[:, row * width : (row + 1) * width], False)
        else:
            multiply_transposed(u_transposed, flat_x, flat, False)
        if not homogeneous:
            for row in range(flat.shape[0]):
                for j in range(bias.size):
                    flat[row, j] += bias[j]

    @register_jitable(error_model="numpy")
    def forward_layer(x, x_exponents, w_t, u_t, bias, biased, states, exponents, local, pre, scaled, out, block, k, layer):
        """One stacked layer through all steps; returns -1 or the first step that left the number range."""
        steps, batch, _ = x.shape
        width = w_t.shape[0]
        states[:, 0] = 0
        exponents[0] = 0
        put(out, block, ACTIVATION, k, layer, 0, -math.inf)
        for t in range(steps):
            if t % CHUNK == 0:
                n = min(CHUNK, steps - t)
                input_product(u_t, x[t : t + n], bias, pre[:n])
            now = pre[t % CHUNK]
            exponent = 0
            hidden = states[0, t]
            if homogeneous:
                exponent = _scaled_pre(now, bias, biased, hidden, exponents[t], x_exponents[t], scaled)
                hidden = scaled
            multiply_transposed(w_t, hidden, now[:, : gates * width], True)
            for b in range(batch):
                before, after = state_rows_at(states, t, b), state_rows_at(states, t + 1, b)
                forward_units(now[b].reshape((n_pre, width)), before, after, local[t, b])
            flat = states[0, t + 1].reshape(batch * width)
            if homogeneous:
                shift = excess(largest(flat))
                if shift != 0:
                    shift_exponent(flat, -shift)
                    exponent += shift
            exponents[t + 1] = exponent
            squares = sum_of_squares(flat)
            if not math.isfinite(squares):
                return t + 1
            put(out, block, ACTIVATION, k, layer, t + 1, log_norm(squares, exponent))
        return -1

    @register_jitable(error_model="numpy")
    def backward_layer(w, states, exponents, x, x_exponents, local, above, above_exponents, d_pre, d_exponents, out, block, k, layer, trace):
        """One stacked layer back through all steps; fills d_pre (T, B, P H) and its exponents (T,)."""
        steps, batch, _ = d_pre.shape
        width = w.shape[1]
        dtype = d_pre.dtype
        gradient = np.zeros((n_states, batch, width), dtype=dtype)
        before = np.zeros((n_states, batch, width), dtype=dtype)
        total = np.zeros((batch, width), dtype=dtype)
        scratch = np.empty((1, batch, gates * width), dtype=dtype)
        exponent = NOTHING
        for t in range(steps, 0, -1):
            exponent = _add_from_above(gradient, exponent, above[t], above_exponents[t])
            d_now = d_pre[t - 1]
            for b in range(batch):
                rows = d_now[b].reshape((n_pre, width))
                backward_units(state_rows(gradient, b), local[t - 1, b], rows, state_rows(before, b), total[b])
            _record_gradients(out, block, k, layer, t, gradient, total, exponent)
            _trace_gradients(trace, layer, t, gradient, total, exponent)
            d_exponents[t - 1] = exponent
            scale = 0 if exponent == NOTHING else exponent
            h, h_exponent, x_exponent = states[0, t - 1], exponents[t - 1], x_exponents[t - 1]
            record_step(out, block, input_rows, k, layer, t, d_now, h, x[t - 1], scale, h_exponent, x_exponent, scratch)
            multiply_transposed(w, d_now[:, : gates * width], before[0], True)
            gradient, before = before, gradient
            exponent = _renormalise(gradient, exponent)
        _record_gradients(out, block, k, layer, 0, gradient, gradient[n_states - 1], exponent)
        _trace_gradients(trace, layer, 0, gradient, gradient[n_states - 1], exponent)

    @register_jitable(error_model="numpy")
    def gradient_below(u, d_pre, d_exponents, below, below_exponents):
        """dl/dx_t = U^T d_pre_t for all steps, in below (T + 1, B, N)."""
        steps, batch, _ = d_pre.shape
        width = u.shape[0] // gates
        rows = np.empty((batch, gates * width), dtype=d_pre.dtype)
        below_exponents[0] = NOTHING
        for t in range(steps):
            input_gradients(d_pre[t], input_rows, width, rows)
            multiply_transposed(u, rows, below[t + 1], False)
            below_exponents[t + 1] = d_exponents[t]

    @register_jitable(error_model="numpy")
    def record_totals(totals, block, k, layer, d_pre, d_exponents, states, exponents, x, x_exponents, traced_u, trace):
        """The derivatives by W_hh, W_ih, b_hh, b_ih of one stacked layer, summed over the steps."""
        batch, width = states.shape[2], states.shape[3]
        columns = block.total_columns
        tracing = trace.recurrent.size > 0
        rows = np.empty((SUM_CHUNK, batch, gates * width), dtype=d_pre.dtype)
        hidden = states[0, :-1]
        row = columns[WEIGHT_TOTAL]
        if row >= 0 or tracing:
            kept = trace.recurrent[layer]
            value = weight_total(d_pre, d_exponents, hidden, exponents, False, input_rows, width, rows, kept)
            if row >= 0:
                totals[row, k, layer] = value
        row = columns[INPUT_WEIGHT_TOTAL]
        if row >= 0 or tracing:
            value = weight_total(d_pre, d_exponents, x, x_exponents, True, input_rows, width, rows, traced_u)
            if row >= 0:
                totals[row, k, layer] = value
        row = columns[BIAS_TOTAL]
        if row >= 0 or tracing:
            value = bias_total(d_pre, d_exponents, False, input_rows, width, rows, trace.biases[layer])
            if row >= 0:
                totals[row, k, layer] = value
        row = columns[INPUT_BIAS_TOTAL]
        if row >= 0 or tracing:
            value = bias_total(d_pre, d_exponents, True, input_rows, width, rows, trace.input_biases[layer])
            if row >= 0:
                totals[row, k, layer] = value

    def run(one, weights, block, out, totals, left, trace):
        steps, batch, features = block.inputs.shape
        stacked, _, width = weights.recurrent.shape
        dtype = weights.recurrent.dtype
        n_inputs = 0 if block.given_inputs else steps * batch * features
        longest = max(width * max(width, features), gates * width, n_inputs)
        scratch = np.empty(longest + SLACK, dtype=dtype)
        x = block.inputs
        w_t = np.empty((width, gates * width), dtype=dtype)
        first_t = np.empty((features, gates * width), dtype=dtype)
        rest_t = np.empty((width, gates * width), dtype=dtype)
        bias = np.empty(n_pre * width, dtype=dtype)
        states = np.zeros((stacked, n_states, steps + 1, batch, width), dtype=dtype)
        exponents = np.zeros((stacked, steps + 1), dtype=np.int64)
        local = np.empty((stacked, steps, batch, n_local, width), dtype=dtype)
        pre = np.empty((min(CHUNK, steps), batch, n_pre * width), dtype=dtype)
        scaled = np.empty((batch, width), dtype=dtype)
        d_pre = np.empty((steps, batch, n_pre * width), dtype=dtype)
        d_exponents = np.empty(steps, dtype=np.int64)
        above = np.zeros((2, steps + 1, batch, width), dtype=dtype)
        above_exponents = np.empty((2, steps + 1), dtype=np.int64)
        none = np.zeros(steps, dtype=np.int64)
        probe = np.empty(batch * width + SLACK, dtype=dtype)

        for k in range(block.count):
            realization = block.first + k
            if not weights.given:
                draw_weights(one, weights, gates, realization, block.key, scratch)
            if not block.given_inputs:
                fill_vector(scratch, n_inputs, NORMAL, one, address(Role.INPUT, 0, 0, realization), block.key)
                x.reshape(n_inputs)[:] = scratch[:n_inputs]

            left[k] = -1
            for layer in range(stacked):
                transpose(weights.recurrent[layer], w_t)
                biased = pre_bias(weights, gates, input_rows, layer, bias)
                x_layer, x_exponents, u_t = x, none, first_t
                if layer == 0:
                    transpose(weights.input_first, first_t)
                else:
                    transpose(weights.input_rest[layer - 1], rest_t)
                    x_layer, x_exponents, u_t = states[layer - 1, 0, 1:], exponents[layer - 1, 1:], rest_t
                left[k] = forward_layer(
                    x_layer, x_exponents, w_t, u_t, bias, biased, states[layer], exponents[layer], local[layer], pre, scaled,
                    out, block, k, layer,
                )  # fmt: skip
                if left[k] >= 0:
                    break
            if left[k] >= 0:
                continue  # NaN stays in every gradient of this realization

            fill_probe(probe, batch * width, block.unit_probe, address(Role.PROBE, 0, 0, realization), block.key)
            above[0] = 0
            above_exponents[0] = NOTHING
            above[0, steps] = probe[: batch * width].reshape((batch, width))
            above_exponents[0, steps] = 0
            for layer in range(stacked - 1, -1, -1):
                now = (stacked - 1 - layer) % 2
                x_layer, x_exponents = x, none
                traced_u = trace.input_first
                if layer > 0:
                    x_layer, x_exponents = states[layer - 1, 0, 1:], exponents[layer - 1, 1:]
                    traced_u = trace.input_rest[layer - 1]
                backward_layer(
                    weights.recurrent[layer], states[layer], exponents[layer], x_layer, x_exponents, local[layer],
                    above[now], above_exponents[now], d_pre, d_exponents, out, block, k, layer, trace,
                )  # fmt: skip
                if layer > 0:
                    gradient_below(weights.input_rest[layer - 1], d_pre, d_exponents, above[1 - now], above_exponents[1 - now])
                record_totals(
                    totals, block, k, layer, d_pre, d_exponents, states[layer], exponents[layer], x_layer, x_exponents, traced_u, trace
                )
            _trace_states(trace, states, exponents)

    return kernel(run)
