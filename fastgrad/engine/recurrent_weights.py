"""The weights of a stacked recurrent net: given, or drawn once per realization.

Letters: K stacked layers, H units, G gates, N input features, P rows of pre-activations.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from fastgrad.engine.arrays import copy, fill
from fastgrad.engine.draws import draw_matrix, draw_vector
from fastgrad.engine.random import Role, address
from fastgrad.engine.shared_norms import largest
from fastgrad.engine.views import as_vector, vector_at
from fastgrad.jit import register_jitable


class Weights(NamedTuple):
    """Laws or given arrays, as the kernel sees them.

    The arrays hold values if ``given``, else those of one realization after another, with room for ``SLACK`` numbers behind each: recurrent
    (K, G H, H), input_first (G H, N), input_rest (K - 1, G H, H), biases and input_biases (K, G H). Kinds are codes of ``draws.py``, drawers
    addresses (`matrix_drawer`), scales float64; input_scales (K,), since fan_in differs below and above. forget_bias: the forget gate's total
    bias, NaN for none.
    """

    given: bool
    recurrent_drawer: int
    input_drawer: int
    recurrent_kind: int
    recurrent_scale: float
    input_kind: int
    input_scales: Any
    bias_kind: int
    bias_scale: float
    both_biases: bool
    forget_bias: float
    recurrent: Any
    input_first: Any
    input_rest: Any
    biases: Any
    input_biases: Any


@register_jitable(error_model="numpy")
def _draw_gates(drawer, out, gates, columns, kind, spread, role, layer, realization, key):
    """One matrix (H, columns) per gate, behind one another in the vector out.

    A panel's surplus, up to 3 numbers, goes beyond a matrix's end in memory, not in its view: into the next gate or stacked layer, which must be
    drawn later, or into the room behind the last.
    """
    size = out.size // gates
    for gate in range(gates):
        one = vector_at(out, gate * size, size)
        draw_matrix(one, size // columns, columns, kind, spread, address(role, gate, layer, realization), key, drawer)


@register_jitable(error_model="numpy")
def _draw_bias(one, out, weights, role, layer, realization, key):
    draw_vector(out, out.size, weights.bias_kind, type(one)(weights.bias_scale), address(role, 0, layer, realization), key)


@register_jitable(error_model="numpy")
def draw_weights(one, weights, gates, realization, key):
    """All weights and biases of one realization, into the arrays of ``weights``, in the order in which they lie there (`_draw_gates`)."""
    stacked, rows, width = weights.recurrent.shape
    size = rows * width
    for layer in range(stacked):
        spread = type(one)(weights.recurrent_scale)
        target = vector_at(weights.recurrent, layer * size, size)
        _draw_gates(weights.recurrent_drawer, target, gates, width, weights.recurrent_kind, spread, Role.WEIGHT, layer, realization, key)
        columns = width
        if layer == 0:
            target = as_vector(weights.input_first)
            columns = weights.input_first.shape[1]
        else:
            target = vector_at(weights.input_rest, (layer - 1) * size, size)
        spread = type(one)(weights.input_scales[layer])
        _draw_gates(weights.input_drawer, target, gates, columns, weights.input_kind, spread, Role.INPUT_WEIGHT, layer, realization, key)
        bias, input_bias = weights.biases[layer], weights.input_biases[layer]
        fill(bias, 0)
        fill(input_bias, 0)
        if weights.bias_scale != 0.0:
            _draw_bias(one, input_bias, weights, Role.INPUT_BIAS, layer, realization, key)
            if weights.both_biases:
                _draw_bias(one, bias, weights, Role.BIAS, layer, realization, key)
        if not math.isnan(weights.forget_bias):
            for j in range(width, 2 * width):
                input_bias[j] = weights.forget_bias
                bias[j] = 0


@register_jitable(error_model="numpy")
def pre_bias(biases, input_biases, gates, input_rows, width, out):
    """Both biases of a layer in the rows of the pre-activations, out (P H,); True if any is not zero."""
    fill(out, 0)
    copy(biases, vector_at(out, 0, gates * width))
    for gate in range(gates):
        target, source = input_rows[gate] * width, gate * width
        for j in range(width):
            out[target + j] += input_biases[source + j]
    return largest(out) > 0
