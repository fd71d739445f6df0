"""Gradients far beyond what a float can hold: closed forms, exact laws and a reference in long double."""

from __future__ import annotations

import warnings
from math import log

import naive
import numpy as np
import pytest
from comparisons import assert_same_logs, logs_of
from scipy.special import digamma, polygamma

import fastgrad as fg
from fastgrad.errors import RangeWarning

needs_long_double = pytest.mark.skipif(
    np.finfo(np.longdouble).maxexp < 16384, reason="long double is no wider than double here"
)


# exact laws ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("gain", [1.5, 0.5])
def test_linear_gaussian_thirty_thousand_layers(gain):
    depth, n, realizations = 30_000, 50, 4
    network = fg.MLP(depth=depth, width=n, activation="linear", weights=fg.Normal(gain))
    # method="dense": this is the test of the path with explicit weights
    ds = fg.measure(
        network, realizations=realizations, rng=1, record=["gradient_log_norm"], every=1000, method="dense"
    )
    at_input = ds["gradient_log_norm"].sel(layer=0).values
    assert np.all(np.isfinite(ds["gradient_log_norm"].values))
    # ||W^T g||^2 = ||g||^2 (gain^2 / n) chi2_n, independent over layers
    mean = depth / 2 * (digamma(n / 2) + log(2 * gain**2 / n))
    standard_error = np.sqrt(depth * polygamma(1, n / 2) / 4 / realizations)
    assert abs(at_input.mean() - mean) < 4 * standard_error
    assert abs(mean) > 10_000 * 0.9 or abs(mean) > 12_000  # far outside float64, which ends at 709


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 2e-4)])
def test_orthogonal_linear_keeps_the_norm_at_any_depth(dtype, tolerance):
    network = fg.MLP(depth=2000, width=12, activation="linear", weights=fg.Orthogonal(1.0))
    ds = fg.measure(network, realizations=2, rng=2, dtype=dtype)
    np.testing.assert_allclose(ds["gradient_log_norm"], 0, atol=tolerance)
    np.testing.assert_allclose(
        ds["activation_log_norm"] - ds["activation_log_norm"].sel(layer=0), 0, atol=tolerance
    )


@pytest.mark.parametrize("weight", [2.0, 0.5])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_powers_of_two_are_exact(weight, dtype):
    network = fg.MLP(depth=5000, width=1, activation="linear", weights=fg.Constant(weight))
    ds = fg.measure(network, realizations=1, inputs=np.ones((1, 1)), loss="sum", dtype=dtype)
    want = log(weight) * np.arange(5000, -1, -1)
    np.testing.assert_allclose(ds["gradient_log_norm"][0], want, rtol=1e-14)
    np.testing.assert_allclose(ds["activation_log_norm"][0], want[::-1], rtol=1e-14)
    np.testing.assert_allclose(ds["weight_gradient_log_norm"][0, 1:], log(weight) * 4999, rtol=1e-14)


# against the reference in long double -------------------------------------------------------------


def random_mlp(depth, width, gain, bias_std, seed):
    rng = np.random.default_rng(seed)
    weights = [rng.standard_normal((width, width)) * gain / np.sqrt(width) for _ in range(depth)]
    biases = [rng.standard_normal(width) * bias_std for _ in range(depth)]
    state = {}
    for layer in range(depth):
        state[f"{2 * layer}.weight"], state[f"{2 * layer}.bias"] = weights[layer], biases[layer]
    return weights, biases, state, rng.standard_normal((1, width))


@needs_long_double
@pytest.mark.parametrize(
    ("activation", "gain", "bias_std"),
    [
        ("linear", 3.0, 0.1),
        ("linear", 0.4, 0.0),
        ("relu", 4.0, 0.1),
        ("relu", 0.6, 0.0),
        ("leaky_relu", 4.0, 0.1),
        ("leaky_relu", 0.5, 0.0),
        ("tanh", 0.5, 0.0),  # the forward pass shrinks below the smallest float64
        ("tanh", 2.5, 0.1),
        ("sigmoid", 1.0, 0.1),
    ],
)
def test_mlp_two_thousand_layers(activation, gain, bias_std):
    depth, width = 2000, 20
    weights, biases, state, inputs = random_mlp(depth, width, gain, bias_std, seed=3)
    if activation == "tanh" and bias_std:
        depth = 50  # a chaotic net multiplies rounding errors: too deep a comparison says nothing
        weights, biases, state = weights[:depth], biases[:depth], dict(list(state.items())[: 2 * depth])
    network = fg.MLP(depth=depth, width=width, activation=activation)
    ds = fg.measure(network, realizations=1, weights=state, inputs=inputs, loss="sum", dtype="float64")
    run = naive.mlp(weights, biases, inputs, np.ones((1, width)), activation, dtype=np.longdouble)
    want = naive.mlp_logs(run)
    assert np.ptp(want["gradient_log_norm"]) > (709 if depth == 2000 else 3)
    assert_same_logs(logs_of(ds), want, 1e-8)


