"""The conditional sampler with batches, several probes and Haar weights: the law of dense weights, layer by layer and across layers.

Every seed is fixed, so nothing here fails by chance. `FALSE_ALARM` is the probability that a right sampler fails one comparison at a random
seed; a case makes at most 50 of them, the file fewer than 1000, so a new seed would fail with probability 1e-3. Power: with 4000 realizations
each, a law whose distribution function is anywhere 0.12 away is found with probability 1 - 1e-6. Exact zeros count as one more value.
"""

from __future__ import annotations

from dataclasses import replace

import matplotlib
import numpy as np
import pytest
from scipy import stats

import fastgrad as fg
from fastgrad.engine.blocks import run_task
from fastgrad.engine.setup import make_task

matplotlib.use("Agg")

FALSE_ALARM = 1e-6
REALIZATIONS = 4000
VANISHED = -1e6  # stands for the logarithm of an exact zero


def plain(values):
    """Logarithms as continuous as they get: zeros as a number, rounding of the two methods not told apart."""
    return np.round(np.where(np.isneginf(values), VANISHED, values), 5)


def assert_same_law(first, second, what):
    p = stats.ks_2samp(plain(first), plain(second), method="asymp").pvalue
    assert p > FALSE_ALARM, (what, p)


def near(features, *gaps, seed=1):
    """A batch: one input, and one at each of these distances from it."""
    rng = np.random.default_rng(seed)
    first = rng.standard_normal(features)
    return np.array([first, *(first + gap * rng.standard_normal(features) for gap in gaps)])


def measured(network, method, seed, realizations=REALIZATIONS, **options):
    ds = fg.measure(network, realizations=realizations, rng=seed, method=method, **options)
    return {str(name): ds[name].values for name in ds.data_vars if name != "left_range_at"}


def assert_same_laws(network, **options):
    """Every variable at every layer, its sum over the layers, and neighbours' products: the laws of dense weights."""
    dense = measured(network, "dense", 11, **options)
    sampled = measured(network, "conditional", 12, **options)
    for name, want in dense.items():
        want, got = plain(want), plain(sampled[name])
        first = int(name.startswith(("weight", "bias")))
        for layer in range(first, want.shape[1]):
            assert_same_law(want[:, layer], got[:, layer], (name, layer))
        assert_same_law(want[:, first:].sum(axis=1), got[:, first:].sum(axis=1), (name, "sum"))
        assert_same_law(want[:, first] - want[:, -2], got[:, first] - got[:, -2], (name, "difference"))


# the law ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("bias_std", [None, 0.3])
@pytest.mark.parametrize("gap", [1e-3, 1e-9, 0.0])
def test_batches_with_two_inputs_nearly_equal(activation, bias_std, gap):
    network = fg.MLP(4, 8, activation=activation, weights=fg.Normal(1.5), bias_std=bias_std)
    assert_same_laws(network, inputs=near(8, gap, 1.0), dtype="float64")


@pytest.mark.parametrize("width", [1, 2, 3, 16])
@pytest.mark.parametrize("batch", [1, 3])
def test_square_haar_weights(width, batch):
    bias_std = 0.3 if width != 2 else None
    network = fg.MLP(3, width, activation="tanh" if batch == 1 else "relu", weights=fg.Orthogonal(1.5), bias_std=bias_std)
    assert_same_laws(network, dtype="float64", **({"inputs": near(width, 1e-3, 1.0)} if batch > 1 else {}))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("widths", [(5, 8, 3, 16, 2), (3, 1, 4, 2)])
def test_rectangular_haar_weights(widths, batch):
    network = fg.MLP(widths=widths, activation="gelu", weights=fg.Orthogonal(1.5))
    assert_same_laws(network, dtype="float64", **({"inputs": near(widths[0], 1e-3, 1.0)} if batch > 1 else {}))


@pytest.mark.parametrize("widths", [(2, 1, 3, 16, 2), (5, 1, 2, 6)])
def test_more_inputs_than_units(widths):
    assert_same_laws(fg.MLP(widths=widths, weights=fg.Normal(1.5), bias_std=0.2), inputs=near(widths[0], 1.0, 1e-3, 1.0), dtype="float64")


def test_float32():
    assert_same_laws(fg.MLP(4, 8, bias_std=0.1), inputs=near(8, 1e-3, 1.0), dtype="float32")


def test_inputs_that_come_together():
    """In the ordered phase a batch becomes collinear to rounding within a few dozen layers."""
    network = fg.MLP(60, 6, weights=fg.Normal(0.9), bias_std=0.5)
    assert_same_laws(network, inputs=near(6, 1.0), dtype="float64", every=15)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_an_input_of_zeros(activation):
    inputs = np.vstack([np.zeros(4), near(4, 1.0)])
    assert_same_laws(fg.MLP(3, 4, activation=activation, weights=fg.Normal(1.5)), inputs=inputs, dtype="float64")
    assert_same_laws(fg.MLP(3, 4, activation=activation, weights=fg.Orthogonal(1.5)), inputs=np.zeros((2, 4)), dtype="float64")


