"""What the conditional sampler does for many rows at once and for a row by itself are the same bytes; and the ends of the number formats."""

from __future__ import annotations

import numpy as np
import pytest

import fastgrad as fg
from fastgrad.engine import conditional_problem

N = fg.Normal
# Rows leave the usual course at different layers: exponents move, forms cancel, units die.
NETWORKS = {
    "linear, biases": fg.MLP(60, 16, activation="linear", weights=N(1.4), bias_std=0.1),
    "relu, shrinking, biases": fg.MLP(60, 4, activation="relu", weights=N(0.01), bias_std=1e-3),
    "relu, growing": fg.MLP(60, 4, activation="relu", weights=N(30.0)),
    "gelu, growing, biases": fg.MLP(25, 4, activation="gelu", weights=N(30.0), bias_std=3.0),
    "tanh, shrinking": fg.MLP(60, 4, activation="tanh", weights=N(0.01)),
    "tanh, saturated": fg.MLP(40, 8, activation="tanh", weights=N(50.0), bias_std=0.5),
    "sigmoid, unequal": fg.MLP(widths=(5, 1, 30, 2, 17, 1, 7, 64, 3), activation="sigmoid", weights=N(1.4), bias_std=0.2),
    "softplus, width 1": fg.MLP(30, 1, activation="softplus", weights=N(1.5), bias_std=0.1),
}


def values(network, dtype, realizations=37, **options):
    ds = fg.measure(network, realizations=realizations, rng=5, dtype=dtype, method="conditional", **{"threads": 1} | options)
    return {name: ds[name].values for name in ds.data_vars}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NETWORKS)
def test_how_many_go_together_changes_no_byte(monkeypatch, name, dtype):
    network = NETWORKS[name]
    want = {}
    for group in (16, 1, 3, 8):
        monkeypatch.setattr(conditional_problem, "group", lambda task, group=group: group)
        got = {key: array.tobytes() for key, array in values(network, dtype).items()}
        want = want or got
        assert got == want, group
    monkeypatch.undo()
    two = values(network, dtype, threads=2)
    alone = values(network, dtype, record=["gradient_log_norm"])["gradient_log_norm"]
    fewer = values(network, dtype, realizations=23)
    for key, array in two.items():
        assert array.tobytes() == want[key]
        assert fewer[key].tobytes() == array[:23].tobytes()
    assert alone.tobytes() == want["gradient_log_norm"]


EXTREMES = {
    "sigmoid of large inputs": (fg.MLP(3, 4, activation="sigmoid", weights=N(1e-36)), "float32", 1e16),
    "softplus of large inputs": (fg.MLP(3, 4, activation="softplus", weights=N(1e-38)), "float32", 1e18),
    "huge biases": (fg.MLP(3, 8, activation="linear", weights=N(1.0), bias_std=1e200), "float64", None),
    "huge weights": (fg.MLP(3, 8, activation="linear", weights=N(1e200)), "float64", None),
    "tiny weights": (fg.MLP(3, 8, activation="linear", weights=N(1e-200)), "float64", None),
    "tiny weights, tanh": (fg.MLP(3, 8, activation="tanh", weights=N(1e-170)), "float64", None),
    "tiny weights, float32": (fg.MLP(3, 8, activation="tanh", weights=N(1e-25)), "float32", None),
    "tiny inputs": (fg.MLP(3, 8, activation="linear"), "float64", 1e-200),
}


@pytest.mark.parametrize("name", EXTREMES)
def test_what_dense_weights_reach_the_sampler_reaches(name):
    """Everything finite, and medians of 200 networks within 0.6: the spread of a median is below 0.1."""
    network, dtype, size = EXTREMES[name]
    inputs = None if size is None else np.full((1, network.widths[0]), size)
    found = []
    for method in ("conditional", "dense"):
        ds = fg.measure(network, realizations=200, rng=2, dtype=dtype, method=method, inputs=inputs, threads=1)
        for variable in ("gradient_log_norm", "activation_log_norm"):
            assert np.isfinite(ds[variable].values).all(), (method, variable)
        found.append([np.median(ds[v].values, axis=0) for v in ("gradient_log_norm", "activation_log_norm")])
    assert np.max(np.abs(np.array(found[0]) - np.array(found[1]))) < 0.6


def test_a_layer_of_dead_units_comes_back_by_its_biases():
    network = fg.MLP(12, 2, activation="relu", weights=N(1e10), bias_std=0.1)
    single, double = (values(network, dtype, 200)["activation_log_norm"] for dtype in ("float32", "float64"))
    dead = np.isneginf(double)
    assert dead[:, 1:-1].any()
    assert not dead[:, 2:][dead[:, 1:-1]].all()  # some come back
    assert np.array_equal(np.isneginf(single), dead)


def test_no_nan_where_gradients_vanish_within_a_layer():
    for gain in (300.0, 1000.0):
        for dtype in ("float32", "float64"):
            for key, array in values(fg.MLP(12, 8, weights=N(gain)), dtype, 60).items():
                if key != "left_range_at":
                    assert not np.isnan(array[:, 1:]).any(), (gain, dtype, key)
