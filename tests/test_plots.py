"""Pictures, judged by the artists they are made of."""

from __future__ import annotations

import math
from collections.abc import Iterator

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from fastgrad.growth import growth
from fastgrad.plots import DecadeFormatter, DecadeLocator, plot_growth, plot_limits

LN10 = math.log(10)


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    yield
    plt.close("all")


def dataset(slope: float = -0.1, length: int = 50, realizations: int = 21, dim: str = "layer") -> xr.Dataset:
    steps = np.random.default_rng(3).normal(slope, 0.05, (realizations, length))
    log_norm = np.concatenate([np.cumsum(steps, axis=1)[:, ::-1], np.zeros((realizations, 1))], axis=1)
    dims = ("realization", dim)
    data = {"gradient_log_norm": (dims, log_norm), "gradient_log_max": (dims, log_norm - 1)}
    return xr.Dataset(data, {dim: np.arange(length + 1)})


def lines(ax: Axes, gid: str) -> list[mpl.lines.Line2D]:
    return [line for line in ax.lines if line.get_gid() == gid]


def fresh_axes() -> Axes:
    return Figure().subplots()


def test_median_band_and_legend() -> None:
    ds = dataset()
    ax = plot_growth(ds, ax=fresh_axes(), band=(0.1, 0.9), label="gain 0.9")
    decades = ds["gradient_log_norm"].values / LN10
    (line,) = lines(ax, "median")
    np.testing.assert_allclose(line.get_ydata(), np.median(decades, axis=0))
    np.testing.assert_array_equal(line.get_xdata(), np.arange(51))
    (band,) = ax.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert heights.min() == pytest.approx(np.quantile(decades, 0.1, axis=0).min())
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["gain 0.9, n = 21"]
    assert legend.get_title().get_text() == "median; band: 10–90 % of realizations"


def test_axes_say_what_they_show() -> None:
    ax = plot_growth(dataset(), ax=fresh_axes())
    assert ax.get_xlabel() == "layer $l$  (0: input, 50: loss)"
    assert r"\partial x_l" in ax.get_ylabel()
    assert "(dimensionless)" in ax.get_ylabel()
    ax = plot_growth(dataset(dim="step"), ax=fresh_axes())
    assert "time step" in ax.get_xlabel()
    assert r"\partial h_t" in ax.get_ylabel()


def test_values_far_outside_float_range_get_decade_ticks() -> None:
    ax = plot_growth(dataset(slope=12.0, length=1000, realizations=3), ax=fresh_axes())
    ax.figure.draw_without_rendering()
    texts = [text.get_text() for text in ax.get_yticklabels()]
    assert "$10^{5000}$" in texts
    assert all(text.startswith("$10^{") for text in texts)


@pytest.mark.parametrize("span", [0.01, 0.3, 1.2, 2.0, 7.0, 90.0, 5000.0])
def test_ticks_at_every_scale(span: float) -> None:
    ticks = DecadeLocator().tick_values(-0.4 * span, 0.6 * span)
    inside = [t for t in ticks if -0.4 * span <= t <= 0.6 * span]
    assert 3 <= len(inside) <= 12
    if span >= 3:
        assert all(tick == round(tick) for tick in ticks)


def test_tick_texts_are_of_one_form() -> None:
    form = DecadeFormatter().format_ticks
    assert form([-20, 0, 20]) == ["$10^{-20}$", "$10^{0}$", "$10^{20}$"]
    assert form([0, math.log10(2), 1]) == ["1", "2", "10"]
    assert form([-30 + math.log10(5)]) == [r"$5\times10^{-30}$"]


def test_theory_slope_starts_at_the_loss() -> None:
    ax = plot_growth(dataset(), ax=fresh_axes(), theory=-0.1)
    (theory,) = lines(ax, "theory")
    y = np.asarray(theory.get_ydata())
    assert y[-1] == pytest.approx(0.0)
    assert y[0] == pytest.approx(-0.1 * 50 / LN10)


def test_theory_curve_is_drawn_as_given_and_named_once() -> None:
    ax = fresh_axes()
    curve = -np.sqrt(np.arange(51.0))
    plot_growth(dataset(), ax=ax, theory=curve)
    plot_growth(dataset(), ax=ax, theory=curve)
    np.testing.assert_allclose(lines(ax, "theory")[0].get_ydata(), curve / LN10)
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["n = 21", "n = 21", "theory"]


def test_four_lines_differ_in_style_and_in_grey() -> None:
    ax = fresh_axes()
    for i in range(4):
        plot_growth(dataset(), ax=ax, label=str(i))
    drawn = lines(ax, "median")
    assert len({str(line._dash_pattern) for line in drawn}) == 4  # type: ignore[attr-defined]
    grey = sorted(float(np.dot(to_rgb(line.get_color()), (0.2126, 0.7152, 0.0722))) for line in drawn)
    assert min(np.diff(grey)) > 0.1


