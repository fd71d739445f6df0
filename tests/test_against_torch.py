"""Every gradient that fastgrad measures, against PyTorch autograd in float64."""

from __future__ import annotations

import naive
import numpy as np
import pytest
from comparisons import assert_close, assert_same_logs, logs_of

import fastgrad as fg
from fastgrad.engine import trace as tracing

reference = pytest.importorskip("torch_reference")

TOLERANCE = 1e-9
ACTIVATIONS = sorted(naive.ACTIVATIONS)

# widths, batch, bias, output_activation
MLP_CASES = {
    "odd": ((13, 13, 13, 13), 1, True, None),
    "batch": ((7, 13, 1, 6), 3, True, None),
    "no_bias": ((5, 13, 4), 3, False, None),
    "readout": ((4, 6, 3), 2, True, "linear"),
    "depth_one": ((3, 5), 1, True, None),
    "width_one": ((1, 1, 1, 1), 1, True, None),
}

# layers, width, input width, steps, batch, bias
RECURRENT_CASES = {
    "odd": (1, 13, 13, 12, 1, True),
    "batch": (1, 13, 3, 9, 3, True),
    "stacked": (2, 13, 5, 8, 1, True),
    "stacked_batch": (2, 6, 7, 5, 3, True),
    "no_bias": (2, 5, 5, 6, 3, False),
    "one_step": (1, 4, 2, 1, 1, True),
    "width_one": (2, 1, 1, 7, 1, True),
}
KINDS = ["rnn_tanh", "rnn_relu", "lstm", "gru"]


def without_missing_biases(logs):
    """PyTorch holds no gradient of a bias that is not there."""
    return {name: values for name, values in logs.items() if "bias" not in name}


# MLP ----------------------------------------------------------------------------------------------


def mlp_case(activation, case):
    widths, batch, bias, output_activation = MLP_CASES[case]
    network = fg.MLP(widths=widths, activation=activation, output_activation=output_activation)
    model = reference.sequential(widths, activation, bias=bias, output_activation=output_activation, seed=5)
    inputs = np.random.default_rng(6).standard_normal((batch, widths[0]))
    want = reference.mlp(model, inputs, np.ones((batch, widths[-1])))
    return network, reference.state_dict(model), inputs, want, bias


