"""Planted mistakes in the conditional sampler of batches, several probes and Haar weights: each is caught (docs/conditional_sampler.md, 2 and 3).

Networks with explicit weights and the sampler without weights stand here in NumPy, as that page has them. What is compared: every variable of
every probe at every layer and the growth from layer to layer, all pairs of them, random projections of everything (`two_samples`), and
neighbouring realizations. The sampler without a mistake passes on every ground, and so does the engine; with a mistake it fails.

False alarms: a correct sampler fails this file at a random seed with probability below `FALSE_ALARM`: each of the at most `TESTS` comparisons that
must pass has the level `LEVEL` = FALSE_ALARM / TESTS, shared by Bonferroni among all that it compares. All seeds are fixed, so nothing here fails
by chance. Misses: with 4,000 realizations a side and at most 1,250 comparisons a ground, a shift of a column by 0.22 of its standard deviation, a
zero correlation wrong by 0.22, or a distribution function wrong by 0.12 somewhere, escapes with probability below 1e-3. A mistake counts as caught
when its p-value is below `LEVEL`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
from naive import ACTIVATIONS
from two_samples import VARIABLES, comparisons, neighbours, smallest, table

import fastgrad as fg

FALSE_ALARM = 1e-6
TESTS = 20
LEVEL = FALSE_ALARM / TESTS
REALIZATIONS = 4000


@dataclass(frozen=True)
class Ground:
    """A network with given inputs: one, and one at each distance in ``gaps`` from it."""

    network: fg.MLP
    gaps: tuple[float, ...] = ()
    probes: int = 1

    @property
    def inputs(self):
        """(B, n_0)."""
        rng = np.random.default_rng(1)
        first, *steps = rng.standard_normal((1 + len(self.gaps), self.network.widths[0]))
        return np.array([first, *(first + gap * step for gap, step in zip(self.gaps, steps, strict=True))])

    def measured(self, seed):
        """The engine's table."""
        ds = fg.measure(
            self.network, realizations=REALIZATIONS, rng=seed, inputs=self.inputs, probes=self.probes, dtype="float64", method="conditional"
        )
        return columns_of({name: ds[name].values for name in VARIABLES})


def columns_of(data):
    """Table of arrays (realizations, [probes,] layers), and of ln |g_{l-1}| - ln |g_l|.

    How a layer's factors of two probes go together is next to invisible in the norms themselves, which add up the probes' own beginnings.
    """
    logs = data["gradient_log_norm"]
    below, above = logs[..., :-1], logs[..., 1:]
    with np.errstate(invalid="ignore"):
        growth = np.where(np.isneginf(below), -np.inf, below - above).reshape(REALIZATIONS, -1)
    columns = table({name: np.reshape(values, (REALIZATIONS, -1)) for name, values in data.items()})
    return columns | {f"growth[{k}]": np.round(values, 5) for k, values in enumerate(growth.T)}


def mlp(activation, widths, weights, bias_std=None):
    return fg.MLP(widths=widths, activation=activation, weights=weights, bias_std=bias_std)


# Equal widths, where layers can take each other's numbers; unequal ones, where fans differ and frames are cut. relu and gelu are not odd: they see
# signs. With Haar weights, as many columns are sent back as there are dimensions left, or fewer.
GROUNDS = {
    "batch": Ground(mlp("tanh", (5,) * 4, fg.Normal(1.5), 0.4), gaps=(1.0, 0.5)),
    "linear": Ground(mlp("linear", (4,) * 4, fg.Normal(1.5)), gaps=(1.0,)),
    "biased": Ground(mlp("linear", (6,) * 4, fg.Normal(0.9), 0.8), gaps=(1.0,)),
    "nearly equal": Ground(mlp("tanh", (5,) * 4, fg.Normal(1.5), 0.4), gaps=(1e-9,)),
    "probes": Ground(mlp("tanh", (5,) * 4, fg.Normal(1.5)), gaps=(1.0,), probes=2),
    "unequal": Ground(mlp("gelu", (8, 4, 9, 5), fg.Normal(1.5), 0.4), gaps=(1.0,)),
    "Haar": Ground(mlp("gelu", (4,) * 4, fg.Orthogonal(1.5), 0.3)),
    "Haar, batch": Ground(mlp("tanh", (5,) * 4, fg.Orthogonal(1.5), 0.3), gaps=(1.0,)),
    "Haar, probes": Ground(mlp("gelu", (5, 5, 1, 5, 5), fg.Orthogonal(1.5)), probes=2),
    "Haar, rectangular": Ground(mlp("gelu", (7, 4, 9, 5), fg.Orthogonal(1.5)), gaps=(1.0,)),
}

