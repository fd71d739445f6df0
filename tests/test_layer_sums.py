"""The eight sums of a layer: plain Python, the compiled function and its twin, the float64 form; and when the engine takes which."""

from __future__ import annotations

import numba
import numpy as np
import pytest

import fastgrad as fg
from fastgrad.engine import layer_sums
from fastgrad.jit import KERNEL_OPTIONS

DTYPES = [np.float32, np.float64]
SHAPES = [(1, 1), (3, 2), (2, 15), (8, 16), (5, 17), (16, 64), (1, 300)]


@numba.njit(**KERNEL_OPTIONS)
def compiled(count, n, h, x, slope, noise, sums):
    layer_sums.layer_sums(count, n, h, x, slope, noise, sums)


@numba.njit(**KERNEL_OPTIONS)
def twin(count, n, h, x, slope, noise, sums):
    layer_sums.layer_sums_twin(count, n, h, x, slope, noise, sums)


@numba.njit(**KERNEL_OPTIONS)
def exact(x, noise, factor):
    return layer_sums.exact_products(x, noise, factor)


def rows(count, n, number, seed=0):
    """h, x, slope, noise with one row and five numbers a row more than count."""
    return np.random.default_rng(seed).standard_normal((4, count + 1, n + 5)).astype(number)


def reference(count, n, values):
    h, x, slope, noise = values[:, :count, :n].astype(np.longdouble)
    a, b = slope * x, slope * noise
    return np.array([np.sum(u * v, axis=1) for u, v in ((x, x), (x, noise), (noise, noise), (a, a), (a, b), (b, b), (h, a), (h, b))])


@pytest.mark.parametrize("number", DTYPES)
@pytest.mark.parametrize("function", [layer_sums.layer_sums, compiled, twin], ids=["plain", "compiled", "twin"])
def test_sums(function, number):
    for count, n in SHAPES:
        values = rows(count, n, number)
        sums = np.full((layer_sums.SUMS, count + 1), 7, number)
        function(count, n, *values, sums)
        want = reference(count, n, values)
        assert np.all(np.abs(sums[:, :count] - want) <= 20 * np.finfo(number).eps * (n + 2)), (count, n)
        assert np.all(sums[:, count] == 7)  # a row that nobody asked for


@pytest.mark.parametrize("number", DTYPES)
def test_the_float64_products_are_exact_to_float64_and_scale_x(number):
    _, x, _, noise = rows(1, 33, number)[:, 0]
    y, w = x.astype(np.longdouble) * np.longdouble(2) ** -40, noise.astype(np.longdouble)
    for got, terms in zip(exact(x, noise, 2.0**-40), (y * y, y * w), strict=True):
        assert abs(got - np.sum(terms)) <= 1e-14 * np.sum(np.abs(terms))


# --- the engine: quick sums where they have their digits, exact ones where not --------------------------------------------------------


def norms(network, dtype, realizations=60, seed=1):
    return fg.measure(network, realizations=realizations, rng=seed, dtype=dtype, method="conditional", threads=1)


CANCELLING = {
    "width 1": fg.MLP(40, 1, weights=fg.Normal(1.5)),
    "width 1, biases": fg.MLP(40, 1, weights=fg.Normal(1.5), bias_std=0.3),
    "width 2": fg.MLP(40, 2, weights=fg.Normal(1.5)),
    "one unit in many layers": fg.MLP(widths=(5, 1, 20, 1, 1, 7, 1), weights=fg.Normal(1.3)),
    "a few slopes carry all": fg.MLP(20, 32, weights=fg.Normal(60.0)),
    "dying relu": fg.MLP(30, 3, activation="relu", weights="he_normal"),
}


@pytest.mark.parametrize("name", CANCELLING)
def test_float32_keeps_its_digits_where_the_forms_cancel(name):
    """The engine must see where quick sums have lost digits; an entry in a hundred may be ill-conditioned whatever the engine does."""
    single, double = (norms(CANCELLING[name], dtype) for dtype in ("float32", "float64"))
    for variable in ("gradient_log_norm", "bias_gradient_log_norm", "weight_gradient_log_norm", "gradient_log_max"):
        a, b = single[variable].values, double[variable].values
        both = np.isfinite(a) & np.isfinite(b)
        assert np.array_equal(np.isneginf(a), np.isneginf(b)), variable
        error = np.abs(a[both] - b[both])
        assert np.quantile(error, 0.99) < 1e-4, (variable, np.quantile(error, 0.99))
