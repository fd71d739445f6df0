"""Do two samples of networks have one law? Every variable at every layer, and all of them jointly.

A sample is a table (realizations, columns): one column for each variable and kept layer, in nats, -inf where a gradient is exactly zero.
`comparisons` gives a p-value for each of

    KS       Kolmogorov-Smirnov distance of a column. With n realizations on both sides P(D > t) <= 2 exp(-n t^2), n >= 458,
             whatever the law (Wei & Dudley 2012, Statist. Probab. Lett. 82: Dvoretzky-Kiefer-Wolfowitz for two samples)
    mean     difference of the means of a column's normal scores (van der Waerden's test): shifts
    moment   difference of the mean products of two columns' normal scores, every pair and every square: spread, correlations across
             layers and between forward and backward pass
    direction, top, bottom   KS of 16 fixed random projections of the normal scores of all columns together, of their largest and least

Normal scores are those of the pooled ranks, mid-ranks for ties: an atom at -inf is a value like any other, and heavy tails do no harm.
The z-tests' normal approximation is good at the levels used: the two samples are of one size, so third moments cancel, and n is
10^4. With n = 20,000 a test at level 1e-11 (z = 6.8) misses

    a shift of a column by 0.1 of its standard deviation,            with probability 1e-3
    a correlation that should be 0 and is 0.1,                       with probability 1e-3
    a distribution function wrong by 0.055 somewhere (KS alone),     with probability 1e-3.
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr, ndtri
from threadpoolctl import threadpool_limits

VARIABLES = (
    "gradient_log_norm",
    "gradient_log_max",
    "weight_gradient_log_norm",
    "bias_gradient_log_norm",
    "activation_log_norm",
)
DIRECTIONS = 16


def table(data):
    """{column name: (realizations,)} of a Dataset, or of a dict of arrays (realizations, layers) in the order of `VARIABLES`."""
    columns = {}
    for name in VARIABLES:
        values = np.asarray(data[name])
        for k in range(values.shape[1]):
            if np.isnan(values[:, k]).all():  # no weights belong to the input
                continue
            assert not np.isnan(values[:, k]).any(), (name, k)
            columns[f"{name}[{k}]"] = np.round(values[:, k], 5)  # the law, not the rounding errors
    return columns


@threadpool_limits.wrap(limits=1, user_api="blas")  # on products this small, threads that wait for each other cost ten times the work
def comparisons(first, second):
    """{what was compared: p-value} of two tables of one size."""
    assert list(first) == list(second)
    names, pooled = _moving(list(first), np.concatenate([_rows(first), _rows(second)], axis=1))
    n = pooled.shape[1] // 2
    assert n >= 458
    distance, ranks = _distances_and_ranks(pooled)
    scores = _normal_scores(ranks)
    found = dict(zip([f"KS {name}" for name in names], _tail_of_distance(distance, n), strict=True))
    u, v = scores[:, :n], scores[:, n:]
    found |= dict(zip([f"mean {name}" for name in names], _mean_difference(u, v), strict=True))
    found |= _moments(names, u, v)
    directions = np.random.default_rng(3).standard_normal((DIRECTIONS, len(names)))
    joint = np.vstack([directions @ scores, scores.max(axis=0), scores.min(axis=0)])
    labels = [*[f"direction {k}" for k in range(DIRECTIONS)], "top", "bottom"]
    distance, _ = _distances_and_ranks(joint)
    return found | dict(zip(labels, _tail_of_distance(distance, n), strict=True))


def _rows(columns):
    return np.array(list(columns.values()))


def _moving(names, rows):
    """Those that are not constant: the norm of a unit probe has no law."""
    moving = rows.min(axis=1) < rows.max(axis=1)
    return np.array(names)[moving], rows[moving]


def _normal_scores(ranks):
    return ndtri(ranks / (ranks.shape[1] + 1))


def _distances_and_ranks(pooled):
    """Of each row, whose first half is one sample and second half the other: the KS distance, and mid-ranks 1 ... 2 n."""
    total = pooled.shape[1]
    n = total // 2
    order = np.argsort(pooled, axis=1)
    ordered = np.take_along_axis(pooled, order, axis=1)
    last = np.ones(pooled.shape, dtype=bool)  # of a run of equal values
    last[:, :-1] = ordered[:, 1:] != ordered[:, :-1]
    first = np.ones(pooled.shape, dtype=bool)
    first[:, 1:] = last[:, :-1]
    steps = np.cumsum(np.where(order < n, 1, -1), axis=1)
    distance = np.abs(np.where(last, steps, 0)).max(axis=1) / n
    position = np.arange(1, total + 1)
    start = np.maximum.accumulate(np.where(first, position, 0), axis=1)
    end = np.minimum.accumulate(np.where(last, position, total)[:, ::-1], axis=1)[:, ::-1]
    ranks = np.empty(pooled.shape)
    np.put_along_axis(ranks, order, (start + end) / 2, axis=1)
    return distance, ranks


def _tail_of_distance(distance, n):
    return np.minimum(1.0, 2.0 * np.exp(-n * distance**2))


def _mean_difference(u, v):
    variance = (u.var(axis=1) + v.var(axis=1)) / u.shape[1]
    return _two_sided((u.mean(axis=1) - v.mean(axis=1)) / np.sqrt(variance))


def _moments(names, u, v):
    i, j = np.triu_indices(len(names))
    n = u.shape[1]
    means, variances = [], []
    for scores in (u, v):
        mean = scores @ scores.T / n
        means.append(mean[i, j])
        variances.append((scores**2 @ (scores**2).T / n - mean**2)[i, j] / n)
    p = _two_sided((means[0] - means[1]) / np.sqrt(variances[0] + variances[1]))
    return dict(zip([f"moment {a} {b}" for a, b in zip(names[i], names[j], strict=True)], p, strict=True))


def _two_sided(z):
    return 2.0 * ndtr(-np.abs(z))


def smallest(p_values):
    """(Bonferroni's p-value of all of them together, which was least)."""
    name = min(p_values, key=p_values.get)
    return p_values[name] * len(p_values), name


def neighbours(columns):
    """{column: p-value} that realizations k and k + 1 are independent: correlation of their normal scores."""
    names, rows = _moving(list(columns), _rows(columns))
    _, ranks = _distances_and_ranks(rows)
    scores = _normal_scores(ranks)
    products = scores[:, 1:] * scores[:, :-1]
    z = products.mean(axis=1) / np.sqrt((products**2).mean(axis=1) / products.shape[1])
    return dict(zip([f"neighbours {name}" for name in names], _two_sided(z), strict=True))