@needs_long_double
@pytest.mark.parametrize("gain", [5.0, 0.5])
def test_relu_rnn_beyond_the_range(gain):
    steps, width = 2000, 16
    rng = np.random.default_rng(4)
    state = {
        "weight_ih_l0": rng.standard_normal((width, 3)),
        "weight_hh_l0": rng.standard_normal((width, width)) * gain / np.sqrt(width),
        "bias_ih_l0": rng.standard_normal(width),
        "bias_hh_l0": rng.standard_normal(width),
    }
    inputs = rng.standard_normal((steps, 1, 3))
    network = fg.RNN(steps, width, input_width=3, activation="relu")
    ds = fg.measure(network, realizations=1, weights=state, inputs=inputs, loss="sum", dtype="float64")
    run = naive.recurrent("rnn", state, inputs, np.ones((1, width)), "relu", dtype=np.longdouble)
    want = naive.recurrent_logs(run)
    assert np.ptp(want["gradient_log_norm"]) > 709
    assert_same_logs(logs_of(ds), want, 1e-8)


# through time -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("forget_bias", "log_gate"),
    [(None, log(0.5)), (1.0, -log(1 + np.exp(-1.0))), (-3.0, -log(1 + np.exp(3.0)))],
)
def test_lstm_cell_path_over_a_hundred_thousand_steps(forget_bias, log_gate):
    # No weights: gates are sigmoid(bias), c_t = 0 and d loss / d c_{t-1} = sigmoid(b_f) d loss / d c_t.
    steps = 100_000
    network = fg.LSTM(
        steps,
        2,
        forget_bias=forget_bias,
        weights=fg.Constant(0.0),
        input_weights=fg.Constant(0.0),
        bias_std=0.0,
    )
    ds = fg.measure(network, realizations=1, rng=5, loss="sum", inputs=np.ones((steps, 1, 2)))
    got = ds["cell_gradient_log_norm"][0].values
    at_the_end = log(0.5) + log(2) / 2  # d h_T / d c_T = sigmoid(0) sech^2(0), two units
    want = at_the_end + log_gate * np.arange(steps, -1, -1.0)
    np.testing.assert_allclose(got, want, rtol=2e-7 if forget_bias else 1e-13)
    # nothing goes from h_{t-1} to the gates
    assert np.all(ds["gradient_log_norm"][0, :-1] == -np.inf)
    assert ds["gradient_log_norm"][0, -1] == pytest.approx(log(2) / 2, rel=1e-6)


def test_scalar_rnn_is_a_power():
    steps = 20_000
    network = fg.RNN(
        steps, 1, activation="linear", weights=fg.Constant(-1.5), input_weights=fg.Constant(0.0), bias_std=0.0
    )
    ds = fg.measure(
        network, realizations=1, rng=5, loss="sum", inputs=np.ones((steps, 1, 1)), dtype="float64"
    )
    want = log(1.5) * np.arange(steps, -1, -1.0)
    np.testing.assert_allclose(ds["gradient_log_norm"][0], want, rtol=1e-13)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("weight", [0.5, -2.0])