# Each on a ground on which it is seen, some once with Gaussian and once with Haar weights.
MISTAKES = {
    "batch": (
        "projection dropped",
        "nothing along Q",
        "R transposed",
        "diagonal of R",
        "S of g",
        "frame shared by two layers",
        "shared by two realizations",
        "slope of the layer below",
        "bias gradient without the sum over inputs",
        "weight gradient of each input",
        "weight gradient with x of the layer above",
        "probe normalised for each input",
    ),
    "linear": (
        "Q of the layer above",
        "another frame in the backward pass",
    ),
    "biased": (
        "S transposed",
        "diagonal of S",
        "columns sent as if orthogonal",
        "noise shared by two columns",
        "noise shared by two layers",
        "noise is the frame",
        "probe reused as noise",
        "bias shared by two layers",
        "bias taken for weights",
    ),
    "nearly equal": (
        "bias of each input",
        "frame of each input",
    ),
    "probes": (
        "noise shared by two probes",
        "noise of each probe",
        "another frame for the second probe",
        "slopes of the other inputs",
        "one probe twice",
    ),
    "unequal": (
        "one direction too few",
        "fan of the other side",
        "transposed scale",
        "5 % of gain",
    ),
    "Haar": (
        "nothing along Q",
        "delta not projected off the frame",
        "noise not normalised",
        "projection dropped",
        "noise projected off the frame",
        "frame not normalised",
        "signs of the decomposition",
        "Gaussian weights",
        "5 % of gain",
    ),
    "Haar, batch": (
        "another frame in the backward pass",
        "frame not orthogonal",
        "S transposed",
    ),
    "Haar, probes": (
        "noise not orthogonal to itself",
        "noise of each probe",
    ),
    "Haar, rectangular": (
        "frame among the units",
        "noise among the inputs",
    ),
}


# stacks of matrices (realizations, rows, columns); columns are inputs, or all inputs of one probe after the other ----------------------------------


def transposed(a):
    return np.swapaxes(a, 1, 2)


def norm(a):
    """Of each matrix."""
    return np.sqrt(np.sum(a * a, axis=(1, 2)))


def columns_normalised(a):
    return a / np.sqrt(np.sum(a * a, axis=1, keepdims=True))


def orthonormal(a):
    """The columns made orthonormal one after the other, each at less than a right angle to what it was."""
    q, r = np.linalg.qr(a)
    return q * np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None, :]


def off(q, a):
    """a without its components along the orthonormal columns of q."""
    return a - q @ (transposed(q) @ a)


def tall(a, rows):
    """a with rows of zeros below."""
    return np.concatenate([a, np.zeros((len(a), rows - a.shape[1], a.shape[2]))], axis=1)


def recorded(g, x, d_weights, d_biases):
    """Table of gradients g and states x of all layers, and of each probe's gradient norms, (realizations, probes), of layers 1 … L."""
    probes = d_weights[0].shape[1]
    each = [np.array_split(y, probes, axis=2) for y in g]
    nothing = np.full((REALIZATIONS, probes, 1), np.nan)
    with np.errstate(divide="ignore"):
        logs = (
            np.log([[norm(y) for y in layer] for layer in each]).T,
            np.log([[np.abs(y).max(axis=(1, 2)) for y in layer] for layer in each]).T,
            *(np.concatenate([nothing, np.log(np.stack(norms, axis=2))], axis=2) for norms in (d_weights, d_biases)),
            np.log([norm(y) for y in x]).T,
        )
    return columns_of(dict(zip(VARIABLES, logs, strict=True)))


