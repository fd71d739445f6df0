"""A layer as the conditional sampler sees it, made from addresses alone: pre-activations, activations, slopes, and the noise of the layer above.

Whoever needs a layer's numbers again gets the same ones from here, whether for a whole group of realizations or for one.
"""

from __future__ import annotations

import math

import numpy as np

from fastgrad.engine.arrays import copy, fill
from fastgrad.engine.draws import draw_normals, draw_probe
from fastgrad.engine.layer_sums import layer_sums
from fastgrad.engine.noalias import load, store
from fastgrad.engine.norms import power_of_two
from fastgrad.engine.pointwise import activate, activation_sums
from fastgrad.engine.random import Role, address
from fastgrad.engine.views import plane_at, vector_at
from fastgrad.jit import part, register_jitable

TINY = 2.0**-63  # below, pre-activations of up to 6.8 standard deviations see phi as its tangent (2**-60)
PHI, LINE, TANGENT = range(3)  # how a layer's activation is evaluated
H, X, SLOPE, NOISE = range(4)  # planes of Work.again


@part
def row_length(n):
    """Numbers from row to row in a layer of n units: as few as panels and cache lines allow."""
    return (n + 15) // 16 * 16


@part
def _spread(std, squares, bias):
    """S = sqrt(s^2 + sigma_b^2), s = w |x|."""
    s = std * math.sqrt(squares)
    return math.sqrt(s * s + bias * bias) if bias > 0.0 else s


@part
def not_squarable(size):
    """Whether squares on the way to this size may have left the number range."""
    return not (size >= 1e-140 and size <= 1e140)


@part
def set_spreads(layers, work, layer, count):
    """S_layer and how phi is to be evaluated, from |x_{layer-1}| * 2**carry; carry becomes the exponent of h."""
    group, line = work.x.shape[1], layers.linear_output and layer == layers.widths.size - 1
    std = layers.weight_std[layer - 1 if layers.weight_std.size > 1 else 0]
    squares, spread = vector_at(work.squares, (layer - 1) * group, count), vector_at(work.spread, layer * group, count)
    exponent, regime = vector_at(work.exponent, layer * group, count), vector_at(work.regime, layer * group, count)
    moves = layers.bias_std > 0.0 or not (layers.homogeneous or line)  # whether a carry other than 0 needs looking at
    unusual = 0
    for k in range(count):
        carry, size = load(work.carry, k), _spread(std, load(squares, k), layers.bias_std)
        unusual |= (moves & (carry != 0)) | ((layers.bias_std > 0.0) & not_squarable(size))
        store(spread, k, size, 0)
        store(exponent, k, np.int32(carry), 1)
        store(regime, k, np.int8(LINE if line else PHI), 2)
    if unusual:
        for k in range(count):
            _set_spread(layers, work, layer, k, line)


@part
def _set_spread(layers, work, layer, k, line):
    """`set_spreads` for one row, whatever its exponent."""
    std = layers.weight_std[layer - 1 if layers.weight_std.size > 1 else 0]
    squares, bias = work.squares[layer - 1, k], layers.bias_std
    exponent = work.carry[k] if squares > 0.0 or bias == 0.0 else 0  # of an x that is zero nothing is left but biases
    common = 0 if bias > 0.0 and exponent < 0 else exponent
    if bias > 0.0:
        std, bias = std * power_of_two(exponent - common), bias * power_of_two(-common)
    spread = _spread(std, squares, bias)
    if bias > 0.0 and not_squarable(spread):
        spread = math.hypot(std * math.sqrt(squares), bias)
    regime = LINE if line else PHI
    if common != 0 and not (layers.homogeneous or line):
        if layers.through_zero and spread * power_of_two(common) < TINY:
            regime = TANGENT
        else:
            spread *= power_of_two(common)
            common = 0
    work.spread[layer, k] = spread
    work.regime[layer, k] = regime
    work.exponent[layer, k] = common
    work.carry[k] = common


@part
def _scale(row, factor):
    for j in range(row.size):
        row[j] = row[j] * factor


@part
def _line(below, above, h, x, slope):
    """phi as a line with slopes ``below`` and ``above`` 0."""
    for j in range(h.size):
        d = below if h[j] < 0 else above
        x[j] = h[j] * d
        slope[j] = d


