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

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from fastgrad.engine.aligned import aligned_empty, aligned_zeros, odd_lines, whole_lines
from fastgrad.engine.arrays import copy, copy_rows, fill, transpose
from fastgrad.engine.compile import kernel
from fastgrad.engine.draws import NORMAL, SLACK, draw_probe, draw_vector
from fastgrad.engine.parameter_gradients import (
    BIAS_TOTAL,
    INPUT_BIAS_TOTAL,
    INPUT_WEIGHT_TOTAL,
    NOTHING,
    SUM_CHUNK,
    bias_total,
    weight_total,
)
from fastgrad.engine.random import Role, address
from fastgrad.engine.recurrent_weights import Weights, draw_weights, pre_bias
from fastgrad.engine.through_time import CellInfo, backward_layer, forward_layer, gradient_below
from fastgrad.engine.views import as_matrix, as_vector, columns_at, matrix_at, vector_at
from fastgrad.jit import register_jitable

CHUNK = 64  # rows (steps times sequences) of input product at once: enough to share each load of U, and their pre-activations stay in cache


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
        left = forward_layer(
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
        backward_layer(
            cell, batch, width, work.w, states, exponents, x, x_exponents,
            vector_at(work.local, layer * local_size, local_size), vector_at(work.above, now * above_size, above_size),
            work.above_exponents[now], flat_d_pre, as_vector(work.gradients[turn]), as_vector(work.totals[turn]), gradient_exponents,
            step_rows, work.logs, out, block.columns, block.slots, k, layer,
        )  # fmt: skip
        if layer > 0:
            u = matrix_at(weights.input_rest, (layer - 1) * rows * width, rows, width)
            below, below_exponents = vector_at(work.above, (1 - now) * above_size, above_size), work.above_exponents[1 - now]
            gradient_below(cell, batch, u, flat_d_pre, gradient_exponents, below, below_exponents, step_rows)
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
