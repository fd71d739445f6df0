"""The laws of what is drawn: exact at finite width, each with its false-alarm rate, each caught when wrong.

Every seed is fixed, so nothing here fails by chance; the rates say what the thresholds mean. `FALSE_ALARM` is
the probability that a correct sampler fails one assertion at a random seed. Power: the Kolmogorov-Smirnov
test rejects any law whose distribution function is 2 * `ks_bound` away somewhere, with probability
1 - FALSE_ALARM (Dvoretzky-Kiefer-Wolfowitz); the z-test rejects a mean wrong by 8 standard errors with
probability 0.999. The planted mistakes at the end show both at work.

The exact laws, for one input and an isotropic probe (loss="probe"), with n_l the width of layer l and
K ~ Binomial(n_l, 1/2):

    Gaussian, linear   ||g_{l-1}||^2 / ||g_l||^2 = gain^2 / n_{l-1}  chi2_{n_{l-1}}
                       ||x_l||^2 / ||x_{l-1}||^2 = gain^2 / n_{l-1}  chi2_{n_l}
    Gaussian, ReLU     the same with  Beta(K/2, (n_l - K)/2) chi2_{n_{l-1}}  and  chi2_K
    Haar, ReLU         both  gain^2 Beta(K/2, (n - K)/2)

The laws of x_l are Hanin & Nica's (arXiv:1812.05994). That g obeys one in ReLU nets needs the isotropic
probe: mask and weights depend on each other through the signs of W x. Given the mask, the part of the masked
gradient along the half-normal vector |W x| is Gaussian when the gradient's direction is uniform, so g_{l-1}
is isotropic again and independent of x_{l-1}. With loss="sum" it is not, and the law fails (last test).
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats
from scipy.special import polygamma, psi

import fastgrad as fg
from fastgrad.engine import trace as tracing

FALSE_ALARM = 1e-6
METHODS = ["dense", "conditional"]


def ks_bound(n):
    return np.sqrt(np.log(2 / FALSE_ALARM) / (2 * n))


def assert_law(samples, cdf):
    """Kolmogorov-Smirnov against a continuous law."""
    samples = np.ravel(samples)
    assert np.all(np.isfinite(samples))
    distance = stats.ks_1samp(samples, cdf).statistic
    assert distance < ks_bound(samples.size), (distance, ks_bound(samples.size))


def assert_same_law(first, second):
    """Kolmogorov-Smirnov of two samples; the bound is Smirnov's asymptotic one."""
    n = first.size * second.size / (first.size + second.size)
    distance = stats.ks_2samp(np.ravel(first), np.ravel(second), method="asymp").statistic
    assert distance < ks_bound(n), (distance, ks_bound(n))


def assert_mean(samples, mean, variance):
    """Mean by a z-test with the law's own variance."""
    z = (np.mean(samples) - mean) / np.sqrt(variance / np.size(samples))
    assert abs(z) < -stats.norm.ppf(FALSE_ALARM / 2), z


def assert_uncorrelated(columns):
    """Correlations of columns (samples, k), Bonferroni over the pairs, by Fisher's transformation."""
    samples, k = columns.shape
    r = np.corrcoef(columns, rowvar=False)[np.triu_indices(k, 1)]
    z = np.arctanh(np.clip(r, -1 + 1e-15, 1 - 1e-15)) * np.sqrt(samples - 3)
    assert np.max(np.abs(z)) < -stats.norm.ppf(FALSE_ALARM / 2 / r.size), np.max(np.abs(z))


# what is checked, apart from where the samples come from ------------------------------------------


def log_ratios(log_norms):
    """ln ||a_{l-1}||^2 - ln ||a_l||^2 of (realizations, L + 1) log norms."""
    return 2 * (log_norms[:, :-1] - log_norms[:, 1:])


def check_gaussian_linear(gradient, activation, gain, widths):
    for layer, (n_in, n_out) in enumerate(pairwise(widths), start=1):
        backward = log_ratios(gradient[:, layer - 1 : layer + 1])
        forward = -log_ratios(activation[:, layer - 1 : layer + 1])
        for ratio, freedom in ((backward, n_in), (forward, n_out)):
            scaled = ratio + np.log(n_in / gain**2)
            assert_mean(scaled, psi(freedom / 2) + np.log(2), polygamma(1, freedom / 2))
            assert_law(scaled, lambda y, k=freedom: stats.chi2.cdf(np.exp(y), k))


