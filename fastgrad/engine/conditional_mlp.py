"""One input, one probe, Gaussian weights: the law of an MLP's activations and gradients from O(width) numbers a layer, no weight matrix.

``docs/conditional_sampler.md`` proves it. With w the standard deviation of a weight, s = w |x|, S^2 = s^2 + sigma_b^2, and z, z', xi fresh normals:

    forward    h = S z,  x' = phi(h)
    backward   W^T delta = x (rho h^T delta + tau |delta| xi) / |x|^2 + w |delta| (z' - x (x^T z') / |x|^2),   rho = s^2/S^2,  tau = s sigma_b/S

So a gradient g = W^T delta is a combination a x + b z' of two vectors that were there before it, and of the layer's own delta = phi'(h) g the next
step needs |delta| and h^T delta alone: a quadratic and a linear form in (a, b). Their coefficients are eight sums over the units
(``layer_sums.py``), formed on the way forward. The way back is then a recursion of a few numbers a layer, and no vector is ever stored or drawn
twice, unless the largest entry of each gradient is wanted, for which g itself must be looked at.

The quadratic forms lose digits where a x and b z' nearly cancel (always at width 1). Where that shows, the layer is evaluated again for this
realization, and g is formed unit by unit in float64, so that what cancels does so before it is squared.

Narrow layers are shorter than the processor's pipelines, so a group of realizations goes through each layer together, row by row; rows share
nothing, and how many make a group changes no byte. Norms are recorded as squares, and their logarithms taken at the end.

Letters: L layers, n_l widths, R realizations, G realizations of a group, K kept layers, W the longest row.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from fastgrad.engine.aligned import aligned_zeros, whole_lines
from fastgrad.engine.compile import kernel
from fastgrad.engine.conditional_layer import PHI, TINY, evaluate, set_spreads
from fastgrad.engine.dense_mlp import ACTIVATION, BIAS_GRADIENT, GRADIENT, GRADIENT_MAX, WEIGHT_GRADIENT, put
from fastgrad.engine.draws import SLACK, draw_normals
from fastgrad.engine.layer_sums import AA, AB, BB, HA, HB, SUMS, WW, XW, XX, exact_sums, layer_sums
from fastgrad.engine.noalias import load, store
from fastgrad.engine.norms import WINDOW, power_of_two
from fastgrad.engine.random import Role
from fastgrad.engine.recorded_logs import LOGS, ROWS, take_recorded_logs
from fastgrad.engine.views import matrix_at, plane_at, vector_at
from fastgrad.engine.wide import widest_vectors
from fastgrad.jit import part, reduction, register_jitable

BEYOND_SQUARES_32, BEYOND_SQUARES_64 = 80, 560  # binary orders after whose removal the squares of any finite number can be summed in float64
LEAST_32, LEAST_64 = 1e-30, 1e-290  # sums of squares below may have lost terms to underflow, those above 1/LEAST to overflow
CANCELS = 1.0 / 16.0  # a form this far below the sum of its terms' sizes has lost a digit
STATES = 7
ALONG, ACROSS, T, G_SQUARES, DELTA_SQUARES, DELTA_H, XI = range(STATES)
SCALAR_BYTES = 29  # of a layer and realization in `Work`: spread, squares, post, exponent, sent, regime


class Layers(NamedTuple):
    """The network as the kernel sees it.

    widths : (L + 1,) int64.  weight_std : (L,) or (1,) float64, standard deviation of one weight of each layer, or of all layers.
    bias_std : float.  linear_output : the last layer has no activation.  phi : address of the activation's loop (``pointwise.py``);
    homogeneous, through_zero and the slopes at 0 as in `Activation`.
    """

    widths: Any
    weight_std: Any
    bias_std: float
    linear_output: bool
    phi: int
    homogeneous: bool
    through_zero: bool
    left_slope: float
    right_slope: float


class Block(NamedTuple):
    """What is run: first, count realizations; key two uint32; inputs (n_0,) or (0,) to draw; slots, columns as in ``dense_mlp``."""

    first: int
    count: int  # type: ignore[assignment]  # tuple.count is not missed
    key: Any
    inputs: Any
    unit_probe: bool
    slots: Any
    columns: Any


class Work(NamedTuple):
    """Arrays that one block works in.

    x, noise : (L + 1, G, W) where layers are kept for the largest entries, else (1, G, W).  h, slope : (1, G, W).  again : (4, 1, W), one row
    of h, x, slope and noise.  zeros : (G W,).  blur : (G, 2 SLACK), whose first column counts.  sums : (L + 1, SUMS, G) in the precision of the
    run, x as it was evaluated.  forms : (SUMS,) float64, the sums of one row.  state : (STATES, G) float64, of the gradient that a row has arrived
    at: `ALONG`, `ACROSS` and `T` with g = along x + across (z' - t x), t = x.z'/|x|^2; the squares of norms `G_SQUARES` and
    `DELTA_SQUARES`; `DELTA_H`, h^T delta; and `XI`, the normals of the bias blur.  carry : (G,) int64, exponent of the pass.  Of each layer,
    (L + 1, G): spread S; squares |x|^2; post int32, binary orders taken out of x; exponent int32, of h; sent int32, of the gradient; regime int8.
    logs : (ROWS, LOGS).  Rows are `whole_lines`, which a panel fits into.
    """

    h: Any
    x: Any
    slope: Any
    noise: Any
    again: Any
    zeros: Any
    blur: Any
    sums: Any
    forms: Any
    state: Any
    carry: Any
    spread: Any
    squares: Any
    post: Any
    exponent: Any
    sent: Any
    regime: Any
    logs: Any


# --- a layer's numbers -------------------------------------------------------------------------------------------------------------


@part
def _row_length(n):
    """Numbers from row to row in a layer of n units: as few as panels and cache lines allow."""
    return (n + 15) // 16 * 16


@register_jitable(error_model="numpy")
def _sum_again(layers, block, work, layer, k, realization, factor):
    """The sums of one row in float64, into ``forms``, with ``factor`` x for x."""
    n = layers.widths[layer]
    h, x, slope, noise = plane_at(work.again, 0), plane_at(work.again, 1), plane_at(work.again, 2), plane_at(work.again, 3)
    evaluate(layers, block, work, layer, k, 1, realization + k, h, x, slope, noise)
    exact_sums(vector_at(h, 0, n), vector_at(x, 0, n), vector_at(slope, 0, n), vector_at(noise, 0, n), factor, work.forms)


# --- forward -----------------------------------------------------------------------------------------------------------------------


@part
def _orders_to_take(mean, carry, homogeneous, straight, through_zero):
    """Binary orders to take out of x so that its typical entry, of square ``mean``, stays in the window; straight: phi was a line for this x."""
    inside = mean >= 1.0 / WINDOW**2 and mean <= WINDOW**2
    if mean == 0.0 or (inside and (homogeneous or carry == 0)):
        return 0
    size = math.sqrt(mean)
    small = through_zero and size * power_of_two(carry) < TINY
    if inside or not (homogeneous or small or straight):
        return 0
    return math.frexp(size)[1]


@part
def _keep_size(layers, block, work, layer, k, realization):
    """|x_layer|^2 and the orders taken out of it; returns whether it left the number range."""
    squares = 1.0 * work.sums[layer, XX, k]
    double = work.x.itemsize == 8
    least = LEAST_64 if double else LEAST_32
    post = 0
    if not (squares >= least and squares <= 1.0 / least) and work.spread[layer, k] > 0.0:
        # NaN too is large: the squares left the range, perhaps not the activations.
        post = (-BEYOND_SQUARES_64 if double else 0) if squares < least else (BEYOND_SQUARES_64 if double else BEYOND_SQUARES_32)
        _sum_again(layers, block, work, layer, k, realization, power_of_two(-post))
        squares = work.forms[XX]
    lost = not squares < math.inf
    if lost or squares == 0.0:
        squares, post = 0.0, 0
    else:
        straight = work.regime[layer, k] != PHI
        orders = _orders_to_take(squares / layers.widths[layer], work.carry[k] + post, layers.homogeneous, straight, layers.through_zero)
        squares *= power_of_two(-2 * orders)
        post += orders
    work.squares[layer, k] = squares
    work.post[layer, k] = post
    work.carry[k] += post
    return lost


@part
def _keep_sizes(layers, block, work, layer, count, realization, left):
    """`_keep_size` of all rows: at once where all are in the window, as they nearly always are."""
    group = work.x.shape[1]
    xx = vector_at(work.sums, (layer * SUMS + XX) * group, count)
    squares, post = vector_at(work.squares, layer * group, count), vector_at(work.post, layer * group, count)
    width = float(layers.widths[layer])
    unusual = 0
    for k in range(count):
        size = 1.0 * load(xx, k)
        mean = size / width
        unusual |= not (mean >= 1.0 / WINDOW**2 and mean <= WINDOW**2) or not (layers.homogeneous or load(work.carry, k) == 0)
        store(squares, k, size, 0)
        store(post, k, np.int32(0), 1)
    if unusual:
        for k in range(count):
            if _keep_size(layers, block, work, layer, k, realization) and left[k] < 0:
                left[k] = layer


@register_jitable
def _record(out, columns, slots, variable, k0, values, layer, left):
    """One number of each row, where it is wanted and the row has not left the number range."""
    row, column = columns[variable], slots[layer]
    if row >= 0 and column >= 0:
        for k in range(values.size):
            if left[k] < 0:
                out[row, k0 + k, column] = values[k]


@register_jitable(error_model="numpy")
def _forward(layers, block, work, out, left, k0, count):
    """Scalars and sums of all layers; left[k] becomes the first layer that left the number range."""
    widest_vectors()
    realization, group = block.first + k0, work.x.shape[1]
    for k in range(count):
        left[k] = -1
        work.carry[k] = work.exponent[0, k] = 0
        work.spread[0, k] = 1.0
        work.regime[0, k] = PHI
    for layer in range(layers.widths.size):
        n = layers.widths[layer]
        start = (layer % work.x.shape[0]) * (group * work.x.shape[2])
        h, slope = matrix_at(work.h, 0, group, _row_length(n)), matrix_at(work.slope, 0, group, _row_length(n))
        x, noise = matrix_at(work.x, start, group, _row_length(n)), matrix_at(work.noise, start, group, _row_length(n))
        if layer > 0:
            set_spreads(layers, work, layer, count)
        evaluate(layers, block, work, layer, 0, count, realization, h, x, slope, noise)
        layer_sums(count, n, h, x, slope, noise, plane_at(work.sums, layer))
        _keep_sizes(layers, block, work, layer, count, realization, left)
        _record(out, block.columns, block.slots, ACTIVATION, k0, vector_at(work.squares, layer * group, count), layer, left)


# --- backward ----------------------------------------------------------------------------------------------------------------------


@part
def _forms(xx, xw, ww, aa, ab, bb, ha, hb, along, b, t):
    """(|g|^2, |delta|^2, h^T delta, whether they kept their digits) for g = along x + b (w - t x) = a x + b w, t = x.w / x.x or 0."""
    a = along - b * t
    rest = ww - t * xw
    terms = a * a * aa + b * b * bb
    delta = terms + 2.0 * (a * b) * ab
    keeps = (rest >= CANCELS * ww) & (delta >= CANCELS * terms)
    g = along * along * xx + b * b * rest
    return g if g > 0.0 else 0.0, delta if delta > 0.0 else 0.0, a * ha + b * hb, keeps


@reduction
def _gradient_of_row(h, x, slope, noise, p, along, b, t):
    """(|g|^2, |delta|^2, h^T delta) unit by unit in float64, ``p`` x for x: what cancels does so before it is squared."""
    g_squares, delta_squares, delta_h = 0.0, 0.0, 0.0
    for j in range(x.size):
        y = p * x[j]
        g = along * y + b * (noise[j] - t * y)
        delta = g * slope[j]
        g_squares += g * g
        delta_squares += delta * delta
        delta_h += delta * h[j]
    return g_squares, delta_squares, delta_h


@part
def _in_range(sums, least, most, inputs):
    """Whether no term can have been lost to the ends of the number range; inputs: of layer 0, which has no slopes."""
    if not (sums[XX] >= least and sums[XX] <= most):
        return False
    squares = sums[AA] >= least and sums[AA] <= most and sums[BB] >= least and sums[BB] <= most
    return inputs or (squares and abs(sums[HA]) + abs(sums[HB]) <= most)


@part
def _see_row(layers, block, work, layer, k, realization):
    """What matters of the gradient that has arrived at a layer, for one row, whatever its sums are."""
    along, b = work.state[ALONG, k], work.state[ACROSS, k]
    if along == 0.0 and b == 0.0:
        work.state[T, k] = work.state[G_SQUARES, k] = work.state[DELTA_SQUARES, k] = work.state[DELTA_H, k] = 0.0
        return
    # At the end of the network, and of a weight matrix that was multiplied by zero, nothing is known.
    known = layer < layers.widths.size - 1 and work.squares[layer, k] != 0.0 and work.spread[layer + 1, k] != 0.0
    p = power_of_two(-work.post[layer, k])
    least = LEAST_64 if work.x.itemsize == 8 else LEAST_32
    sums = work.forms
    for j in range(SUMS):
        sums[j] = work.sums[layer, j, k]
    t = sums[XW] * p / (sums[XX] * p * p) if known else 0.0
    g, delta, delta_h, keeps = _forms(
        sums[XX] * p * p, sums[XW] * p, sums[WW], sums[AA] * p * p, sums[AB] * p, sums[BB], sums[HA] * p, sums[HB], along, b, t
    )
    if not (keeps and _in_range(sums, least, 1.0 / least, layer == 0)):
        _sum_again(layers, block, work, layer, k, realization, p)
        t = sums[XW] / sums[XX] if known else 0.0
        n = layers.widths[layer]
        h, x, slope, noise = plane_at(work.again, 0), plane_at(work.again, 1), plane_at(work.again, 2), plane_at(work.again, 3)
        rows = vector_at(h, 0, n), vector_at(x, 0, n), vector_at(slope, 0, n), vector_at(noise, 0, n)
        g, delta, delta_h = _gradient_of_row(rows[0], rows[1], rows[2], rows[3], p, along, b, t)
    # Float64 slopes below 1e-154 have no squares; they count as none then.
    work.state[T, k], work.state[G_SQUARES, k], work.state[DELTA_SQUARES, k] = t, g, delta
    work.state[DELTA_H, k] = delta_h if delta > 0.0 else 0.0


@part
def _see_gradients(layers, block, work, layer, count, realization):
    """What matters of the gradients that have arrived at a layer: of all rows at once where nothing is unusual, as nearly always."""
    group = work.x.shape[1]
    xx, xw = vector_at(work.sums, (layer * SUMS + XX) * group, count), vector_at(work.sums, (layer * SUMS + XW) * group, count)
    ww, aa = vector_at(work.sums, (layer * SUMS + WW) * group, count), vector_at(work.sums, (layer * SUMS + AA) * group, count)
    ab, bb = vector_at(work.sums, (layer * SUMS + AB) * group, count), vector_at(work.sums, (layer * SUMS + BB) * group, count)
    ha, hb = vector_at(work.sums, (layer * SUMS + HA) * group, count), vector_at(work.sums, (layer * SUMS + HB) * group, count)
    squares, post = vector_at(work.squares, layer * group, count), vector_at(work.post, layer * group, count)
    along_, across = vector_at(work.state, ALONG * group, count), vector_at(work.state, ACROSS * group, count)
    t_, g_squares = vector_at(work.state, T * group, count), vector_at(work.state, G_SQUARES * group, count)
    delta_squares, delta_h_ = vector_at(work.state, DELTA_SQUARES * group, count), vector_at(work.state, DELTA_H * group, count)
    known, above = 0.0, vector_at(work.spread, layer * group, count)  # at the end of the network nothing is known
    if layer < layers.widths.size - 1:
        known, above = 1.0, vector_at(work.spread, (layer + 1) * group, count)
    least = LEAST_32 if work.x.itemsize == 4 else LEAST_64
    most = 1.0 / least
    unusual = 0
    for k in range(count):
        x2, w2, a2, b2 = 1.0 * load(xx, k), 1.0 * load(ww, k), 1.0 * load(aa, k), 1.0 * load(bb, k)
        xw_, ab_, ha_, hb_ = 1.0 * load(xw, k), 1.0 * load(ab, k), 1.0 * load(ha, k), 1.0 * load(hb, k)
        along, b = load(along_, k), load(across, k)
        t = known * (xw_ / x2)
        g, delta, delta_h, keeps = _forms(x2, xw_, w2, a2, ab_, b2, ha_, hb_, along, b, t)
        fine = keeps & (load(post, k) == 0) & (load(squares, k) != 0.0) & (load(above, k) != 0.0) & (b > 0.0)
        fine &= (x2 >= least) & (x2 <= most) & (a2 >= least) & (a2 <= most) & (b2 >= least) & (b2 <= most) & (abs(ha_) + abs(hb_) <= most)
        unusual |= not fine
        store(t_, k, t, 0)
        store(g_squares, k, g, 1)
        store(delta_squares, k, delta, 2)
        store(delta_h_, k, delta_h, 3)
    if unusual:
        for k in range(count):
            _see_row(layers, block, work, layer, k, realization)


@part
def _next(std, spread, squares, delta_squares, delta_h, bias, blur, order):
    """(along, across) of g_{l-1}; order: a power of two, what x_{l-1} is in units of h_l."""
    ratio = std / spread
    delta = math.sqrt(delta_squares)
    return ratio * order * (ratio * delta_h) + ratio * bias * delta * blur / math.sqrt(squares), std * delta


@part
def _step_row(layers, work, layer, k):
    """(along, across) of one row, orders taken out of them where the gradient would leave the window."""
    std = layers.weight_std[layer - 1 if layers.weight_std.size > 1 else 0]
    squares, spread = work.squares[layer - 1, k], work.spread[layer, k]
    delta_squares, delta_h = work.state[DELTA_SQUARES, k], work.state[DELTA_H, k]
    along, across = 0.0, std * math.sqrt(delta_squares)
    if squares != 0.0 and spread != 0.0:  # else W x = 0 tells nothing about W
        order = power_of_two(work.exponent[layer - 1, k] + work.post[layer - 1, k] - work.exponent[layer, k])
        bias = layers.bias_std * power_of_two(-work.exponent[layer, k]) if layers.bias_std > 0.0 else 0.0  # 0 times infinity is not 0
        along, across = _next(std, spread, squares, delta_squares, delta_h, bias, work.state[XI, k], order)
    size = math.hypot(along * math.sqrt(squares / layers.widths[layer - 1]), across)
    if size > 0.0 and not (size >= 1.0 / WINDOW and size <= WINDOW):
        shift = math.frexp(size)[1]
        half, rest = power_of_two(-shift // 2), power_of_two(-shift - (-shift // 2))  # at once it may leave the number range
        along, across = along * half * rest, across * half * rest
        work.carry[k] += shift
    work.state[ALONG, k], work.state[ACROSS, k] = along, across


@part
def _step_down(layers, work, layer, count):
    """(along, across) of the gradients one layer further down: of all rows at once where nothing is unusual."""
    group, below = work.x.shape[1], layer - 1
    std = layers.weight_std[below if layers.weight_std.size > 1 else 0]
    squares, spread = vector_at(work.squares, below * group, count), vector_at(work.spread, layer * group, count)
    x_exponent, x_post = vector_at(work.exponent, below * group, count), vector_at(work.post, below * group, count)
    h_exponent = vector_at(work.exponent, layer * group, count)
    delta_squares, delta_h = vector_at(work.state, DELTA_SQUARES * group, count), vector_at(work.state, DELTA_H * group, count)
    along_, across_ = vector_at(work.state, ALONG * group, count), vector_at(work.state, ACROSS * group, count)
    xi = vector_at(work.state, XI * group, count)
    width, bias = float(layers.widths[below]), layers.bias_std
    unusual = 0
    for k in range(count):
        x2, order = load(squares, k), load(x_exponent, k) + load(x_post, k) - load(h_exponent, k)
        along, across = _next(std, load(spread, k), x2, load(delta_squares, k), load(delta_h, k), bias, load(xi, k), 1.0)
        size = along * along * (x2 / width) + across * across
        # Inside by more than rounding, for the row by itself asks in another way; NaN is outside.
        inside = (size >= 1.000001 / WINDOW**2) & (size <= 0.999999 * WINDOW**2)
        unusual |= not (inside & (order == 0) & ((bias == 0.0) | (load(h_exponent, k) == 0)))
        store(along_, k, along, 0)
        store(across_, k, across, 1)
    if unusual:
        for k in range(count):
            _step_row(layers, work, layer, k)


@reduction
def _largest_of(along, b, t, x, noise):
    """Largest |along x + b (noise - t x)|, in float64. Sizes compare as their bits do, and integers have no NaN to stop vectorisation."""
    top = np.int64(0)
    for j in range(x.size):
        y = np.float64(x[j])
        g = along * y + b * (np.float64(noise[j]) - t * y)
        bits = np.int64(np.float64(g).view(np.int64) & np.int64(0x7FFFFFFFFFFFFFFF))
        top = bits if bits > top else top
    return np.int64(top).view(np.float64)


@register_jitable(error_model="numpy")
def _record_largest(layers, block, work, out, left, k0, count, layer):
    """The largest entries of the gradients at a layer, from its rows: kept, or evaluated again."""
    n = layers.widths[layer]
    planes, group = work.x.shape[0], work.x.shape[1]
    start = (layer % planes) * (group * work.x.shape[2])
    x, noise = matrix_at(work.x, start, group, _row_length(n)), matrix_at(work.noise, start, group, _row_length(n))
    if planes == 1:
        h, slope = matrix_at(work.h, 0, group, _row_length(n)), matrix_at(work.slope, 0, group, _row_length(n))
        evaluate(layers, block, work, layer, 0, count, block.first + k0, h, x, slope, noise)
    for k in range(count):
        if left[k] < 0:
            start = k * x.shape[1]
            p = power_of_two(-work.post[layer, k])
            along, b, t = work.state[ALONG, k] * p, work.state[ACROSS, k], work.state[T, k] * p
            top = _largest_of(along, b, t, vector_at(x, start, n), vector_at(noise, start, n))
            put(out, block.columns, block.slots, GRADIENT_MAX, k0 + k, layer, top)


@register_jitable(error_model="numpy")
def _backward(layers, block, work, out, left, k0, count):
    widest_vectors()
    realization, group = block.first + k0, work.x.shape[1]
    g_squares, delta_squares = vector_at(work.state, G_SQUARES * group, count), vector_at(work.state, DELTA_SQUARES * group, count)
    for k in range(count):
        work.carry[k] = 0
        work.state[ALONG, k], work.state[ACROSS, k] = 0.0, 1.0
    for layer in range(layers.widths.size - 1, -1, -1):
        _see_gradients(layers, block, work, layer, count, realization)
        for k in range(count):
            work.sent[layer, k] = work.carry[k]
        _record(out, block.columns, block.slots, GRADIENT, k0, g_squares, layer, left)
        if block.columns[GRADIENT_MAX] >= 0 and block.slots[layer] >= 0:
            _record_largest(layers, block, work, out, left, k0, count, layer)
        if layer == 0:
            return
        _record(out, block.columns, block.slots, BIAS_GRADIENT, k0, delta_squares, layer, left)
        _record(out, block.columns, block.slots, WEIGHT_GRADIENT, k0, delta_squares, layer, left)
        if layers.bias_std > 0.0:
            draw_normals(work.blur, count, 1, layer, Role.BLUR, realization, block.key)
            for k in range(count):
                work.state[XI, k] = work.blur[k, 0]
        _step_down(layers, work, layer, count)


# --- all of it ---------------------------------------------------------------------------------------------------------------------


def _run(layers, block, work, out, left):
    group = work.x.shape[1]
    for k0 in range(0, block.count, group):
        count = group if group <= block.count - k0 else block.count - k0
        left_here = vector_at(left, k0, count)
        _forward(layers, block, work, out, left_here, k0, count)
        _backward(layers, block, work, out, left_here, k0, count)
        take_recorded_logs(block, work, out, k0, count)


def work_arrays(layers: Layers, dtype: Any, keep: bool, group: int) -> Work:
    """Room for a block that runs ``group`` realizations together; ``keep`` holds all layers for the largest entries."""
    length, row = layers.widths.size, whole_lines(int(layers.widths.max()))
    planes = length if keep else 1

    def rows(*shape: int) -> Any:
        return aligned_zeros((*shape, row), dtype)

    def scalars(number: Any, *shape: int) -> Any:
        return np.zeros((*shape, group), number)

    return Work(
        h=rows(1, group),
        x=rows(planes, group),
        slope=rows(1, group),
        noise=rows(planes, group),
        again=rows(4, 1),
        zeros=aligned_zeros(group * row, dtype),
        blur=np.zeros((group, 2 * SLACK), dtype),
        sums=aligned_zeros((length, SUMS, group), dtype),
        forms=aligned_zeros(SUMS),
        state=scalars(np.float64, STATES),
        carry=scalars(np.int64),
        spread=scalars(np.float64, length),
        squares=scalars(np.float64, length),
        post=scalars(np.int32, length),
        exponent=scalars(np.int32, length),
        sent=scalars(np.int32, length),
        regime=scalars(np.int8, length),
        logs=np.zeros((ROWS, LOGS)),
    )


@lru_cache(maxsize=1)
def conditional_kernel() -> Callable[..., Any]:
    """The kernel ``run(layers, block, work, out, left)``; ``draws.prepare`` must have been called.

    out : (variables, R, K) float64, nats, prefilled with NaN, variables as in ``dense_mlp``.
    left : (R,) int64, -1 or the first layer whose activations left the number range.
    """
    return kernel(_run, counts_references=False)
