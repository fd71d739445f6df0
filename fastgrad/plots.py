"""Pictures of gradient growth: decades of a norm against layers or steps, and how far number formats reach.

Gradient norms reach 10^5000, where no float goes, so log10 of the norm is drawn on a linear axis whose
ticks read as powers of ten. Nothing here shows a figure or changes global settings.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import matplotlib.style
import numpy as np
from matplotlib.patches import Patch
from matplotlib.ticker import Formatter, Locator, MaxNLocator, StrMethodFormatter

from fastgrad.errors import unknown
from fastgrad.growth import FORMATS, Growth, Limit

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike, NDArray

    FloatArray = NDArray[np.float64]

__all__ = ["DecadeFormatter", "DecadeLocator", "plot_growth", "plot_limits", "style"]

_STYLE_FILE = Path(__file__).with_name("fastgrad.mplstyle")
_SUBSCRIPTS = {"layer": "l", "step": "t"}

# variable -> what the y axis says; {i} is l or t.
_SYMBOLS = {
    "gradient_log_norm": r"$\Vert\partial\ell/\partial {x}_{i}\Vert_2$",
    "gradient_log_max": r"$\Vert\partial\ell/\partial {x}_{i}\Vert_\infty$",
    "cell_gradient_log_norm": r"$\Vert\partial\ell/\partial c_{i}\Vert_2$",
    "weight_gradient_log_norm": r"$\Vert\partial\ell/\partial W_{i}\Vert_F$",
    "input_weight_gradient_log_norm": r"$\Vert\partial\ell/\partial U_{i}\Vert_F$",
    "bias_gradient_log_norm": r"$\Vert\partial\ell/\partial b_{i}\Vert_2$",
    "activation_log_norm": r"$\Vert {x}_{i}\Vert_2$",
}


def style() -> AbstractContextManager[None]:
    """Context in which new figures have fastgrad's look; leaving it restores every setting."""
    return matplotlib.style.context(_STYLE_FILE)


def plot_growth(
    ds: xr.Dataset,
    *,
    ax: Axes | None = None,
    variable: str = "gradient_log_norm",
    band: tuple[float, float] | None = (0.05, 0.95),
    theory: float | ArrayLike | None = None,
    label: str | None = None,
) -> Axes:
    """Draw the median over realizations of one log-norm variable, with a band, in decades.

    Parameters
    ----------
    ds
        Dataset of :func:`fastgrad.measure`. Stacked recurrent nets give one line per layer. Several probes are
        drawn as that many more samples: median and band mean what they do with one probe.
    ax
        Axes to draw on; a new figure when None. A second call with the same axes adds a line of another look.
    variable
        A variable of `ds` in natural logarithms, dims (realization, [probe or layer,] layer or step).
    band
        Lower and upper quantile over realizations, 0 <= low < high <= 1; None for no band. One realization
        has none.
    theory
        A slope in nats per layer or step towards the input, drawn through the median's end at the loss; or
        natural logarithms at each kept layer or step, shape (kept,).
    label
        What the legend calls this line; the number of realizations is added.

    Returns
    -------
    Axes
        The median is a Line2D of gid ``"median"`` (log10 of the norm), the band a PolyCollection of gid
        ``"band"``, the theory a Line2D of gid ``"theory"``.

    Raises
    ------
    ValueError
        When `ds` has no such variable, or `band` or `theory` has the wrong form.

    Examples
    --------
    >>> import fastgrad as fg
    >>> ds = fg.measure(fg.MLP(depth=100, width=32), realizations=20, rng=0)
    >>> ax = fg.plot_growth(ds, label="gain 1")
    """
    _check_band(band)
    unit = _unit(ds, variable)
    with style():
        ax = _new_axes() if ax is None else ax
        for suffix, curves in _layers(ds[variable], unit):
            _draw_curves(ax, curves, unit, band, " ".join(filter(None, [label, suffix])))
            if theory is not None:
                _draw_theory(ax, theory, np.asarray(curves[unit], dtype=np.float64))
        _decorate(ax, ds[variable], variable, unit, band)
    return ax


