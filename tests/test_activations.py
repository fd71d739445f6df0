"""Activations: values and slopes against PyTorch, mpmath and finite differences; flags; vector code. A new one is tested by being listed."""

from __future__ import annotations

import ctypes

import mpmath
import numpy as np
import pytest
import torch
from loops import PRECISIONS, activate, activation_loop, assert_vector_code, conversions
from torch.nn import functional

from fastgrad.activation_names import ACTIVATION_NAMES
from fastgrad.activations import ACTIVATIONS
from fastgrad.engine.pointwise import activation_address

# libm's functions are calls, and a loop with a call in it is not vector code.
SCALAR = {"float32": {"sin"}, "float64": {"sin", "erf", "gelu", "softplus"}}
THROUGH_FLOAT64 = {"sin", "erf", "gelu"}  # float32 results computed in float64


@pytest.fixture(scope="module")
def loop():
    """The compiled loop of an activation, each once."""
    made = {}

    def get(name, dtype):
        if (name, dtype) not in made:
            made[name, dtype] = activation_loop(name, dtype)
        return made[name, dtype]

    return get


def grid(dtype):
    """Arguments of all sizes, without 0: dense where activations bend, and far out."""
    rng = np.random.default_rng(5)
    sizes = np.exp2(rng.uniform(-120 if dtype == "float32" else -900, 6, 500)) * rng.choice([-1.0, 1.0], 500)
    return np.concatenate([rng.uniform(-8, 8, 1000), rng.uniform(-110, 110, 300), sizes]).astype(PRECISIONS[dtype])


def test_names():
    assert tuple(ACTIVATIONS) == ACTIVATION_NAMES
    assert all(activation.name == name for name, activation in ACTIVATIONS.items())


# --- against PyTorch --------------------------------------------------------------------------------------------------------------

# What PyTorch calls otherwise, or does otherwise by default (its softplus is x beyond 20, which is off by 2e-9).
IN_TORCH = {"linear": lambda x: x * 1, "softplus": lambda x: functional.softplus(x, threshold=40)}


def in_torch(name, x):
    """Value and slope by PyTorch in float64."""
    function = IN_TORCH.get(name) or getattr(functional, name, None) or getattr(torch, name, None)
    if function is None:
        pytest.skip(f"NOT TESTED: PyTorch has no {name}")
    argument = torch.tensor(x.astype(np.float64), requires_grad=True)
    value = function(argument)
    (slope,) = torch.autograd.grad(value.sum(), argument)
    return value.detach().numpy(), slope.numpy()


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_same_as_pytorch(loop, name, dtype):
    """1e-12 relative (float32: 1e-6), kinks included; and 1e-15 of the size of what was subtracted, where PyTorch's formula cancels."""
    x = np.concatenate([grid(dtype), np.array([0.0, -0.0, 1e-30, -1e-30, 1e4, -1e4, 1e30, -1e30], PRECISIONS[dtype])])
    relative, absolute = (1e-6, 1e-7) if dtype == "float32" else (1e-12, 2e-15)
    for got, want in zip(activate(loop(name, dtype), x), in_torch(name, x), strict=True):
        scale = absolute * np.maximum(1, np.minimum(np.abs(x), 100)).astype(np.float64)
        error = np.abs(got - want) - relative * np.abs(want) - scale
        assert np.all(error <= 0), (x[np.argmax(error)], got[np.argmax(error)], want[np.argmax(error)])


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_conventions_at_the_kinks(loop, dtype):
    """PyTorch's, at both zeros."""
    zeros = np.array([0.0, -0.0], PRECISIONS[dtype])
    for name, want in {"relu": 0.0, "leaky_relu": 0.01, "elu": 1.0}.items():
        np.testing.assert_allclose(activate(loop(name, dtype), zeros)[1], want, rtol=1e-7)
        np.testing.assert_allclose(in_torch(name, zeros)[1], want)
    # the steeper side, as PyTorch
    np.testing.assert_allclose(activate(loop("selu", dtype), zeros)[1], in_torch("selu", zeros)[1], rtol=1e-6)


# --- against mpmath: digits where values and slopes are tiny ----------------------------------------------------------------------


def _logistic(x):
    return 1 / (1 + mpmath.exp(-x))


def _density(x):
    return mpmath.exp(-x * x / 2) / mpmath.sqrt(2 * mpmath.pi)


def _cumulative(x):
    return mpmath.erfc(-x / mpmath.sqrt(2)) / 2


