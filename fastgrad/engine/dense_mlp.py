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

from fastgrad.engine.arrays import aligned_empty, copy, fill, whole_lines
from fastgrad.engine.compile import kernel
from fastgrad.engine.draws import NORMAL, SLACK, draw_matrix, draw_probe, draw_vector
from fastgrad.engine.native import product, product_transposed
from fastgrad.engine.norms import excess, log_norm, log_size, power_of_two
from fastgrad.engine.pointwise import activate
from fastgrad.engine.random import Role, address
from fastgrad.engine.shared_norms import largest, log_norm_of, outer_squares, shift_exponent, sum_of_rows_squares
from fastgrad.engine.views import as_matrix, as_vector, matrix_at, vector_at

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
    drawer : address of what draws matrices (``draws.matrix_drawer``).  linear_output : the last layer has no activation.
    """

    widths: Any
    drawer: int
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

    states, slopes : (D,) x and phi'(h) of all layers.  exponents, gradient_exponents : (L + 1,) int64, of x and g.  h : (W,).  bias : (rows,
    largest width + SLACK), shifted_bias : (largest width,).  deltas : (rows, W).  gradients : (rows, W + SLACK).  weights : drawn W_l, all of
    them or one at a time, + SLACK.

    Layers take the rows of ``bias``, ``deltas`` and ``gradients`` in turn, so with L + 1 rows everything is still there afterwards.
    """

    states: Any
    slopes: Any
    exponents: Any
    gradient_exponents: Any
    h: Any
    bias: Any
    shifted_bias: Any
    deltas: Any
    gradients: Any
    weights: Any


def work_arrays(layers: Layers, batch: int, keep_weights: bool, keep_all: bool = False) -> Work:
    """Room for a block; ``keep_all``: nothing of the last realization is overwritten."""
    dtype = layers.weights.dtype
    length, widest = layers.widths.size, int(layers.widths.max())
    units = int(layers.state_offsets[-1]) * batch
    sizes = np.diff(layers.weight_offsets)
    drawn = 0 if layers.weights.size else int(sizes.sum() if keep_weights else sizes.max())
    return Work(
        states=aligned_empty(units, dtype),
        slopes=aligned_empty(units, dtype),
        exponents=np.zeros(length, np.int64),
        gradient_exponents=np.zeros(length, np.int64),
        h=aligned_empty(batch * widest, dtype),
        bias=aligned_empty((length if keep_all else 1, whole_lines(widest + SLACK)), dtype),
        shifted_bias=aligned_empty(widest, dtype),
        deltas=aligned_empty((length if keep_all else 1, whole_lines(batch * widest)), dtype),
        gradients=aligned_empty((length if keep_all else 2, whole_lines(batch * widest + SLACK)), dtype),
        weights=aligned_empty(drawn + SLACK, dtype),
    )


class Phi(NamedTuple):
    """The activation as the kernel sees it: address of its loop (``pointwise.py``), and what `Activation` says of it."""

    address: int
    homogeneous: bool
    through_zero: bool
    left_slope: float
    right_slope: float


@register_jitable
def put(out, columns, slots, variable, realization, layer, value):
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
def _draw_weights(one, layers, out, realization, layer, key):
    """W_layer, row-major, into out."""
    where = address(Role.WEIGHT, 0, layer, realization)
    spread = type(one)(layers.weight_scale[layer - 1])
    draw_matrix(out, layers.widths[layer], layers.widths[layer - 1], layers.weight_kind, spread, where, key, layers.drawer)


@register_jitable(error_model="numpy")
def _bias_vector(one, layers, out, realization, layer, key):
    """b_layer in out, ``SLACK`` numbers of room behind it: given, drawn or zero; True if it may be non-zero."""
    n = layers.widths[layer]
    b = vector_at(out, 0, n)
    if layers.biases.size > 0:
        copy(vector_at(layers.biases, layers.bias_offsets[layer], n), b)
        return largest(b) > 0
    spread = layers.bias_scale[layer - 1]
    if spread == 0.0:
        fill(b, 0)
        return False
    draw_vector(out, n, layers.bias_kind, type(one)(spread), address(Role.BIAS, 0, layer, realization), key)
    return True


@register_jitable(error_model="numpy")
def _activate_layer(one, phi, plain, exponent, bias, biased, shifted, h, x, slope):
    """x_l and phi'(h_l) from h = W_l x_{l-1} * 2**-exponent (B, n); ``plain``: no activation; returns the exponent of x_l."""
    batch = h.shape[0]
    flat = as_vector(h)
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
        copy(bias, shifted)
        shift_exponent(shifted, -exponent)
        bias = shifted
    below, above = one, one
    if tangent and not plain:
        below, above = type(one)(phi.left_slope), type(one)(phi.right_slope)
    for b in range(batch):
        if plain or tangent:
            _kinked_line(h[b], bias, x[b], slope[b], below, above)
        else:
            activate(phi.address, h[b], bias, x[b], slope[b])
    flat_x = as_vector(x)
    top = largest(flat_x)
    if line or tangent or (phi.through_zero and top * power_of_two(exponent) < TINY):
        exponent = _renormalise(flat_x, top, exponent)
    return exponent


@register_jitable(error_model="numpy")
def _renormalise(x, top, exponent):
    """Take a power of two out of x if ``top``, its largest entry, has left the window; returns the new exponent."""
    shift = excess(top)
    if shift != 0:
        shift_exponent(x, -shift)
    return exponent + shift


@register_jitable(error_model="numpy")
def _record_gradient(out, columns, slots, k, layer, g, exponent):
    put(out, columns, slots, GRADIENT, k, layer, log_norm_of(g, exponent))
    put(out, columns, slots, GRADIENT_MAX, k, layer, log_size(largest(g), exponent))


