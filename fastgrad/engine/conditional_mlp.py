"""One input, one probe, Gaussian weights: the law of an MLP's activations and gradients from O(width) numbers a layer, no weight matrix.

``docs/conditional_sampler.md`` proves it. With w the standard deviation of a weight, s = w |x|, S^2 = s^2 + sigma_b^2, and z, z', xi fresh normals:

    forward    h = S z,  x' = phi(h)
    backward   W^T delta = x (rho h^T delta + tau |delta| xi) / |x|^2 + w |delta| (z' - x (x^T z') / |x|^2),   rho = s^2/S^2,  tau = s sigma_b/S

So a gradient g = W^T delta is a combination a x + b z' of two vectors that were there before it, and of the layer's own delta = phi'(h) g the next
step needs |delta| and h^T delta alone: a quadratic and a linear form in (a, b). Their coefficients are eight sums over the units
(``layer_sums.py``), formed on the way forward. The way back is then a recursion of a few numbers a layer, and no vector is ever stored or drawn
twice, unless the largest entry of each gradient is wanted, for which g itself must be looked at.

The quadratic forms lose digits where a x and b z' nearly cancel (always at width 1). Where that shows in float32, the layer is evaluated again
for this realization and summed in float64, in which products of float32 numbers are exact.

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
from fastgrad.engine.arrays import copy
from fastgrad.engine.compile import kernel
from fastgrad.engine.conditional_layer import PHI, TINY, evaluate, set_spread
from fastgrad.engine.dense_mlp import ACTIVATION, BIAS_GRADIENT, GRADIENT, GRADIENT_MAX, WEIGHT_GRADIENT, put
from fastgrad.engine.draws import SLACK, draw_normals
from fastgrad.engine.layer_sums import AA, AB, BB, HA, HB, SUMS, WW, XW, XX, exact_sums, layer_sums
from fastgrad.engine.norms import WINDOW, power_of_two
from fastgrad.engine.random import Role
from fastgrad.engine.recorded_logs import LOGS, ROWS, take_recorded_logs
from fastgrad.engine.views import matrix_at, plane_at, vector_at
from fastgrad.jit import part, reduction, register_jitable

BEYOND_SQUARES_32, BEYOND_SQUARES_64 = 80, 560  # binary orders after whose removal the squares of any finite number can be summed
LEAST_32, LEAST_64 = 1e-30, 1e-290  # sums of squares below may have lost terms to underflow, those above 1/LEAST to overflow
CANCELS = 1.0 / 16.0  # a form this far below the sum of its terms' sizes has lost a digit
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

    h, slope : (1, G, W); x, noise : (L + 1, G, W) where layers are kept for the largest entries, else (1, G, W).  again : (4, 1, W), one row of
    these four.  zeros : (G W,).  blur : (G, 2 SLACK).  sums : (L + 1, G, SUMS) in the precision of the run, x as it was evaluated.
    forms : (SUMS,) float64, the sums in use.  Of the gradient that a row has arrived at, (G,) float64: along, across and a with
    g = along x + across (z' - x x.z'/|x|^2) = a x + across z', the norms' squares g_squares, delta_squares, and delta_h = h^T delta.
    carry : (G,) int64, exponent of the pass.  Of each layer, (L + 1, G): spread S; squares |x|^2; post int32, binary orders taken out of x;
    exponent int32, of h; sent int32, of the gradient; regime int8.  logs : (ROWS, LOGS).  Rows are `whole_lines`, which a panel fits into.
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
    along: Any
    across: Any
    a: Any
    g_squares: Any
    delta_squares: Any
    delta_h: Any
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
def _orders_to_take(layers, work, layer, k, squares):
    """Binary orders to take out of x_layer so that its typical entry stays in the window."""
    mean = squares / layers.widths[layer]
    inside = mean >= 1.0 / WINDOW**2 and mean <= WINDOW**2
    if mean == 0.0 or (inside and (layers.homogeneous or work.carry[k] == 0)):
        return 0
    size = math.sqrt(mean)
    small = layers.through_zero and size * power_of_two(work.carry[k]) < TINY
    if inside or not (layers.homogeneous or small or work.regime[layer, k] != PHI):
        return 0
    return math.frexp(size)[1]


@part
def _keep_size(layers, block, work, layer, k, realization):
    """|x_layer|^2 and the orders taken out of it; returns whether it left the number range."""
    squares = 1.0 * work.sums[layer, k, XX]
    least = LEAST_32 if work.x.itemsize == 4 else LEAST_64
    post = 0
    if not (squares >= least and squares <= 1.0 / least) and work.spread[layer, k] > 0.0:
        if not squares < least:  # NaN too: the squares left the range, perhaps not the activations
            post = BEYOND_SQUARES_32 if work.x.itemsize == 4 else BEYOND_SQUARES_64
        _sum_again(layers, block, work, layer, k, realization, power_of_two(-post))
        squares = work.forms[XX]
    lost = not squares < math.inf
    if lost:
        squares, post = 0.0, 0
    elif post == 0:
        post = _orders_to_take(layers, work, layer, k, squares)
        squares *= power_of_two(-2 * post)
    work.squares[layer, k] = squares
    work.post[layer, k] = post
    work.carry[k] += post
    return lost


@register_jitable(error_model="numpy")
def _forward(layers, block, work, out, left, k0, count):
    """Scalars and sums of all layers; left[k0 + k] becomes the first layer that left the number range."""
    realization, group = block.first + k0, work.x.shape[1]
    for k in range(count):
        left[k0 + k] = -1
        work.carry[k] = work.exponent[0, k] = 0
        work.spread[0, k] = 1.0
        work.regime[0, k] = PHI
    for layer in range(layers.widths.size):
        n = layers.widths[layer]
        start = (layer % work.x.shape[0]) * (group * work.x.shape[2])
        h, slope = matrix_at(work.h, 0, group, _row_length(n)), matrix_at(work.slope, 0, group, _row_length(n))
        x, noise = matrix_at(work.x, start, group, _row_length(n)), matrix_at(work.noise, start, group, _row_length(n))
        if layer > 0:
            for k in range(count):
                set_spread(layers, work, layer, k)
        evaluate(layers, block, work, layer, 0, count, realization, h, x, slope, noise)
        layer_sums(count, n, h, x, slope, noise, plane_at(work.sums, layer))
        for k in range(count):
            lost = _keep_size(layers, block, work, layer, k, realization)
            if lost and left[k0 + k] < 0:
                left[k0 + k] = layer
            if left[k0 + k] < 0:
                put(out, block.columns, block.slots, ACTIVATION, k0 + k, layer, work.squares[layer, k])


# --- backward ----------------------------------------------------------------------------------------------------------------------


@part
def _form(layers, work, layer, k, p):
    """|g|^2, |delta|^2 and h^T delta from ``forms``, ``p`` x for x; returns whether float32 sums would leave them their digits."""
    sums = work.forms
    along, b = work.along[k], work.across[k]
    t = 0.0  # z' - t x is what the layer above adds to g: nothing is known of a weight matrix at the end, or of one that was multiplied by 0
    if layer < layers.widths.size - 1 and work.squares[layer, k] != 0.0 and work.spread[layer + 1, k] != 0.0:
        t = sums[XW] / (sums[XX] * p)
    rest = sums[WW] - t * sums[XW] * p
    a = along - b * t
    terms = a * a * sums[AA] * p * p + b * b * sums[BB]
    delta = terms + 2.0 * a * b * sums[AB] * p
    work.a[k] = a
    work.g_squares[k] = max(along * along * sums[XX] * p * p + b * b * rest, 0.0)
    work.delta_squares[k] = max(delta, 0.0)
    work.delta_h[k] = a * sums[HA] * p + b * sums[HB]
    return rest >= CANCELS * sums[WW] and (layer == 0 or delta >= CANCELS * terms)


@part
def _in_range(work, layer):
    """Whether no term of ``forms`` can have been lost to the ends of the number range."""
    sums = work.forms
    least = LEAST_32 if work.x.itemsize == 4 else 0.0
    most = 1.0 / LEAST_32 if work.x.itemsize == 4 else 1.0 / LEAST_64
    if not (sums[XX] >= least and sums[XX] <= most):
        return False
    squares = sums[AA] >= least and sums[AA] <= most and sums[BB] >= least and sums[BB] <= most
    return layer == 0 or (squares and abs(sums[HA]) + abs(sums[HB]) <= most)


@part
def _see_gradient(layers, block, work, layer, k, realization):
    """What matters of the gradient that has arrived at a layer."""
    if work.along[k] == 0.0 and work.across[k] == 0.0:
        work.a[k] = work.g_squares[k] = work.delta_squares[k] = work.delta_h[k] = 0.0
        return
    copy(vector_at(work.sums, (layer * work.sums.shape[1] + k) * SUMS, SUMS), work.forms)
    p = power_of_two(-work.post[layer, k])
    if _in_range(work, layer) and (_form(layers, work, layer, k, p) or work.x.itemsize == 8):
        return
    _sum_again(layers, block, work, layer, k, realization, p)
    _form(layers, work, layer, k, 1.0)


@part
def _step_down(layers, work, layer, k, blur):
    """(along, across) of g_{layer-1}, orders taken out of them where it would leave the window; blur: the normal xi."""
    delta = math.sqrt(work.delta_squares[k])
    std = layers.weight_std[min(layer - 1, layers.weight_std.size - 1)]
    squares, spread = work.squares[layer - 1, k], work.spread[layer, k]
    along, across = 0.0, std * delta
    if squares != 0.0 and spread != 0.0:  # else W x = 0 tells nothing about W
        before = work.exponent[layer - 1, k] + work.post[layer - 1, k] - work.exponent[layer, k]  # of x, beside that of h
        ratio = std / spread
        along = ratio * power_of_two(before) * (ratio * work.delta_h[k])
        if layers.bias_std > 0.0:
            along += ratio * layers.bias_std * power_of_two(-work.exponent[layer, k]) * delta * blur / math.sqrt(squares)
    typical = along * along * (squares / layers.widths[layer - 1]) + across * across  # its square
    if not (typical >= 1.0 / WINDOW**2 and typical <= WINDOW**2):
        size = math.hypot(along * math.sqrt(squares / layers.widths[layer - 1]), across)
        if size > 0.0 and not (size >= 1.0 / WINDOW and size <= WINDOW):
            shift = math.frexp(size)[1]
            along, across = along * power_of_two(-shift), across * power_of_two(-shift)
            work.carry[k] += shift
    work.along[k] = along
    work.across[k] = across


@reduction
def _largest_of(a, b, x, noise):
    """Largest |a x + b noise|, in float64. Sizes compare as their bits do, and integers have no NaN to stop vectorisation."""
    top = np.int64(0)
    for j in range(x.size):
        g = a * np.float64(x[j]) + b * np.float64(noise[j])
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
        if left[k0 + k] < 0:
            start = k * x.shape[1]
            a = work.a[k] * power_of_two(-work.post[layer, k])
            top = _largest_of(a, work.across[k], vector_at(x, start, n), vector_at(noise, start, n))
            put(out, block.columns, block.slots, GRADIENT_MAX, k0 + k, layer, top)


@part
def _record_gradient(out, block, work, left, k0, count, layer):
    columns, slots = block.columns, block.slots
    for k in range(count):
        work.sent[layer, k] = work.carry[k]
        if left[k0 + k] >= 0 or slots[layer] < 0:
            continue
        put(out, columns, slots, GRADIENT, k0 + k, layer, work.g_squares[k])
        if layer > 0:
            put(out, columns, slots, BIAS_GRADIENT, k0 + k, layer, work.delta_squares[k])
            put(out, columns, slots, WEIGHT_GRADIENT, k0 + k, layer, work.delta_squares[k])


@register_jitable(error_model="numpy")
def _backward(layers, block, work, out, left, k0, count):
    realization = block.first + k0
    for k in range(count):
        work.carry[k] = 0
        work.along[k], work.across[k] = 0.0, 1.0
    for layer in range(layers.widths.size - 1, -1, -1):
        for k in range(count):
            _see_gradient(layers, block, work, layer, k, realization)
        _record_gradient(out, block, work, left, k0, count, layer)
        if block.columns[GRADIENT_MAX] >= 0 and block.slots[layer] >= 0:
            _record_largest(layers, block, work, out, left, k0, count, layer)
        if layer > 0:
            if layers.bias_std > 0.0:
                draw_normals(work.blur, count, 1, layer, Role.BLUR, realization, block.key)
            for k in range(count):
                _step_down(layers, work, layer, k, np.float64(work.blur[k, 0]))


# --- all of it ---------------------------------------------------------------------------------------------------------------------


def _run(layers, block, work, out, left):
    group = work.x.shape[1]
    for k0 in range(0, block.count, group):
        count = min(group, block.count - k0)
        _forward(layers, block, work, out, left, k0, count)
        _backward(layers, block, work, out, left, k0, count)
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
        sums=aligned_zeros((length, group, SUMS), dtype),
        forms=aligned_zeros(SUMS),
        along=scalars(np.float64),
        across=scalars(np.float64),
        a=scalars(np.float64),
        g_squares=scalars(np.float64),
        delta_squares=scalars(np.float64),
        delta_h=scalars(np.float64),
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