SELU = mpmath.mpf("1.0507009873554804934193349852946"), mpmath.mpf("1.6732632423543772848170429916717")  # scale, alpha
EXACT = {  # value and slope, x not 0
    "linear": (lambda x: x, lambda x: 1),
    "tanh": (mpmath.tanh, lambda x: mpmath.sech(x) ** 2),
    "sigmoid": (_logistic, lambda x: _logistic(x) * _logistic(-x)),
    "relu": (lambda x: max(x, 0), lambda x: int(x > 0)),
    "leaky_relu": (lambda x: x if x > 0 else x / 100, lambda x: 1 if x > 0 else mpmath.mpf(1) / 100),
    "elu": (lambda x: x if x > 0 else mpmath.expm1(x), lambda x: 1 if x > 0 else mpmath.exp(x)),
    "selu": (
        lambda x: SELU[0] * (x if x > 0 else SELU[1] * mpmath.expm1(x)),
        lambda x: SELU[0] * (1 if x > 0 else SELU[1] * mpmath.exp(x)),
    ),
    "gelu": (lambda x: x * _cumulative(x), lambda x: _cumulative(x) + x * _density(x)),
    "silu": (lambda x: x * _logistic(x), lambda x: _logistic(x) * (1 + x * _logistic(-x))),
    "softplus": (lambda x: mpmath.log1p(mpmath.exp(x)), _logistic),
    "erf": (mpmath.erf, lambda x: 2 / mpmath.sqrt(mpmath.pi) * mpmath.exp(-x * x)),
    "sin": (mpmath.sin, mpmath.cos),
}
TAILS = [sign * size for size in (1e-5, 0.1, 1.0, 5.0, 12.0, 15.0, 20.0, 30.0, 40.0, 85.0, 700.0) for sign in (-1.0, 1.0)]


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("name", EXACT)
def test_digits_where_it_is_tiny(loop, name, dtype):
    """Relative errors, down to subnormal numbers: tanh' at 30 is 3e-26, sigmoid' at 40 is 4e-18, silu at -85 is -1e-35."""
    number = PRECISIONS[dtype]
    x = np.array(TAILS, number)
    value, slope = activate(loop(name, dtype), x)
    relative = 1e-12 if dtype == "float64" else 2e-6
    with mpmath.workdps(60):
        for j, argument in enumerate(x):
            for got, exact in zip((value[j], slope[j]), EXACT[name], strict=True):
                want = mpmath.mpf(exact(mpmath.mpf(float(argument))))
                smallest = 4 * float(np.finfo(number).smallest_subnormal)
                error = abs(mpmath.mpf(float(got)) - want)
                assert error <= relative * abs(want) + smallest, (argument, got, float(want))


# --- the battery that every activation has to pass --------------------------------------------------------------------------------


def check_activation(activation, run):
    """Everything that holds for any activation. run(x): value and slope of an array by compiled code of its precision."""
    check_slope(activation, run)
    check_flags(activation, run)
    check_precisions(activation, run)
    check_non_finite(run)


def check_slope(activation, run):
    """The slope is the derivative of the value: central differences of fourth order, away from a kink at 0."""
    x = grid("float64")
    x = x[(np.abs(x) > 0.02) & (np.abs(x) < 50)]
    h = 2e-3 * np.minimum(1, np.abs(x))
    x = x[:, None] + np.zeros(4)
    steps = np.array([-2, -1, 1, 2]) * h[:, None]
    values = run((x + steps).ravel())[0].reshape(x.shape)
    differences = values @ np.array([1, -8, 8, -1]) / (12 * h)
    size = np.abs(values).max(axis=1)
    slope = run(np.ascontiguousarray(x[:, 0]))[1]
    np.testing.assert_array_less(np.abs(differences - slope), 1e-9 + 1e-15 * size / h + 1e-9 * np.abs(slope))


def check_flags(activation, run):
    """What the engine builds on: homogeneity, and the two slopes at 0."""
    x = grid("float64")
    value, slope = run(x)
    scaled = [run(c * x) for c in (0.5, 8.0)]
    homogeneous = all(np.allclose(v, c * value, rtol=1e-14, atol=0) for c, (v, _) in zip((0.5, 8.0), scaled, strict=True))
    assert activation.homogeneous == homogeneous
    if homogeneous:
        for _, s in scaled:
            np.testing.assert_array_equal(s, slope)
    at_zero = run(np.zeros(1))[0][0]
    assert (activation.slopes_at_zero is None) == (at_zero != 0.0)
    if activation.slopes_at_zero is not None:
        for sign, expected in zip((-1.0, 1.0), activation.slopes_at_zero, strict=True):
            small = sign * np.exp2(-np.arange(60.0, 200.0))
            v, s = run(small)
            np.testing.assert_allclose(v, expected * small, rtol=1e-15, atol=0)
            np.testing.assert_allclose(s, expected, rtol=1e-15, atol=0)


