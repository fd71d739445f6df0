"""growth(): exact on deterministic curves, honest about scatter, zeros and what is missing."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import scipy.stats
import xarray as xr

from fastgrad.growth import FORMATS, Limit, growth

LN2 = math.log(2)


def curves(log_norm: object, *, log_max: object | None = None, dim: str = "layer") -> xr.Dataset:
    """Dataset of measure()'s form from an array (realization, layer or step)."""
    values = np.asarray(log_norm, dtype=float)
    dims = ("realization", dim)
    data = {"gradient_log_norm": (dims, values)}
    if log_max is not False:
        data["gradient_log_max"] = (dims, values if log_max is None else np.asarray(log_max, dtype=float))
    return xr.Dataset(data, coords={dim: np.arange(values.shape[1])})


def line(slope: float, length: int, dim: str = "layer") -> xr.Dataset:
    """One realization that grows by `slope` nats per layer from the loss (ln 1 = 0) to the input."""
    return curves([slope * np.arange(length, -1, -1.0)], dim=dim)


@pytest.mark.parametrize(
    ("weight", "kind", "expected"),
    [
        (2.0, "overflow", {"float16": 16, "bfloat16": 128, "float32": 128, "float64": 1024}),
        (0.5, "underflow", {"float16": 25, "bfloat16": 134, "float32": 150, "float64": 1075}),
    ],
)
@pytest.mark.parametrize("length", [2000, 100, 10])
@pytest.mark.parametrize("every", [1, 7])
def test_doubling_and_halving_leave_each_format_where_repeated_multiplication_does(
    weight: float, kind: str, expected: dict[str, int], length: int, every: int
) -> None:
    ds = line(math.log(weight), length)
    kept = sorted({*range(0, length, every), length})
    g = growth(ds.isel(layer=kept))
    for name, distance in expected.items():
        assert g.limits[name] == Limit(kind, distance, extrapolated=distance > length)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["float16", "float32", "float64"])
def test_formats_agree_with_numpy(name: str) -> None:
    info = np.finfo(name)
    assert FORMATS[name].log_max == pytest.approx(math.log(float(info.max)), rel=1e-15)
    assert FORMATS[name].log_min == pytest.approx(math.log(float(info.smallest_subnormal)) - LN2, rel=1e-15)


def test_batch_normalised_depths_of_the_field_table() -> None:
    # Squared norms that grow by 1.209831 a layer: norms reach 65504 after 117 layers, 3.4e38 after 932.
    g = growth(line(math.log(1.209831) / 2, 10))
    assert g.limits["float16"].distance == 117
    assert g.limits["float32"].distance == 932


def test_rate_total_and_t_interval() -> None:
    rng = np.random.default_rng(0)
    totals = rng.normal(30.0, 4.0, 12)
    g = growth(curves(totals[:, None] * np.linspace(1, 0, 51)), confidence=0.9)
    low, high = scipy.stats.t.interval(0.9, 11, totals.mean() / 50, scipy.stats.sem(totals) / 50)
    assert (g.rate, g.total) == (pytest.approx(totals.mean() / 50), pytest.approx(totals.mean()))
    assert g.ci == pytest.approx((low, high))
    assert (g.verdict, g.unit, g.length, g.realizations) == ("exploding", "layer", 50, 12)


@pytest.mark.parametrize(("centre", "verdict"), [(3.0, "exploding"), (-3.0, "vanishing"), (0.5, "stable")])
def test_verdict_confidence_is_the_probability_of_its_region(centre: float, verdict: str) -> None:
    totals = centre + np.random.default_rng(1).normal(0, 1.5, 6)
    g = growth(curves(totals[:, None] * np.linspace(1, 0, 11)))
    law = scipy.stats.t(5, totals.mean(), scipy.stats.sem(totals))
    bound = math.log(10)
    stable = law.cdf(bound) - law.cdf(-bound)
    region = {"exploding": law.sf(bound), "vanishing": law.cdf(-bound), "stable": stable}
    assert g.verdict == verdict
    assert g.verdict_confidence == pytest.approx(region[verdict])
    assert 0.5 < g.verdict_confidence < 0.999


def test_threshold_moves_the_verdict() -> None:
    ds = curves([[3.0, 0.0], [3.2, 0.0]])
    assert growth(ds, threshold=10).verdict == "exploding"
    assert growth(ds, threshold=100).verdict == "stable"


def test_one_realization_has_a_verdict_but_no_confidence() -> None:
    g = growth(line(LN2, 20, "step"))
    assert (g.verdict, g.unit) == ("exploding", "step")
    assert math.isnan(g.verdict_confidence)
    assert math.isnan(g.ci[0])
    assert "confidence" not in str(g)


def test_identical_realizations_are_certain() -> None:
    g = growth(curves(np.repeat(line(LN2, 37)["gradient_log_norm"].values / 3, 5, axis=0)))
    assert g.ci == (g.rate, g.rate)
    assert g.verdict_confidence == 1.0