def check_independent_layers(log_norms, freedoms):
    """Ratios of different layers are independent: no pair is correlated, variances add up."""
    ratios = log_ratios(log_norms)
    assert_uncorrelated(ratios)
    total = ratios.sum(axis=1)
    want = sum(polygamma(1, k / 2) for k in freedoms)
    # many layers: the total is nearly Gaussian, and n s^2 / sigma^2 nearly chi2_{n-1}
    low, high = stats.chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], total.size - 1) / (total.size - 1)
    assert low * want < total.var(ddof=1) < high * want


def mixture_over_masks(y, n, cdf_given_k):
    """P(Y <= y | K >= 1), K ~ Binomial(n, 1/2)."""
    k = np.arange(1, n + 1)
    weight = stats.binom.pmf(k, n, 0.5)
    return sum(w * cdf_given_k(y, j) for w, j in zip(weight / weight.sum(), k, strict=True))


def check_relu(ratio, scale, n, cdf_given_k):
    """Ratios (..) of squared norms as logarithms, those of dead layers already left out."""
    values = np.sort(np.ravel(ratio)) - np.log(scale)
    # a distribution function given at points: a sum over K for every sample would be slow
    grid = np.linspace(values[0] - 1, values[-1] + 1, 4001)
    table = mixture_over_masks(np.exp(grid), n, cdf_given_k)
    assert_law(values, lambda y: np.interp(y, grid, table))


def chi2_given_k(y, k):
    return stats.chi2.cdf(y, k)


def beta_given_k(n):
    # K = n: nothing is cut off, the ratio is 1; left out by `alive_and_cut`
    return lambda y, k: stats.beta.cdf(y, k / 2, (n - k) / 2) if k < n else (y >= 1) * 1.0


def check_elements(values, kind, scale):
    """Matrix entries: the law and, against a wrong tail, the fourth moment."""
    unit = np.ravel(values) / scale
    if kind == "normal":
        assert_law(unit, stats.norm.cdf)
        assert_mean(unit**2, 1.0, 2.0)
        assert_mean(unit**4, 3.0, 96.0)
    else:
        assert np.max(np.abs(unit)) <= 1 + 1e-6
        assert_law(unit, stats.uniform(-1, 2).cdf)
        assert_mean(unit**2, 1 / 3, 4 / 45)


def check_haar(matrices):
    """(count, m, n) with m <= n: orthonormal rows whose law no rotation changes."""
    count, m, n = matrices.shape
    np.testing.assert_allclose(
        matrices @ matrices.transpose(0, 2, 1), np.tile(np.eye(m), (count, 1, 1)), atol=1e-12
    )
    # each entry is a coordinate of a uniform point of the sphere: signed square root of Beta(1/2, (n - 1)/2)
    for i in range(m):
        for j in range(n):
            entry = matrices[:, i, j]
            assert_law(entry, lambda y: 0.5 + np.sign(y) * stats.beta.cdf(y**2, 0.5, (n - 1) / 2) / 2)
    if m == n:
        # E tr W = 0, Var tr W = 1 for n >= 2; both determinants equally likely
        assert_mean(np.trace(matrices, axis1=1, axis2=2), 0.0, 1.0)
        positive = int(np.sum(np.linalg.det(matrices) > 0))
        assert stats.binomtest(positive, count, 0.5).pvalue > FALSE_ALARM


def check_no_shared_numbers(tensors):
    """Tensors of independent continuous draws have no numbers in common.

    Of N draws made from 32 random bits each, about N^2 / 2^33 pairs agree by chance; a shared stream repeats
    whole tensors. Rounding forgives what scaling by a standard deviation and back has done.
    """
    values = np.round(np.concatenate([np.ravel(t) for t in tensors]), 10)
    repeated = values.size - np.unique(np.abs(values)).size
    assert repeated <= 8 + 10 * values.size**2 / 2**33, repeated


# the engine -------------------------------------------------------------------------------------


@cache
def measured(network, realizations, method="dense", loss="probe"):
    return fg.measure(
        network,
        realizations=realizations,
        rng=20260101,
        method=method,
        loss=loss,
        record=["gradient_log_norm", "activation_log_norm"],
    )


def norms(network, realizations, **options):
    ds = measured(network, realizations, **options)
    return ds["gradient_log_norm"].values, ds["activation_log_norm"].values


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("widths", [(1,) * 5, (2,) * 5, (16,) * 5, (33,) * 5, (10, 30, 10, 30), (5, 1, 7)])
@pytest.mark.parametrize("gain", [1.0, 0.7])
def test_gaussian_linear(widths, gain, method):
    network = fg.MLP(widths=widths, activation="linear", weights=fg.Normal(gain))
    gradient, activation = norms(network, 20_000, method=method)
    check_gaussian_linear(gradient, activation, gain, widths)


