"""Batches, several probes and Haar-orthogonal weights: the law of an MLP's activations and gradients without its weight matrices.

``docs/conditional_sampler.md`` proves it; ``conditional_mlp.py`` is the fast case of one input, one probe and Gaussian weights. All inputs and all
probes go through one W (n, m), of entry deviation w or, Haar, w times an orthonormal frame. With X = Q R^T the states below (Q orthonormal, rank
r, float64) and Delta = D S the C vectors sent back (B for each of P probes), and G, Z fresh normals:

    Gaussian   Y = w G R^T,   W^T Delta = w [Q (G^T Delta) + (1 - Q Q^T) Z S]
    Haar       Y = w F R^T,   W^T Delta = w [Q (F^T Delta) + V S'],   Delta - F F^T Delta = D' S'

F: G made orthonormal; V: a uniformly random frame orthogonal to Q; both in N = max(n, m) dimensions, cut to the n or m that W has.
Biases are drawn: H = Y + b. |dl/dW|_F = |S R| and |dl/db| = |S 1| for each probe's columns of S.

Only R, the rank and the exponents of a layer are kept; G is drawn again in the backward pass (or kept: ``Work.normals``), and X from it.
The cost of a layer is O(width (B + C)^2).

Letters: L layers, n_l widths, R realizations, K kept layers, B inputs, P probes, C = B P.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from fastgrad.engine.compile import kernel
from fastgrad.engine.conditional_layer import LINE, PHI, TANGENT
from fastgrad.engine.dense_mlp import ACTIVATION, BIAS_GRADIENT, GRADIENT, GRADIENT_MAX, TINY, WEIGHT_GRADIENT
from fastgrad.engine.draws import NORMAL, SLACK, draw_panel, draw_probe, draw_vector
from fastgrad.engine.norms import excess, largest, log_norm, log_size, multiply_by, power_of_two, sum_of_squares
from fastgrad.engine.orthonormal import (
    add_combination,
    binary_orders,
    inner_products,
    largest_of_block,
    orthonormalise,
    product_squares,
    project_off,
    row_sum_squares,
)
from fastgrad.engine.pointwise import activate
from fastgrad.engine.random import Role, address, panel_counters
from fastgrad.jit import register_jitable


class Layers(NamedTuple):
    """The network as the kernel sees it.

    widths : (L + 1,) int64.  haar : W is weight_scale times an orthonormal frame, else its entries have that standard deviation.
    weight_scale : (L,) or (1,) float64.  bias_std : float.  linear_output : the last layer has no activation.  phi : address of its loop
    (``pointwise.activation_address``); homogeneous, through_zero and the slopes at 0 as in `Activation`.
    """

    widths: Any
    haar: bool
    weight_scale: Any
    bias_std: float
    linear_output: bool
    phi: int
    homogeneous: bool
    through_zero: bool
    left_slope: float
    right_slope: float


class Block(NamedTuple):
    """What is run: first, count realizations; key two uint32; inputs (B, n_0) or (1, 0) to draw; P probes; slots, columns as in ``dense_mlp``."""

    first: int
    count: int  # type: ignore[assignment]  # tuple.count is not missed
    key: Any
    inputs: Any
    probes: int
    unit_probe: bool
    slots: Any
    columns: Any


class Work(NamedTuple):
    """Arrays that one block works in; W: the largest width and ``SLACK`` numbers more.

    In the run's precision: normals (L + 1 or 1, B, W), G of all layers or of one.  x0, x, slope (B, W).  h, bias, zero (W,).  v (B W,).
    In float64: frame (B, W), G or F.  q (B, W), pre-activations, then Q.  g, d (C, W), gradients; Delta, then Z or V.
    triangles (L + 1, B, B), R^T of each layer.  triangle (B, B).  t (B, C), F^T Delta.  s (C, C).
    Of each layer: rank, exponent (L + 1,) int64, of x.  regime (L + 1,) int8.  Of each probe: exponents (P,) int64, of its gradient.
    """

    normals: Any
    x0: Any
    x: Any
    slope: Any
    h: Any
    bias: Any
    zero: Any
    v: Any
    frame: Any
    q: Any
    g: Any
    d: Any
    triangles: Any
    triangle: Any
    t: Any
    s: Any
    rank: Any
    exponent: Any
    regime: Any
    exponents: Any


def row_length(widest: int) -> int:
    """Numbers in a row of the work arrays: rows start 64 bytes apart."""
    return -(-(widest + SLACK) // 16) * 16


def work_arrays(layers: Layers, batch: int, probes: int, dtype: Any, keep: bool) -> Work:
    """Room for a block."""
    length, row = layers.widths.size, row_length(int(layers.widths.max()))
    sent = batch * probes
    return Work(
        normals=np.empty((length if keep else 1, batch, row), dtype),
        x0=np.empty((batch, row), dtype),
        x=np.empty((batch, row), dtype),
        slope=np.empty((batch, row), dtype),
        h=np.empty(row, dtype),
        bias=np.zeros(row, dtype),
        zero=np.zeros(row, dtype),
        v=np.empty(batch * row, dtype),
        frame=np.empty((batch, row)),
        q=np.empty((batch, row)),
        g=np.empty((sent, row)),
        d=np.empty((sent, row)),
        triangles=np.zeros((length, batch, batch)),
        triangle=np.zeros((batch, batch)),
        t=np.zeros((batch, sent)),
        s=np.zeros((min(sent, row), sent)),
        rank=np.zeros(length, np.int64),
        exponent=np.zeros(length, np.int64),
        regime=np.zeros(length, np.int8),
        exponents=np.zeros(probes, np.int64),
    )


@register_jitable
def _put(out, block, variable, k, probe, layer, value):
    """Keep one number, if it is wanted."""
    row = block.columns[variable]
    column = block.slots[layer]
    if row >= 0 and column >= 0:
        out[row, k, probe, column] = value


@register_jitable
def _scale(layers, layer):
    return layers.weight_scale[min(layer - 1, layers.weight_scale.size - 1)]


@register_jitable
def _frame_length(layers, layer):
    """Dimensions in which the forward frame of a layer lives."""
    n = layers.widths[layer]
    return max(n, layers.widths[layer - 1]) if layers.haar else n


@register_jitable(error_model="numpy")
def _log_norm_of_rows(x, first, count, n, exponent):
    """ln of the norm of the rows x[first : first + count, :n] times 2**exponent; +inf or NaN if an entry is."""
    top = 0.0
    for b in range(first, first + count):
        top = max(top, np.float64(largest(x[b, :n])))
    up = binary_orders(top)
    inverse = power_of_two(-up)
    total = 0.0
    for b in range(first, first + count):
        if abs(up) < 400:
            total += sum_of_squares(x[b, :n]) * inverse * inverse
        else:
            for j in range(n):
                value = np.float64(x[b, j]) * inverse
                total += value * value
    return log_norm(total, exponent + up)


# --- forward -----------------------------------------------------------------------------------------------------------------------


@register_jitable(error_model="numpy")
def _load_rows(source, count, n, target):
    """target[:count, :n] = source[:count, :n]; the formats may differ."""
    for b in range(count):
        for j in range(n):
            target[b, j] = source[b, j]


@register_jitable(error_model="numpy")
def _make_frame(one, layers, block, work, layer, realization, drawn):
    """G (or, Haar, F) of a layer into work.frame; drawn: its normals are still in work.normals."""
    size = _frame_length(layers, layer)
    rank = work.rank[layer - 1]
    normals = work.normals[layer if work.normals.shape[0] > 1 else 0]
    frame = work.frame
    if not (drawn and work.normals.shape[0] > 1):
        where = address(Role.PREACTIVATION, 0, layer, realization)
        for i in range(rank):
            draw_panel(normals[i], size, NORMAL, one, i * panel_counters(size), where, block.key)
    _load_rows(normals, rank, size, frame)
    if layers.haar:
        orthonormalise(frame, rank, size, size, work.triangle)


@register_jitable(error_model="numpy")
def _preactivations(one, layers, block, work, layer, realization):
    """H_layer into work.q; returns its exponent and sets the layer's regime."""
    n = layers.widths[layer]
    batch = work.q.shape[0]
    exponent = work.exponent[layer - 1]
    frame = work.frame
    biased = layers.bias_std > 0.0
    common = max(exponent, 0) if biased else exponent  # with biases, they set the scale of what has become small
    if biased:
        draw_vector(work.bias, n, NORMAL, type(one)(layers.bias_std), address(Role.BIAS, 0, layer, realization), block.key)
    bias_scale = power_of_two(-common) if biased else 0.0
    scale = _scale(layers, layer) * power_of_two(exponent - common)
    top = 0.0
    for b in range(batch):
        row = work.q[b, :n]
        for j in range(n):
            row[j] = 0.0
        add_combination(row, work.triangles[layer - 1], work.rank[layer - 1], b, frame, n)
        for j in range(n):
            row[j] = row[j] * scale + bias_scale * np.float64(work.bias[j])
        top = max(top, largest(row))
    line = layers.linear_output and layer == layers.widths.size - 1
    tangent = layers.through_zero and not layers.homogeneous and top * power_of_two(common) < TINY
    work.regime[layer] = LINE if line else TANGENT if tangent else PHI
    # Powers of two may move where phi is homogeneous or its tangent; elsewhere the true numbers are needed.
    shift = excess(top) if line or tangent or layers.homogeneous else -common
    if shift != 0:
        for b in range(batch):
            multiply_by(work.q[b, :n], power_of_two(-shift))
    return common + shift