@register_jitable(error_model="numpy")
def _forward(one, phi, layers, block, work, out, k):
    """Realization k of the block from the input up; returns -1 or the first layer that left the number range."""
    batch = block.inputs.shape[0]
    realization = block.first + k
    columns, slots = block.columns, block.slots
    widths, starts = layers.widths, layers.state_offsets
    states, exponents = work.states, work.exponents
    given = layers.weights.size > 0
    stored = layers.weights if given else work.weights

    x = vector_at(states, 0, batch * widths[0])
    if block.inputs.shape[1] > 0:
        copy(as_vector(block.inputs), x)
    else:
        drawn = work.gradients[0]
        draw_vector(drawn, x.size, NORMAL, one, address(Role.INPUT, 0, 0, realization), block.key)
        copy(drawn, x)
    exponents[0] = 0
    put(out, columns, slots, ACTIVATION, k, 0, log_norm_of(x, 0))
    for layer in range(1, widths.size):
        m, n = widths[layer - 1], widths[layer]
        start = layers.weight_offsets[layer] if given or block.keep_weights else 0
        if not given:
            _draw_weights(one, layers, vector_at(stored, start, n * m), realization, layer, block.key)
        bias = work.bias[layer % work.bias.shape[0]]
        biased = _bias_vector(one, layers, bias, realization, layer, block.key)
        h = as_matrix(work.h, batch, n)
        product(matrix_at(stored, start, n, m), as_matrix(x, batch, m), h, False)
        x = vector_at(states, starts[layer] * batch, batch * n)
        slope = matrix_at(work.slopes, starts[layer] * batch, batch, n)
        plain = layers.linear_output and layer == widths.size - 1
        shifted = vector_at(work.shifted_bias, 0, n)
        exponent = _activate_layer(
            one, phi, plain, exponents[layer - 1], vector_at(bias, 0, n), biased, shifted, h, as_matrix(x, batch, n), slope
        )
        exponents[layer] = exponent
        size = log_norm_of(x, exponent)
        if not size < math.inf:  # NaN too
            return layer
        put(out, columns, slots, ACTIVATION, k, layer, size)
    return -1


@register_jitable(error_model="numpy")
def _record_layer(out, columns, slots, k, layer, delta, exponent, x, x_exponent):
    """What W_layer and b_layer get: delta (B, n_l) * 2**exponent, x = x_{l-1} (B, n_{l-1}) * 2**x_exponent."""
    if columns[WEIGHT_GRADIENT] >= 0 and slots[layer] >= 0:
        put(out, columns, slots, WEIGHT_GRADIENT, k, layer, log_norm(outer_squares(delta, x), exponent + x_exponent))
    if columns[BIAS_GRADIENT] >= 0 and slots[layer] >= 0:
        put(out, columns, slots, BIAS_GRADIENT, k, layer, log_norm(sum_of_rows_squares(delta), exponent))


@register_jitable(error_model="numpy")
def _backward(one, layers, block, work, out, k):
    """Realization k of the block from the loss down to the input."""
    batch = block.inputs.shape[0]
    realization = block.first + k
    columns, slots = block.columns, block.slots
    widths, starts = layers.widths, layers.state_offsets
    gradients, exponents, gradient_exponents = work.gradients, work.exponents, work.gradient_exponents
    depth = widths.size - 1
    given = layers.weights.size > 0
    stored = layers.weights if given else work.weights
    all_there = given or block.keep_weights

    units = batch * widths[depth]
    draw_probe(gradients[0], units, block.unit_probe, address(Role.PROBE, 0, 0, realization), block.key)
    g = vector_at(gradients[0], 0, units)
    exponent = 0
    for layer in range(depth, 0, -1):
        gradient_exponents[layer] = exponent
        _record_gradient(out, columns, slots, k, layer, g, exponent)
        m, n = widths[layer - 1], widths[layer]
        delta = vector_at(work.deltas[layer % work.deltas.shape[0]], 0, batch * n)
        _slope_times(g, vector_at(work.slopes, starts[layer] * batch, batch * n), delta)
        deltas = as_matrix(delta, batch, n)
        before = matrix_at(work.states, starts[layer - 1] * batch, batch, m)
        _record_layer(out, columns, slots, k, layer, deltas, exponent, before, exponents[layer - 1])
        start = layers.weight_offsets[layer] if all_there else 0
        if not all_there:
            _draw_weights(one, layers, vector_at(stored, start, n * m), realization, layer, block.key)
        g = vector_at(gradients[(depth - layer + 1) % gradients.shape[0]], 0, batch * m)
        product_transposed(matrix_at(stored, start, n, m), deltas, as_matrix(g, batch, m), False)
        exponent = _renormalise(g, largest(g), exponent)
    gradient_exponents[0] = exponent
    _record_gradient(out, columns, slots, k, 0, g, exponent)


def _run(one, phi, layers, block, work, out, left):
    for k in range(block.count):
        left[k] = _forward(one, phi, layers, block, work, out, k)
        if left[k] < 0:  # else NaN stays in every gradient of this realization
            _backward(one, layers, block, work, out, k)


@lru_cache(maxsize=1)
def mlp_kernel() -> Callable[..., Any]:
    """The kernel ``run(one, phi, layers, block, work, out, left)``; ``draws.prepare``, `prepare_norms` and `matrix_drawer` must have been called.

    one : the number 1 in the precision of the run.  out : (variables, R, K) float64, nats; prefilled with NaN.
    left : (R,) int64, -1 or the first layer whose activations left the number range.
    """
    return kernel(_run, counts_references=False)
