"""Norms of the derivatives by recurrent weights and biases: each step's contribution, and the sum over steps.

Letters: T steps, B sequences, H units, G gates, P rows of pre-activations, N input features, M = G H.

    dl/dW_hh = sum_t d_pre_t^T h_{t-1}     dl/dW_ih = sum_t d_pre_t^T x_t     dl/db = sum_t sum_b d_pre_t

Steps differ by thousands of binary orders, so d_pre_t, h_t and x_t come with exponents; a sum over steps is formed at the exponent of its
largest summand.
"""

from __future__ import annotations

import math

from fastgrad.engine.arrays import copy_rows, fill
from fastgrad.engine.native import product_transposed
from fastgrad.engine.norms import log_norm, sum_of_squares
from fastgrad.engine.shared_norms import largest, outer_squares, shift_exponent, sum_of_rows_squares
from fastgrad.engine.views import as_matrix, as_vector, matrix_at, transposed, vector_at
from fastgrad.jit import reduction, register_jitable

STEP_VARIABLES = (
    "gradient_log_norm",
    "gradient_log_max",
    "cell_gradient_log_norm",
    "activation_log_norm",
    "weight_gradient_log_norm",
    "input_weight_gradient_log_norm",
    "bias_gradient_log_norm",
    "input_bias_gradient_log_norm",
)
GRADIENT, GRADIENT_MAX, CELL_GRADIENT, ACTIVATION, WEIGHT, INPUT_WEIGHT, BIAS, INPUT_BIAS = range(8)
TOTAL_VARIABLES = (
    "weight_gradient_total_log_norm",
    "input_weight_gradient_total_log_norm",
    "bias_gradient_total_log_norm",
    "input_bias_gradient_total_log_norm",
)
WEIGHT_TOTAL, INPUT_WEIGHT_TOTAL, BIAS_TOTAL, INPUT_BIAS_TOTAL = range(4)

NOTHING = -(2**62)  # exponent of a vector that is exactly zero
NEGLIGIBLE = 110  # binary orders below the largest summand at which a step changes no digit of a float64 sum, however many steps there are
SUM_CHUNK = 64  # steps summed by one product


@register_jitable
def put(out, columns, slots, variable, realization, layer, step, value):
    """Keep one number, if it is wanted."""
    row = columns[variable]
    column = slots[step]
    if row >= 0 and column >= 0:
        out[row, realization, layer, column] = value


@register_jitable
def _wants(columns, slots, variable, step):
    return columns[variable] >= 0 and slots[step] >= 0


@register_jitable
def wants_parameters(columns):
    """Whether `record_step` has anything to record at any step."""
    return columns[WEIGHT] >= 0 or columns[BIAS] >= 0 or columns[INPUT_WEIGHT] >= 0 or columns[INPUT_BIAS] >= 0


@register_jitable(error_model="numpy")
def input_gradients(d_pre, input_rows, width, out):
    """The rows of d_pre (n, P H) that belong to W_ih, in its order, in out (n, G H)."""
    for i in range(out.shape[0]):
        for gate in range(input_rows.size):
            source = input_rows[gate] * width
            target = gate * width
            for j in range(width):
                out[i, target + j] = d_pre[i, source + j]


@register_jitable(error_model="numpy")
def record_step(out, columns, slots, input_rows, k, layer, t, d_pre, hidden, x, exponent, hidden_exponent, x_exponent, rows):
    """What step t contributes: d_pre (B, P H), hidden = h_{t-1} (B, H), x = x_t (B, N); rows (B, G H): room to work in."""
    width = hidden.shape[1]
    if _wants(columns, slots, WEIGHT, t) or _wants(columns, slots, BIAS, t):
        copy_rows(d_pre, rows)
        put(out, columns, slots, WEIGHT, k, layer, t, log_norm(outer_squares(rows, hidden), exponent + hidden_exponent))
        put(out, columns, slots, BIAS, k, layer, t, log_norm(sum_of_rows_squares(rows), exponent))
    if _wants(columns, slots, INPUT_WEIGHT, t) or _wants(columns, slots, INPUT_BIAS, t):
        input_gradients(d_pre, input_rows, width, rows)
        put(out, columns, slots, INPUT_WEIGHT, k, layer, t, log_norm(outer_squares(rows, x), exponent + x_exponent))
        put(out, columns, slots, INPUT_BIAS, k, layer, t, log_norm(sum_of_rows_squares(rows), exponent))


@reduction
def _highest(orders):
    top = NOTHING
    for t in range(orders.size):
        top = orders[t] if orders[t] > top else top
    return top


@register_jitable(error_model="numpy")
def _orders_of_products(d_exponents, x, x_exponents, orders):
    """orders[t] = exponent of d_pre_t^T x_t, NOTHING where either is exactly zero (a zero's exponent means nothing)."""
    n = x.size // orders.size
    for t in range(orders.size):
        zero = d_exponents[t] == NOTHING or largest(vector_at(x, t * n, n)) == 0
        orders[t] = NOTHING if zero else d_exponents[t] + x_exponents[t]


@register_jitable(error_model="numpy")
def _scaled_chunk(d_pre, orders, start, top, for_input, input_rows, width, rows):
    """Steps start … of d_pre at exponent ``top`` into rows (SUM_CHUNK, B, G H); returns how many, 0 if none of them matters."""
    left = d_pre.shape[0] - start
    steps = SUM_CHUNK if left >= SUM_CHUNK else left
    matter = False
    for s in range(steps):
        t = start + s
        flat = as_vector(rows[s])
        if orders[t] < top - NEGLIGIBLE:
            fill(flat, 0)
            continue
        matter = True
        if for_input:
            input_gradients(d_pre[t], input_rows, width, rows[s])
        else:
            copy_rows(d_pre[t], rows[s])
        shift_exponent(flat, orders[t] - top)
    return steps if matter else 0


@register_jitable(error_model="numpy")
def weight_total(d_pre, d_exponents, x, x_exponents, for_input, input_rows, width, rows, total, orders):
    """ln of the norm of sum_t d_pre_t^T x_t; x (T B N,).

    rows (SUM_CHUNK, B, G H), total (N, G H) and orders (T,) are room to work in.
    """
    all_steps, batch, _ = d_pre.shape
    columns, m = total.shape
    _orders_of_products(d_exponents, x, x_exponents, orders)
    top = _highest(orders)
    if top == NOTHING:
        return -math.inf
    flat = as_vector(total)
    fill(flat, 0)
    for start in range(0, all_steps, SUM_CHUNK):
        steps = _scaled_chunk(d_pre, orders, start, top, for_input, input_rows, width, rows)
        if steps > 0:
            n = steps * batch
            source = matrix_at(x, start * batch * columns, n, columns)
            product_transposed(as_matrix(rows, n, m), transposed(source), total, True)
    return log_norm(sum_of_squares(flat), top)


@register_jitable(error_model="numpy")
def bias_total(d_pre, d_exponents, for_input, input_rows, width, rows, total):
    """ln of the norm of sum_t sum_b d_pre_t, formed in float64.

    rows (SUM_CHUNK, B, G H) and total (G H,) float64 are room to work in.
    """
    top = _highest(d_exponents)
    if top == NOTHING:
        return -math.inf
    fill(total, 0)
    for start in range(0, d_pre.shape[0], SUM_CHUNK):
        steps = _scaled_chunk(d_pre, d_exponents, start, top, for_input, input_rows, width, rows)
        n = steps * d_pre.shape[1]
        row = as_matrix(rows, n, total.size)
        for i in range(n):
            for j in range(total.size):
                total[j] += row[i, j]
    return log_norm(sum_of_squares(total), top)