@register_jitable
def _inputs(given, key, n, count, realization, h, x, slope):
    """The inputs as a layer whose gradient goes no further."""
    gap = x.shape[1]
    if given.size == 0:
        draw_normals(x, count, n, 0, Role.INPUT, realization, key)
    for k in range(count):
        if given.size > 0:
            copy(given, vector_at(x, k * gap, n))
        fill(vector_at(h, k * gap, n), 0)
        fill(vector_at(slope, k * gap, n), 0)


@part
def _curved(work, layer, first, count):
    """Whether phi is to be evaluated as it is for all of some rows."""
    rows = 0
    for k in range(count):
        rows += work.regime[layer, first + k] == PHI
    return rows == count


@part
def _apply_phi(layers, work, layer, first, count, curved, h, x, slope):
    n, gap = layers.widths[layer], h.shape[1]
    if curved:  # in one go, with what lies between the rows
        total = (count - 1) * gap + n
        activate(layers.phi, vector_at(h, 0, total), work.zeros, vector_at(x, 0, total), vector_at(slope, 0, total))
        return
    for k in range(count):
        h_k, x_k, slope_k = vector_at(h, k * gap, n), vector_at(x, k * gap, n), vector_at(slope, k * gap, n)
        if work.regime[layer, first + k] == PHI:
            activate(layers.phi, h_k, work.zeros, x_k, slope_k)
        else:
            straight = work.regime[layer, first + k] == LINE
            number = h.dtype.type
            _line(number(1.0 if straight else layers.left_slope), number(1.0 if straight else layers.right_slope), h_k, x_k, slope_k)


@part
def _draw_noise(layers, block, layer, count, realization, noise):
    """What the layer above adds of its own to the gradient, before scale and projection; at the end of the network the probe."""
    n, gap, above = layers.widths[layer], noise.shape[1], layer + 1
    if above < layers.widths.size:
        draw_normals(noise, count, n, above, Role.BACKWARD_NOISE, realization, block.key)
        return
    for k in range(count):
        draw_probe(vector_at(noise, k * gap, gap), n, block.unit_probe, address(Role.PROBE, 0, 0, realization + k), block.key)


@part
def _finish(layers, work, layer, first, count, curved, h, x, slope):
    """h from normals, x = phi(h), slope = phi'(h); curved: as `_curved` says."""
    for k in range(count):
        _scale(vector_at(h, k * h.shape[1], layers.widths[layer]), h.dtype.type(work.spread[layer, first + k]))
    _apply_phi(layers, work, layer, first, count, curved, h, x, slope)


@register_jitable(fastmath=False)
def evaluate(layers, block, work, layer, first, count, realization, h, x, slope, noise):
    """h, x = phi(h), slope = phi'(h) and noise of rows first … first + count - 1 of a group; ``realization``: of row ``first``.

    h, x, slope, noise : (rows, row length) matrices in the precision of the run, row length at least 4 * `panel_counters` (n).
    """
    n = layers.widths[layer]
    _draw_noise(layers, block, layer, count, realization, noise)
    if layer == 0:
        _inputs(block.inputs, block.key, n, count, realization, h, x, slope)
        return
    draw_normals(h, count, n, layer, Role.PREACTIVATION, realization, block.key)
    _finish(layers, work, layer, first, count, _curved(work, layer, first, count), h, x, slope)


@register_jitable(fastmath=False)
def evaluate_again(layers, block, work, layer, k, realization):
    """`evaluate` for row k of a group, whose first is ``realization``, into ``again``: planes `H`, `X`, `SLOPE`, `NOISE`."""
    h, x, slope, noise = plane_at(work.again, H), plane_at(work.again, X), plane_at(work.again, SLOPE), plane_at(work.again, NOISE)
    evaluate(layers, block, work, layer, k, 1, realization + k, h, x, slope, noise)


@register_jitable(fastmath=False)
def evaluate_sums(layers, block, work, layer, count, realization, h, x, slope, noise, sums):
    """`evaluate` and `layer_sums` of all rows of a group, in one pass where phi has a loop for it: then h, x and slope are not to be looked at."""
    n, group = layers.widths[layer], work.x.shape[1]
    if layer == 0 or layers.phi_sums == 0 or work.x.shape[0] > 1 or not _curved(work, layer, 0, count):
        evaluate(layers, block, work, layer, 0, count, realization, h, x, slope, noise)
        layer_sums(count, n, h, x, slope, noise, sums)
        return
    _draw_noise(layers, block, layer, count, realization, noise)
    draw_normals(h, count, n, layer, Role.PREACTIVATION, realization, block.key)
    activation_sums(layers.phi_sums, count, n, h, vector_at(work.spread, layer * group, count), noise, sums)
