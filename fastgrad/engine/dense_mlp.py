"""Forward and backward through an MLP with explicit weights.

Realizations that draw their weights run one after another. With given weights they share them, so a group of realizations goes through each layer
together, one product for all of them: a layer's weights are then read once for the group. The products add in an order that does not depend on
who else is in the group, so results do not either.

Letters: L layers, B inputs, n_l width of layer l, R realizations of the block, K kept layers, Q realizations of a group.

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

from fastgrad.engine.aligned import aligned_empty, whole_lines
from fastgrad.engine.arrays import copy, fill
from fastgrad.engine.compile import kernel
from fastgrad.engine.draws import NORMAL, SLACK, draw_matrix, draw_probe, draw_vector
from fastgrad.engine.native import product, product_transposed
from fastgrad.engine.norms import excess, log_norm, log_size, power_of_two
from fastgrad.engine.pointwise import activate
from fastgrad.engine.random import Role, address
from fastgrad.engine.shared_norms import largest, log_norm_of, outer_squares, shift_exponent, sum_of_rows_squares
from fastgrad.engine.views import as_matrix, as_vector, matrix_at, matrix_by_address, vector_at
from fastgrad.jit import register_jitable

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
    given : whether weights and biases are.  weight_addresses : (L + 1,) int64 of the given W_l, row-major.  weights : what lies there, if nobody
    else keeps it.  biases : all given b_l behind one another, or empty.  weight_offsets, bias_offsets, state_offsets : (L + 2,) int64, where
    layer l starts (layer 0 of weights is empty).
    drawer : address of what draws matrices (``draws.matrix_drawer``).  linear_output : the last layer has no activation.
    """

    widths: Any
    drawer: int
    weight_kind: int
    weight_scale: Any
    bias_kind: int
    bias_scale: Any
    given: bool
    weight_addresses: Any
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
    columns : (5,) int64, row of each of VARIABLES in the output or -1.  together : realizations of a group, 1 where weights are drawn.
    """

    first: int
    count: int  # type: ignore[assignment]  # tuple.count is not missed
    key: Any
    inputs: Any
    unit_probe: bool
    keep_weights: bool
    slots: Any
    columns: Any
    together: int


class Work(NamedTuple):
    """Arrays that one block works in; D: sum of all widths, W: largest width, each times B.

    states, slopes : (Q D,) x and phi'(h), layer by layer, in each the realizations of the group.  exponents, gradient_exponents : (L + 1, Q)
    int64, of x and g.  h : (Q W,).  bias : (rows, largest width + SLACK), shifted_bias : (largest width,).  deltas : (rows, Q W).
    gradients : (rows, Q W).  weights : drawn W_l, all of them or one at a time, + SLACK.
    weight_addresses : (L + 1,) int64, where W_l is or comes to be.  vector : (W + SLACK,), an input or a direction as
    it is drawn.

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
    weight_addresses: Any
    vector: Any


GROUP_ROWS = 64  # inputs of all realizations of a group: beyond, sharing the weights gains nothing more
GROUP_BYTES = 128 * 2**20  # and the states of a group take more than this


