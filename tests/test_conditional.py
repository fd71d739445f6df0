"""The conditional sampler with one input, one probe and Gaussian weights has the law of dense weights (docs/conditional_sampler.md).

False alarms: a correct sampler fails this file at a random seed with probability below `FALSE_ALARM`: each of the at most `TESTS`
statistical tests has the level `LEVEL` = FALSE_ALARM / TESTS, shared by Bonferroni among all that it compares. All seeds are fixed, so
nothing here fails by chance; the rates say what the thresholds mean. Misses: `two_samples` says what each comparison cannot see;
`test_catches_a_planted_mistake` shows that all of them together see every mistake that we could think of, and that a gain wrong by 5 %
is seen. A sampler of twenty lines in NumPy passes the same tests and carries the mistakes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from comparisons import bytes_of
from scipy import stats
from scipy.special import erf, ndtri, polygamma, psi
from two_samples import comparisons, neighbours, smallest, table

import fastgrad as fg
from fastgrad.engine.blocks import run_task
from fastgrad.engine.plan import estimate, fitted
from fastgrad.engine.setup import make_task

FALSE_ALARM = 1e-6
TESTS = 200
LEVEL = FALSE_ALARM / TESTS


def measured(network, realizations, method="conditional", seed=1, **options):
    return fg.measure(network, realizations=realizations, rng=seed, method=method, **options)


def assert_mean(samples, mean, variance, tests=1):
    """z-test of the mean with the law's own variance."""
    z = (np.mean(samples) - mean) / np.sqrt(variance / np.size(samples))
    assert abs(z) < -ndtri(LEVEL / tests / 2), z


def assert_variance(samples, variance, fourth=None, tests=1):
    """z-test of the mean square about the sample's mean; fourth: central fourth moment, else the sample's."""
    centred = samples - np.mean(samples)
    fourth = np.mean(centred**4) if fourth is None else fourth
    z = (np.var(samples, ddof=1) - variance) / np.sqrt((fourth - variance**2) / samples.size)
    assert abs(z) < -ndtri(LEVEL / tests / 2), z


# against dense weights ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A network, and how it is measured."""

    network: fg.MLP
    loss: str = "probe"
    every: int = 1
    given: bool = False  # one input of fixed numbers
    realizations: int = 10_000

    def run(self, method, seed):
        n = self.network.widths[0]
        inputs = np.linspace(-1.5, 2.0, n)[None] if self.given else None
        options = {"loss": self.loss, "every": self.every, "inputs": inputs}
        return table(measured(self.network, self.realizations, method, seed, **options))


def mlp(activation, widths, bias_std=None, gain=None, **options):
    gain = {"relu": 2**0.5, "gelu": 1.5, "tanh": 1.4, "linear": 0.9}[activation] if gain is None else gain
    weights = options.pop("weights", None) or fg.Normal(gain)
    return fg.MLP(widths=widths, activation=activation, weights=weights, bias_std=bias_std, **options)