@register_jitable(error_model="numpy")
def _kinked_line(h, x, slope, below, above):
    """x = phi(h) where phi is a line with a kink at 0."""
    for j in range(h.size):
        d = below if h[j] < 0 else above
        x[j] = h[j] * d
        slope[j] = d


@register_jitable(error_model="numpy")
def _states(one, layers, block, work, layer, realization, drawn):
    """x_layer and phi'(h_layer) into work.x and work.slope, from R of the layer below."""
    _make_frame(one, layers, block, work, layer, realization, drawn)
    work.exponent[layer] = _preactivations(one, layers, block, work, layer, realization)
    n = layers.widths[layer]
    for b in range(work.q.shape[0]):
        h = work.h[:n]
        for j in range(n):
            h[j] = work.q[b, j]
        if work.regime[layer] == PHI:
            activate(layers.phi, h, work.zero[:n], work.x[b, :n], work.slope[b, :n])
        elif work.regime[layer] == LINE:
            _kinked_line(h, work.x[b], work.slope[b], one, one)
        else:
            _kinked_line(h, work.x[b], work.slope[b], type(one)(layers.left_slope), type(one)(layers.right_slope))


@register_jitable(error_model="numpy")
def _decompose(x, layers, work, layer, triangle):
    """Q of x_layer into work.q, R^T into ``triangle``; returns the rank."""
    n, batch = layers.widths[layer], work.q.shape[0]
    _load_rows(x, batch, n, work.q)
    return orthonormalise(work.q, batch, n, n, triangle)