def states_at_the_input(ground):
    return np.broadcast_to(ground.inputs.T, (REALIZATIONS, *ground.inputs.T.shape))


# with weights -------------------------------------------------------------------------------------------------------------------------------


def drawn_weights(rng, law, n, m):
    if law.law == "normal":
        return law.gain / np.sqrt(m) * rng.standard_normal((REALIZATIONS, n, m))
    frame = orthonormal(rng.standard_normal((REALIZATIONS, max(n, m), min(n, m))))
    return law.gain * (frame if n >= m else transposed(frame))


def explicit(rng, ground):
    """Networks with weights, all realizations at once; as a table."""
    network, batch = ground.network, len(ground.inputs)
    value, slope = ACTIVATIONS[network.activation]
    x, slopes, weights = [states_at_the_input(ground)], [], []
    for m, n in zip(network.widths[:-1], network.widths[1:], strict=True):
        weights.append(drawn_weights(rng, network.weights, n, m))
        h = weights[-1] @ x[-1] + (network.bias_std or 0.0) * rng.standard_normal((REALIZATIONS, n, 1))
        slopes.append(slope(h))
        x.append(value(h))
    probes = []
    for _ in range(ground.probes):
        v = rng.standard_normal((REALIZATIONS, network.widths[-1], batch))
        g, d_weights, d_biases = [v / norm(v)[:, None, None]], [], []
        for w, below, s in zip(weights[::-1], x[-2::-1], slopes[::-1], strict=True):
            delta = s * g[0]
            g.insert(0, transposed(w) @ delta)
            d_weights.insert(0, norm(delta @ transposed(below)))
            d_biases.insert(0, norm(delta.sum(axis=2, keepdims=True)))
        probes.append((g, d_weights, d_biases))
    gradients = [np.concatenate(layers, axis=2) for layers in zip(*(g for g, _, _ in probes), strict=True)]
    norms = [[np.column_stack(layer) for layer in zip(*(run[k] for run in probes), strict=True)] for k in (1, 2)]
    return recorded(gradients, x, *norms)


# without weights -----------------------------------------------------------------------------------------------------------------------------