@pytest.mark.parametrize("method", METHODS)
def test_layers_are_independent(method):
    network = fg.MLP(depth=60, width=9, activation="linear")
    gradient, activation = norms(network, 5000, method=method)
    check_independent_layers(gradient, [9] * 60)
    check_independent_layers(activation, [9] * 60)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("depth", "n"), [(4, 24), (4, 4)])
def test_relu(depth, n, method):
    network = fg.MLP(depth=depth, width=n, activation="relu", weights="he_normal")
    gradient, activation = norms(network, 20_000, method=method)
    dead = np.isneginf(gradient[:, 0])
    # a layer is dead with probability 2^-n, and with it every gradient below
    assert stats.binomtest(int(dead.sum()), dead.size, 1 - (1 - 0.5**n) ** depth).pvalue > FALSE_ALARM
    assert np.array_equal(dead, np.isneginf(activation[:, -1]))
    check_relu(log_ratios(gradient[~dead]), 2 / n, n, chi2_given_k)
    check_relu(-log_ratios(activation[~dead]), 2 / n, n, chi2_given_k)


@pytest.mark.parametrize("method", METHODS)
def test_relu_between_unequal_widths(method):
    widths = (12, 25, 12)
    network = fg.MLP(widths=widths, activation="relu", weights=fg.Normal(1.3))
    gradient, activation = norms(network, 30_000, method=method)
    dead = np.isneginf(gradient[:, 0])
    gradient, activation = gradient[~dead], activation[~dead]
    for layer, (n_in, n_out) in enumerate(pairwise(widths), start=1):
        forward = -log_ratios(activation[:, layer - 1 : layer + 1])
        check_relu(forward, 1.3**2 / n_in, n_out, chi2_given_k)
    # backward: K ~ Binomial(n_out, 1/2) of the probe's isotropic numbers, then chi2 of n_in of the weights
    rng = np.random.default_rng(1)
    for layer, (n_in, n_out) in enumerate(pairwise(widths), start=1):
        k = rng.binomial(n_out, 0.5, 200_000)
        k = k[(k > 0) & (k < n_out)]
        kept = rng.beta(k / 2, (n_out - k) / 2)
        want = np.log(1.3**2 / n_in * kept * rng.chisquare(n_in, k.size))
        assert_same_law(log_ratios(gradient[:, layer - 1 : layer + 1]), want)


@pytest.mark.parametrize("method", METHODS)
def test_haar_relu(method):
    n = 20
    network = fg.MLP(depth=4, width=n, activation="relu", weights=fg.Orthogonal(2**0.5))
    gradient, activation = norms(network, 5000, method=method)
    for ratio in (log_ratios(gradient), -log_ratios(activation)):
        ratio = ratio[np.abs(ratio - np.log(2)) > 1e-4]  # K = n (probability 1e-6): nothing cut off
        check_relu(ratio, 2.0, n, beta_given_k(n))


def test_haar_matrices():
    for shape in ((4, 4), (3, 7)):
        m, n = shape
        widths = (n, m) * 1000 if m != n else (n,) * 2000
        trace = tracing.trace(fg.MLP(widths=widths, weights=fg.Orthogonal(1.0), activation="linear"), rng=1)
        check_haar(np.array([w for w in trace["weight"] if w.shape == shape]))
        if m != n:
            check_haar(np.array([w.T for w in trace["weight"] if w.shape == (n, m)]))


# name: (kind, scale of (fan_in n, fan_out m)), as PyTorch's documentation has them
LAWS = {
    "normal": (fg.Normal(1.7), "normal", lambda n, m: 1.7 / np.sqrt(n)),
    "uniform": (fg.Uniform(1.7), "uniform", lambda n, m: 1.7 * np.sqrt(3 / n)),
    "he_normal": ("he_normal", "normal", lambda n, m: np.sqrt(2 / n)),
    "he_uniform": ("he_uniform", "uniform", lambda n, m: np.sqrt(6 / n)),
    "xavier_normal": ("xavier_normal", "normal", lambda n, m: np.sqrt(2 / (n + m))),
    "xavier_uniform": ("xavier_uniform", "uniform", lambda n, m: np.sqrt(6 / (n + m))),
    "lecun_normal": ("lecun_normal", "normal", lambda n, m: np.sqrt(1 / n)),
    "pytorch_default": ("pytorch_default", "uniform", lambda n, m: np.sqrt(1 / n)),
}