def test_stacked_nets_draw_a_line_per_layer() -> None:
    one = dataset(dim="step")
    ds = xr.concat([one, one - 1.0], xr.DataArray([1, 2], dims="layer", name="layer"))
    ax = plot_growth(ds, ax=fresh_axes(), label="RNN")
    labels = [line.get_label() for line in lines(ax, "median")]
    assert labels == ["RNN layer 1, n = 21", "RNN layer 2, n = 21"]


def test_zeros_and_nan_leave_gaps_not_nonsense() -> None:
    ds = dataset()
    values = ds["gradient_log_norm"].values
    values[:3, :10] = -np.inf  # less than half: the median stays, the band reaches the lowest finite number
    values[3:, 0] = -np.inf
    values[4, :] = np.nan
    ax = plot_growth(ds, ax=fresh_axes())
    (line,) = lines(ax, "median")
    y = np.asarray(line.get_ydata())
    assert math.isnan(y[0])
    assert np.isfinite(y[1:]).all()
    heights = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert np.isfinite(heights).all()


def test_weight_gradients_start_at_layer_one() -> None:
    ds = dataset().rename(gradient_log_norm="weight_gradient_log_norm")
    ds["weight_gradient_log_norm"][:, 0] = np.nan
    ax = plot_growth(ds, ax=fresh_axes(), variable="weight_gradient_log_norm")
    assert r"\partial W_l" in ax.get_ylabel()
    assert math.isnan(np.asarray(lines(ax, "median")[0].get_ydata())[0])


def test_a_flat_curve_is_not_blown_up() -> None:
    ds = dataset()
    ds["gradient_log_norm"][:] = 1e-13 * np.random.default_rng(0).normal(size=(21, 51))
    low, high = plot_growth(ds, ax=fresh_axes()).get_ylim()
    assert high - low >= 0.5


def test_global_state_is_left_alone() -> None:
    plt.switch_backend("agg")
    before = mpl.rcParams.copy()
    figures = plt.get_fignums()
    plot_growth(dataset(), ax=fresh_axes())
    plot_limits({"net": growth(dataset())}, ax=fresh_axes())
    assert plt.get_fignums() == figures
    assert mpl.rcParams == before
    ax = plot_growth(dataset())
    assert plt.get_fignums() == [ax.figure.number]  # type: ignore[union-attr]
    assert mpl.rcParams == before


def test_limits_bars_and_numbers() -> None:
    growths = {"down": growth(dataset(-0.5)), "up": growth(dataset(0.5))}
    ax = plot_limits(growths, ax=fresh_axes())
    kinds = [bar.get_gid() for bar in ax.patches]
    assert kinds == ["underflow"] * 4 + ["overflow"] * 4
    assert [bar.get_hatch() is None for bar in ax.patches] == [False] * 4 + [True] * 4
    ends = [bar.get_x() + bar.get_width() for bar in ax.patches]
    assert ends == pytest.approx([limit.distance for g in growths.values() for limit in g.limits.values()])
    texts = [text.get_text() for text in ax.texts]
    assert texts[0] == f"{growths['down'].limits['float16'].distance:,.0f}"
    assert texts[3] == f"≈ {growths['down'].limits['float64'].distance:,.0f}"
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["down", "up"]


def test_limits_out_of_sight_are_said() -> None:
    ds = dataset()
    ds["gradient_log_norm"][:] = ds["gradient_log_max"][:] = 0.0
    ax = plot_limits({"flat": growth(ds)}, ax=fresh_axes())
    assert [text.get_text() for text in ax.texts] == ["stays within every format"]
    assert not ax.patches


def test_errors_are_sentences() -> None:
    ds = dataset()
    with pytest.raises(ValueError, match="did you mean 'gradient_log_norm'"):
        plot_growth(ds, variable="gradient_log_nrom")
    with pytest.raises(ValueError, match=r"ds\.isel\(realization=\[0\]\)"):
        plot_growth(ds.isel(realization=0))
    with pytest.raises(ValueError, match="no dimension 'layer' or 'step'"):
        plot_growth(ds.assign(total=ds["gradient_log_norm"].sum("layer")), variable="total")
    with pytest.raises(ValueError, match=r"band=\(5, 95\)"):
        plot_growth(ds, band=(5, 95))
    with pytest.raises(ValueError, match=r"theory has shape \(3,\)"):
        plot_growth(ds, ax=fresh_axes(), theory=[1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="growths is empty"):
        plot_limits({})
    with pytest.raises(ValueError, match=r"growths\['a'\] has no limits"):
        plot_limits({"a": growth(ds.drop_vars("gradient_log_max"))})