@register_jitable(error_model="numpy")
def _forward(one, layers, block, work, out, k, realization):
    """R of all layers; returns -1 or the first layer that left the number range."""
    batch = work.q.shape[0]
    work.exponent[0] = 0
    _put(out, block, ACTIVATION, k, 0, 0, _log_norm_of_rows(work.x0, 0, batch, layers.widths[0], 0))
    work.rank[0] = _decompose(work.x0, layers, work, 0, work.triangles[0])
    for layer in range(1, layers.widths.size):
        _states(one, layers, block, work, layer, realization, False)
        size = _log_norm_of_rows(work.x, 0, batch, layers.widths[layer], work.exponent[layer])
        if not size < math.inf:  # NaN too
            return layer
        _put(out, block, ACTIVATION, k, 0, layer, size)
        work.rank[layer] = _decompose(work.x, layers, work, layer, work.triangles[layer])
    return -1


# --- backward ----------------------------------------------------------------------------------------------------------------------


@register_jitable(error_model="numpy")
def _record_gradients(layers, block, work, out, k, layer):
    """Log norms of the gradient by x_layer, of each probe."""
    n, batch = layers.widths[layer], work.q.shape[0]
    for probe in range(block.probes):
        first, exponent = probe * batch, work.exponents[probe]
        _put(out, block, GRADIENT, k, probe, layer, _log_norm_of_rows(work.g, first, batch, n, exponent))
        top = 0.0
        for c in range(first, first + batch):
            top = max(top, largest(work.g[c, :n]))
        _put(out, block, GRADIENT_MAX, k, probe, layer, log_size(top, exponent))