def explicit_probes(law, inputs, probes, depth, realizations, seed):
    """ln of the gradient's norm, (realizations, probes, depth + 1), of tanh nets with weights made and multiplied."""
    rng = np.random.default_rng(seed)
    batch, n = inputs.shape
    weights = []
    x = np.broadcast_to(inputs.T, (realizations, n, batch))
    slopes = []
    for _ in range(depth):
        w = rng.standard_normal((realizations, n, n))
        if law == "orthogonal":
            q, r = np.linalg.qr(w)
            w = q * np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None, :]
        else:
            w /= np.sqrt(n)
        h = 1.5 * w @ x
        x = np.tanh(h)
        weights.append(1.5 * w)
        slopes.append(np.tile(1 / np.cosh(h) ** 2, (1, 1, probes)))
    g = rng.standard_normal((realizations, n, probes, batch))
    g /= np.sqrt((g**2).sum(axis=(1, 3), keepdims=True))
    logs = [np.log((g**2).sum(axis=(1, 3))) / 2]
    g = g.reshape(realizations, n, probes * batch)
    for w, slope in zip(weights[::-1], slopes[::-1], strict=True):
        g = w.transpose(0, 2, 1) @ (slope * g)
        logs.append(np.log((g.reshape(realizations, n, probes, batch) ** 2).sum(axis=(1, 3))) / 2)
    return np.stack(logs[::-1], axis=2)


@pytest.mark.parametrize("law", ["normal", "orthogonal"])
@pytest.mark.parametrize("batch", [1, 2])
def test_probes_share_a_network(law, batch):
    inputs = near(4, 1.0)[:batch]
    want = explicit_probes(law, inputs, 3, 4, REALIZATIONS, seed=5)
    network = fg.MLP(4, 4, weights=fg.Normal(1.5) if law == "normal" else fg.Orthogonal(1.5))
    got = measured(network, "conditional", 13, inputs=inputs, probes=3, dtype="float64")["gradient_log_norm"]
    assert got.shape == want.shape
    for layer in range(4):
        for probe in range(3):
            assert_same_law(want[:, probe, layer], got[:, probe, layer], (probe, layer))
            other = (probe + 1) % 3
            for sign in (1, -1):  # correlation widens one and narrows the other
                pairs = (values[:, probe, layer] + sign * values[:, other, layer] for values in (want, got))
                assert_same_law(*pairs, (probe, other, layer, sign))
    correlation = [np.corrcoef(values[:, 0, 0], values[:, 1, 0])[0, 1] for values in (want, got)]
    assert min(correlation) > 0.2  # there is something to find
    z = np.diff(np.arctanh(correlation))[0] / np.sqrt(2 / REALIZATIONS)
    assert abs(z) < 1.5 * -stats.norm.ppf(FALSE_ALARM / 2)  # Fisher's variance holds for Gaussian pairs: half as much again to spare


# what holds exactly -------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
def test_orthogonal_linear_networks_keep_norms(batch, dtype, tolerance):
    depth = 30
    network = fg.MLP(depth, 7, activation="linear", weights=fg.Orthogonal(1.5))
    got = measured(network, "conditional", 3, 20, inputs=near(7, 1.0, 1e-3)[:batch], probes=2, dtype=dtype)
    layers = np.arange(depth + 1)
    assert np.ptp(got["gradient_log_norm"] - (depth - layers) * np.log(1.5)) < tolerance * 4
    growth = got["activation_log_norm"] - layers * np.log(1.5)
    assert np.ptp(growth) < tolerance * 4


def test_widening_orthogonal_layers_keep_activations():
    network = fg.MLP(widths=(3, 5, 5, 40), activation="linear", weights=fg.Orthogonal(1.0))
    got = measured(network, "conditional", 3, 20, inputs=near(3, 1.0, 1.0, 0.0), dtype="float64")
    assert np.ptp(got["activation_log_norm"]) < 1e-12
    assert np.all(got["gradient_log_norm"][:, 0] < -1e-3)  # 40 directions of loss, 3 of them left


