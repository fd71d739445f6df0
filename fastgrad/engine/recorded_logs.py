"""Squares and sizes that the conditional sampler recorded become logarithms at the end, many at once."""

from __future__ import annotations

from fastgrad.engine.dense_mlp import ACTIVATION, GRADIENT_MAX, WEIGHT_GRADIENT
from fastgrad.engine.logarithms import add_half_logs, take_logs
from fastgrad.engine.views import vector_at
from fastgrad.jit import register_jitable

LOGS = 256  # logarithms taken at a time
ROWS = 4
SENT, HERE, WITH_BELOW, BELOW = range(ROWS)  # rows of Work.logs: exponents of gradient, activation, their product; |x_{l-1}|^2


@register_jitable
def record(out, columns, slots, variable, k0, values, layer, left):
    """One number of each row, where it is wanted and the row has not left the number range."""
    row, column = columns[variable], slots[layer]
    if row >= 0 and column >= 0:
        for k in range(values.size):
            if left[k] < 0:
                out[row, k0 + k, column] = values[k]


@register_jitable
def _gather(work, layer, k, n):
    """What the logarithms of the n-th kept layer need besides the numbers recorded: rows SENT to BELOW of ``logs``."""
    work.logs[SENT, n] = work.sent[layer, k]
    work.logs[HERE, n] = work.exponent[layer, k] + work.post[layer, k]
    work.logs[WITH_BELOW, n] = 0.0
    work.logs[BELOW, n] = 1.0
    if layer > 0:
        work.logs[WITH_BELOW, n] = work.sent[layer, k] + work.exponent[layer - 1, k] + work.post[layer - 1, k]
        work.logs[BELOW, n] = work.squares[layer - 1, k]


@register_jitable(error_model="numpy")
def _flush(block, work, out, realization, column, n):
    """Logarithms of n kept layers, of which ``column`` is the first, of all variables."""
    for variable in range(block.columns.size):
        row = block.columns[variable]
        if row < 0:
            continue
        exponents = HERE if variable == ACTIVATION else (WITH_BELOW if variable == WEIGHT_GRADIENT else SENT)
        values = vector_at(out, (row * out.shape[1] + realization) * out.shape[2] + column, n)
        take_logs(values, vector_at(work.logs, exponents * LOGS, n), 1.0 if variable == GRADIENT_MAX else 0.5)
        if variable == WEIGHT_GRADIENT:
            add_half_logs(values, vector_at(work.logs, BELOW * LOGS, n))


@register_jitable(error_model="numpy")
def take_recorded_logs(block, work, out, k0, count):
    """Turn what was recorded into logarithms; NaN, where nothing was, stays."""
    for k in range(count):
        n, column = 0, 0
        for layer in range(block.slots.size):
            if block.slots[layer] < 0:
                continue
            if n == 0:
                column = block.slots[layer]
            _gather(work, layer, k, n)
            n += 1
            if n == LOGS:
                _flush(block, work, out, k0 + k, column, n)
                n = 0
        if n > 0:
            _flush(block, work, out, k0 + k, column, n)