@cache
def traced(network, seed=1):
    return tracing.trace(network, rng=seed)


@pytest.mark.parametrize("law", LAWS)
def test_entries_of_weight_matrices(law):
    weights, kind, scale = LAWS[law]
    network = fg.MLP(widths=(25, 81) * 10, weights=weights)
    values = [w / scale(*w.shape[::-1]) for w in traced(network)["weight"]]
    check_elements(np.concatenate([np.ravel(v) for v in values]), kind, 1.0)
    for v in values[:4]:
        check_elements(v, kind, 1.0)


def test_biases_inputs_and_probe():
    wide = traced(fg.MLP(widths=(20_000, 1, 20_000), bias_std=0.5))
    check_elements(wide["bias"][1], "normal", 0.5)
    check_elements(wide["x"][0], "normal", 1.0)
    v = np.ravel(wide["v"])
    assert np.linalg.norm(v) == pytest.approx(1, rel=1e-12)
    check_elements(v * np.sqrt(v.size), "normal", 1.0)
    default = traced(fg.MLP(widths=(9, 20_000, 4), weights="pytorch_default"))
    check_elements(default["bias"][0], "uniform", 1 / 3)
    without = traced(fg.MLP(widths=(9, 5, 4), weights="lecun_normal"))
    assert all(np.all(b == 0) for b in without["bias"])


def test_inputs_of_recurrent_nets():
    """h_t = x_t makes the drawn inputs visible."""
    copy = {"weights": fg.Constant(0.0), "input_weights": fg.Constant(1.0), "bias_std": 0.0}
    network = fg.RNN(20_000, 1, activation="linear", **copy)
    inputs = [tracing.trace(network, rng=1, realization=r)["h"][0, 1:, 0, 0] for r in range(3)]
    for x in inputs:
        check_elements(x, "normal", 1.0)
        assert_uncorrelated(np.array([x[:-1], x[1:]]).T)
    assert_uncorrelated(np.array(inputs).T)
    check_no_shared_numbers(inputs)


@pytest.mark.parametrize("law", ["uniform", "he_normal", "xavier_normal", "pytorch_default"])
@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
def test_entries_of_recurrent_matrices(kind, law):
    """One matrix a gate: fan_out is the width, not the stacked height."""
    weights, distribution, scale = LAWS[law]
    width, input_width = 64, 20
    build, gates = {"rnn": (fg.RNN, 1), "lstm": (fg.LSTM, 4), "gru": (fg.GRU, 3)}[kind]
    network = build(1, width, layers=2, input_width=input_width, weights=weights, input_weights=weights)
    state = traced(network)["state_dict"]
    for name in ("weight_hh_l0", "weight_ih_l0", "weight_hh_l1", "weight_ih_l1"):
        fan_in = state[name].shape[1]
        assert state[name].shape[0] == gates * width
        # nn.RNN, nn.LSTM, nn.GRU: everything from U(+-1/sqrt(width))
        expected = scale(width if law == "pytorch_default" else fan_in, width)
        for matrix in np.split(state[name], gates):
            check_elements(matrix, distribution, expected)


def test_recurrent_biases():
    state = traced(fg.LSTM(1, 1000, input_width=1, weights="pytorch_default", forget_bias=1.0))["state_dict"]
    for name in ("bias_ih_l0", "bias_hh_l0"):
        i, f, g, o = np.split(state[name], 4)
        for part in (i, g, o):
            check_elements(part, "uniform", 1 / np.sqrt(1000))
        assert np.all(f == (1.0 if name == "bias_ih_l0" else 0.0))
    state = traced(fg.GRU(1, 1000, input_width=1, weights=fg.Normal(1.0), bias_std=0.3))["state_dict"]
    check_elements(state["bias_ih_l0"], "normal", 0.3)
    assert np.all(state["bias_hh_l0"] == 0)


def test_orthogonal_gates_are_orthogonal_each():
    state = traced(fg.GRU(1, 6, input_width=9, weights="orthogonal", input_weights="orthogonal"))[
        "state_dict"
    ]
    for name in ("weight_hh_l0", "weight_ih_l0"):
        for gate in np.split(state[name], 3):
            np.testing.assert_allclose(gate @ gate.T, np.eye(6), atol=1e-12)