CASES = {
    f"{activation}, width {n}, {'bias' if bias else 'no bias'}": Case(mlp(activation, (n,) * 4, bias), realizations=4000 if n == 64 else 10_000)
    for activation in ("tanh", "relu", "gelu", "linear")
    for n in (1, 2, 3, 16, 64)
    for bias in (None, 0.4)
} | {
    "deep tanh": Case(mlp("tanh", (3,) * 61, 0.2), every=12, realizations=5000),
    "deep tanh without bias": Case(mlp("tanh", (16,) * 41), every=8, realizations=5000),
    "deep relu": Case(mlp("relu", (16,) * 41, 0.2), every=8, realizations=5000),
    "deep gelu": Case(mlp("gelu", (2,) * 41, 0.1), every=8, realizations=5000),
    "deep linear": Case(mlp("linear", (2,) * 61, 0.5), every=12, realizations=5000),
    "varying tanh": Case(mlp("tanh", (10, 3, 17, 1, 8), 0.3)),
    "varying relu": Case(mlp("relu", (2, 9, 4, 12))),
    "varying gelu, fans of both sides": Case(mlp("gelu", (3, 12, 5, 2), 0.3, weights="xavier_normal")),
    "wide to one": Case(mlp("tanh", (64, 1, 64, 1), 0.2), realizations=5000),
    "large bias": Case(mlp("tanh", (5,) * 5, 3.0)),
    "small bias": Case(mlp("relu", (5,) * 5, 1e-3)),
    "linear output": Case(mlp("tanh", (6,) * 4, 0.3, output_activation="linear")),
    "sum": Case(mlp("relu", (4,) * 5, 0.3), loss="sum"),
    "sum over unequal widths": Case(mlp("tanh", (7, 3, 9, 2)), loss="sum"),
    "given input": Case(mlp("tanh", (5, 8, 8, 3), 0.3), given=True),
    "given input, sum": Case(mlp("gelu", (4,) * 4, 0.2), given=True, loss="sum"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_law_of_dense_weights(name):
    case = CASES[name]
    conditional = case.run("conditional", seed=1)
    p, which = smallest(comparisons(conditional, case.run("dense", seed=2)) | neighbours(conditional))
    assert p > LEVEL, (p, which)


def test_one_seed_draws_the_same_input_and_probe_in_both_methods():
    """They share addresses: so seeds differ above."""
    network = mlp("tanh", (5, 4, 3))
    first, second = (measured(network, 50, method, dtype="float64") for method in ("dense", "conditional"))
    np.testing.assert_allclose(first["activation_log_norm"][:, 0], second["activation_log_norm"][:, 0], rtol=1e-14)
    np.testing.assert_allclose(first["gradient_log_max"][:, -1], second["gradient_log_max"][:, -1], rtol=1e-14)
    assert np.all(first["gradient_log_norm"][:, 0] != second["gradient_log_norm"][:, 0])


# against exact laws (tests/test_statistics.py derives them) ---------------------------------------------------


def log_ratios(log_norms):
    """ln |a_{l-1}|^2 - ln |a_l|^2 of log norms (realizations, L + 1)."""
    return 2 * (log_norms[:, :-1] - log_norms[:, 1:])


@pytest.mark.parametrize("widths", [(16,) * 6, (10, 30, 7, 30), (3, 1, 2, 64)])
def test_linear_layers_have_the_mean_psi_and_the_variance_psi_1(widths):
    gain, realizations = 1.3, 20_000
    ds = measured(mlp("linear", widths, gain=gain), realizations)
    ratios = log_ratios(ds["gradient_log_norm"].values)
    for layer, n in enumerate(widths[:-1]):
        variance = polygamma(1, n / 2)
        fourth = polygamma(3, n / 2) + 3 * variance**2
        assert_mean(ratios[:, layer], psi(n / 2) + np.log(2 * gain**2 / n), variance, tests=20)
        assert_variance(ratios[:, layer], variance, fourth, tests=20)
    # independent layers: the variances add up, as do fourth cumulants
    total = ratios.sum(axis=1)
    variance = sum(polygamma(1, n / 2) for n in widths[:-1])
    fourth = sum(polygamma(3, n / 2) for n in widths[:-1]) + 3 * variance**2
    assert_variance(total, variance, fourth, tests=20)
    # and forward: |x_l|^2 / |x_{l-1}|^2 = gain^2 / n_{l-1} chi^2 with n_l degrees of freedom
    forward = -log_ratios(ds["activation_log_norm"].values)
    for layer, (m, n) in enumerate(pairwise(widths)):
        assert_mean(forward[:, layer], psi(n / 2) + np.log(2 * gain**2 / m), polygamma(1, n / 2), tests=20)


def relu_layer(m, n, gain):
    """(mean, variance) of ln |g_{l-1}|^2 - ln |g_l|^2, and of ln |x_l|^2 - ln |x_{l-1}|^2, in a layer that is not dead.

    m inputs, n units, of which K ~ Binomial(n, 1/2) are on: gain^2/m Beta(K/2, (n - K)/2) chi^2_m backward, gain^2/m chi^2_K forward.
    """
    k = np.arange(1, n + 1)
    p = stats.binom.pmf(k, n, 0.5)
    p /= p.sum()
    on = p @ psi(k / 2)
    spread = p @ polygamma(1, k / 2) + p @ psi(k / 2) ** 2 - on**2
    scale = np.log(2 * gain**2 / m)
    backward = (on - psi(n / 2) + psi(m / 2) + scale, spread - polygamma(1, n / 2) + polygamma(1, m / 2))
    return backward, (on + scale, spread)


def test_relu_layer_has_the_published_numbers():
    for n, mean, variance in ((10, -0.307461, 0.866734), (100, -0.02542089, 0.05193999)):
        backward, forward = relu_layer(n, n, 2**0.5)
        np.testing.assert_allclose(backward, (mean, variance), rtol=2e-5)
        np.testing.assert_allclose(forward, (mean, variance), rtol=2e-5)


@pytest.mark.parametrize("widths", [(10,) * 21, (3,) * 6, (1, 1, 1), (100,) * 11, (8, 20, 5, 12, 5), (64, 3, 64, 2)])
def test_relu_nets_are_products_of_chi_squares_with_binomial_freedom(widths):
    gain, realizations = 2**0.5, 20_000
    ds = measured(mlp("relu", widths, gain=gain), realizations)
    gradient, activation = ds["gradient_log_norm"].values, ds["activation_log_norm"].values
    dead = np.isneginf(gradient[:, 0])
    alive = np.prod([1 - 0.5**n for n in widths[1:]])
    assert stats.binomtest(int(dead.sum()), realizations, 1 - alive).pvalue > LEVEL / 8
    assert np.array_equal(dead, np.isneginf(activation[:, -1]))
    assert np.array_equal(dead, np.isneginf(ds["weight_gradient_log_norm"].values[:, 1:]).any(axis=1))
    laws = [relu_layer(m, n, gain) for m, n in pairwise(widths)]
    for values, which in ((log_ratios(gradient[~dead]), 0), (-log_ratios(activation[~dead]), 1)):
        total = values.sum(axis=1)
        mean, variance = (sum(law[which][moment] for law in laws) for moment in (0, 1))
        assert_mean(total, mean, variance, tests=8)
        assert_variance(total, variance, tests=8)
        r = np.corrcoef(values, rowvar=False)[np.triu_indices(len(laws), 1)]
        assert np.all(np.abs(np.arctanh(r)) < -ndtri(LEVEL / 16 / r.size) / np.sqrt(len(values) - 3))


def test_dead_relu_nets_are_exact_zeros_and_nothing_else():
    ds = measured(mlp("relu", (2,) * 8), 2000)
    gradient, activation = ds["gradient_log_norm"].values, ds["activation_log_norm"].values
    for k in np.flatnonzero(np.isneginf(gradient[:, 0])):
        death = int(np.argmax(np.isneginf(activation[k])))  # first layer of zeros
        assert death > 0
        assert np.all(np.isneginf(activation[k, death:]))
        # no unit of a dead layer hands on a gradient; above, relu'(0) = 0
        assert np.all(np.isneginf(gradient[k, :-1]))
        assert np.isfinite(gradient[k, -1])
    assert not np.isnan(gradient).any()
    assert not np.isposinf(gradient).any()
    assert np.all(ds["left_range_at"] == -1)


def test_every_ratio_of_a_hundred_thousand_linear_layers():
    """2 10^6 ratios, all independent, against chi^2 with 16 degrees of freedom; the gradient grows to e^{20,000}."""
    n, depth, gain = 16, 100_000, 1.25
    ds = measured(fg.MLP(depth, n, activation="linear", weights=fg.Normal(gain)), 20, record=["gradient_log_norm", "activation_log_norm"])
    assert np.all(ds["left_range_at"] == -1)
    for name, sign in (("gradient_log_norm", 1), ("activation_log_norm", -1)):
        values = ds[name].values
        assert np.isfinite(values).all()
        ratios = sign * log_ratios(values)
        mean, variance = psi(n / 2) + np.log(2 * gain**2 / n), polygamma(1, n / 2)
        assert_mean(ratios, mean, variance, tests=8)
        assert_variance(ratios.ravel(), variance, polygamma(3, n / 2) + 3 * variance**2, tests=8)
        lags = (ratios[:, 1:] - mean) * (ratios[:, :-1] - mean)
        assert abs(np.mean(lags)) < -ndtri(LEVEL / 16) * variance / np.sqrt(lags.size)
        sample = np.sort(ratios.ravel()[::10]) + np.log(n / gain**2)
        assert stats.ks_1samp(sample, lambda y: stats.chi2.cdf(np.exp(y), n)).pvalue > LEVEL / 8


def test_a_hundred_thousand_tanh_layers_lose_what_dense_ones_lose():
    """Factors over 1,000 layers each: nearly independent, so two samples of 300."""
    network = fg.MLP(100_000, 16, weights=fg.Normal(1.4), bias_std=0.1)
    samples = []
    for method, seed in (("conditional", 1), ("dense", 2)):
        ds = measured(network, 3, method, seed, every=1000)
        assert all(np.isfinite(ds[v].values[:, 1:]).all() for v in ds.data_vars if v != "left_range_at")
        samples.append(log_ratios(ds["gradient_log_norm"].values).ravel())
    assert stats.ttest_ind(*samples, equal_var=False).pvalue > LEVEL / 2
    assert stats.ks_2samp(*samples).pvalue > LEVEL / 2


# the same bytes -----------------------------------------------------------------------------------------------

NETWORKS = {
    "tanh": mlp("tanh", (17,) * 41, 0.1),
    "relu": mlp("relu", (5, 9, 1, 16, 3, 8), 0.2),
    "gelu": mlp("gelu", (64, 33, 1, 40)),
    "growing": mlp("linear", (7,) * 400, gain=4.0),
    "shrinking": mlp("tanh", (7,) * 400, gain=0.3),
}


def run(task, realizations=23, **options):
    arrays, left = run_task(task, realizations, **options)
    return {name: array.tobytes() for name, array in arrays.items()} | {"left": left.tobytes()}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NETWORKS)
def test_pre_activations_kept_or_drawn_again_threads_and_blocks_change_no_byte(name, dtype):
    task, _ = make_task(NETWORKS[name], rng=5, method="conditional", dtype=dtype)
    want = run(replace(task, keep=True), threads=1)
    assert run(replace(task, keep=False), threads=1) == want
    for threads, count in ((2, 1), (3, 5), (1, 23)):
        assert run(replace(task, keep=threads == 3), threads=threads, count=count) == want


def test_little_memory_gives_the_same_bytes():
    network = fg.MLP(20_000, 300, weights=fg.Normal(1.3), bias_std=0.1)
    options = {"rng": 3, "method": "conditional", "every": 2}
    task, _ = make_task(network, **options)
    assert [fitted(task, 2, 1, memory).keep for memory in (75e6, 1e9)] == [False, True]
    assert estimate(replace(task, keep=False), 2, 1).workspace < 75e6 / 2 < estimate(replace(task, keep=True), 2, 1).workspace
    little, much = (fg.measure(network, memory=memory, realizations=2, threads=1, **options) for memory in (75e6, 1e9))
    assert bytes_of(little) == bytes_of(much)


def test_every_and_record_choose_and_change_nothing():
    network = NETWORKS["tanh"]
    whole = measured(network, 11)
    assert set(whole.data_vars) == {
        "gradient_log_norm",
        "gradient_log_max",
        "weight_gradient_log_norm",
        "bias_gradient_log_norm",
        "activation_log_norm",
        "left_range_at",
    }
    some = measured(network, 11, every=7)
    assert list(some.layer.values) == [0, 7, 14, 21, 28, 35, 40]
    assert bytes_of(whole.sel(layer=some.layer)) == bytes_of(some)
    for name in whole.data_vars:
        if name != "left_range_at":
            alone = measured(network, 11, record=[name])
            assert set(alone.data_vars) == {name, "left_range_at"}
            assert alone[name].values.tobytes() == whole[name].values.tobytes()
    assert bytes_of(measured(network, 5)) == bytes_of(whole.isel(realization=slice(0, 5)))


@pytest.mark.parametrize("name", NETWORKS)
def test_both_precisions_see_the_same_network(name):
    """Nothing is chaotic here: the normals are given, and of x only its size is handed on. A few entries have lost digits in a difference."""
    network = NETWORKS[name]
    first, second = (measured(network, 200, seed=9, dtype=dtype) for dtype in ("float32", "float64"))
    for variable in first.data_vars:
        if variable != "left_range_at":
            a, b = first[variable].values, second[variable].values
            assert np.array_equal(np.isfinite(a), np.isfinite(b)), variable
            finite = np.isfinite(a)
            error = np.abs(a[finite] - b[finite])
            assert np.quantile(error, 0.99) < 2e-5 + 1e-6 * network.depth, variable
            assert error.max() < 2e-2, variable


# what is consistent in every realization --------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_norms_of_one_realization_belong_together(name):
    """|dW| = |delta| |x|, |g|_max between |g|/sqrt(n) and |g|, and sizes that layers cannot exceed."""
    network = NETWORKS[name]
    ds = measured(network, 50, dtype="float64")
    activation, bias = ds["activation_log_norm"].values, ds["bias_gradient_log_norm"].values
    dead = np.isneginf(bias[:, 1:])
    want = np.where(dead, -np.inf, bias[:, 1:] + np.where(dead, 0, activation[:, :-1]))
    np.testing.assert_allclose(ds["weight_gradient_log_norm"].values[:, 1:], want, rtol=0, atol=1e-9)
    for variable in ("weight_gradient_log_norm", "bias_gradient_log_norm"):
        assert np.isnan(ds[variable].values[:, 0]).all()
    norm, top = ds["gradient_log_norm"].values, ds["gradient_log_max"].values
    alive = np.isfinite(norm)
    width = np.broadcast_to(np.log(network.widths) / 2, norm.shape)
    assert np.all(top[alive] <= norm[alive] + 1e-9)
    assert np.all(top[alive] >= (norm - width)[alive] - 1e-9)
    np.testing.assert_allclose(norm[:, -1], 0, atol=1e-12)
    slope = {"gelu": np.log(1.13)}.get(network.activation, 0.0)  # largest derivative
    assert np.all(bias[:, 1:][~dead] <= norm[:, 1:][~dead] + slope + 1e-9)  # |delta| <= largest slope |g|


# which method, and refusals ---------------------------------------------------------------------------------------


def test_auto_takes_it_where_it_applies_and_says_why():
    ds = fg.measure(mlp("tanh", (8,) * 4, 0.2), realizations=3, rng=0)
    assert ds.attrs["method"] == "conditional"
    assert "Gaussian" in ds.attrs["method_reason"]
    asked = measured(mlp("tanh", (8,) * 4, 0.2), 3, seed=0)
    assert bytes_of(ds) == bytes_of(asked)
    assert asked.attrs["method_reason"] == "it was asked for"


OBSTACLES = {
    "uniform": (fg.MLP(3, 8, weights=fg.Uniform(1.0)), "rotation invariant"),
    "pytorch_default": (fg.MLP(3, 8, weights="pytorch_default"), "rotation invariant"),
    "constant": (fg.MLP(3, 8, weights=fg.Constant(0.1)), "constant"),
    "recurrent": (fg.RNN(3, 8), "every step"),
    "lstm": (fg.LSTM(3, 8, weights=fg.Normal(1.0)), "every step"),
}


@pytest.mark.parametrize("name", OBSTACLES)
def test_where_it_does_not_apply_it_is_refused_and_auto_says_why(name):
    network, reason = OBSTACLES[name]
    with pytest.raises(ValueError, match=reason) as caught:
        measured(network, 2)
    assert_sentence(caught.value)
    ds = fg.measure(network, realizations=2, rng=0)
    assert ds.attrs["method"] == "dense"
    assert reason in ds.attrs["method_reason"]


def test_given_weights_are_refused():
    network = fg.MLP(2, 3, activation="tanh")
    weights = {"0.weight": np.eye(3), "2.weight": np.eye(3)}
    with pytest.raises(ValueError, match="given") as caught:
        measured(network, 2, weights=weights)
    assert_sentence(caught.value)
    ds = fg.measure(network, realizations=2, rng=0, weights=weights)
    assert ds.attrs["method"] == "dense"
    assert "given" in ds.attrs["method_reason"]


def assert_sentence(error):
    text = str(error)
    assert "method='conditional'" in text
    assert "method='dense'" in text  # the next step
    assert "\n" not in text


# planted mistakes ---------------------------------------------------------------------------------------------

FUNCTIONS = {
    "tanh": (np.tanh, lambda h: np.cosh(h) ** -2.0),
    "relu": (lambda h: np.maximum(h, 0), lambda h: (h > 0) * 1.0),
    "linear": (lambda h: h, np.ones_like),
    "gelu": (lambda h: h * (1 + erf(h / 2**0.5)) / 2, lambda h: (1 + erf(h / 2**0.5)) / 2 + h * np.exp(-h * h / 2) / (2 * np.pi) ** 0.5),
}


def norm(a):
    return np.sqrt(dot(a, a))


def dot(a, b):
    return np.sum(a * b, axis=1, keepdims=True)


def divide(a, b):
    """a / b, and 0 where b = 0: W 0 = 0 tells nothing about W."""
    return np.divide(a, b, out=np.zeros_like(a + b), where=b != 0)


def numpy_sampler(rng, case, mistake=None):
    """The sampler of docs/conditional_sampler.md, all realizations at once; as a table."""
    network = case.network
    value, slope = FUNCTIONS[network.activation]
    widths, bias, depth = network.widths, network.bias_std or 0.0, network.depth
    gain = network.weights.gain

    def normal(n):
        z = rng.standard_normal((case.realizations, n))
        if mistake == "noise shared by two realizations" and n > 1:
            z[1::2] = z[::2]
        return z

    x, h, z = [normal(widths[0])], [None], [None]
    inner, total = [None], [None]  # s = w |x| and S = sqrt(s^2 + bias^2)
    for layer in range(1, depth + 1):
        m, n = widths[layer - 1], widths[layer]
        w = gain / np.sqrt(n if mistake == "fan of the other side" else m)
        inner.append(w * norm(x[-1]))
        total.append(inner[-1] if mistake == "no bias forward" else np.hypot(inner[-1], bias))
        if mistake == "forward noise shared by two layers" and layer == 3:
            z.append(z[2])
        elif mistake == "input is the first layer's noise" and layer == 1:
            z.append(x[0])
        else:
            z.append(normal(n))
        h.append(total[-1] * z[-1])
        x.append(value(h[-1]))
    probe = normal(widths[-1])
    g = probe / norm(probe)
    gradients, deltas = [g], []
    noise = xi = None
    for layer in range(depth, 0, -1):
        m, n = widths[layer - 1], widths[layer]
        w = gain / np.sqrt(n if mistake in ("transposed scale", "fan of the other side") else m)
        point = {
            "slope at x": x[layer],
            "slope at z": z[layer],
            "slope of the layer below": h[layer - 1] if layer > 1 else x[0],
        }.get(mistake, h[layer])
        if mistake == "another draw in the backward pass":
            point = total[layer] * normal(n)
        delta = slope(point) * g
        size = norm(g if mistake == "length of g for delta" else delta)
        deltas.append(norm(delta))
        if noise is None or mistake != "noise shared by two layers":
            noise = normal(m)
        if mistake == "noise is z of the layer":
            noise = z[layer]
        if mistake == "noise is z of the layer below" and layer > 1:
            noise = z[layer - 1]
        if mistake == "probe reused as noise" and layer == depth:
            noise = probe
        if mistake == "input reused as noise" and layer == depth:
            noise = x[0]
        if xi is None or mistake != "xi reused":
            xi = normal(1)
        if mistake == "xi is a number of the noise":
            xi = noise[:, :1]
        s, S = inner[layer], total[layer]
        rho, tau = divide(s, S) ** 2, divide(s * bias, S)
        if mistake in ("rho = 1", "the bias forgotten"):
            rho = 1.0
        if mistake in ("no blur", "the bias forgotten"):
            tau = 0.0
        if mistake == "tau squared":
            tau = tau**2
        if mistake == "square root of rho":
            rho = np.sqrt(rho)
        below = x[layer if mistake == "x of the wrong layer" else layer - 1]
        along = divide(rho * dot(h[layer], delta) + tau * size * xi, dot(below, below))
        if mistake == "nothing along x":
            along = 0.0
        projected = noise - below * divide(dot(below, noise), dot(below, below))
        g = below * along + w * size * (noise if mistake == "projection dropped" else projected)
        gradients.append(g)
    with np.errstate(divide="ignore"):
        return table(_variables(gradients[::-1], deltas[::-1], x, mistake))


def _variables(g, deltas, x, mistake):
    nothing = np.full_like(deltas[0], np.nan)
    states = x[1:] if mistake == "weight gradient with x of the layer above" else x
    d_weights = [d * norm(y) for d, y in zip(deltas, states, strict=False)]
    logs = [[np.log(norm(y)) for y in g], [np.log(np.abs(y).max(axis=1, keepdims=True)) for y in g]]
    logs += [[nothing, *np.log(d_weights)], [nothing, *np.log(deltas)], [np.log(norm(y)) for y in x]]
    names = ("gradient_log_norm", "gradient_log_max", "weight_gradient_log_norm", "bias_gradient_log_norm", "activation_log_norm")
    return {name: np.hstack(columns) for name, columns in zip(names, logs, strict=True)}


# Equal widths, because two layers can share their numbers only then; and unequal ones, where fans differ.
GROUNDS = {
    "tanh": Case(mlp("tanh", (5,) * 5, 0.4)),
    "relu": Case(mlp("relu", (4,) * 5, 0.4)),
    "linear": Case(mlp("linear", (6,) * 5, 0.6)),
    "unequal": Case(mlp("gelu", (9, 4, 12, 6), 0.4)),
    "narrow": Case(mlp("linear", (2,) * 5, 0.8), realizations=20_000),
}

# Each with one of the grounds on which it is seen.
MISTAKES = {
    "projection dropped": "tanh",
    "nothing along x": "relu",
    "noise is z of the layer": "tanh",
    "noise is z of the layer below": "tanh",
    "probe reused as noise": "linear",
    "input reused as noise": "tanh",
    "input is the first layer's noise": "tanh",
    "fan of the other side": "unequal",
    "transposed scale": "unequal",
    "no blur": "linear",
    "rho = 1": "linear",
    "the bias forgotten": "linear",
    "tau squared": "linear",
    "square root of rho": "linear",
    "xi reused": "linear",
    "xi is a number of the noise": "narrow",
    "no bias forward": "tanh",
    "noise shared by two layers": "tanh",
    "forward noise shared by two layers": "tanh",
    "noise shared by two realizations": "relu",
    "x of the wrong layer": "relu",
    "weight gradient with x of the layer above": "relu",
    "slope at x": "tanh",
    "slope at z": "tanh",
    "slope of the layer below": "relu",
    "another draw in the backward pass": "tanh",
    "length of g for delta": "relu",
}


@cache
def dense_sample(ground):
    return GROUNDS[ground].run("dense", seed=2)


def judge(sample, ground):
    """(Bonferroni's p-value, what was least) of a sample against dense weights."""
    return smallest(comparisons(sample, dense_sample(ground)) | neighbours(sample))


@pytest.mark.parametrize("ground", GROUNDS)
def test_the_numpy_sampler_passes_without_a_mistake(ground):
    p, which = judge(numpy_sampler(np.random.default_rng(4), GROUNDS[ground]), ground)
    assert p > LEVEL, (p, which)


@pytest.mark.parametrize("ground", GROUNDS)
def test_the_engine_passes_on_the_same_grounds(ground):
    p, which = judge(GROUNDS[ground].run("conditional", seed=3), ground)
    assert p > LEVEL, (p, which)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_catches_a_planted_mistake(mistake):
    ground = MISTAKES[mistake]
    p, _ = judge(numpy_sampler(np.random.default_rng(5), GROUNDS[ground], mistake), ground)
    assert p < LEVEL, p


@pytest.mark.parametrize("ground", sorted(set(GROUNDS) - {"relu"}))
def test_catches_five_percent_of_gain(ground):
    case = GROUNDS[ground]
    wrong = replace(case, network=replace_gain(case.network, 1.05))
    p, _ = judge(wrong.run("conditional", seed=3), ground)
    assert p < LEVEL, p


def replace_gain(network, factor):
    return network.model_copy(update={"weights": fg.Normal(network.weights.gain * factor)})


def test_the_error_budget_holds():
    exact = 3 + 6 + 2 + 1  # each of them shares one level
    assert len(CASES) + 2 * len(GROUNDS) + exact <= TESTS