@register_jitable(error_model="numpy")
def _record_parameters(layers, block, work, out, k, layer, rank, sent_rank):
    """Log norms of the gradients by W_layer and b_layer, of each probe: all of Delta lies in the spans of F (Haar only) and D."""
    batch = work.q.shape[0]
    below = work.triangles[layer - 1]
    down = binary_orders(largest_of_block(below, rank, 0, batch))
    framed = rank if layers.haar else 0
    for probe in range(block.probes):
        first = probe * batch
        top = max(largest_of_block(work.s, sent_rank, first, batch), largest_of_block(work.t, framed, first, batch))
        up = binary_orders(top)
        scale = power_of_two(-up)
        squares = row_sum_squares(work.s, sent_rank, first, batch, scale) + row_sum_squares(work.t, framed, first, batch, scale)
        exponent = work.exponents[probe] + up
        _put(out, block, BIAS_GRADIENT, k, probe, layer, log_norm(squares, exponent))
        scale *= power_of_two(-down)
        squares = product_squares(work.s, sent_rank, first, batch, below, rank, scale)
        squares += product_squares(work.t, framed, first, batch, below, rank, scale)
        _put(out, block, WEIGHT_GRADIENT, k, probe, layer, log_norm(squares, exponent + down + work.exponent[layer - 1]))


@register_jitable(error_model="numpy")
def _decompose_sent(layers, block, work, layer):
    """F^T Delta into work.t, S (Haar: of what is orthogonal to F) into work.s; returns the rank of S."""
    n, batch, sent = layers.widths[layer], work.q.shape[0], work.d.shape[0]
    frame, rank, size = work.frame, work.rank[layer - 1], _frame_length(layers, layer)
    for c in range(sent):
        for j in range(n):
            work.d[c, j] = work.g[c, j] * np.float64(work.slope[c % batch, j])
    inner_products(frame, rank, work.d, sent, n, work.t)
    if not layers.haar:
        return orthonormalise(work.d, sent, n, n, work.s)
    for c in range(sent):
        for j in range(n, size):
            work.d[c, j] = 0.0
        for i in range(rank):
            factor = work.t[i, c]
            for j in range(size):
                work.d[c, j] -= factor * frame[i, j]
    return orthonormalise(work.d, sent, size, size - rank, work.s)


@register_jitable(error_model="numpy")
def _draw_noise(one, layers, block, work, layer, realization, rank, sent_rank):
    """Z projected off Q (Haar: V) into work.d."""
    m = layers.widths[layer - 1]
    size = max(m, layers.widths[layer]) if layers.haar else m
    where = address(Role.BACKWARD_NOISE, 0, layer, realization)
    for i in range(sent_rank):
        draw_panel(work.h, size, NORMAL, one, i * panel_counters(size), where, block.key)
        for j in range(size):
            work.d[i, j] = work.h[j]
        project_off(work.d[i], work.q, rank, m)
        if layers.haar:
            # One at a time: a vector keeps its place in S even if rounding left nothing of it.
            project_off(work.d[i], work.d, i, size)
            length = math.sqrt(sum_of_squares(work.d[i, :size]))
            multiply_by(work.d[i, :size], 1.0 / length if length > 0.0 else 0.0)


