"""One input, one probe, Gaussian weights: the law of an MLP's activations and gradients from O(width) numbers a layer, no weight matrix.

``docs/conditional_sampler.md`` proves it. With w the standard deviation of a weight, s = w |x|, S^2 = s^2 + sigma_b^2, and z, z', xi fresh normals:

    forward    h = S z,  x' = phi(h)
    backward   W^T delta = x (rho h^T delta + tau |delta| xi) / |x|^2 + w |delta| (z' - x (x^T z') / |x|^2),   rho = s^2/S^2,  tau = s sigma_b/S

The gradient is never stored: of delta only |delta| and z^T delta are needed, and the loop that forms them makes g from x and z' as it goes. Nor
is z stored in long networks: it is drawn again from its address. A layer is then three draws of n normals, two passes through phi and one
through the sums, all inside the first-level cache.

Narrow layers are shorter than the processor's pipelines, so a group of realizations goes through each layer together, row by row; rows share
nothing, and how many make a group changes no byte. Norms are recorded as squares, and their logarithms taken at the end.

Letters: L layers, n_l widths, R realizations, G realizations of a group, K kept layers.
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
from fastgrad.engine.conditional_pointwise import (
    DELTA_SQUARES,
    DELTA_Z,
    G_SQUARES,
    NOISE,
    SQUARES,
    SUMS,
    TOP,
    line_backward,
    phi_backward,
    phi_forward,
    step,
)
from fastgrad.engine.dense_mlp import ACTIVATION, BIAS_GRADIENT, GRADIENT, GRADIENT_MAX, WEIGHT_GRADIENT, put
from fastgrad.engine.draws import SLACK, draw_normals, draw_probe
from fastgrad.engine.logarithms import add_half_logs, take_logs
from fastgrad.engine.norms import WINDOW, power_of_two, sum_of_squares
from fastgrad.engine.random import Role, address
from fastgrad.engine.views import plane_at, vector_at
from fastgrad.jit import register_jitable

TINY = 2.0**-63  # below, pre-activations of up to 6.8 standard deviations see phi as its tangent (2**-60)
PHI, LINE, TANGENT = range(3)  # how a layer's activation was evaluated
BEYOND_SQUARES_32, BEYOND_SQUARES_64 = 80, 560  # binary orders after whose removal the squares of any finite number can be summed
SCALAR_BYTES = 29  # of a layer and realization in `Work`: spread, squares, post, exponent, sent, regime
LOGS = 256  # logarithms taken at a time
SENT, HERE, WITH_BELOW, BELOW = range(4)  # rows of Work.logs: exponents of gradient, activation, their product; |x_{l-1}|^2


class Layers(NamedTuple):
    """The network as the kernel sees it.

    widths : (L + 1,) int64.  weight_std : (L,) or (1,) float64, standard deviation of one weight of each layer, or of all layers.
    bias_std : float.  linear_output : the last layer has no activation.  forward, backward : addresses of phi's loops; step : of the loop of
    the sums; homogeneous, through_zero and the slopes at 0 as in `Activation`.
    """

    widths: Any
    weight_std: Any
    bias_std: float
    linear_output: bool
    forward: int
    backward: int
    step: int
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

    z : (n z's, G, W) normals of all layers, or of two in turn.  x, slope : (2, G, W).  noise, x0, v : (G, W).  blur : (G, 2 SLACK).
    sums : (G, SUMS).  first, second : (G,) numbers that a loop takes, one a row.  carry : (G,) int64, exponent of the pass.  Of each layer,
    (L + 1, G): spread S; squares |x|^2; post int32, binary orders taken out of x; exponent int32, of h; sent int32, of the gradient; regime
    int8.  logs : (4, LOGS).  Rows are `whole_lines`, which a panel fits into.
    """

    z: Any
    x: Any
    slope: Any
    noise: Any
    x0: Any
    v: Any
    blur: Any
    sums: Any
    first: Any
    second: Any
    carry: Any
    spread: Any
    squares: Any
    post: Any
    exponent: Any
    sent: Any
    regime: Any
    logs: Any


# --- one layer of a group ----------------------------------------------------------------------------------------------------------


