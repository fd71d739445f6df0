"""The way back of the conditional sampler, as a recursion of a few numbers a layer: of one input, one probe, Gaussian weights.

The gradient that arrives at a layer is g = along x + across (z' - t x), t = x.z'/|x|^2, with the layer's activations x and noise z'. Its norm, and of
delta = phi'(h) g the norm and h^T delta, come from the eight sums of ``layer_sums.py``; from those the two numbers of the layer below.
Where the forms cancel or leave the number range, the row is evaluated again and g formed unit by unit, in float64.

Every formula is written once and serves all rows of a group as vectors, or one row where something is unusual: both give the same bytes.
"""

from __future__ import annotations

import math

import numpy as np

from fastgrad.engine.conditional_layer import NOISE, SLOPE, H, X, evaluate, evaluate_again, row_length
from fastgrad.engine.dense_mlp import BIAS_GRADIENT, GRADIENT, GRADIENT_MAX, WEIGHT_GRADIENT, put
from fastgrad.engine.draws import draw_normals
from fastgrad.engine.layer_sums import AA, AB, BB, HA, HB, LEAST_32, LEAST_64, SUMS, WW, XW, XX, exact_products
from fastgrad.engine.noalias import load, store
from fastgrad.engine.norms import WINDOW, power_of_two
from fastgrad.engine.random import Role
from fastgrad.engine.recorded_logs import record
from fastgrad.engine.views import matrix_at, plane_at, vector_at
from fastgrad.engine.wide import widest_vectors
from fastgrad.jit import part, reduction, register_jitable

CANCELS = 1.0 / 16.0  # a form this far below the sum of its terms' sizes has lost a digit
STATES = 7
ALONG, ACROSS, T, G_SQUARES, DELTA_SQUARES, DELTA_H, XI = range(STATES)


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
def _in_range(xx, aa, bb, h_sums, least, inputs):
    """Whether no term can have been lost to the ends of the number range; inputs: of layer 0, which has no slopes."""
    most = 1.0 / least
    if not (xx >= least and xx <= most):
        return False
    return inputs or (aa >= least and aa <= most and bb >= least and bb <= most and h_sums <= most)


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
    xx, xw, ww = 1.0 * work.sums[layer, XX, k], 1.0 * work.sums[layer, XW, k], 1.0 * work.sums[layer, WW, k]
    aa, ab, bb = 1.0 * work.sums[layer, AA, k], 1.0 * work.sums[layer, AB, k], 1.0 * work.sums[layer, BB, k]
    ha, hb = 1.0 * work.sums[layer, HA, k], 1.0 * work.sums[layer, HB, k]
    t = xw * p / (xx * p * p) if known else 0.0
    g, delta, delta_h, keeps = _forms(xx * p * p, xw * p, ww, aa * p * p, ab * p, bb, ha * p, hb, along, b, t)
    if not (keeps and _in_range(xx, aa, bb, abs(ha) + abs(hb), least, layer == 0)):
        evaluate_again(layers, block, work, layer, k, realization)
        n = layers.widths[layer]
        h, x = vector_at(plane_at(work.again, H), 0, n), vector_at(plane_at(work.again, X), 0, n)
        slope, noise = vector_at(plane_at(work.again, SLOPE), 0, n), vector_at(plane_at(work.again, NOISE), 0, n)
        xx, xw = exact_products(x, noise, p)
        t = xw / xx if known else 0.0
        g, delta, delta_h = _gradient_of_row(h, x, slope, noise, p, along, b, t)
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


@register_jitable(fastmath=False)
def _record_largest(layers, block, work, out, left, k0, count, layer):
    """The largest entries of the gradients at a layer, from its rows: kept, or evaluated again."""
    n = layers.widths[layer]
    planes, group = work.x.shape[0], work.x.shape[1]
    start = (layer % planes) * (group * work.x.shape[2])
    x, noise = matrix_at(work.x, start, group, row_length(n)), matrix_at(work.noise, start, group, row_length(n))
    if planes == 1:
        h, slope = matrix_at(work.h, 0, group, row_length(n)), matrix_at(work.slope, 0, group, row_length(n))
        evaluate(layers, block, work, layer, 0, count, block.first + k0, h, x, slope, noise)
    for k in range(count):
        if left[k] < 0:
            start = k * x.shape[1]
            p = power_of_two(-work.post[layer, k])
            along, b, t = work.state[ALONG, k] * p, work.state[ACROSS, k], work.state[T, k] * p
            top = _largest_of(along, b, t, vector_at(x, start, n), vector_at(noise, start, n))
            put(out, block.columns, block.slots, GRADIENT_MAX, k0 + k, layer, top)


@register_jitable(error_model="numpy")
def send_back(layers, block, work, out, left, k0, count):
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
        record(out, block.columns, block.slots, GRADIENT, k0, g_squares, layer, left)
        if block.columns[GRADIENT_MAX] >= 0 and block.slots[layer] >= 0:
            _record_largest(layers, block, work, out, left, k0, count, layer)
        if layer == 0:
            return
        record(out, block.columns, block.slots, BIAS_GRADIENT, k0, delta_squares, layer, left)
        record(out, block.columns, block.slots, WEIGHT_GRADIENT, k0, delta_squares, layer, left)
        if layers.bias_std > 0.0:
            draw_normals(work.blur, count, 1, layer, Role.BLUR, realization, block.key)
            for k in range(count):
                work.state[XI, k] = work.blur[k, 0]
        _step_down(layers, work, layer, count)