def tensors_of(network, seed, realization):
    trace = tracing.trace(network, rng=seed, realization=realization)
    if network.kind == "mlp":
        scaled = [np.ravel(w) * np.sqrt(w.shape[1]) for w in trace["weight"]]
        return [*scaled, *[np.ravel(b) / network.bias_std for b in trace["bias"]], np.ravel(trace["x"][0])]
    scaled = [
        np.ravel(w) * np.sqrt(w.shape[1]) for name, w in trace["state_dict"].items() if "weight" in name
    ]
    return [
        *scaled,
        *[np.ravel(b) / network.bias_std for n, b in trace["state_dict"].items() if "bias_ih" in n],
    ]


def independent_tensors():
    """Standard normals behind every tensor: layers, roles, gates, realizations, seeds.

    Two networks of one seed may share numbers: their comparison is the better for it.
    """
    normal = {"weights": fg.Normal(1.0), "bias_std": 1.0}
    mlp = fg.MLP(depth=5, width=20, **normal)
    lstm = fg.LSTM(2, 20, layers=2, input_weights=fg.Normal(1.0), **normal)
    tensors = []
    for seed in (0, 1, 2**32, 2**64):
        for realization in (0, 1, 2):
            tensors += tensors_of(mlp, seed, realization)
        tensors += tensors_of(lstm, seed + 7, 0)
    return tensors


def test_no_two_tensors_share_a_stream():
    tensors = independent_tensors()
    check_no_shared_numbers(tensors)
    first = np.array([t[:400] for t in tensors if t.size >= 400]).T
    assert_uncorrelated(first)


# a second sampler, of PCG64 and NumPy's normals ---------------------------------------------------


def dense_sampler(rng, realizations, widths, activation, gain, bias_std=0.0, *, mistake=None):
    """Log norms of gradients and activations (realizations, L + 1) of dense random nets, all at once."""
    value, slope = {
        "linear": (lambda h: h, np.ones_like),
        "tanh": (np.tanh, lambda h: np.cosh(h) ** -2.0),
        "relu": (lambda h: np.maximum(h, 0), lambda h: (h > 0) * 1.0),
    }[activation]
    x = [rng.standard_normal((realizations, widths[0]))]
    weights, slopes = [], []
    for layer, (n_in, n_out) in enumerate(pairwise(widths)):
        fan = n_out if mistake == "fan_out" else n_in
        w = rng.standard_normal((realizations, n_out, n_in)) * gain / np.sqrt(fan)
        if mistake == "shared_stream" and layer == 1:
            w = weights[0]
        if mistake == "shared_realizations" and layer == 0:
            w[1::2] = w[0::2]
        h = np.einsum("rij,rj->ri", w, x[-1])
        if mistake != "dropped_bias":
            h += bias_std * rng.standard_normal(h.shape)
        weights.append(w)
        x.append(value(h))
        slopes.append(slope(x[-1] if mistake == "slope_at_x" else h))
    v = rng.standard_normal((realizations, widths[-1]))
    if mistake == "probe_shares_weights":
        v = weights[-1][:, :, 0].copy()
    g = [v / np.linalg.norm(v, axis=1, keepdims=True)]
    for w, s in zip(reversed(weights), reversed(slopes), strict=True):
        g.insert(0, np.einsum("rij,ri->rj", w, g[0] * s))
    with np.errstate(divide="ignore"):
        return tuple(np.log(np.array([np.linalg.norm(a, axis=1) for a in values]).T) for values in (g, x))


TANH = {"widths": (10, 14, 9, 12), "activation": "tanh", "gain": 1.4, "bias_std": 0.3}


def check_tanh(gradient, activation):
    """Two-sample tests of every layer against the engine's 40,000 nets."""
    network = fg.MLP(
        widths=TANH["widths"], activation="tanh", weights=fg.Normal(TANH["gain"]), bias_std=TANH["bias_std"]
    )
    engine_gradient, engine_activation = norms(network, 40_000)
    for layer in range(len(TANH["widths"]) - 1):
        assert_same_law(gradient[:, layer], engine_gradient[:, layer])
        assert_same_law(activation[:, layer + 1], engine_activation[:, layer + 1])
    # jointly: what the layers do together
    assert_same_law(gradient[:, 0] + activation[:, -1], engine_gradient[:, 0] + engine_activation[:, -1])
    assert_same_law(gradient[:, 0] - activation[:, -1], engine_gradient[:, 0] - engine_activation[:, -1])