@register_jitable
def _draw_z(layers, work, block, layer, z, count, realization, fresh):
    """The normals of a layer's pre-activations into z: drawn, or still there from the forward pass."""
    if fresh or work.z.shape[0] <= layers.widths.size - 1:
        draw_normals(z, count, layers.widths[layer], layer, Role.PREACTIVATION, realization, block.key)


@register_jitable(error_model="numpy")
def _slopes(one, layers, regime):
    """Slopes of the line that stands for phi, below and above 0."""
    if regime == LINE:
        return one, one
    return type(one)(layers.left_slope), type(one)(layers.right_slope)


@register_jitable(error_model="numpy")
def _row_forward(one, layers, work, layer, k, z, post):
    """Sum of the squares of x_layer * 2**-post for row k."""
    n = layers.widths[layer]
    work.first[k] = work.spread[layer, k]
    work.second[k] = power_of_two(-post)
    sums = vector_at(work.sums, k * SUMS, SUMS)
    first, second = vector_at(work.first, k, 1), vector_at(work.second, k, 1)
    if work.regime[layer, k] == PHI:
        phi_forward(layers.forward, 1, n, 0, sums, first, second, vector_at(z, k * z.shape[1], n))
        return
    below, above = _slopes(one, layers, work.regime[layer, k])
    row = vector_at(z, k * z.shape[1], n)
    x, slope = vector_at(work.x, 0, n), vector_at(work.slope, 0, n)  # free during the forward pass
    sums[SQUARES], _ = line_backward(below, above, first[0], second[0], row, row, x, slope)


@register_jitable(error_model="numpy")
def _phi_everywhere(work, layer, count):
    """Whether no row takes phi as a line."""
    lines = 0
    for k in range(count):
        lines += work.regime[layer, k] != PHI
    return lines == 0


@register_jitable(error_model="numpy")
def _rows_forward(one, layers, work, layer, count, z):
    """Sums of the squares of x_layer, nothing taken out."""
    if not _phi_everywhere(work, layer, count):
        for k in range(count):
            _row_forward(one, layers, work, layer, k, z, 0)
        return
    for k in range(count):
        work.first[k] = work.spread[layer, k]
        work.second[k] = 1
    phi_forward(layers.forward, count, layers.widths[layer], z.shape[1], work.sums, work.first, work.second, z)


@register_jitable(error_model="numpy")
def _rows_backward(one, layers, work, layer, count, z, noise, x, slope):
    """x_layer and phi'(h_layer) from z, and the sums of x noise."""
    n = layers.widths[layer]
    gap = z.shape[1]
    for k in range(count):
        work.first[k] = work.spread[layer, k]
        work.second[k] = power_of_two(-work.post[layer, k])
    if _phi_everywhere(work, layer, count):
        phi_backward(layers.backward, count, n, gap, work.sums, work.first, work.second, z, noise, x, slope)
        return
    for k in range(count):
        start = k * gap
        z_row, noise_row = vector_at(z, start, n), vector_at(noise, start, n)
        x_row, slope_row = vector_at(x, start, n), vector_at(slope, start, n)
        sums, first, second = vector_at(work.sums, k * SUMS, SUMS), vector_at(work.first, k, 1), vector_at(work.second, k, 1)
        if work.regime[layer, k] == PHI:
            phi_backward(layers.backward, 1, n, 0, sums, first, second, z_row, noise_row, x_row, slope_row)
        else:
            below, above = _slopes(one, layers, work.regime[layer, k])
            _, sums[NOISE] = line_backward(below, above, first[0], second[0], z_row, noise_row, x_row, slope_row)


# --- forward -----------------------------------------------------------------------------------------------------------------------


@register_jitable(error_model="numpy")
def _set_spread(layers, work, layer, k):
    """S_layer and how phi is to be evaluated, from |x_{layer-1}| * 2**carry; carry becomes the exponent of h."""
    last = layer == layers.widths.size - 1
    line = layers.linear_output and last
    std = layers.weight_std[min(layer - 1, layers.weight_std.size - 1)]
    exponent = work.carry[k]
    spread = std * math.sqrt(work.squares[layer - 1, k])
    common = exponent
    if layers.bias_std > 0.0:
        common = max(exponent, 0)
        spread = math.hypot(spread * power_of_two(exponent - common), layers.bias_std * power_of_two(-common))
    regime = LINE if line else PHI
    if common != 0 and not (layers.homogeneous or line):
        if spread * power_of_two(common) < TINY:
            regime = TANGENT
        else:
            spread *= power_of_two(common)
            common = 0
    work.spread[layer, k] = spread
    work.regime[layer, k] = regime
    work.exponent[layer, k] = common
    work.carry[k] = common


