"""The reference itself: against PyTorch autograd, finite differences, mpmath and published random bits."""

from __future__ import annotations

import mpmath
import naive
import numpy as np
import pytest

NAMES = sorted(naive.ACTIVATIONS)
POINTS = np.array([-30.0, -6.5, -3.0, -1.0, -0.2, -1e-3, 1e-3, 0.3, 1.0, 2.5, 7.0, 15.0])


def relative_error(got, want):
    """Largest error relative to the largest value of the array: what a norm of it can be wrong by."""
    scale = np.max(np.abs(want))
    return np.max(np.abs(np.asarray(got) - want)) / scale if scale else np.max(np.abs(got))


# activations -------------------------------------------------

PRECISE = {
    "linear": lambda x: x,
    "tanh": mpmath.tanh,
    "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
    "relu": lambda x: x if x > 0 else mpmath.mpf(0),
    "leaky_relu": lambda x: x if x > 0 else x * mpmath.mpf("0.01"),
    "elu": lambda x: x if x > 0 else mpmath.expm1(x),
    "selu": lambda x: mpmath.mpf("1.0507009873554804934") * (
        x if x > 0 else mpmath.mpf("1.6732632423543772848") * mpmath.expm1(x)
    ),
    "gelu": lambda x: x * mpmath.erfc(-x / mpmath.sqrt(2)) / 2,
    "silu": lambda x: x / (1 + mpmath.exp(-x)),
    "softplus": lambda x: mpmath.log1p(mpmath.exp(x)),
    "erf": mpmath.erf,
    "sin": mpmath.sin,
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_value_and_slope_to_fifty_digits(name):
    value, slope = naive.ACTIVATIONS[name]
    with mpmath.workdps(50):
        want_value = np.array([float(PRECISE[name](mpmath.mpf(x))) for x in POINTS])
        want_slope = np.array([float(mpmath.diff(PRECISE[name], mpmath.mpf(x))) for x in POINTS])
    np.testing.assert_allclose(value(POINTS), want_value, rtol=1e-13)
    # gelu and silu: the slope is a sum of two terms that cancel near its zero, hence the absolute part
    np.testing.assert_allclose(slope(POINTS), want_slope, rtol=1e-13, atol=1e-16)


@pytest.mark.parametrize(("name", "at_zero"), [("relu", 0.0), ("leaky_relu", 0.01), ("elu", 1.0)])
def test_slope_at_the_kink(name, at_zero):
    assert naive.ACTIVATIONS[name][1](np.zeros(1)) == at_zero


@pytest.mark.parametrize("name", NAMES)
def test_activation_is_pytorchs(name):
    reference = pytest.importorskip("torch_reference")
    torch = reference.torch
    points = np.append(POINTS, 0.0)
    x = torch.tensor(points, requires_grad=True)
    y = reference.ACTIVATIONS[name]()(x)
    y.sum().backward()
    value, slope = naive.ACTIVATIONS[name]
    # rtol: PyTorch's softplus leaves out exp(-x) from 20 on, its 1 - tanh^2 loses digits in the tails (atol)
    np.testing.assert_allclose(value(points), y.detach(), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(slope(points), x.grad, rtol=1e-12, atol=1e-15)


# networks against autograd -------------------------------------------------


@pytest.mark.parametrize("activation", NAMES)
@pytest.mark.parametrize("batch", [1, 3])
def test_mlp_against_autograd(activation, batch):
    reference = pytest.importorskip("torch_reference")
    rng = np.random.default_rng(1)
    widths = (4, 13, 1, 6, 5)
    model = reference.sequential(widths, activation, output_activation="linear" if batch == 3 else None)
    inputs, v = rng.standard_normal((batch, 4)), rng.standard_normal((batch, 5))
    want = reference.mlp(model, inputs, v)
    state = list(reference.state_dict(model).values())
    got = naive.mlp(state[0::2], state[1::2], inputs, v, activation, "linear" if batch == 3 else None)
    for name in ("x", "gradient", "weight_gradient", "bias_gradient"):
        for a, b in zip(getattr(got, name), getattr(want, name), strict=True):
            assert relative_error(a, b) < 1e-12, name


@pytest.mark.parametrize(
    ("kind", "activation"), [("rnn", "tanh"), ("rnn", "relu"), ("lstm", "tanh"), ("gru", "tanh")]
)
@pytest.mark.parametrize(
    ("layers", "batch", "steps", "bias"), [(1, 1, 1, True), (2, 3, 6, True), (3, 2, 4, False)]
)
def test_recurrent_against_autograd(kind, activation, layers, batch, steps, bias):
    reference = pytest.importorskip("torch_reference")
    rng = np.random.default_rng(2)
    module = reference.recurrent_module(kind, 3, 5, layers=layers, bias=bias, activation=activation)
    inputs, v = rng.standard_normal((steps, batch, 3)), rng.standard_normal((batch, 5))
    want = reference.recurrent(kind, module, inputs, v)
    got = naive.recurrent(kind, reference.state_dict(module), inputs, v, activation)
    states = ["h", "gradient_h"] + (["c", "gradient_c"] if kind == "lstm" else [])
    for name in states:
        assert relative_error(getattr(got, name), getattr(want, name)) < 1e-12, name
    for name, total in want.gradient.items():
        assert relative_error(got.gradient[name], total) < 1e-12, name
        assert relative_error(got.step_gradient[name], want.step_gradient[name]) < 1e-12, name


# finite differences: knows nothing of any derivative -------------------------------------------------


def difference_quotient(loss, array, step=1e-6):
    out = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        kept = array[index]
        array[index] = kept + step
        above = loss()
        array[index] = kept - step
        below = loss()
        array[index] = kept
        out[index] = (above - below) / (2 * step)
    return out


@pytest.mark.parametrize("activation", NAMES)
def test_mlp_against_differences(activation):
    rng = np.random.default_rng(3)
    weights = [rng.standard_normal(shape) for shape in ((3, 2), (4, 3))]
    biases = [rng.standard_normal(3), rng.standard_normal(4)]
    inputs, v = rng.standard_normal((2, 2)), rng.standard_normal((2, 4))
    run = naive.mlp(weights, biases, inputs, v, activation)

    def loss():
        return np.sum(v * naive.mlp(weights, biases, inputs, v, activation).x[-1])

    pairs = [(inputs, run.gradient[0]), *zip(weights, run.weight_gradient, strict=True)]
    for array, gradient in [*pairs, *zip(biases, run.bias_gradient, strict=True)]:
        np.testing.assert_allclose(gradient, difference_quotient(loss, array), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
def test_recurrent_against_differences(kind):
    rng = np.random.default_rng(4)
    gates = {"rnn": 1, "lstm": 4, "gru": 3}[kind]
    state = {}
    for k, fan_in in enumerate((3, 2)):
        state |= {
            f"weight_ih_l{k}": rng.standard_normal((2 * gates, fan_in)),
            f"weight_hh_l{k}": rng.standard_normal((2 * gates, 2)),
            f"bias_ih_l{k}": rng.standard_normal(2 * gates),
            f"bias_hh_l{k}": rng.standard_normal(2 * gates),
        }
    inputs, v = rng.standard_normal((3, 2, 3)), rng.standard_normal((2, 2))
    run = naive.recurrent(kind, state, inputs, v)

    def loss():
        return np.sum(v * naive.recurrent(kind, state, inputs, v).h[-1, -1])

    np.testing.assert_allclose(run.gradient_inputs, difference_quotient(loss, inputs), rtol=1e-6, atol=1e-8)
    for name, array in state.items():
        np.testing.assert_allclose(run.gradient[name], difference_quotient(loss, array), rtol=1e-6, atol=1e-8)


# logarithms, range, bits -------------------------------------------------


def test_log_norm_beyond_squares_of_the_range():
    assert naive.log_norm([3e300, 4e300]) == pytest.approx(np.log(5e300), rel=1e-15)
    assert naive.log_norm([3e-300, 4e-300]) == pytest.approx(np.log(5e-300), rel=1e-15)
    assert naive.log_norm([0.0, 0.0]) == -np.inf
    assert naive.log_max([-7.0, 2.0]) == np.log(7.0)


@pytest.mark.skipif(np.finfo(np.longdouble).maxexp < 16384, reason="long double is no wider than double here")
@pytest.mark.parametrize("weight", [2.0, 0.5])
def test_long_double_goes_beyond_double(weight):
    depth = 3000
    run = naive.mlp([[[weight]]] * depth, None, [[1.0]], [[1.0]], "linear", dtype=np.longdouble)
    logs = naive.mlp_logs(run)["gradient_log_norm"]
    np.testing.assert_allclose(logs, np.log(weight) * np.arange(depth, -1, -1), rtol=1e-14)


@pytest.mark.parametrize(("counter", "key", "words"), naive.PHILOX_KNOWN_ANSWERS)
def test_philox_gives_the_published_words(counter, key, words):
    assert naive.philox4x32(counter, key) == words


def test_philox_is_randomgens():
    randomgen = pytest.importorskip("randomgen")
    for counter, key in [(5, 0x299F31D0A4093822), (2**128 - 3, 1), (2**64 - 2, 2**64 - 1)]:
        bits = randomgen.Philox(number=4, width=32, key=key, counter=counter).random_raw(16)
        words = []
        for k in range(1, 5):  # randomgen adds one to the counter before it draws
            number = (counter + k) % 2**128
            counter_words = [(number >> (32 * i)) & naive.MASK32 for i in range(4)]
            words += naive.philox4x32(counter_words, (key & naive.MASK32, key >> 32))
        assert words == bits.tolist()