def test_tanh_against_a_second_sampler():
    check_tanh(*dense_sampler(np.random.default_rng(7), 20_000, **TANH))


# planted mistakes: every check above must see them ----------------------------------------------------


def test_the_second_sampler_passes_without_a_mistake():
    rng = np.random.default_rng(8)
    widths = (10, 30, 10, 30)
    check_gaussian_linear(*dense_sampler(rng, 20_000, widths, "linear", 1.0), 1.0, widths)
    gradient, activation = dense_sampler(rng, 5000, (9,) * 11, "linear", 1.0)
    check_independent_layers(gradient, [9] * 10)
    check_independent_layers(activation, [9] * 10)
    gradient, _ = dense_sampler(rng, 20_000, (24,) * 5, "relu", 2**0.5)
    check_relu(log_ratios(gradient), 2 / 24, 24, chi2_given_k)


def test_catches_one_percent_of_gain():
    gradient, activation = norms(
        fg.MLP(widths=(33,) * 5, activation="linear", weights=fg.Normal(1.01)), 20_000
    )
    with pytest.raises(AssertionError):
        check_gaussian_linear(gradient, activation, 1.0, (33,) * 5)


@pytest.mark.parametrize("mistake", ["fan_out", "probe_shares_weights"])
def test_catches_in_linear_nets(mistake):
    widths = (10, 30, 10, 30)
    planted = dense_sampler(np.random.default_rng(9), 20_000, widths, "linear", 1.0, mistake=mistake)
    with pytest.raises(AssertionError):
        check_gaussian_linear(*planted, 1.0, widths)


def test_catches_two_layers_with_one_stream():
    planted = dense_sampler(
        np.random.default_rng(10), 5000, (9,) * 11, "linear", 1.0, mistake="shared_stream"
    )
    with pytest.raises(AssertionError):
        check_independent_layers(planted[0], [9] * 10)


@pytest.mark.parametrize("mistake", ["slope_at_x", "dropped_bias", "fan_out", "shared_stream"])
def test_catches_in_tanh_nets(mistake):
    planted = dense_sampler(np.random.default_rng(11), 20_000, **TANH | shape_for(mistake), mistake=mistake)
    with pytest.raises(AssertionError):
        check_tanh(*planted)


def shape_for(mistake):
    """Two layers can share their weights only when their shapes are equal."""
    return {"widths": (10, 10, 10, 12)} if mistake == "shared_stream" else {}


def test_catches_a_uniform_law_without_its_square_root_of_three():
    values = traced(fg.MLP(widths=(25, 81) * 4, weights=fg.Uniform(1 / 3**0.5)))["weight"]
    with pytest.raises(AssertionError):
        check_elements(values[0], "uniform", np.sqrt(3 / 25))


def test_catches_fan_in_and_fan_out_exchanged():
    values = traced(fg.MLP(widths=(25, 81) * 10, weights=LAWS["he_normal"][0]))["weight"]
    with pytest.raises(AssertionError):
        check_elements(values[0], "normal", np.sqrt(2 / 81))


def test_catches_normals_with_a_cut_tail():
    z = np.random.default_rng(12).standard_normal(40_000)
    check_elements(z, "normal", 1.0)
    with pytest.raises(AssertionError):
        check_elements(z[np.abs(z) < 3], "normal", 1.0)


def test_catches_qr_without_its_signs():
    gaussian = np.random.default_rng(13).standard_normal((2000, 4, 4))
    q, r = np.linalg.qr(gaussian)
    check_haar(q * np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None, :])
    with pytest.raises(AssertionError):
        check_haar(q)


@pytest.mark.parametrize("share", ["layers", "realizations", "roles"])
def test_catches_a_shared_stream(share):
    tensors = independent_tensors()
    source, target = {"layers": (0, 1), "realizations": (0, 11), "roles": (5, 10)}[share]
    tensors[target] = tensors[source][: tensors[target].size] * (-1 if share == "roles" else 1)
    with pytest.raises(AssertionError):
        check_no_shared_numbers(tensors)


def test_catches_a_probe_that_is_not_isotropic():
    """With v = ones mask and weights pull one way: n = 4, mean of the squared ratio 1.25 instead of 1."""
    n = 4
    network = fg.MLP(depth=1, width=n, activation="relu", weights="he_normal")
    gradient, _ = norms(network, 20_000, loss="sum")
    ratio = log_ratios(gradient[np.isfinite(gradient[:, 0])])
    with pytest.raises(AssertionError):
        check_relu(ratio, 2 / n, n, chi2_given_k)
