"""The weights of a stacked recurrent net: given, or drawn once per realization.

Letters: K stacked layers, H units, G gates, N input features, P rows of pre-activations.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from numba.extending import register_jitable

from fastgrad.engine.arrays import copy, fill
from fastgrad.engine.draws import draw_matrix, draw_vector
from fastgrad.engine.norms import largest
from fastgrad.engine.random import Role, address
from fastgrad.engine.views import as_vector


class Weights(NamedTuple):
    """Laws or given arrays, as the kernel sees them.

    The arrays hold values if ``given``, else they are scratch of one block: recurrent (K, G H, H), input_first (G H, N),
    input_rest (K - 1, G H, H), biases and input_biases (K, G H). Kinds are codes of ``draws.py``, scales float64; input_scales (K,), since
    fan_in differs below and above. forget_bias: the forget gate's total bias, NaN for none.
    """

    given: bool
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
def _draw_gates(out, gates, kind, spread, role, layer, realization, key, scratch):
    """One matrix per gate, behind one another in out (G H, columns)."""
    rows, columns = out.shape
    width = rows // gates
    for gate in range(gates):
        draw_matrix(scratch, width, columns, kind, spread, address(role, gate, layer, realization), key)
        size = width * columns
        copy(scratch, as_vector(out[gate * width : (gate + 1) * width]))


@register_jitable(error_model="numpy")
def _draw_bias(one, out, weights, role, layer, realization, key, scratch):
    draw_vector(scratch, out.size, weights.bias_kind, type(one)(weights.bias_scale), address(role, 0, layer, realization), key)
    copy(scratch, out)


@register_jitable(error_model="numpy")
def draw_weights(one, weights, gates, realization, key, scratch):
    """All weights and biases of one realization, into the arrays of ``weights``."""
    stacked, _, width = weights.recurrent.shape
    for layer in range(stacked):
        spread = type(one)(weights.recurrent_scale)
        kind = weights.recurrent_kind
        _draw_gates(weights.recurrent[layer], gates, kind, spread, Role.WEIGHT, layer, realization, key, scratch)
        target = weights.input_first if layer == 0 else weights.input_rest[layer - 1]
        spread = type(one)(weights.input_scales[layer])
        _draw_gates(target, gates, weights.input_kind, spread, Role.INPUT_WEIGHT, layer, realization, key, scratch)
        fill(weights.biases[layer], 0)
        fill(weights.input_biases[layer], 0)
        if weights.bias_scale != 0.0:
            _draw_bias(one, weights.input_biases[layer], weights, Role.INPUT_BIAS, layer, realization, key, scratch)
            if weights.both_biases:
                _draw_bias(one, weights.biases[layer], weights, Role.BIAS, layer, realization, key, scratch)
        if not math.isnan(weights.forget_bias):
            fill(weights.input_biases[layer, width : 2 * width], weights.forget_bias)
            fill(weights.biases[layer, width : 2 * width], 0)


@register_jitable(error_model="numpy")
def pre_bias(weights, gates, input_rows, layer, out):
    """Both biases in the rows of the pre-activations, out (P H,); True if any is not zero."""
    width = weights.recurrent.shape[2]
    fill(out, 0)
    copy(weights.biases[layer], out[: gates * width])
    for gate in range(gates):
        row = input_rows[gate]
        for j in range(width):
            out[row * width + j] += weights.input_biases[layer, gate * width + j]
    return largest(out) > 0