def plot_limits(growths: Mapping[str, Growth], *, ax: Axes | None = None) -> Axes:
    """Draw how far from the loss each number format overflows (filled) or underflows (hatched).

    Parameters
    ----------
    growths
        Name of a network -> what :func:`fastgrad.growth` says about it.
    ax
        Axes to draw on; a new figure when None.

    Returns
    -------
    Axes
        One group of four bars per network, distances in layers or steps on a log axis; a distance found by
        extrapolation is marked with ≈.

    Raises
    ------
    ValueError
        When `growths` is empty or one of them has no limits.
    """
    _check_growths(growths)
    with style():
        ax = _new_axes((6.4, 1.4 + 0.75 * len(growths))) if ax is None else ax
        longest = max(limit.distance or 1.0 for g in growths.values() for limit in g.limits.values())
        ax.set_xscale("log")
        ax.set_xlim(1, max(10.0, longest) ** 1.22)  # room for the numbers at the ends of the bars
        for row, g in enumerate(growths.values()):
            if all(limit.distance is None for limit in g.limits.values()):
                ax.text(1.1, row, "stays within every format", va="center", fontsize=8.5, color="0.35")
                continue
            for i, name in enumerate(FORMATS):
                _draw_limit(ax, row + (i - 1.5) * 0.2, g.limits[name], i)
        ax.set_yticks(range(len(growths)), list(growths))
        ax.set_ylim(len(growths) - 0.5, -0.5)
        ax.grid(False, axis="y")
        ax.tick_params(axis="y", length=0)
        ax.set_xlabel("distance from the loss (layers or steps)")
        ax.legend(handles=_limit_legend(), loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return ax


# --- checks --------------------------------------------------------------------------------------------


def _check_band(band: tuple[float, float] | None) -> None:
    if band is None:
        return
    if len(band) != 2 or not 0 <= band[0] < band[1] <= 1:
        raise ValueError(f"band={band!r} must be two quantiles, 0 <= low < high <= 1, such as (0.05, 0.95).")


def _unit(ds: xr.Dataset, variable: str) -> str:
    if variable not in ds:
        raise ValueError(unknown("variable", variable, map(str, ds.data_vars)))
    dims = ds[variable].dims
    if "realization" not in dims:
        raise ValueError(
            f"plot_growth needs the dimension 'realization', and {variable!r} has {dims}; "
            "keep it when selecting, as in ds.isel(realization=[0])."
        )
    for unit in ("step", "layer"):
        if unit in dims:
            return unit
    raise ValueError(f"variable={variable!r} has no dimension 'layer' or 'step' to draw along, only {dims}.")


def _check_growths(growths: Mapping[str, Growth]) -> None:
    if not growths:
        raise ValueError("growths is empty; give a name and its growth, as in {'MLP': fg.growth(ds)}.")
    for name, g in growths.items():
        if not g.limits:
            raise ValueError(f"growths[{name!r}] has no limits: its Dataset has no gradient_log_max.")


# --- curves --------------------------------------------------------------------------------------------


def _layers(variable: xr.DataArray, unit: str) -> list[tuple[str, xr.DataArray]]:
    """Split a stacked recurrent variable into its layers, each (realization, unit); probes go behind one another."""
    if unit == "step" and "layer" in variable.dims:
        return [
            (f"layer {number}", variable.isel(layer=i).transpose("realization", unit))
            for i, number in enumerate(np.asarray(variable["layer"]))
        ]
    if "probe" in variable.dims:
        variable = variable.stack(sample=("realization", "probe"), create_index=False)
        return [("", variable.transpose("sample", unit))]
    return [("", variable.transpose("realization", unit))]


def _samples(curves: xr.DataArray) -> str:
    """How many curves a line stands for, for the legend."""
    if "probe" in curves.coords and curves["probe"].ndim == 1:
        probes = np.unique(np.asarray(curves["probe"])).size
        return f"n = {curves.shape[0] // probes:,}, {probes:,} probes each"
    return f"n = {curves.shape[0]:,}"


def _draw_curves(
    ax: Axes, curves: xr.DataArray, unit: str, band: tuple[float, float] | None, label: str
) -> None:
    position = np.asarray(curves[unit], dtype=np.float64)
    decades = np.asarray(curves, dtype=np.float64) / math.log(10)
    look = _look(ax)
    n = _samples(curves)
    (line,) = ax.plot(
        position,
        _finite(_quantile(decades, 0.5)),
        label=f"{label}, {n}" if label else n,
        gid="median",
        **look,
        # A median of one or two points shows as dots, since a line would be invisible.
        marker="o" if position.size < 3 else "",
    )
    if band is not None and decades.shape[0] > 1:
        low, high = (_quantile(decades, q) for q in band)
        # Where exact zeros reach into the band, it goes down to the lowest number there is to draw.
        finite = decades[np.isfinite(decades)]
        low = np.maximum(low, finite.min()) if finite.size else low
        ax.fill_between(
            position, _finite(low), _finite(high), color=line.get_color(), alpha=0.18, linewidth=0, gid="band"
        )


def _look(ax: Axes) -> dict[str, Any]:
    """Colour and line style of the next median line: fastgrad's own cycle, also on axes made by others."""
    drawn = sum(line.get_gid() == "median" for line in ax.lines)
    looks = _cycle()
    return looks[drawn % len(looks)]


@functools.cache
def _cycle() -> tuple[dict[str, Any], ...]:
    settings = mpl.rc_params_from_file(_STYLE_FILE, use_default_template=False)
    return tuple(dict(look) for look in settings["axes.prop_cycle"])


def _quantile(values: FloatArray, q: float) -> FloatArray:
    """Quantile over realizations (axis 0), NaN left out, -inf smaller than every number."""
    # Interpolating between -inf and -inf would give NaN: a number far below all others stands in.
    lowest = -1e300
    stand_in = np.where(np.isneginf(values), lowest, values)
    missing = np.isnan(values)
    some, none = missing.any(axis=0), missing.all(axis=0)
    out = np.full(values.shape[1], np.nan)
    out[~some] = np.quantile(stand_in[:, ~some], q, axis=0)
    # A hundred times slower, so only where it is needed.
    out[some & ~none] = np.nanquantile(stand_in[:, some & ~none], q, axis=0)
    return np.where(out < lowest / 1e6, -np.inf, out)


def _finite(values: FloatArray) -> FloatArray:
    return np.where(np.isfinite(values), values, np.nan)


def _draw_theory(ax: Axes, theory: float | ArrayLike, position: FloatArray) -> None:
    values = np.asarray(theory, dtype=np.float64)
    if values.ndim == 0:
        medians = [line for line in ax.lines if line.get_gid() == "median"]
        at_loss = float(np.asarray(medians[-1].get_ydata(), dtype=np.float64)[-1])
        values = at_loss * math.log(10) + values * (position[-1] - position)
    if values.shape != position.shape:
        raise ValueError(
            f"theory has shape {values.shape}; give a slope in nats per layer or step, "
            f"or natural logarithms of shape {position.shape}, one for each kept layer or step."
        )
    first = all(line.get_gid() != "theory" for line in ax.lines)
    ax.plot(
        position,
        values / math.log(10),
        color="black",
        linewidth=1.0,
        linestyle=(0, (1, 1.6)),
        label="theory" if first else "_theory",
        gid="theory",
        zorder=2.5,
        # Where theory and measurement agree, the dots vanish in the median; the circles do not.
        marker="o",
        markersize=4,
        markerfacecolor="white",
        markeredgewidth=0.9,
        markevery=max(1, position.size // 12),
    )


# --- axes ----------------------------------------------------------------------------------------------


def _new_axes(size: tuple[float, float] | None = None) -> Axes:
    # pyplot only here: a notebook shows the figure, and callers who bring axes never touch its state.
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=size)[1]


class DecadeLocator(Locator):
    """Ticks for log10 values: whole decades where there are three or more, else round numbers in between."""

    def __call__(self) -> list[float]:
        """Ticks for the axis as it is."""
        low, high = self.axis.get_view_interval()  # type: ignore[union-attr]
        return self.tick_values(low, high)

    def tick_values(self, vmin: float, vmax: float) -> list[float]:
        """Ticks between `vmin` and `vmax`, both log10 of a number."""
        low, high = sorted((vmin, vmax))
        if high - low >= 3:
            return list(MaxNLocator(nbins=7, integer=True, steps=[1, 2, 5, 10]).tick_values(low, high))
        # Fewest digits first.
        for digits in ((1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 5.0, 7.0), tuple(np.arange(1.0, 10.0, 0.5))):
            ticks = _round_numbers(low, high, digits)
            if len(ticks) >= 3:
                return ticks
        return list(MaxNLocator(nbins=5).tick_values(low, high))


def _round_numbers(low: float, high: float, digits: tuple[float, ...]) -> list[float]:
    powers = np.arange(math.floor(low), math.ceil(high) + 1)
    ticks = (powers[:, None] + np.log10(digits)).ravel()
    return list(ticks[(ticks >= low) & (ticks <= high)])


class DecadeFormatter(Formatter):
    """Text for ticks at log10 values: powers of ten where all ticks are whole decades, else the numbers."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        """Text of one tick, for the cursor and the like."""
        return _power(x) if _is_whole(x) else _number(x)

    def format_ticks(self, values: Iterable[float]) -> list[str]:
        """Texts of all ticks of an axis, in one form."""
        values = list(values)
        text = _power if all(map(_is_whole, values)) else _number
        return [text(value) for value in values]


def _is_whole(decades: float) -> bool:
    return abs(decades - round(decades)) < 1e-9


def _power(decades: float) -> str:
    return f"$10^{{{round(decades)}}}$"


def _number(decades: float) -> str:
    if abs(decades) < 4:
        return f"{10**decades:.3g}"
    power = math.floor(decades + 1e-9)
    return rf"${10 ** (decades - power):.3g}\times10^{{{power}}}$"


def _decorate(
    ax: Axes, variable: xr.DataArray, name: str, unit: str, band: tuple[float, float] | None
) -> None:
    low, high = ax.get_ylim()
    if high - low < 0.5:  # flat curves: half a decade, so that rounding does not look like structure
        middle = 0.5 * (low + high)
        ax.set_ylim(middle - 0.25, middle + 0.25)
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.10g}"))
    ax.yaxis.set_major_locator(DecadeLocator())
    ax.yaxis.set_major_formatter(DecadeFormatter())
    ax.set_ylabel(f"{_symbol(variable, name, unit)}  (dimensionless)")
    ax.set_xlabel(_x_label(unit, ax))
    medians = sum(line.get_gid() == "median" for line in ax.lines)
    words = "median" if medians == 1 else "medians"
    if any(item.get_gid() == "band" for item in ax.collections) and band is not None:
        words += f"; band: {100 * band[0]:g}–{100 * band[1]:g} % of realizations"
    handles, _ = ax.get_legend_handles_labels()
    handles.sort(key=lambda handle: handle.get_gid() == "theory")  # what was measured first
    ax.legend(handles=handles, title=words, loc="best", alignment="left")


def _symbol(variable: xr.DataArray, name: str, unit: str) -> str:
    pattern = _SYMBOLS.get(name)
    if pattern is None:
        return str(variable.attrs.get("long_name", name))
    state = "x" if unit == "layer" else "h"
    return pattern.replace("{x}", state).replace("{i}", _SUBSCRIPTS[unit])


def _x_label(unit: str, ax: Axes) -> str:
    last = max(float(np.max(np.asarray(line.get_xdata(), dtype=np.float64))) for line in ax.lines)
    if unit == "layer":
        return f"layer $l$  (0: input, {last:,.0f}: loss)"
    return f"time step $t$  (0: start, {last:,.0f}: loss)"


# --- bars ----------------------------------------------------------------------------------------------


def _draw_limit(ax: Axes, y: float, limit: Limit, index: int) -> None:
    if limit.distance is None:
        ax.text(1.05, y, "in range", va="center", fontsize=7.5, color="0.35")
        return
    color = _cycle()[index]["color"]
    under = limit.kind == "underflow"
    ax.barh(
        y,
        limit.distance - 1 or 0.02,
        left=1,
        height=0.17,
        facecolor="white" if under else color,
        edgecolor=color,
        hatch="//////" if under else None,
        linewidth=0.8,
        gid=limit.kind,
    )
    mark = "≈ " if limit.extrapolated else ""
    ax.annotate(
        f"{mark}{limit.distance:,.0f}",
        (limit.distance, y),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        fontsize=7.5,
    )


def _limit_legend() -> list[Patch]:
    formats = [Patch(color=_cycle()[i]["color"], label=name) for i, name in enumerate(FORMATS)]
    kinds = [
        Patch(facecolor="0.4", edgecolor="0.4", label="filled: overflow"),
        Patch(facecolor="white", edgecolor="0.4", hatch="//////", label="hatched: underflow"),
    ]
    return [*formats, *kinds, Patch(color="none", label="≈ extrapolated")]
