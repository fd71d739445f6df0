"""Forward and backward through an MLP with explicit weights, one realization after another.

Letters: L layers, B inputs, n_l width of layer l, R realizations of the block, K kept layers.

    forward    h_l = W_l x_{l-1} + b_l,  x_l = phi(h_l)
    backward   delta_l = phi'(h_l) * g_l,  g_{l-1} = W_l^T delta_l,  dl/dW_l = delta_l^T x_{l-1},  dl/db_l = sum over inputs of delta_l

Both passes carry (vector, exponent) pairs (``norms.py``). Backward is linear, so its exponent may always move. Forward may rescale where phi
is positively homogeneous, and for other phi with phi(0) = 0 when the pre-activations are so small (below TINY) that phi is its tangent to
rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numba.extending import register_jitable

from fastgrad.engine.arrays import copy, copy_rows, fill
from fastgrad.engine.compile import kernel
from fastgrad.engine.draws import NORMAL, SLACK, draw_matrix, draw_probe, draw_vector
from fastgrad.engine.native import multiply, multiply_transposed
from fastgrad.engine.norms import (
    excess,
    largest,
    log_norm,
    log_norm_of,
    log_size,
    outer_squares,
    power_of_two,
    shift_exponent,
    sum_of_rows_squares,
)
from fastgrad.engine.pointwise import activate
from fastgrad.engine.random import Role, address
from fastgrad.engine.views import as_matrix, as_vector

VARIABLES = (
    "gradient_log_norm",
    "gradient_log_max",
    "weight_gradient_log_norm",
    "bias_gradient_log_norm",
    "activation_log_norm",
)
GRADIENT, GRADIENT_MAX, WEIGHT_GRADIENT, BIAS_GRADIENT, ACTIVATION = range(5)

TINY = 2.0**-60  # x + x^2 = x to rounding in float64 too


class Layers(NamedTuple):
    """The network as the kernel sees it.

    widths : (L + 1,) int64.  weight_kind, bias_kind : codes of ``draws``.  weight_scale, bias_scale : (L,).
    weights : all W_l row-major behind one another, or empty to draw them.  biases : likewise.
    weight_offsets, bias_offsets, state_offsets : (L + 2,) int64, where layer l starts (layer 0 of weights is empty).
    linear_output : the last layer has no activation.
    """

    widths: Any
    weight_kind: int
    weight_scale: Any
    bias_kind: int
    bias_scale: Any
    weights: Any
    biases: Any
    weight_offsets: Any
    bias_offsets: Any
    state_offsets: Any
    linear_output: bool


class Block(NamedTuple):
    """What is run: which realizations, on what, and what is kept.

    first, count : realizations.  key : two uint32.  inputs : (B, n_0), or (B, 0) to draw them.  unit_probe : v on the unit sphere, else ones.
    keep_weights : hold all weights between the passes, else draw them twice.  slots : (L + 1,) int64, column of layer l in the output or -1.
    columns : (5,) int64, row of each of VARIABLES in the output or -1.
    """

    first: int
    count: int  # type: ignore[assignment]  # tuple.count is not missed
    key: Any
    inputs: Any
    unit_probe: bool
    keep_weights: bool
    slots: Any
    columns: Any


class Work(NamedTuple):
    """Arrays that one block works in; D: sum of all widths, W: largest width, each times B.

    states, slopes : (D,) x and phi'(h) of all layers.  exponents : (L + 1,) int64, of x.  h, delta : (W,).  gradients : (2, W + SLACK), the
    one at hand and the next, in turn.  bias : (largest width + SLACK,).  weights : drawn W_l, all of them or one at a time, + SLACK.
    """

    states: Any
    slopes: Any
    exponents: Any
    h: Any
    delta: Any
    gradients: Any
    bias: Any
    weights: Any


def work_arrays(layers: Layers, batch: int, keep_weights: bool) -> Work:
    """Room for a block."""
    dtype = layers.weights.dtype
    units, widest = int(layers.state_offsets[-1]) * batch, int(layers.widths.max())
    sizes = np.diff(layers.weight_offsets)
    drawn = 0 if layers.weights.size else int(sizes.sum() if keep_weights else sizes.max())
    return Work(
        states=np.empty(units, dtype),
        slopes=np.empty(units, dtype),
        exponents=np.zeros(layers.widths.size, dtype=np.int64),
        h=np.empty(batch * widest, dtype),
        delta=np.empty(batch * widest, dtype),
        gradients=np.empty((2, batch * widest + SLACK), dtype),
        bias=np.empty(widest + SLACK, dtype),
        weights=np.empty(drawn + SLACK, dtype),
    )


class Phi(NamedTuple):
    """The activation as the kernel sees it: address of its loop (``pointwise.py``), and what `Activation` says of it."""

    address: int
    homogeneous: bool
    through_zero: bool
    left_slope: float
    right_slope: float


class Trace(NamedTuple):
    """Where the last realization of a block leaves its arrays (empty: nowhere): x and gradients (state_offsets), delta, weights, biases."""

    states: Any
    gradients: Any
    deltas: Any
    weights: Any
    biases: Any
    exponents: Any


@register_jitable
def _put(out, columns, slots, variable, realization, layer, value):
    """Keep one number, if it is wanted."""
    row = columns[variable]
    column = slots[layer]
    if row >= 0 and column >= 0:
        out[row, realization, column] = value


@register_jitable(error_model="numpy")
def _kinked_line(h, bias, x, slope, below, above):
    """x = phi(h + bias) where phi is a line with a kink at 0: the tangents of any phi next to 0."""
    for j in range(h.size):
        value = h[j] + bias[j]
        d = below if value < 0 else above
        x[j] = value * d
        slope[j] = d


@register_jitable(error_model="numpy")
def _slope_times(gradient, slope, delta):
    for j in range(gradient.size):
        delta[j] = gradient[j] * slope[j]


@register_jitable(error_model="numpy")
def _weight_matrix(one, layers, block, storage, realization, layer, drawn):
    """W_layer as (n_l, n_{l-1}): given, drawn earlier, or drawn now."""
    rows = layers.widths[layer]
    columns = layers.widths[layer - 1]
    start = layers.weight_offsets[layer]
    if layers.weights.size > 0:
        return as_matrix(layers.weights[start : start + rows * columns], rows, columns)
    if not block.keep_weights:
        start = 0
    if not drawn or not block.keep_weights:
        spread = type(one)(layers.weight_scale[layer - 1])
        where = address(Role.WEIGHT, 0, layer, realization)
        draw_matrix(storage[start:], rows, columns, layers.weight_kind, spread, where, block.key)
    return as_matrix(storage[start : start + rows * columns], rows, columns)

@register_jitable(error_model="numpy")
def _bias_vector(one, layers, block, storage, realization, layer):
    """b_layer in storage: given, drawn or zero; True if it may be non-zero."""
    n = layers.widths[layer]
    start = layers.bias_offsets[layer]
    if layers.biases.size > 0:
        copy(layers.biases[start : start + n], storage[:n])
        return largest(storage[:n]) > 0
    spread = layers.bias_scale[layer - 1]
    if spread == 0.0:
        fill(storage[:n], 0)
        return False
    where = address(Role.BIAS, 0, layer, realization)
    draw_vector(storage, n, layers.bias_kind, type(one)(spread), where, block.key)
    return True

@register_jitable(error_model="numpy")
def _rows_of(storage, layers, batch, layer):
    """The (B, n_l) part of a flat buffer that belongs to a layer."""
    n = layers.widths[layer]
    start = layers.state_offsets[layer] * batch
    return as_matrix(storage[start : start + batch * n], batch, n)

@register_jitable(error_model="numpy")
def _forward_layer(one, phi, layers, x_before, exponent, w, bias, biased, h, x, slope, layer):
    """x_l and phi'(h_l) from x_{l-1} * 2**exponent; returns the exponent of x_l."""
    batch = h.shape[0]
    multiply(w, x_before, h, False)
    flat = as_vector(h)
    plain = layers.linear_output and layer == layers.widths.size - 1
    line = phi.homogeneous or plain
    tangent = False
    if biased and exponent < 0:  # the bias sets the scale
        shift_exponent(flat, exponent)
        exponent = 0
    if not line and exponent != 0:
        if largest(flat) * power_of_two(exponent) < TINY:
            tangent = True
        else:
            shift_exponent(flat, exponent)
            exponent = 0
    if exponent != 0:
        shift_exponent(bias[: h.shape[1]], -exponent)
    for b in range(batch):
        row_bias = bias[: h.shape[1]]
        if plain:
            _kinked_line(h[b], row_bias, x[b], slope[b], one, one)
        elif tangent:
            _kinked_line(h[b], row_bias, x[b], slope[b], type(one)(phi.left_slope), type(one)(phi.right_slope))
        else:
            activate(phi.address, h[b], row_bias, x[b], slope[b])
    flat_x = as_vector(x)
    top = largest(flat_x)
    if line or tangent or (phi.through_zero and top * power_of_two(exponent) < TINY):
        shift = excess(top)
        if shift != 0:
            shift_exponent(flat_x, -shift)
            exponent += shift
    return exponent