@register_jitable(error_model="numpy")
def _orders_to_take(layers, work, layer, k, squares):
    """Binary orders to take out of x_layer so that its typical entry stays in the window."""
    size = math.sqrt(squares / layers.widths[layer])
    if size >= 1.0 / WINDOW and size <= WINDOW and (layers.homogeneous or work.carry[k] == 0):
        return 0
    small = layers.through_zero and size * power_of_two(work.carry[k]) < TINY
    if size == 0.0 or not (layers.homogeneous or small or work.regime[layer, k] != PHI):
        return 0
    return 0 if size >= 1.0 / WINDOW and size <= WINDOW else math.frexp(size)[1]


@register_jitable(error_model="numpy")
def _keep_size(one, layers, work, layer, k, z):
    """|x_layer|^2 and the orders taken out of it; returns whether it left the number range."""
    squares = work.sums[k, SQUARES]
    post = 0
    if not squares < math.inf:  # NaN too; or the squares left the range, not the activations
        post = BEYOND_SQUARES_32 if work.x.itemsize == 4 else BEYOND_SQUARES_64
        _row_forward(one, layers, work, layer, k, z, post)
        squares = work.sums[k, SQUARES]
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
def _forward(one, layers, block, work, out, left, k0, count):
    """Scalars of all layers; left[k0 + k] becomes the first layer that left the number range."""
    realization = block.first + k0
    for layer in range(1, layers.widths.size):
        for k in range(count):
            _set_spread(layers, work, layer, k)
        z = plane_at(work.z, layer % work.z.shape[0])
        _draw_z(layers, work, block, layer, z, count, realization, True)
        _rows_forward(one, layers, work, layer, count, z)
        for k in range(count):
            lost = _keep_size(one, layers, work, layer, k, z)
            if lost and left[k0 + k] < 0:
                left[k0 + k] = layer
            if left[k0 + k] < 0:
                put(out, block.columns, block.slots, ACTIVATION, k0 + k, layer, work.squares[layer, k])


# --- backward ----------------------------------------------------------------------------------------------------------------------


@register_jitable(error_model="numpy")
def _coefficients(layers, work, layer, k, blur):
    """(a, b) of g_{layer-1} = a x + b z', x in its own exponent; blur: the normal xi."""
    delta = math.sqrt(work.sums[k, DELTA_SQUARES])
    std = layers.weight_std[min(layer - 1, layers.weight_std.size - 1)]
    squares, spread = work.squares[layer - 1, k], work.spread[layer, k]
    b = std * delta
    if squares == 0.0 or spread == 0.0:  # W x = 0 tells nothing about W
        return 0.0, b
    before = work.exponent[layer - 1, k] + work.post[layer - 1, k]  # of x
    a = std * std * power_of_two(before - work.exponent[layer, k]) * work.sums[k, DELTA_Z] / spread
    if layers.bias_std > 0.0:
        sigma = layers.bias_std * power_of_two(-work.exponent[layer, k])
        a += std * sigma * delta * blur / (spread * math.sqrt(squares))
    return a - b * work.sums[k, NOISE] / squares, b


@register_jitable(error_model="numpy")
def _set_step(layers, work, layer, k, blur):
    """The two numbers from which a row's g_{layer-1} is made, orders taken out of them where it would leave the window."""
    a, b = _coefficients(layers, work, layer, k, blur)
    below = layer - 1
    typical = a * a * (work.squares[below, k] / layers.widths[below]) + b * b  # its square
    if not (typical >= 1.0 / WINDOW**2 and typical <= WINDOW**2):
        size = math.hypot(a * math.sqrt(work.squares[below, k] / layers.widths[below]), b)
        if size > 0.0 and not (size >= 1.0 / WINDOW and size <= WINDOW):
            shift = math.frexp(size)[1]
            a, b = a * power_of_two(-shift), b * power_of_two(-shift)
            work.carry[k] += shift
    work.first[k] = a
    work.second[k] = b


