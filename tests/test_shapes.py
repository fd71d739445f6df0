"""Any shape: measure and trace against the slow reference, gradients against differences of the loss."""

from __future__ import annotations

import naive
import numpy as np
import pytest
from comparisons import assert_close, assert_same_logs, logs_of
from hypothesis import given, settings
from hypothesis import strategies as st

import fastgrad as fg
from fastgrad.engine import trace as tracing

TOLERANCE = 1e-9

widths = st.integers(1, 9) | st.sampled_from([1, 13, 16, 17])
seeds = st.integers(0, 2**64)
laws = st.sampled_from(
    [fg.Normal(1.2), fg.Uniform(0.8), fg.Orthogonal(1.1), fg.Constant(0.3), "he_uniform", "pytorch_default"]
)
bias_stds = st.none() | st.just(0.0) | st.just(0.5)
losses = st.sampled_from(["probe", "sum"])


@st.composite
def mlps(draw, activations=("tanh", "relu", "gelu")):
    return fg.MLP(
        widths=draw(st.lists(widths, min_size=2, max_size=6)),
        activation=draw(st.sampled_from(activations)),
        output_activation=draw(st.sampled_from([None, "linear"])),
        weights=draw(laws),
        bias_std=draw(bias_stds),
    )


@st.composite
def recurrents(draw):
    kind = draw(st.sampled_from(["rnn_tanh", "rnn_relu", "lstm", "gru"]))
    options = {
        "steps": draw(st.integers(1, 7)),
        "width": draw(widths),
        "layers": draw(st.integers(1, 3)),
        "input_width": draw(st.none() | widths),
        "weights": draw(laws),
        "input_weights": draw(laws),
        "bias_std": draw(bias_stds),
    }
    if kind == "lstm":
        return fg.LSTM(forget_bias=draw(st.none() | st.just(1.0)), **options)
    if kind == "gru":
        return fg.GRU(**options)
    return fg.RNN(activation=kind.removeprefix("rnn_"), **options)


def some_inputs(network, batch, seed):
    """None half of the time (the engine draws), else a batch of standard normal inputs."""
    if batch == 0:
        return None
    shape = (batch, network.input_width)
    if network.kind != "mlp":
        shape = (network.steps, *shape)
    return np.random.default_rng(seed).standard_normal(shape)


def traced_and_measured(network, seed, batch, loss, dtype="float64"):
    options = {"inputs": some_inputs(network, batch, seed), "loss": loss, "dtype": dtype}
    trace = tracing.trace(network, rng=seed, realization=1, **options)
    ds = fg.measure(network, realizations=2, rng=seed, method="dense", **options)
    return trace, options["inputs"], logs_of(ds, realization=1)


def activation_of(network):
    return getattr(network, "activation", "tanh")


@settings(max_examples=120)
@given(network=mlps(), seed=seeds, batch=st.integers(0, 3), loss=losses)
def test_mlp_of_any_shape(network, seed, batch, loss):
    trace, inputs, logs = traced_and_measured(network, seed, batch, loss)
    assert [w.shape for w in trace["weight"]] == list(
        zip(network.widths[1:], network.widths[:-1], strict=True)
    )
    run = naive.mlp(
        trace["weight"],
        trace["bias"],
        trace["x"][0],
        trace["v"],
        network.activation,
        network.output_activation,
    )
    if inputs is not None:
        np.testing.assert_array_equal(trace["x"][0], inputs)
    assert_close(np.linalg.norm(trace["v"]), 1.0 if loss == "probe" else np.sqrt(trace["v"].size), 1e-12)
    for name in ("x", "gradient", "weight_gradient", "bias_gradient"):
        for layer, (a, b) in enumerate(zip(trace[name], getattr(run, name), strict=True)):
            assert_close(a, b, TOLERANCE, f"{name} {layer}")
    assert_same_logs(logs, naive.mlp_logs(run), TOLERANCE)


@settings(max_examples=100)
@given(network=recurrents(), seed=seeds, batch=st.integers(1, 3), loss=losses)
def test_recurrent_of_any_shape(network, seed, batch, loss):
    trace, inputs, logs = traced_and_measured(network, seed, batch, loss)
    run = naive.recurrent(
        network.kind,
        trace["state_dict"],
        inputs,
        trace["v"],
        activation_of(network),
    )
    states = ["h", "gradient_h"] + (["c", "gradient_c"] if network.kind == "lstm" else [])
    for name in states:
        assert_close(trace[name], getattr(run, name), TOLERANCE, name)
    for name, gradient in trace["gradient"].items():
        assert_close(gradient, run.gradient[name], TOLERANCE, name)
    assert_same_logs(logs, naive.recurrent_logs(run), TOLERANCE)