@register_jitable(error_model="numpy")
def _send_down(layers, block, work, layer, rank, sent_rank):
    """g of the layer below: W^T Delta, rescaled probe by probe."""
    m, batch = layers.widths[layer - 1], work.q.shape[0]
    scale = _scale(layers, layer)
    for probe in range(block.probes):
        first = probe * batch
        top = 0.0
        for c in range(first, first + batch):
            row = work.g[c, :m]
            for j in range(m):
                row[j] = 0.0
            add_combination(row, work.t, rank, c, work.q, m)
            add_combination(row, work.s, sent_rank, c, work.d, m)
            multiply_by(row, scale)
            top = max(top, largest(row))
        shift = excess(top)
        if shift != 0:
            for c in range(first, first + batch):
                multiply_by(work.g[c, :m], power_of_two(-shift))
            work.exponents[probe] += shift


@register_jitable(error_model="numpy")
def _draw_probes(layers, block, work, realization):
    """The directions of the losses into work.g."""
    depth = layers.widths.size - 1
    n, batch = layers.widths[depth], work.q.shape[0]
    for probe in range(block.probes):
        work.exponents[probe] = 0
        # The address has eight bits for a probe; further ones go where other tensors have their layer.
        where = address(Role.PROBE, probe % 256, probe // 256, realization)
        draw_probe(work.v, batch * n, block.unit_probe, where, block.key)
        for b in range(batch):
            for j in range(n):
                work.g[probe * batch + b, j] = work.v[b * n + j]


@register_jitable(error_model="numpy")
def _backward(one, layers, block, work, out, k, realization):
    depth = layers.widths.size - 1
    _draw_probes(layers, block, work, realization)
    _record_gradients(layers, block, work, out, k, depth)
    _states(one, layers, block, work, depth, realization, True)
    for layer in range(depth, 0, -1):
        below = layer - 1
        rank = work.rank[below]
        sent_rank = _decompose_sent(layers, block, work, layer)
        if block.slots[layer] >= 0:
            _record_parameters(layers, block, work, out, k, layer, rank, sent_rank)
        if below > 0:
            _states(one, layers, block, work, below, realization, True)
            _decompose(work.x, layers, work, below, work.triangle)
        else:
            _decompose(work.x0, layers, work, 0, work.triangle)
        _draw_noise(one, layers, block, work, layer, realization, rank, sent_rank)
        _send_down(layers, block, work, layer, rank, sent_rank)
        if block.slots[below] >= 0:
            _record_gradients(layers, block, work, out, k, below)


@register_jitable(error_model="numpy")
def _place_inputs(one, layers, block, work, realization):
    """The inputs into work.x0: given, or one drawn."""
    if block.inputs.shape[1] > 0:
        _load_rows(block.inputs, work.x0.shape[0], layers.widths[0], work.x0)
    else:
        draw_vector(work.x0[0], layers.widths[0], NORMAL, one, address(Role.INPUT, 0, 0, realization), block.key)


def _run(one, layers, block, work, out, left):
    for k in range(block.count):
        realization = block.first + k
        _place_inputs(one, layers, block, work, realization)
        left[k] = _forward(one, layers, block, work, out, k, realization)
        if left[k] < 0:
            _backward(one, layers, block, work, out, k, realization)


@lru_cache(maxsize=1)
def batch_kernel() -> Callable[..., Any]:
    """The kernel ``run(one, layers, block, work, out, left)``; ``draws.prepare`` must have been called.

    one : the number 1 in the precision of the run.  out : (variables, R, P, K) float64, nats, prefilled with NaN, variables as in ``dense_mlp``;
    activations, which all probes share, are left at probe 0.  left : (R,) int64, -1 or the first layer that left the number range.
    """
    return kernel(_run, counts_references=False)