def test_impulse_response(weight, dtype):
    """One input, then silence: the state keeps shrinking (or growing), and nothing else is added to it."""
    steps = 3000
    state = {"weight_ih_l0": np.ones((1, 1)), "weight_hh_l0": np.full((1, 1), weight)}
    inputs = np.zeros((steps, 1, 1))
    inputs[0] = 1.0
    network = fg.RNN(steps, 1, activation="linear")
    ds = fg.measure(network, realizations=1, weights=state, inputs=inputs, loss="sum", dtype=dtype)
    forward = log(abs(weight)) * np.arange(steps)
    np.testing.assert_allclose(ds["activation_log_norm"][0, 1:], forward, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(
        ds["gradient_log_norm"][0], log(abs(weight)) * np.arange(steps, -1, -1), rtol=1e-13
    )
    # d h_T / d w = (T - 1) w^(T - 2), all of its summands equal; d h_T / d u = w^(T - 1)
    total = log(steps - 1) + log(abs(weight)) * (steps - 2)
    assert ds["weight_gradient_total_log_norm"].item() == pytest.approx(total, rel=1e-7)
    assert ds["input_weight_gradient_total_log_norm"].item() == pytest.approx(forward[-1], rel=1e-13)


@needs_long_double
@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
def test_left_padded_sequence(kind):
    """Zeros first: the largest gradients meet states and inputs that are exactly zero, and add nothing."""
    steps, padding, width = 600, 500, 8
    gates = {"rnn": 1, "lstm": 4, "gru": 3}[kind]
    rng = np.random.default_rng(12)
    state = {
        "weight_ih_l0": rng.standard_normal((gates * width, 2)),
        "weight_hh_l0": rng.standard_normal((gates * width, width)) * 6 / np.sqrt(width),
    }
    inputs = rng.standard_normal((steps, 1, 2))
    inputs[:padding] = 0
    network = {"rnn": fg.RNN, "lstm": fg.LSTM, "gru": fg.GRU}[kind](steps, width, input_width=2)
    ds = fg.measure(network, realizations=1, weights=state, inputs=inputs, loss="sum", dtype="float64")
    run = naive.recurrent(kind, state, inputs, np.ones((1, width)), dtype=np.longdouble)
    want = naive.recurrent_logs(run)
    assert np.ptp(want["gradient_log_norm"]) > 110 * log(2)
    assert_same_logs(logs_of(ds), want, 1e-8)


# exact zeros and the end of the range -------------------------------------------------------------


def test_a_dead_layer_is_an_exact_zero():
    network = fg.MLP(depth=3, width=2, activation="relu")
    state = {"0.weight": np.eye(2), "2.weight": -np.eye(2), "4.weight": np.eye(2)}
    ds = fg.measure(network, realizations=1, weights=state, inputs=np.ones((1, 2)), loss="sum")
    assert ds["gradient_log_norm"][0].values.tolist()[:3] == [-np.inf] * 3
    assert ds["gradient_log_norm"][0, 3] == pytest.approx(log(2) / 2, rel=1e-6)
    assert ds["activation_log_norm"][0].values.tolist()[2:] == [-np.inf] * 2
    assert ds["left_range_at"].values.tolist() == [-1]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_leaving_the_range_is_reported(dtype):
    # x_l = gelu(5 x_{l-1}) = 5 x_{l-1} for x_{l-1} >= 10: leaves the range after a known number of layers
    depth, weight = 600, 5.0
    network = fg.MLP(depth=depth, width=1, activation="gelu", weights=fg.Constant(weight))
    with pytest.warns(RangeWarning, match="gelu"):
        ds = fg.measure(network, realizations=1, inputs=np.full((1, 1), 10.0), loss="sum", dtype=dtype)
    largest = np.log(np.finfo(dtype).max)
    left = int(ds["left_range_at"][0])
    assert left == int(np.ceil((largest - log(10.0)) / log(weight)))
    activations = ds["activation_log_norm"][0].values
    assert np.all(np.isfinite(activations[:left]))
    assert np.all(np.isnan(activations[left:]))


def test_what_stays_in_the_range_warns_of_nothing():
    network = fg.MLP(depth=10, width=4, activation="gelu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ds = fg.measure(network, realizations=3, rng=0)
    assert ds["left_range_at"].values.tolist() == [-1, -1, -1]


@pytest.mark.parametrize(("dtype", "depth"), [("float32", 200), ("float64", 1000)])
@pytest.mark.parametrize("method", ["dense", "conditional"])
def test_the_range_ends_where_numbers_do_not_where_their_squares_do(method, dtype, depth):
    network = fg.MLP(depth=depth, width=16, activation="gelu", weights=fg.Normal(5.0))
    with pytest.warns(RangeWarning, match="gelu"):
        ds = fg.measure(network, realizations=10, rng=0, method=method, dtype=dtype)
    left = ds["left_range_at"].values > 0
    assert left.sum() >= 8  # a net of 16 units may also die on the way
    largest = np.log(np.finfo(dtype).max)
    reached = ds["activation_log_norm"].max("layer", skipna=True).values[left]
    # One layer more multiplies by about 3, and by 100 in hardly any of the ten.
    assert np.all(reached > largest - log(100.0))
    assert np.all(reached < largest + log(4.0))  # the norm of 16 numbers in range