# <J u, v> = <u, J^T v>: a derivative of the forward pass along a direction knows nothing of backward passes


def slope_of(loss):
    """d loss(s) / ds at 0 by a difference formula of fourth order in long double."""
    step = np.longdouble(1e-4)
    near, far = loss(step) - loss(-step), loss(2 * step) - loss(-2 * step)
    return float((8 * near - far) / (12 * step))


@settings(max_examples=60)
@given(network=mlps(activations=("tanh",)), seed=seeds, batch=st.integers(0, 3))
def test_adjoint_identity_of_mlps(network, seed, batch):
    trace, _, _ = traced_and_measured(network, seed, batch, "probe")
    rng = np.random.default_rng(seed)
    x = trace["x"][0]
    d_x = rng.standard_normal(x.shape)
    d_w = [rng.standard_normal(w.shape) for w in trace["weight"]]
    d_b = [rng.standard_normal(b.shape) for b in trace["bias"]]

    def loss(s):
        weights = [w + s * d for w, d in zip(trace["weight"], d_w, strict=True)]
        biases = [b + s * d for b, d in zip(trace["bias"], d_b, strict=True)]
        run = naive.mlp(
            weights,
            biases,
            x + s * d_x,
            trace["v"],
            "tanh",
            network.output_activation,
            dtype=np.longdouble,
        )
        return np.sum(trace["v"] * run.x[-1])

    gradients = [trace["gradient"][0], *trace["weight_gradient"], *trace["bias_gradient"]]
    directions = [d_x, *d_w, *d_b]
    adjoint = sum(np.sum(g * d) for g, d in zip(gradients, directions, strict=True))
    scale = sum(np.linalg.norm(g) * np.linalg.norm(d) for g, d in zip(gradients, directions, strict=True))
    assert abs(slope_of(loss) - adjoint) <= 1e-8 * scale


@settings(max_examples=40)
@given(network=recurrents(), seed=seeds, batch=st.integers(1, 2))
def test_adjoint_identity_of_recurrent_nets(network, seed, batch):
    if activation_of(network) == "relu":
        network = network.replace(activation="tanh")  # differences do not see a kink
    trace, inputs, _ = traced_and_measured(network, seed, batch, "probe")
    rng = np.random.default_rng(seed)
    directions = {name: rng.standard_normal(value.shape) for name, value in trace["state_dict"].items()}

    def loss(s):
        state = {name: value + s * directions[name] for name, value in trace["state_dict"].items()}
        run = naive.recurrent(network.kind, state, inputs, trace["v"], dtype=np.longdouble)
        return np.sum(trace["v"] * run.h[-1, -1])

    adjoint = sum(np.sum(trace["gradient"][name] * d) for name, d in directions.items())
    scale = sum(np.linalg.norm(trace["gradient"][name]) * np.linalg.norm(d) for name, d in directions.items())
    assert abs(slope_of(loss) - adjoint) <= 1e-8 * scale


def test_record_of_unusual_extremes():
    """Wide beside narrow: the rows of small products end in every possible remainder."""
    for n in (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 65, 129):
        network = fg.MLP(widths=(n, 3, n, 1, n), bias_std=0.1)
        trace, _, logs = traced_and_measured(network, 1, 2, "probe")
        run = naive.mlp(trace["weight"], trace["bias"], trace["x"][0], trace["v"])
        assert_same_logs(logs, naive.mlp_logs(run), TOLERANCE)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 15, 16, 17, 33, 65])
@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
def test_recurrent_widths_with_every_remainder(kind, n):
    build = {"rnn": fg.RNN, "lstm": fg.LSTM, "gru": fg.GRU}[kind]
    network = build(4, n, layers=2, input_width=max(1, n - 2))
    trace, inputs, logs = traced_and_measured(network, 1, 2, "probe")
    run = naive.recurrent(kind, trace["state_dict"], inputs, trace["v"])
    assert_same_logs(logs, naive.recurrent_logs(run), TOLERANCE)