def group_size(units: int, batch: int, itemsize: int) -> int:
    """How many realizations with given weights go through the layers together; units: the sum of all widths."""
    return max(1, min(GROUP_ROWS // batch, GROUP_BYTES // (2 * units * batch * itemsize)))


def work_arrays(layers: Layers, batch: int, together: int, keep_weights: bool, keep_all: bool = False) -> Work:
    """Room for a block; ``keep_all``: nothing of the last realization is overwritten."""
    dtype = layers.weights.dtype
    length, widest = layers.widths.size, int(layers.widths.max())
    units = int(layers.state_offsets[-1])
    sizes = np.diff(layers.weight_offsets)
    drawn = 0 if layers.given else int(sizes.sum() if keep_weights else sizes.max())
    weights = aligned_empty(drawn + SLACK, dtype)
    drawn_addresses = weights.ctypes.data + layers.weight_offsets[:-1] * (weights.itemsize if keep_weights else 0)
    rows = together * batch
    return Work(
        states=aligned_empty(rows * units, dtype),
        slopes=aligned_empty(rows * units, dtype),
        exponents=np.zeros((length, together), np.int64),
        gradient_exponents=np.zeros((length, together), np.int64),
        h=aligned_empty(rows * widest, dtype),
        bias=aligned_empty((length if keep_all else 1, whole_lines(widest + SLACK)), dtype),
        shifted_bias=aligned_empty(widest, dtype),
        deltas=aligned_empty((length if keep_all else 1, whole_lines(rows * widest)), dtype),
        gradients=aligned_empty((length if keep_all else 2, whole_lines(rows * widest)), dtype),
        weights=weights,
        weight_addresses=layers.weight_addresses if layers.given else drawn_addresses,
        vector=aligned_empty(batch * widest + SLACK, dtype),
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
    if columns[GRADIENT] >= 0:
        put(out, columns, slots, GRADIENT, k, layer, log_norm_of(g, exponent))
    if columns[GRADIENT_MAX] >= 0:
        put(out, columns, slots, GRADIENT_MAX, k, layer, log_size(largest(g), exponent))


@register_jitable(error_model="numpy")
def _any_inside(left, start, count):
    """Whether a realization of the group is still inside the number range."""
    inside = False
    for k in range(start, start + count):
        inside = inside or left[k] < 0
    return inside


@register_jitable(error_model="numpy")
def _start(one, layers, block, work, out, k, q):
    """The input of realization k of the block, place q of its group, into the first states."""
    batch = block.inputs.shape[0]
    x = vector_at(work.states, q * batch * layers.widths[0], batch * layers.widths[0])
    if block.inputs.shape[1] > 0:
        copy(as_vector(block.inputs), x)
    else:
        draw_vector(work.vector, x.size, NORMAL, one, address(Role.INPUT, 0, 0, block.first + k), block.key)
        copy(vector_at(work.vector, 0, x.size), x)
    work.exponents[0, q] = 0
    put(out, block.columns, block.slots, ACTIVATION, k, 0, log_norm_of(x, 0))


@register_jitable(error_model="numpy")
def _forward(one, phi, layers, block, work, out, left, start, count):
    """Realizations start … start + count - 1 of the block from the input up; ``left``: -1, or the first layer that left the number range."""
    batch = block.inputs.shape[0]
    widths = layers.widths
    states, exponents = work.states, work.exponents
    places = exponents.shape[1]
    for q in range(count):
        left[start + q] = -1
        _start(one, layers, block, work, out, start + q, q)
    for layer in range(1, widths.size):
        if not _any_inside(left, start, count):
            return
        m, n = widths[layer - 1], widths[layer]
        weights = matrix_by_address(work.weights, work.weight_addresses[layer], n, m)
        if not layers.given:
            _draw_weights(one, layers, as_vector(weights), block.first + start, layer, block.key)
        bias = work.bias[layer % work.bias.shape[0]]
        biased = _bias_vector(one, layers, bias, block.first + start, layer, block.key)
        below = places * batch * layers.state_offsets[layer - 1]
        product(weights, matrix_at(states, below, count * batch, m), as_matrix(work.h, count * batch, n), False)
        plain = layers.linear_output and layer == widths.size - 1
        shifted = vector_at(work.shifted_bias, 0, n)
        here = places * batch * layers.state_offsets[layer]
        for q in range(count):
            if left[start + q] >= 0:
                continue
            at, size = here + q * batch * n, batch * n
            h, x, slope = matrix_at(work.h, q * size, batch, n), matrix_at(states, at, batch, n), matrix_at(work.slopes, at, batch, n)
            exponent = _activate_layer(one, phi, plain, exponents[layer - 1, q], vector_at(bias, 0, n), biased, shifted, h, x, slope)
            exponents[layer, q] = exponent
            norm = log_norm_of(as_vector(x), exponent)
            if norm < math.inf:
                put(out, block.columns, block.slots, ACTIVATION, start + q, layer, norm)
            else:  # NaN too; the group goes on without it
                left[start + q] = layer
                fill(as_vector(x), 0)
                fill(as_vector(slope), 0)


@register_jitable(error_model="numpy")
def _record_layer(out, columns, slots, k, layer, delta, exponent, x, x_exponent):
    """What W_layer and b_layer get: delta (B, n_l) * 2**exponent, x = x_{l-1} (B, n_{l-1}) * 2**x_exponent."""
    if columns[WEIGHT_GRADIENT] >= 0 and slots[layer] >= 0:
        put(out, columns, slots, WEIGHT_GRADIENT, k, layer, log_norm(outer_squares(delta, x), exponent + x_exponent))
    if columns[BIAS_GRADIENT] >= 0 and slots[layer] >= 0:
        put(out, columns, slots, BIAS_GRADIENT, k, layer, log_norm(sum_of_rows_squares(delta), exponent))


@register_jitable(error_model="numpy")
def _backward(one, layers, block, work, out, left, start, count):
    """Realizations start … start + count - 1 of the block from the loss down to the input."""
    batch = block.inputs.shape[0]
    columns, slots = block.columns, block.slots
    widths = layers.widths
    gradients, exponents, gradient_exponents = work.gradients, work.exponents, work.gradient_exponents
    places = exponents.shape[1]
    depth = widths.size - 1
    all_there = layers.given or block.keep_weights

    units = batch * widths[depth]
    for q in range(count):
        draw_probe(work.vector, units, block.unit_probe, address(Role.PROBE, 0, 0, block.first + start + q), block.key)
        copy(vector_at(work.vector, 0, units), vector_at(gradients[0], q * units, units))
        gradient_exponents[depth, q] = 0
    row = gradients[0]
    for layer in range(depth, 0, -1):
        m, n = widths[layer - 1], widths[layer]
        here, below = places * batch * layers.state_offsets[layer], places * batch * layers.state_offsets[layer - 1]
        deltas = work.deltas[layer % work.deltas.shape[0]]
        for q in range(count):
            if left[start + q] >= 0:  # NaN stays in every gradient of this realization
                fill(vector_at(deltas, q * batch * n, batch * n), 0)
                continue
            exponent = gradient_exponents[layer, q]
            g, delta = vector_at(row, q * batch * n, batch * n), vector_at(deltas, q * batch * n, batch * n)
            _record_gradient(out, columns, slots, start + q, layer, g, exponent)
            _slope_times(g, vector_at(work.slopes, here + q * batch * n, batch * n), delta)
            before = matrix_at(work.states, below + q * batch * m, batch, m)
            _record_layer(out, columns, slots, start + q, layer, as_matrix(delta, batch, n), exponent, before, exponents[layer - 1, q])
        weights = matrix_by_address(work.weights, work.weight_addresses[layer], n, m)
        if not all_there:
            _draw_weights(one, layers, as_vector(weights), block.first + start, layer, block.key)
        row = gradients[(depth - layer + 1) % gradients.shape[0]]
        product_transposed(weights, matrix_at(deltas, 0, count * batch, n), matrix_at(row, 0, count * batch, m), False)
        for q in range(count):
            g = vector_at(row, q * batch * m, batch * m)
            gradient_exponents[layer - 1, q] = _renormalise(g, largest(g), gradient_exponents[layer, q])
    for q in range(count):
        if left[start + q] < 0:
            _record_gradient(out, columns, slots, start + q, 0, vector_at(row, q * batch * widths[0], batch * widths[0]), gradient_exponents[0, q])


def _run(one, phi, layers, block, work, out, left):
    for start in range(0, block.count, block.together):
        count = min(block.together, block.count - start)
        _forward(one, phi, layers, block, work, out, left, start, count)
        if _any_inside(left, start, count):
            _backward(one, layers, block, work, out, left, start, count)


@lru_cache(maxsize=1)
def mlp_kernel() -> Callable[..., Any]:
    """The kernel ``run(one, phi, layers, block, work, out, left)``; ``draws.prepare``, `prepare_norms` and `matrix_drawer` must have been called.

    one : the number 1 in the precision of the run.  out : (variables, R, K) float64, nats; prefilled with NaN.
    left : (R,) int64, -1 or the first layer whose activations left the number range.
    """
    return kernel(_run, counts_references=False)