def check_precisions(activation, run):
    """float32 is float64 rounded, but for a few units in the last place (of the terms that it is a sum of, at most 100 times larger)."""
    x = grid("float32")
    single, double = run(x), run(x.astype(np.float64))
    for got, want in zip(single, double, strict=True):
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6 * min(1.0, np.abs(want).max()))
    for number in (np.float32, np.float64):
        assert [type(result) for result in activation.pair(number(0.3))] == [number, number]
        assert [type(result) for result in activation.pair(number(-0.3))] == [number, number]


def check_non_finite(run):
    """NaN stays NaN, in vectors and in the remainder; huge arguments give no NaN."""
    for number in (np.float32, np.float64):
        x = np.linspace(-3, 3, 67).astype(number)
        for j in range(x.size):
            y = x.copy()
            y[j] = np.nan
            value, _ = run(y)
            assert np.isnan(value[j])
            assert np.isfinite(np.delete(value, j)).all()
        huge = np.array([1e30, -1e30, np.finfo(number).max / 4, -np.finfo(number).max / 4], number)
        value, slope = run(huge)
        assert np.isfinite(value).all()
        assert np.isfinite(slope).all()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_battery(loop, name):
    check_activation(ACTIVATIONS[name], lambda x: activate(loop(name, x.dtype.name), x))


def wrong_slope(run):
    return lambda x: (run(x)[0], run(x)[1] * (1 + 1e-6))


def test_the_battery_finds_mistakes(loop):
    """A slope off by 1e-6, wrong flags, a NaN that turns into a number."""
    tanh, relu = ACTIVATIONS["tanh"], ACTIVATIONS["relu"]

    def run(x):
        return activate(loop("tanh", x.dtype.name), x)

    def run_relu(x):
        return activate(loop("relu", x.dtype.name), x)

    with pytest.raises(AssertionError):
        check_slope(tanh, wrong_slope(run))
    for wrong in (tanh._replace(homogeneous=True), tanh._replace(slopes_at_zero=None), tanh._replace(slopes_at_zero=(1.0, 0.9))):
        with pytest.raises(AssertionError):
            check_flags(wrong, run)
    for wrong in (relu._replace(homogeneous=False), relu._replace(slopes_at_zero=(1.0, 0.0))):
        with pytest.raises(AssertionError):
            check_flags(wrong, run_relu)
    with pytest.raises(AssertionError):
        check_non_finite(lambda x: (np.where(np.isnan(x), 0, x), np.ones_like(x)))


def test_a_dead_relu_is_not_made_of_nan(loop):
    x = np.array([np.nan, -1.0, 1.0] * 7, np.float32)
    value, _ = activate(loop("relu", "float32"), x)
    np.testing.assert_array_equal(value, np.where(np.isnan(x), np.nan, np.maximum(x, 0)))


# --- machine code -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_loops_are_vector_code(loop, name, dtype):
    if name in SCALAR[dtype]:
        pytest.skip(f"{name} in {dtype} calls libm: not vector code, as documented")
    assert_vector_code(loop(name, dtype))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_float32_stays_float32_in_machine_code(loop, name):
    assert (conversions(loop(name, "float32")) > 0) == (name in THROUGH_FLOAT64)


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_value_does_not_depend_on_where_its_number_stands(name, dtype):
    """In a vector or in what is left over behind the last: the conditional sampler runs groups of realizations through one loop."""
    h = np.random.default_rng(0).standard_normal(200).astype(dtype) * 3
    whole = engine_loop(name, dtype, h)
    for n in range(1, 70):
        for start in (0, 1, 5):
            for part, values in zip(engine_loop(name, dtype, h[start : start + n]), whole, strict=True):
                assert part.tobytes() == values[start : start + n].tobytes(), (n, start)


def engine_loop(name, dtype, h):
    """(x, slope) from the loop that the engine calls."""
    h, bias, x, slope = h.copy(), np.zeros_like(h), np.empty_like(h), np.empty_like(h)
    pointers = [array.ctypes.data for array in (h, bias, x, slope)]
    ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4, ctypes.c_int64)(activation_address(name, dtype))(*pointers, h.size)
    return x, slope