@pytest.mark.parametrize("weights", [fg.Normal, fg.Orthogonal])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_any_size(weights, dtype):
    """Gains of 2^100 and 2^-100 a layer change the exponents and nothing else, for tanh (small ones) as for a line."""
    depth, options = 40, {"inputs": near(8, 1e-3, 1.0), "dtype": dtype, "probes": 2}
    layers = np.arange(depth + 1)
    one = measured(fg.MLP(depth, 8, activation="linear", weights=weights(1.0)), "conditional", 3, 5, **options)
    for activation, power in (("linear", -100), ("linear", 100), ("tanh", -100)):
        got = measured(fg.MLP(depth, 8, activation=activation, weights=weights(2.0**power)), "conditional", 3, 5, **options)
        log_gain = power * np.log(2)
        below = {"activation_log_norm": layers, "gradient_log_norm": depth - layers, "weight_gradient_log_norm": np.full(depth + 1, depth - 1)}
        for name, count in below.items():
            error = got[name] - count * log_gain - one[name]
            assert np.nanmax(np.abs(error)) < 1e-9, (activation, power, name)


def task_of(network, **options):
    return replace(make_task(network, rng=4, method="conditional", **options)[0])


@pytest.mark.parametrize("network", [fg.MLP(9, 21, bias_std=0.1), fg.MLP(widths=(8, 30, 3, 40), weights=fg.Orthogonal(1.2))])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_same_bytes_kept_or_drawn_again(network, dtype):
    """And in any blocks, on any number of threads; and a probe does not see those after it."""
    task = task_of(network, inputs=near(network.widths[0], 1e-3, 1.0), probes=3, dtype=dtype)
    want, _ = run_task(replace(task, keep=True), 12, threads=1, count=12)
    again, _ = run_task(replace(task, keep=False), 12, threads=2, count=5)
    fewer, _ = run_task(replace(task, probes=1), 12, threads=1)
    assert want["gradient_log_norm"].shape == (12, 3, network.depth + 1)
    assert want["activation_log_norm"].shape == (12, network.depth + 1)
    for name, values in want.items():
        assert again[name].tobytes() == values.tobytes(), name
        first = values[:, 0] if values.ndim == 3 else values
        assert fewer[name].tobytes() == first.tobytes(), name


def test_more_than_256_probes_are_all_different():
    got = measured(fg.MLP(2, 8), "conditional", 3, 1, probes=600)["gradient_log_max"][0, :, 2]
    assert np.unique(got).size > 590  # float32 values may meet


def test_leaving_the_range_is_reported():
    with pytest.warns(fg.RangeWarning, match="layer"):
        ds = fg.measure(fg.MLP(200, 32, activation="elu", weights=fg.Normal(3.0), bias_std=0.1), realizations=20, rng=0, inputs=near(32, 1.0))
    gone = ds["left_range_at"].values >= 0
    assert gone.any()
    assert np.isnan(ds["gradient_log_norm"].values[gone]).all()
    assert np.isfinite(ds["activation_log_norm"].values[gone, 0]).all()


# what reads the dataset ---------------------------------------------------------------------------


def test_growth_and_plot_of_several_probes():
    ds = fg.measure(fg.MLP(12, 8), realizations=30, rng=0, probes=4)
    assert ds["gradient_log_norm"].dims == ("realization", "probe", "layer")
    assert ds["activation_log_norm"].dims == ("realization", "layer")
    assert ds.attrs["method"] == "conditional"
    assert ds.attrs["probes"] == 4
    g = fg.growth(ds)
    totals = ds["gradient_log_norm"].values[..., 0] - ds["gradient_log_norm"].values[..., -1]
    assert g.realizations == 30  # probes share a network: they are not 120 observations
    np.testing.assert_allclose(g.rate, totals.mean() / 12, rtol=1e-12)
    half = stats.t.ppf(0.975, 29) * stats.sem(totals.mean(axis=1)) / 12
    np.testing.assert_allclose(g.ci, (g.rate - half, g.rate + half), rtol=1e-9)
    ax = fg.plot_growth(ds)
    median = next(line for line in ax.lines if line.get_gid() == "median")
    want = np.median(ds["gradient_log_norm"].values.reshape(120, 13), axis=0) / np.log(10)
    np.testing.assert_allclose(median.get_ydata(), want, rtol=1e-12)
    assert ax.get_legend().get_texts()[0].get_text() == "n = 30, 4 probes each"
    ax.figure.clear()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "dense"}, ["probes=3", "dense", "conditional"]),
        ({"loss": "sum"}, ["probes=3", "loss='sum'"]),
        ({"network": fg.MLP(3, 4, weights="he_uniform")}, ["probes=3", "rotation"]),
        ({"network": fg.RNN(3, 4)}, ["probes=3", "recurrent"]),
    ],
)
def test_probes_that_cannot_be(options, words):
    network = options.pop("network", fg.MLP(3, 4))
    with pytest.raises(ValueError, match="probes") as caught:
        fg.measure(network, realizations=2, rng=0, probes=3, **options)
    assert all(word in str(caught.value) for word in words), caught.value