@register_jitable
def _record_gradient(out, block, work, left, k0, count, layer):
    columns, slots = block.columns, block.slots
    for k in range(count):
        work.sent[layer, k] = work.carry[k]
        if left[k0 + k] >= 0 or slots[layer] < 0:
            continue
        put(out, columns, slots, GRADIENT, k0 + k, layer, work.sums[k, G_SQUARES])
        put(out, columns, slots, GRADIENT_MAX, k0 + k, layer, work.sums[k, TOP])
        if layer > 0:
            put(out, columns, slots, BIAS_GRADIENT, k0 + k, layer, work.sums[k, DELTA_SQUARES])
            put(out, columns, slots, WEIGHT_GRADIENT, k0 + k, layer, work.sums[k, DELTA_SQUARES])


@register_jitable(error_model="numpy")
def _noise_of_input(one, work, count, n):
    """The sums of x_0 noise."""
    for k in range(count):
        start = k * work.noise.shape[1]
        x0, noise = vector_at(work.x0, start, n), vector_at(work.noise, start, n)
        x, slope = vector_at(work.x, start, n), vector_at(work.slope, start, n)
        _, work.sums[k, NOISE] = line_backward(one, one, one, one, x0, noise, x, slope)


@register_jitable(error_model="numpy")
def _backward(one, layers, block, work, out, left, k0, count):
    depth = layers.widths.size - 1
    realization = block.first + k0
    n = layers.widths[depth]
    z = plane_at(work.z, depth % work.z.shape[0])
    _draw_z(layers, work, block, depth, z, count, realization, False)
    x, slope = plane_at(work.x, depth % 2), plane_at(work.slope, depth % 2)
    _rows_backward(one, layers, work, depth, count, z, z, x, slope)
    for k in range(count):
        work.carry[k] = 0
        work.first[k], work.second[k] = 1, 0
    gap = z.shape[1]
    step(layers.step, count, n, gap, work.sums, work.first, work.second, work.v, work.v, slope, z)
    _record_gradient(out, block, work, left, k0, count, depth)
    for layer in range(depth, 0, -1):
        below = layer - 1
        n = layers.widths[below]
        draw_normals(work.noise, count, n, layer, Role.BACKWARD_NOISE, realization, block.key)
        if layers.bias_std > 0.0:
            draw_normals(work.blur, count, 1, layer, Role.BLUR, realization, block.key)
        if below > 0:
            z = plane_at(work.z, below % work.z.shape[0])
            _draw_z(layers, work, block, below, z, count, realization, False)
            x, slope = plane_at(work.x, below % 2), plane_at(work.slope, below % 2)
            _rows_backward(one, layers, work, below, count, z, work.noise, x, slope)
        else:
            z, x, slope = work.x0, work.x0, work.x0
            _noise_of_input(one, work, count, n)
        for k in range(count):
            _set_step(layers, work, layer, k, np.float64(work.blur[k, 0]))
        step(layers.step, count, n, gap, work.sums, work.first, work.second, x, work.noise, slope, z)
        _record_gradient(out, block, work, left, k0, count, below)


# --- logarithms of what was recorded -----------------------------------------------------------------------------------------------


@register_jitable
def _gather(work, layer, k, n):
    """What the logarithms of the n-th kept layer need besides the numbers recorded: rows SENT to BELOW of ``logs``."""
    work.logs[SENT, n] = work.sent[layer, k]
    work.logs[HERE, n] = work.exponent[layer, k] + work.post[layer, k]
    work.logs[WITH_BELOW, n] = 0.0
    work.logs[BELOW, n] = 1.0
    if layer > 0:
        work.logs[WITH_BELOW, n] = work.sent[layer, k] + work.exponent[layer - 1, k] + work.post[layer - 1, k]
        work.logs[BELOW, n] = work.squares[layer - 1, k]


