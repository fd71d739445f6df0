"""One input, one probe, Gaussian weights: the law of an MLP's activations and gradients from O(width) numbers a layer, no weight matrix.

``docs/conditional_sampler.md`` proves it. With w the standard deviation of a weight, s = w |x|, S^2 = s^2 + sigma_b^2, and z, z', xi fresh normals:

    forward    h = S z,  x' = phi(h)
    backward   W^T delta = x (rho h^T delta + tau |delta| xi) / |x|^2 + w |delta| (z' - x (x^T z') / |x|^2),   rho = s^2/S^2,  tau = s sigma_b/S

The gradient is never stored: of delta only |delta| and z^T delta are needed, and the loop that forms them makes g from x and z' as it goes. Nor
is z stored in long networks: it is drawn again from its address. A layer is then three draws of n normals, two passes through phi and one
through the sums, all inside the first-level cache.

Letters: L layers, n_l widths, R realizations, K kept layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from fastgrad.engine.arrays import copy
from fastgrad.engine.compile import kernel
from fastgrad.engine.conditional_pointwise import line_pass, phi_pass, step_pass
from fastgrad.engine.dense_mlp import ACTIVATION, BIAS_GRADIENT, GRADIENT, GRADIENT_MAX, WEIGHT_GRADIENT, put
from fastgrad.engine.draws import NORMAL, SLACK, draw_probe, draw_vector
from fastgrad.engine.norms import WINDOW, log_norm, log_size, power_of_two, sum_of_squares
from fastgrad.engine.random import Role, address
from fastgrad.jit import register_jitable

TINY = 2.0**-63  # below, pre-activations of up to 6.8 standard deviations see phi as its tangent (2**-60)
PHI, LINE, TANGENT = range(3)  # how a layer's activation was evaluated
BEYOND_SQUARES_32, BEYOND_SQUARES_64 = 80, 560  # binary orders after whose removal the squares of any finite number can be summed


class Layers(NamedTuple):
    """The network as the kernel sees it.

    widths : (L + 1,) int64.  weight_std : (L,) or (1,) float64, standard deviation of one weight of each layer, or of all layers.
    bias_std : float.  linear_output : the last layer has no activation.  phi : address of its loop; homogeneous, through_zero and the slopes
    at 0 as in `Activation`.
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

    z : (n z's or 2, W) normals of all layers, or of two in turn.  x, slope : (2, W).  noise, x0, v : (W,).  sums : (6,).  Of each layer:
    spread : (L + 1,) S.  squares : (L + 1,) |x|^2.  post : (L + 1,) int64, binary orders taken out of x.  exponent : (L + 1,) int64, of h.
    regime : (L + 1,) int8.  Vectors hold ``SLACK`` numbers more than their widest layer.
    """

    z: Any
    x: Any
    slope: Any
    noise: Any
    x0: Any
    v: Any
    sums: Any
    spread: Any
    squares: Any
    post: Any
    exponent: Any
    regime: Any


@register_jitable(error_model="numpy")
def _pass(one, layers, work, layer, z, noise, x, slope, post):
    """x_layer and phi'(h_layer) from z, by the regime of the layer; also their sums."""
    n = layers.widths[layer]
    spread = type(one)(work.spread[layer])
    factor = type(one)(power_of_two(-post))
    if work.regime[layer] == PHI:
        phi_pass(layers.phi, z, noise, x, slope, work.sums, spread, factor, n)
    elif work.regime[layer] == LINE:
        line_pass(one, one, z, noise, x, slope, work.sums, spread, factor, n)
    else:
        left, right = type(one)(layers.left_slope), type(one)(layers.right_slope)
        line_pass(left, right, z, noise, x, slope, work.sums, spread, factor, n)


@register_jitable(error_model="numpy")
def _set_spread(layers, work, layer, exponent):
    """S_layer and how phi is to be evaluated, from |x_{layer-1}| * 2**exponent; returns the exponent of h."""
    last = layer == layers.widths.size - 1
    line = layers.linear_output and last
    std = layers.weight_std[min(layer - 1, layers.weight_std.size - 1)]
    s = std * math.sqrt(work.squares[layer - 1])
    common = max(exponent, 0) if layers.bias_std > 0.0 else exponent
    s *= power_of_two(exponent - common)
    blur = layers.bias_std * power_of_two(-common) if layers.bias_std > 0.0 else 0.0
    spread = math.hypot(s, blur)
    regime = LINE if line else PHI
    if common != 0 and not (layers.homogeneous or line):
        if spread * power_of_two(common) < TINY:
            regime = TANGENT
        else:
            spread *= power_of_two(common)
            common = 0
    work.spread[layer] = spread
    work.regime[layer] = regime
    work.exponent[layer] = common
    return common


@register_jitable(error_model="numpy")
def _orders_to_take(layers, work, layer, exponent, squares):
    """Binary orders to take out of x_layer so that its typical entry stays in the window."""
    size = math.sqrt(squares / layers.widths[layer])
    small = layers.through_zero and size * power_of_two(exponent) < TINY
    if size == 0.0 or not (layers.homogeneous or small or work.regime[layer] != PHI):
        return 0
    return 0 if size >= 1.0 / WINDOW and size <= WINDOW else math.frexp(size)[1]


@register_jitable(error_model="numpy")
def _draw_z(layers, work, block, layer, realization, one, fresh):
    """The normals of a layer's pre-activations into their row of work.z: drawn, or still there from the forward pass."""
    if fresh or work.z.shape[0] <= layers.widths.size - 1:
        z = work.z[layer % work.z.shape[0]]
        draw_vector(z, layers.widths[layer], NORMAL, one, address(Role.PREACTIVATION, 0, layer, realization), block.key)


@register_jitable(error_model="numpy")
def _forward(one, layers, block, work, out, k, realization):
    """Scalars of all layers; returns -1 or the first layer that left the number range."""
    exponent = 0
    for layer in range(1, layers.widths.size):
        exponent = _set_spread(layers, work, layer, exponent)
        _draw_z(layers, work, block, layer, realization, one, True)
        z = work.z[layer % work.z.shape[0]]
        _pass(one, layers, work, layer, z, z, work.x[layer % 2], work.slope[layer % 2], 0)
        squares = work.sums[0]
        post = 0
        if not squares < math.inf:  # NaN too; or the squares left the range, not the activations
            post = BEYOND_SQUARES_32 if work.x.itemsize == 4 else BEYOND_SQUARES_64
            _pass(one, layers, work, layer, z, z, work.x[layer % 2], work.slope[layer % 2], post)
            squares = work.sums[0]
            if not squares < math.inf:
                return layer
        if post == 0:
            post = _orders_to_take(layers, work, layer, exponent, squares)
            squares *= power_of_two(-2 * post)
        work.squares[layer] = squares
        work.post[layer] = post
        exponent += post
        put(out, block.columns, block.slots, ACTIVATION, k, layer, log_norm(work.squares[layer], exponent))
    return -1


@register_jitable(error_model="numpy")
def _coefficients(layers, work, layer, delta, z_delta, x_noise, blur):
    """(a, b) of g_{layer-1} = a x + b z', x in its own exponent; blur: the normal xi."""
    std = layers.weight_std[min(layer - 1, layers.weight_std.size - 1)]
    squares, spread = work.squares[layer - 1], work.spread[layer]
    b = std * delta
    if squares == 0.0 or spread == 0.0:  # W x = 0 tells nothing about W
        return 0.0, b
    before = work.exponent[layer - 1] + work.post[layer - 1]  # of x
    a = std * std * power_of_two(before - work.exponent[layer]) * z_delta / spread
    if layers.bias_std > 0.0:
        sigma = layers.bias_std * power_of_two(-work.exponent[layer])
        a += std * sigma * delta * blur / (spread * math.sqrt(squares))
    return a - b * x_noise / squares, b


@register_jitable(error_model="numpy")
def _record(out, block, k, layer, sums, exponent):
    put(out, block.columns, block.slots, GRADIENT, k, layer, log_norm(sums[2], exponent))
    put(out, block.columns, block.slots, GRADIENT_MAX, k, layer, log_size(sums[5], exponent))


@register_jitable(error_model="numpy")
def _backward(one, layers, block, work, out, k, realization, x0, v):
    depth = layers.widths.size - 1
    sums, columns, slots = work.sums, block.columns, block.slots
    _draw_z(layers, work, block, depth, realization, one, False)
    z = work.z[depth % work.z.shape[0]]
    slope = work.slope[depth % 2]
    _pass(one, layers, work, depth, z, z, work.x[depth % 2], slope, work.post[depth])
    step_pass(one, type(one)(0), v, v, slope, z, sums, layers.widths[depth])
    exponent = 0
    _record(out, block, k, depth, sums, exponent)
    for layer in range(depth, 0, -1):
        below = layer - 1
        m = layers.widths[below]
        delta, z_delta = math.sqrt(sums[3]), sums[4]
        put(out, columns, slots, BIAS_GRADIENT, k, layer, log_norm(sums[3], exponent))
        x_exponent = work.exponent[below] + work.post[below]
        weight = log_norm(sums[3], exponent) + log_norm(work.squares[below], x_exponent)
        put(out, columns, slots, WEIGHT_GRADIENT, k, layer, weight)
        draw_vector(work.noise, m, NORMAL, one, address(Role.BACKWARD_NOISE, 0, layer, realization), block.key)
        blur = 0.0
        if layers.bias_std > 0.0:
            xi = work.x[layer % 2]  # no longer needed
            draw_vector(xi, 1, NORMAL, one, address(Role.BLUR, 0, layer, realization), block.key)
            blur = np.float64(xi[0])
        x, slope = x0, x0
        if below > 0:
            _draw_z(layers, work, block, below, realization, one, False)
            z = work.z[below % work.z.shape[0]]
            x, slope = work.x[below % 2], work.slope[below % 2]
            _pass(one, layers, work, below, z, work.noise, x, slope, work.post[below])
        else:
            z = x0
            line_pass(one, one, x0, work.noise, work.x[0], work.slope[0], sums, one, one, m)  # only for x^T z'
        a, b = _coefficients(layers, work, layer, delta, z_delta, sums[1], blur)
        size = math.hypot(a * math.sqrt(work.squares[below] / m), b)
        if size > 0.0 and not (size >= 1.0 / WINDOW and size <= WINDOW):
            shift = math.frexp(size)[1]
            a, b = a * power_of_two(-shift), b * power_of_two(-shift)
            exponent += shift
        step_pass(type(one)(a), type(one)(b), x, work.noise, slope, z, sums, m)
        _record(out, block, k, below, sums, exponent)


def _run(one, layers, block, work, out, left):
    depth = layers.widths.size - 1
    x0 = work.x0
    v = work.v
    for k in range(block.count):
        realization = block.first + k
        n = layers.widths[0]
        if block.inputs.size > 0:
            copy(block.inputs, x0[:n])
        else:
            draw_vector(x0, n, NORMAL, one, address(Role.INPUT, 0, 0, realization), block.key)
        work.squares[0] = sum_of_squares(x0[:n])
        work.exponent[0] = 0
        work.post[0] = 0
        put(out, block.columns, block.slots, ACTIVATION, k, 0, log_norm(work.squares[0], 0))
        left[k] = _forward(one, layers, block, work, out, k, realization)
        if left[k] < 0:
            draw_probe(v, layers.widths[depth], block.unit_probe, address(Role.PROBE, 0, 0, realization), block.key)
            _backward(one, layers, block, work, out, k, realization, x0, v)


def work_arrays(layers: Layers, dtype: Any, keep: bool) -> Work:
    """Room for a block."""
    length, widest = layers.widths.size, int(layers.widths.max()) + SLACK
    # Rows that start 64 bytes apart: vector loads then never cross a cache line at the start of a row.
    row = -(-widest // 16) * 16
    return Work(
        z=np.empty((length if keep else 2, row), dtype),
        x=np.empty((2, row), dtype),
        slope=np.empty((2, row), dtype),
        noise=np.empty(row, dtype),
        x0=np.empty(row, dtype),
        v=np.empty(row, dtype),
        sums=np.zeros(6),
        spread=np.zeros(length),
        squares=np.zeros(length),
        post=np.zeros(length, np.int64),
        exponent=np.zeros(length, np.int64),
        regime=np.zeros(length, np.int8),
    )


@lru_cache(maxsize=1)
def conditional_kernel() -> Callable[..., Any]:
    """The kernel ``run(one, layers, block, work, out, left)``; ``draws.prepare`` must have been called.

    one : the number 1 in the precision of the run.  out : (variables, R, K) float64, nats, prefilled with NaN, variables as in ``dense_mlp``.
    left : (R,) int64, -1 or the first layer whose activations left the number range.
    """
    return kernel(_run, counts_references=False)