class Sampler:
    """Theorems 2 and 3 of docs/conditional_sampler.md in the letters of that page, with a switch for mistakes."""

    def __init__(self, rng, ground, mistake=None):
        self.rng, self.mistake = rng, mistake
        network = ground.network
        self.widths, self.bias_std, self.gain = network.widths, network.bias_std or 0.0, network.weights.gain
        self.value, self.slope = ACTIVATIONS[network.activation]
        self.haar = network.weights.law == "orthogonal" and mistake != "Gaussian weights"
        self.batch, self.probes = len(ground.inputs), ground.probes
        self.x = [states_at_the_input(ground)]
        self.h, self.frames, self.bias, self.noises = [None], [None], None, []
        self.kept = {}

    def wrong(self, mistake):
        return self.mistake == mistake

    def normal(self, rows, columns):
        z = self.rng.standard_normal((REALIZATIONS, rows, columns))
        if self.wrong("shared by two realizations"):
            z[1::2] = z[::2]
        return z

    def scale(self, layer, backward=False):
        m, n = self.widths[layer - 1 : layer + 1]
        gain = self.gain * (1.05 if self.wrong("5 % of gain") else 1.0)
        if self.haar:
            return gain
        return gain / np.sqrt(n if self.wrong("fan of the other side") or (backward and self.wrong("transposed scale")) else m)

    def table(self):
        for layer in range(1, len(self.widths)):
            self.forward(layer)
        g = [self.drawn_probes()]
        d_weights, d_biases = [], []
        for layer in range(len(self.widths) - 1, 0, -1):
            seen = self.x[0] if layer == 1 else self.h[layer - 1]
            point = seen if self.wrong("slope of the layer below") else self.h[layer]
            slopes = np.tile(self.slope(point), (1, 1, self.probes))
            if self.wrong("slopes of the other inputs"):
                slopes = np.repeat(self.slope(point), self.probes, axis=2)
            delta = slopes * g[0]
            weight, bias = self.parameter_norms(layer, delta)
            d_weights.insert(0, weight)
            d_biases.insert(0, bias)
            g.insert(0, self.sent_down(layer, delta, g[0]))
        return recorded(g, self.x, d_weights, d_biases)

    # forward

    def decomposed(self, layer):
        """Q, R of x_layer."""
        if layer not in self.kept:
            self.kept[layer] = self.decompose(self.x[layer])
        return self.kept[layer]

    def decompose(self, x):
        q, r = np.linalg.qr(x)
        if self.wrong("one direction too few"):
            q, r = q[:, :, :-1], r[:, :-1]
        if self.wrong("R transposed"):
            r = transposed(r)
        if self.wrong("diagonal of R"):
            r = r * np.eye(r.shape[1])
        return q, r

    def forward(self, layer):
        q, r = self.decomposed(layer - 1)
        n = self.widths[layer]
        frame = self.new_frame(layer, q.shape[2])
        if self.wrong("frame shared by two layers") and layer == 3:
            frame = self.frames[2]
        y = self.scale(layer) * frame[:, :n] @ r
        if self.wrong("frame of each input"):
            y = np.concatenate([self.scale(layer) * self.normal(n, q.shape[2]) @ r[:, :, [b]] for b in range(self.batch)], axis=2)
        if self.bias is None or not self.wrong("bias shared by two layers"):
            self.bias = self.bias_std * self.normal(n, self.batch if self.wrong("bias of each input") else 1)
        self.frames.append(frame)
        self.h.append(y + self.bias)
        self.x.append(self.value(self.h[-1]))

    def new_frame(self, layer, rank):
        """G, or P."""
        m, n = self.widths[layer - 1 : layer + 1]
        if not self.haar:
            return self.normal(n, rank)
        if self.wrong("frame among the units"):
            return tall(orthonormal(self.normal(n, rank)), max(n, m))
        z = self.normal(max(n, m), rank)
        if self.wrong("frame not normalised"):
            return z / np.sqrt(max(n, m))
        if self.wrong("frame not orthogonal"):
            return columns_normalised(z)
        return np.linalg.qr(z)[0] if self.wrong("signs of the decomposition") else orthonormal(z)

    # backward

    def drawn_probes(self):
        n = self.widths[-1]
        drawn = [self.normal(n, self.batch) for _ in range(self.probes)]
        if self.wrong("one probe twice"):
            drawn[1] = drawn[0]
        if self.wrong("probe normalised for each input"):
            return np.concatenate([columns_normalised(v) / np.sqrt(self.batch) for v in drawn], axis=2)
        self.drawn = np.concatenate(drawn, axis=2)
        return np.concatenate([v / norm(v)[:, None, None] for v in drawn], axis=2)

    def parameter_norms(self, layer, delta):
        """|dl/dW| and |dl/db| of each probe, (realizations, probes), from Gram matrices."""
        x = self.x[layer if self.wrong("weight gradient with x of the layer above") else layer - 1]
        inputs = transposed(x) @ x
        weight, bias = [], []
        for p in range(self.probes):
            d = delta[:, :, p * self.batch : (p + 1) * self.batch]
            gram = transposed(d) @ d
            apart = np.eye(self.batch)
            weight.append(np.sum(gram * inputs * (apart if self.wrong("weight gradient of each input") else 1), axis=(1, 2)))
            bias.append(np.sum(gram * (apart if self.wrong("bias gradient without the sum over inputs") else 1), axis=(1, 2)))
        return [np.sqrt(np.maximum(np.column_stack(squares), 0.0)) for squares in (weight, bias)]

    def sent_down(self, layer, delta, g):
        """W^T Delta."""
        m = self.widths[layer - 1]
        q, r = self.decomposed(layer if self.wrong("Q of the layer above") else layer - 1)
        frame = self.frames[layer]
        if self.wrong("another frame in the backward pass"):
            frame = self.new_frame(layer, q.shape[2])
        if self.wrong("bias taken for weights"):
            frame = self.h[layer] @ np.linalg.inv(r) / self.scale(layer)
        delta, g = (tall(a, frame.shape[1]) for a in (delta, g))
        along = transposed(frame) @ delta
        if self.wrong("another frame for the second probe"):
            along[:, :, self.batch :] = transposed(self.new_frame(layer, q.shape[2])) @ delta[:, :, self.batch :]
        if self.wrong("nothing along Q"):
            along = 0.0 * along
        sent = g if self.wrong("S of g") else delta
        if self.haar and not self.wrong("delta not projected off the frame"):
            sent = off(frame, sent)
        if self.wrong("noise of each probe"):
            parts = np.split(sent, self.probes, axis=2)
            across = np.concatenate([self.noise(layer, q, part.shape[2]) @ np.linalg.qr(part, mode="r") for part in parts], axis=2)
        else:
            s = self.sizes(sent)
            across = self.noise(layer, q, s.shape[1]) @ s
        return self.scale(layer, backward=True) * (q @ along + across[:, :m])

    def sizes(self, sent):
        """S."""
        s = np.linalg.qr(sent, mode="r")
        if self.wrong("S transposed"):
            return transposed(s)
        if self.wrong("diagonal of S"):
            return s * np.eye(s.shape[1])
        if self.wrong("columns sent as if orthogonal"):
            return np.eye(sent.shape[2]) * np.sqrt(np.sum(sent * sent, axis=1, keepdims=True))
        return s

    def noise(self, layer, q, columns):
        """(1 - Q Q^T) Z, or V."""
        m, n = self.widths[layer - 1 : layer + 1]
        z = self.normal(max(n, m) if self.haar and not self.wrong("noise among the inputs") else m, columns)
        if self.wrong("noise shared by two columns"):
            z[:, :, 1] = z[:, :, 0]
        if self.wrong("noise shared by two probes"):
            z[:, :, self.batch :] = z[:, :, : self.batch]
        if self.wrong("noise shared by two layers"):
            self.noises.append(z)
            z = self.noises[0]
        if self.wrong("noise is the frame"):
            z = self.frames[layer]
        if self.wrong("probe reused as noise") and layer == len(self.widths) - 1:
            z = self.drawn
        if not self.wrong("projection dropped"):
            z = off(self.frames[layer] if self.wrong("noise projected off the frame") else tall(q, z.shape[1]), z)
        if not self.haar:
            return z
        if self.wrong("noise not normalised"):
            return z / np.sqrt(z.shape[1] - q.shape[2])
        return columns_normalised(z) if self.wrong("noise not orthogonal to itself") else orthonormal(z)


@cache
def explicit_sample(ground):
    return explicit(np.random.default_rng(2), GROUNDS[ground])


def judge(sample, ground):
    """(Bonferroni's p-value, what was least) of a sample against networks with weights."""
    return smallest(comparisons(sample, explicit_sample(ground)) | neighbours(sample))


@pytest.mark.parametrize("ground", GROUNDS)
def test_the_numpy_sampler_passes_without_a_mistake(ground):
    p, which = judge(Sampler(np.random.default_rng(4), GROUNDS[ground]).table(), ground)
    assert p > LEVEL, (p, which)


@pytest.mark.parametrize("ground", GROUNDS)
def test_the_engine_passes_on_the_same_grounds(ground):
    p, which = judge(GROUNDS[ground].measured(seed=3), ground)
    assert p > LEVEL, (p, which)


@pytest.mark.parametrize(("ground", "mistake"), [(ground, mistake) for ground, mistakes in MISTAKES.items() for mistake in mistakes])
def test_catches_a_planted_mistake(ground, mistake):
    p, _ = judge(Sampler(np.random.default_rng(5), GROUNDS[ground], mistake).table(), ground)
    assert p < LEVEL, p


def test_the_error_budget_holds():
    assert 2 * len(GROUNDS) <= TESTS