@pytest.mark.parametrize("case", MLP_CASES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_mlp_norms(activation, case):
    network, state, inputs, want, bias = mlp_case(activation, case)
    ds = fg.measure(network, realizations=1, rng=0, inputs=inputs, weights=state, loss="sum", dtype="float64")
    assert ds["left_range_at"].values.tolist() == [-1]
    got = logs_of(ds)
    if not bias:
        want.bias_gradient = [np.ones(n) for n in network.widths[1:]]
    expected = naive.mlp_logs(want)
    if not bias:
        got, expected = without_missing_biases(got), without_missing_biases(expected)
    assert_same_logs(got, expected, TOLERANCE)


@pytest.mark.parametrize("case", ["odd", "batch", "no_bias", "readout"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_mlp_elements(activation, case):
    network, state, inputs, want, bias = mlp_case(activation, case)
    got = tracing.trace(network, rng=0, inputs=inputs, weights=state, loss="sum", dtype="float64")
    names = ["x", "gradient", "weight_gradient"] + (["bias_gradient"] if bias else [])
    for name in names:
        assert len(got[name]) == len(getattr(want, name))
        for layer, (a, b) in enumerate(zip(got[name], getattr(want, name), strict=True)):
            assert_close(a, b, TOLERANCE, f"{name} {layer}")


def test_mlp_from_pytorchs_own_initialisation():
    torch = reference.torch
    torch.manual_seed(11)
    linear = {"dtype": torch.float64}
    model = torch.nn.Sequential(
        torch.nn.Linear(9, 13, **linear),
        torch.nn.Tanh(),
        torch.nn.Linear(13, 13, **linear),
        torch.nn.Tanh(),
        torch.nn.Linear(13, 2, **linear),
    )
    inputs = np.random.default_rng(7).standard_normal((4, 9))
    want = naive.mlp_logs(reference.mlp(model, inputs, np.ones((4, 2))))
    network = fg.MLP(widths=(9, 13, 13, 2), activation="tanh", output_activation="linear")
    state = reference.state_dict(model)
    ds = fg.measure(network, realizations=1, inputs=inputs, weights=state, loss="sum", dtype="float64")
    assert_same_logs(logs_of(ds), want, TOLERANCE)


# recurrent ----------------------------------------------------------------------------------------


def recurrent_case(kind, case):
    layers, width, input_width, steps, batch, bias = RECURRENT_CASES[case]
    kind, _, activation = kind.partition("_")
    activation = activation or "tanh"
    build = {"rnn": fg.RNN, "lstm": fg.LSTM, "gru": fg.GRU}[kind]
    options = {"activation": activation} if kind == "rnn" else {}
    network = build(steps, width, layers=layers, input_width=input_width, **options)
    module = reference.recurrent_module(
        kind, input_width, width, layers=layers, bias=bias, activation=activation, seed=8
    )
    inputs = np.random.default_rng(9).standard_normal((steps, batch, input_width))
    want = reference.recurrent(kind, module, inputs, np.ones((batch, width)))
    return network, reference.state_dict(module), inputs, want, bias


def logs_without_bias(run):
    for name, weight in list(run.step_gradient.items()):
        bias = name.replace("weight", "bias")
        run.step_gradient.setdefault(bias, np.ones(weight.shape[:2]))
        run.gradient.setdefault(bias, np.ones(weight.shape[1]))
    return naive.recurrent_logs(run)


@pytest.mark.parametrize("case", RECURRENT_CASES)
@pytest.mark.parametrize("kind", KINDS)
def test_recurrent_norms(kind, case):
    network, state, inputs, want, bias = recurrent_case(kind, case)
    ds = fg.measure(network, realizations=1, rng=0, inputs=inputs, weights=state, loss="sum", dtype="float64")
    got, expected = logs_of(ds), naive.recurrent_logs(want) if bias else logs_without_bias(want)
    if not bias:
        got, expected = without_missing_biases(got), without_missing_biases(expected)
    assert_same_logs(got, expected, TOLERANCE)


@pytest.mark.parametrize("case", RECURRENT_CASES)
@pytest.mark.parametrize("kind", KINDS)
def test_recurrent_elements(kind, case):
    network, state, inputs, want, _ = recurrent_case(kind, case)
    got = tracing.trace(network, rng=0, inputs=inputs, weights=state, loss="sum", dtype="float64")
    states = ["h", "gradient_h"] + (["c", "gradient_c"] if kind == "lstm" else [])
    for name in states:
        assert_close(got[name], getattr(want, name), TOLERANCE, name)
    for name, total in want.gradient.items():
        assert_close(got["gradient"][name], total, TOLERANCE, name)
        np.testing.assert_array_equal(got["state_dict"][name], state[name])


# float32 ------------------------------------------------------------------------------------------


def assert_float32_agrees(network, **options):
    single, double = (
        logs_of(fg.measure(network, realizations=2, rng=3, dtype=dtype, **options), realization=1)
        for dtype in ("float32", "float64")
    )
    assert_same_logs(single, double, 1e-4)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_mlp_float32_is_the_same_network(activation):
    assert_float32_agrees(fg.MLP(depth=12, width=21, activation=activation, bias_std=0.1))


@pytest.mark.parametrize(
    "network",
    [
        fg.RNN(30, 21, layers=2),
        fg.RNN(30, 21, layers=2, activation="relu"),
        fg.LSTM(30, 21, layers=2, forget_bias=1.0),
        fg.GRU(30, 21, layers=2, input_width=3),
    ],
    ids=lambda network: f"{network.kind}_{getattr(network, 'activation', '')}",
)
def test_recurrent_float32_is_the_same_network(network):
    assert_float32_agrees(network)


# cancellation --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mismatch", [1e-2, 1e-4])
def test_sums_over_a_batch_that_nearly_cancel(mismatch):
    """Centred data: the gradients of a linear net's weights are differences of large numbers."""
    widths = (6, 5, 4)
    model = reference.sequential(widths, "linear", seed=2)
    x = np.random.default_rng(3).standard_normal((1, 6))
    inputs = np.concatenate([x, -x * (1 + mismatch)])
    for module in model:
        if isinstance(module, reference.nn.Linear):
            module.bias.data.zero_()
    want = naive.mlp_logs(reference.mlp(model, inputs, np.ones((2, 4))))
    ds = fg.measure(
        fg.MLP(widths=widths, activation="linear"),
        realizations=1,
        inputs=inputs,
        weights=reference.state_dict(model),
        loss="sum",
        dtype="float64",
    )
    assert_same_logs(logs_of(ds), want, TOLERANCE)
