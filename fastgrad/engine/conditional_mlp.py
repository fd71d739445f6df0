"""One input, one probe, Gaussian weights: the law of an MLP's activations and gradients from O(width) numbers a layer, no weight matrix.

``docs/conditional_sampler.md`` proves it. With w the standard deviation of a weight, s = w |x|, S^2 = s^2 + sigma_b^2, and z, z', xi fresh normals:

    forward    h = S z,  x' = phi(h)
    backward   W^T delta = x (rho h^T delta + tau |delta| xi) / |x|^2 + w |delta| (z' - x (x^T z') / |x|^2),   rho = s^2/S^2,  tau = s sigma_b/S

So a gradient g = W^T delta is a combination a x + b z' of two vectors that were there before it, and of the layer's own delta = phi'(h) g the next
step needs |delta| and h^T delta alone: a quadratic and a linear form in (a, b). Their coefficients are eight sums over the units
(``layer_sums.py``), formed here, on the way forward. The way back (``conditional_gradient.py``) is then a recursion of a few numbers a layer, and
no vector is ever stored or drawn twice, unless the largest entry of each gradient is wanted, for which g itself must be looked at.

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
from fastgrad.engine.conditional_gradient import STATES, send_back
from fastgrad.engine.conditional_layer import NOISE, PHI, TINY, X, evaluate_again, evaluate_sums, row_length, set_spreads
from fastgrad.engine.dense_mlp import ACTIVATION
from fastgrad.engine.draws import SLACK
from fastgrad.engine.layer_sums import LEAST_32, LEAST_64, SUMS, XX, exact_products
from fastgrad.engine.noalias import load, store
from fastgrad.engine.norms import WINDOW, power_of_two
from fastgrad.engine.recorded_logs import LOGS, ROWS, record, take_recorded_logs
from fastgrad.engine.views import matrix_at, plane_at, vector_at
from fastgrad.engine.wide import widest_vectors
from fastgrad.jit import part, register_jitable

BEYOND_SQUARES_32, BEYOND_SQUARES_64 = 80, 560  # binary orders after whose removal the squares of any finite number can be summed in float64
SCALAR_BYTES = 29  # of a layer and realization in `Work`: spread, squares, post, exponent, sent, regime


class Layers(NamedTuple):
    """The network as the kernel sees it.

    widths : (L + 1,) int64.  weight_std : (L,) or (1,) float64, standard deviation of one weight of each layer, or of all layers.
    bias_std : float.  linear_output : the last layer has no activation.  phi : address of the activation's loop (``pointwise.py``);
    phi_sums : of its loop that gives a layer's sums at once, or 0.  homogeneous, through_zero and the slopes at 0 as in `Activation`.
    """

    widths: Any
    weight_std: Any
    bias_std: float
    linear_output: bool
    phi: int
    phi_sums: int
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
    run, x as it was evaluated.  state : (STATES, G) float64, of the gradient that a row has arrived at: `ALONG`, `ACROSS` and `T` with
    g = along x + across (z' - t x), t = x.z'/|x|^2; the squares of norms `G_SQUARES` and `DELTA_SQUARES`; `DELTA_H`, h^T delta; and `XI`, the
    normals of the bias blur.  carry : (G,) int64, exponent of the pass.  Of each layer, (L + 1, G): spread S; squares |x|^2; post int32, binary
    orders taken out of x; exponent int32, of h; sent int32, of the gradient; regime int8.  logs : (ROWS, LOGS).  Rows are `whole_lines`, which a
    panel fits into.
    """

    h: Any
    x: Any
    slope: Any
    noise: Any
    again: Any
    zeros: Any
    blur: Any
    sums: Any
    state: Any
    carry: Any
    spread: Any
    squares: Any
    post: Any
    exponent: Any
    sent: Any
    regime: Any
    logs: Any


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
        evaluate_again(layers, block, work, layer, k, realization)
        n = layers.widths[layer]
        squares, _ = exact_products(vector_at(plane_at(work.again, X), 0, n), vector_at(plane_at(work.again, NOISE), 0, n), power_of_two(-post))
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
        h, slope = matrix_at(work.h, 0, group, row_length(n)), matrix_at(work.slope, 0, group, row_length(n))
        x, noise = matrix_at(work.x, start, group, row_length(n)), matrix_at(work.noise, start, group, row_length(n))
        if layer > 0:
            set_spreads(layers, work, layer, count)
        evaluate_sums(layers, block, work, layer, count, realization, h, x, slope, noise, plane_at(work.sums, layer))
        _keep_sizes(layers, block, work, layer, count, realization, left)
        record(out, block.columns, block.slots, ACTIVATION, k0, vector_at(work.squares, layer * group, count), layer, left)


# --- all of it ---------------------------------------------------------------------------------------------------------------------


def _run(layers, block, work, out, left):
    group = work.x.shape[1]
    for k0 in range(0, block.count, group):
        count = group if group <= block.count - k0 else block.count - k0
        left_here = vector_at(left, k0, count)
        _forward(layers, block, work, out, left_here, k0, count)
        send_back(layers, block, work, out, left_here, k0, count)
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