@register_jitable(error_model="numpy")
def _record_gradient(out, columns, slots, k, layer, g, exponent):
    flat = as_vector(g)
    _put(out, columns, slots, GRADIENT, k, layer, log_norm_of(flat, exponent))
    _put(out, columns, slots, GRADIENT_MAX, k, layer, log_size(largest(flat), exponent))

def _run(one, phi, layers, block, work, out, left, trace):
    depth = layers.widths.size - 1
    batch = block.inputs.shape[0]
    columns, slots = block.columns, block.slots
    states, slopes, exponents = work.states, work.slopes, work.exponents
    gradients, bias, storage = work.gradients, work.bias, work.weights

    for k in range(block.count):
        realization = block.first + k
        x = _rows_of(states, layers, batch, 0)
        if block.inputs.shape[1] > 0:
            copy_rows(block.inputs, x)
        else:
            drawn = gradients[0]
            draw_vector(drawn, x.size, NORMAL, one, address(Role.INPUT, 0, 0, realization), block.key)
            copy(drawn, as_vector(x))
        exponents[0] = 0
        _put(out, columns, slots, ACTIVATION, k, 0, log_norm_of(as_vector(x), 0))
        left[k] = -1
        for layer in range(1, depth + 1):
            before = _rows_of(states, layers, batch, layer - 1)
            x = _rows_of(states, layers, batch, layer)
            slope = _rows_of(slopes, layers, batch, layer)
            n = layers.widths[layer]
            w = _weight_matrix(one, layers, block, storage, realization, layer, False)
            biased = _bias_vector(one, layers, block, bias, realization, layer)
            if trace.weights.size > 0:
                start = layers.weight_offsets[layer]
                copy(as_vector(w), trace.weights[start : start + w.size])
                start = layers.bias_offsets[layer]
                copy(bias, trace.biases[start : start + n])
            h = as_matrix(work.h[: batch * n], batch, n)
            exponents[layer] = _forward_layer(
                one, phi, layers, before, exponents[layer - 1], w, bias, biased, h, x, slope, layer
            )
            size = log_norm_of(as_vector(x), exponents[layer])
            if not size < math.inf:  # NaN too
                left[k] = layer
                break
            _put(out, columns, slots, ACTIVATION, k, layer, size)
        if left[k] >= 0:
            continue  # NaN stays in every gradient of this realization

        n = layers.widths[depth]
        draw_probe(gradients[0], batch * n, block.unit_probe, address(Role.PROBE, 0, 0, realization), block.key)
        g = as_matrix(gradients[0, : batch * n], batch, n)
        exponent = 0
        _record_gradient(out, columns, slots, k, depth, g, exponent)
        if trace.gradients.size > 0:
            copy_rows(g, _rows_of(trace.gradients, layers, batch, depth))
            trace.exponents[depth] = exponent
        for layer in range(depth, 0, -1):
            before = _rows_of(states, layers, batch, layer - 1)
            slope = _rows_of(slopes, layers, batch, layer)
            n = layers.widths[layer]
            delta = as_matrix(work.delta[: batch * n], batch, n)
            for b in range(batch):
                _slope_times(g[b], slope[b], delta[b])
            if columns[WEIGHT_GRADIENT] >= 0 and slots[layer] >= 0:
                squares = outer_squares(delta, before)
                _put(out, columns, slots, WEIGHT_GRADIENT, k, layer, log_norm(squares, exponent + exponents[layer - 1]))
            if columns[BIAS_GRADIENT] >= 0 and slots[layer] >= 0:
                _put(out, columns, slots, BIAS_GRADIENT, k, layer, log_norm(sum_of_rows_squares(delta), exponent))
            w = _weight_matrix(one, layers, block, storage, realization, layer, True)
            m = layers.widths[layer - 1]
            g = as_matrix(gradients[(depth - layer + 1) % 2, : batch * m], batch, m)
            multiply_transposed(w, delta, g, False)
            if trace.deltas.size > 0:
                copy_rows(delta, _rows_of(trace.deltas, layers, batch, layer))
            flat = as_vector(g)
            shift = excess(largest(flat))
            if shift != 0:
                shift_exponent(flat, -shift)
                exponent += shift
            _record_gradient(out, columns, slots, k, layer - 1, g, exponent)
            if trace.gradients.size > 0:
                copy_rows(g, _rows_of(trace.gradients, layers, batch, layer - 1))
                trace.exponents[layer - 1] = exponent
        if trace.states.size > 0:
            for layer in range(depth + 1):
                traced = _rows_of(trace.states, layers, batch, layer)
                copy_rows(_rows_of(states, layers, batch, layer), traced)
                shift_exponent(as_vector(traced), exponents[layer])



@lru_cache(maxsize=1)
def mlp_kernel() -> Callable[..., Any]:
    """The kernel ``run(one, phi, layers, block, work, out, left, trace)``; ``draws.prepare`` must have been called.

    one : the number 1 in the precision of the run.  out : (variables, R, K) float64, nats; prefilled with NaN.
    left : (R,) int64, -1 or the first layer whose activations left the number range.
    """
    return kernel(_run)