@register_jitable(error_model="numpy")
def _flush(block, work, out, realization, column, n):
    """Logarithms of n kept layers, of which ``column`` is the first, of all variables."""
    for variable in range(block.columns.size):
        row = block.columns[variable]
        if row < 0:
            continue
        exponents = HERE if variable == ACTIVATION else (WITH_BELOW if variable == WEIGHT_GRADIENT else SENT)
        values = vector_at(out, (row * out.shape[1] + realization) * out.shape[2] + column, n)
        take_logs(values, vector_at(work.logs, exponents * LOGS, n), 1.0 if variable == GRADIENT_MAX else 0.5)
        if variable == WEIGHT_GRADIENT:
            add_half_logs(values, vector_at(work.logs, BELOW * LOGS, n))


@register_jitable(error_model="numpy")
def _take_logs(block, work, out, k0, count):
    """Turn what was recorded into logarithms; NaN, where nothing was, stays."""
    for k in range(count):
        n, column = 0, 0
        for layer in range(block.slots.size):
            if block.slots[layer] < 0:
                continue
            if n == 0:
                column = block.slots[layer]
            _gather(work, layer, k, n)
            n += 1
            if n == LOGS:
                _flush(block, work, out, k0 + k, column, n)
                n = 0
        if n > 0:
            _flush(block, work, out, k0 + k, column, n)


# --- all of it ---------------------------------------------------------------------------------------------------------------------


@register_jitable(error_model="numpy")
def _start(layers, block, work, out, left, k0, count):
    """Inputs and probes of a group."""
    n = layers.widths[0]
    depth = layers.widths.size - 1
    if block.inputs.size == 0:
        draw_normals(work.x0, count, n, 0, Role.INPUT, block.first + k0, block.key)
    for k in range(count):
        x0 = vector_at(work.x0, k * work.x0.shape[1], n)
        if block.inputs.size > 0:
            copy(block.inputs, x0)
        left[k0 + k] = -1
        work.squares[0, k] = sum_of_squares(x0)
        work.exponent[0, k] = 0
        work.post[0, k] = 0
        work.carry[k] = 0
        put(out, block.columns, block.slots, ACTIVATION, k0 + k, 0, work.squares[0, k])
        v = vector_at(work.v, k * work.v.shape[1], work.v.shape[1])
        draw_probe(v, layers.widths[depth], block.unit_probe, address(Role.PROBE, 0, 0, block.first + k0 + k), block.key)


def _run(one, layers, block, work, out, left):
    group = work.x0.shape[0]
    for k0 in range(0, block.count, group):
        count = min(group, block.count - k0)
        _start(layers, block, work, out, left, k0, count)
        _forward(one, layers, block, work, out, left, k0, count)
        _backward(one, layers, block, work, out, left, k0, count)
        _take_logs(block, work, out, k0, count)


def work_arrays(layers: Layers, dtype: Any, keep: bool, group: int) -> Work:
    """Room for a block that runs ``group`` realizations together."""
    length, row = layers.widths.size, whole_lines(int(layers.widths.max()))

    def rows(*shape: int) -> Any:
        return aligned_zeros((*shape, group, row), dtype)

    return Work(
        z=rows(length if keep else 2),
        x=rows(2),
        slope=rows(2),
        noise=rows(),
        x0=rows(),
        v=rows(),
        blur=np.zeros((group, 2 * SLACK), dtype),
        sums=np.zeros((group, SUMS)),
        first=np.zeros(group, dtype),
        second=np.zeros(group, dtype),
        carry=np.zeros(group, np.int64),
        spread=np.zeros((length, group)),
        squares=np.zeros((length, group)),
        post=np.zeros((length, group), np.int32),
        exponent=np.zeros((length, group), np.int32),
        sent=np.zeros((length, group), np.int32),
        regime=np.zeros((length, group), np.int8),
        logs=np.zeros((4, LOGS)),
    )


@lru_cache(maxsize=1)
def conditional_kernel() -> Callable[..., Any]:
    """The kernel ``run(one, layers, block, work, out, left)``; ``draws.prepare`` must have been called.

    one : the number 1 in the precision of the run.  out : (variables, R, K) float64, nats, prefilled with NaN, variables as in ``dense_mlp``.
    left : (R,) int64, -1 or the first layer whose activations left the number range.
    """
    return kernel(_run, counts_references=False)
