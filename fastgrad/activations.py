"""Every activation phi with its derivative phi', each pair written once.

An activation is one function ``x -> (phi(x), phi'(x))``: the two share their exponentials, and a loop that uses only one of them pays only
for that one (dead code is dropped). Values and conventions are PyTorch's: ``leaky_relu`` has slope 0.01, ``elu`` alpha 1, ``gelu`` is the
exact one (x Phi(x)), ``softplus`` has beta 1; at the kink ``relu'(0) = 0``, ``leaky_relu'(0) = 0.01``.

To add one: write the pair, add a line to ``ACTIVATIONS`` and its name to ``activation_names.py``; its tests come free.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from fastgrad.elementary import erf_pair, exp, log1p_unit, normal_pair, sigmoid_pair, sin_pair, tanh_pair
from fastgrad.jit import formula

SELU_SCALE = 1.0507009873554805  # Klambauer et al. 2017 (arXiv 1706.02515), equation 2
SELU_ALPHA = 1.6732632423543772


class Activation(NamedTuple):
    """An activation as the engine sees it.

    Attributes
    ----------
    name : str
    pair : function
        ``x -> (phi(x), phi'(x))`` on scalars of either precision; ``register_jitable``.
    homogeneous : bool
        phi(c x) = c phi(x) for every c > 0. Such networks run in the log domain in the forward pass too.
    slopes_at_zero : (float, float) or None
        The left and right derivative at 0 where phi(0) = 0, else None. Inputs far below the rounding unit see only this kinked line.
    """

    name: str
    pair: Callable[..., Any]
    homogeneous: bool
    slopes_at_zero: tuple[float, float] | None


@formula
def linear(x):
    return x, type(x)(1)


@formula
def tanh(x):
    return tanh_pair(x)


@formula
def sigmoid(x):
    s, c = sigmoid_pair(x)
    return s, s * c


@formula
def relu(x):
    zero = type(x)(0)
    # "not (x <= 0)" rather than "x > 0": NaN must pass through, never turn into a dead unit.
    return (zero if x <= zero else x), (type(x)(1) if x > zero else zero)


@formula
def leaky_relu(x):
    slope = type(x)(1) if x > type(x)(0) else type(x)(0.01)
    return x * slope, slope


@formula
def _expm1_negative(x):
    """(e**x - 1, e**x) for x <= 0, the first without cancellation: -2 tanh(-x/2) / (1 + tanh(-x/2))."""
    t, _ = tanh_pair(x * type(x)(-0.5))
    one = type(x)(1)
    return type(x)(-2) * t / (one + t), exp(x)


@formula
def elu(x):
    zero = type(x)(0)
    below, slope = _expm1_negative(zero if x > zero else x)
    return (x if x > zero else below), (type(x)(1) if x > zero else slope)


@formula
def selu(x):
    zero = type(x)(0)
    scale = type(x)(SELU_SCALE)
    steep = type(x)(SELU_SCALE * SELU_ALPHA)
    below, slope = _expm1_negative(zero if x > zero else x)
    return (scale * x if x > zero else steep * below), (scale if x > zero else steep * slope)


@formula
def gelu(x):
    cumulative, density = normal_pair(x)
    return x * cumulative, cumulative + x * density


@formula
def silu(x):
    s, c = sigmoid_pair(x)
    return x * s, s + x * s * c


@formula
def softplus(x):
    zero = type(x)(0)
    s, _ = sigmoid_pair(x)
    tail = log1p_unit(exp(-abs(x)))
    return (x + tail if x > zero else tail), s


@formula
def erf(x):
    return erf_pair(x)


@formula
def sin(x):
    return sin_pair(x)


_TABLE = (
    Activation("linear", linear, True, (1.0, 1.0)),
    Activation("tanh", tanh, False, (1.0, 1.0)),
    Activation("sigmoid", sigmoid, False, None),
    Activation("relu", relu, True, (0.0, 1.0)),
    Activation("leaky_relu", leaky_relu, True, (0.01, 1.0)),
    Activation("elu", elu, False, (1.0, 1.0)),
    Activation("selu", selu, False, (SELU_SCALE * SELU_ALPHA, SELU_SCALE)),
    Activation("gelu", gelu, False, (0.5, 0.5)),
    Activation("silu", silu, False, (0.5, 0.5)),
    Activation("softplus", softplus, False, None),
    Activation("erf", erf, False, (1.1283791670955126, 1.1283791670955126)),
    Activation("sin", sin, False, (1.0, 1.0)),
)

ACTIVATIONS: dict[str, Activation] = {activation.name: activation for activation in _TABLE}