def test_zeros_and_nonfinite_are_counted_and_enter_no_mean() -> None:
    values = np.array([[5.0, 2.0, 0.0], [7.0, 3.0, 0.0], [-np.inf, 1.0, 0.0], [np.nan, np.nan, 0.0]])
    g = growth(curves(values))
    assert (g.zero_fraction, g.nonfinite_fraction, g.realizations) == (0.25, 0.25, 4)
    assert g.total == pytest.approx(6.0)
    assert "1 of them have a gradient of exactly zero" in str(g)
    assert "1 of them have no finite gradient" in str(g)


def test_mostly_zero_means_vanishing_and_says_so() -> None:
    values = np.array([[5.0, 2.0, 0.0]] + [[-np.inf, -np.inf, 0.0]] * 3)
    g = growth(curves(values))
    assert g.verdict == "vanishing"
    assert str(g).startswith("vanishing: most gradients are exactly zero")
    assert g.verdict_confidence == pytest.approx(scipy.stats.beta(4, 2).sf(0.5))
    assert g.limits["float64"] == Limit("underflow", 1.0, False)


def test_all_zero() -> None:
    g = growth(curves([[-np.inf, 0.0]] * 3))
    assert (g.verdict, g.zero_fraction) == ("vanishing", 1.0)
    assert math.isnan(g.rate)
    assert "rate" not in str(g)


def test_stacked_layers_combine_as_one_vector() -> None:
    rng = np.random.default_rng(2)
    log_norm = rng.normal(0, 3, (4, 2, 9))
    dims = ("realization", "layer", "step")
    data = {"gradient_log_norm": (dims, log_norm), "gradient_log_max": (dims, log_norm)}
    ds = xr.Dataset(data, {"step": np.arange(9)})
    together = np.log(np.sqrt((np.exp(log_norm) ** 2).sum(axis=1)))
    g = growth(ds)
    assert g.unit == "step"
    assert g.total == pytest.approx((together[:, 0] - together[:, -1]).mean())
    assert growth(ds.transpose("step", "layer", "realization")).total == pytest.approx(g.total)


def test_stacked_layers_far_outside_the_range_of_float64() -> None:
    log_norm = np.array([[[9000.0, 0.0], [9000.0, -np.inf]]])
    ds = xr.Dataset({"gradient_log_norm": (("realization", "layer", "step"), log_norm)}, {"step": [0, 1]})
    assert growth(ds).total == pytest.approx(9000 + 0.5 * LN2, abs=1e-9)


def test_limits_use_the_median_and_the_largest_entry() -> None:
    base = line(LN2, 30)["gradient_log_norm"].values
    log_max = np.concatenate([base - 2 * LN2, base - LN2, base + 20 * LN2])
    g = growth(curves(np.repeat(base, 3, axis=0), log_max=log_max))
    assert g.limits["float16"] == Limit("overflow", 17.0, False)


def test_no_extrapolation_at_a_rate_of_unknown_sign() -> None:
    totals = np.array([-1.0, 1.2, -0.8, 0.9])
    g = growth(curves(totals[:, None] * np.linspace(1, 0, 5)))
    assert g.ci[0] < 0 < g.ci[1]
    assert g.limits["float32"] == Limit("none", None, False)
    assert "neither overflow nor underflow in sight" in str(g)


def test_without_largest_entries_there_are_no_limits() -> None:
    g = growth(curves([[1.0, 0.0]], log_max=False))
    assert g.limits == {}
    assert "no gradient_log_max" in str(g)


def test_text_and_json() -> None:
    g = growth(line(LN2, 5000))
    text = str(g)
    assert len(text.splitlines()) <= 12
    assert max(map(len, text.splitlines())) <= 120
    assert "10^1505.1" in text
    assert "overflows 1,024 layers from the loss" in text
    data = json.loads(json.dumps(g.to_dict(), allow_nan=False))
    assert data["ci"] == [None, None]
    assert data["limits"]["float16"] == {"kind": "overflow", "distance": 16.0, "extrapolated": False}


def test_errors_are_sentences() -> None:
    ds = line(1.0, 3)
    with pytest.raises(ValueError, match=r"needs the variable 'gradient_log_norm', .* has gradient_log_max"):
        growth(ds.drop_vars("gradient_log_norm"))
    with pytest.raises(ValueError, match=r"ds\.isel\(realization=\[0\]\)"):
        growth(ds.isel(realization=0))
    with pytest.raises(ValueError, match="both ends"):
        growth(ds.isel(layer=[0]))
    with pytest.raises(ValueError, match="none of the 1 realizations has a finite gradient"):
        growth(curves([[np.nan, np.nan]]))
    with pytest.raises(ValueError, match=r"threshold=0\.5"):
        growth(ds, threshold=0.5)
    with pytest.raises(ValueError, match="confidence=95"):
        growth(ds, confidence=95)
