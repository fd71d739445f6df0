"""The demo: five pictures and one table of what happens to gradients, measured on real data.

Handwritten digits (scikit-learn) go through MLPs, the yearly sunspot series through recurrent nets.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastgrad.errors import MissingPackage
from fastgrad.growth import Growth, factor_text, growth
from fastgrad.mean_field import mean_field_tanh
from fastgrad.measure import measure
from fastgrad.networks import GRU, LSTM, MLP, RNN, Network
from fastgrad.plots import plot_growth, plot_limits, style
from fastgrad.weights import Constant, Normal

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float64]

__all__ = ["CRITICAL_GAIN", "Demo", "DemoSize", "digits", "run_demo", "sunspots"]

# tanh layers are critical (chi_1 = 1) at weight variance 1.760955 when biases have variance 0.05
# (Schoenholz et al., arXiv:1611.01232, fig. 1, quote 1.76).
BIAS_STD = math.sqrt(0.05)
CRITICAL_GAIN = math.sqrt(1.760955)

# With PyTorch's default weights, U(+-1/sqrt(n)) of variance 1/(3n), the squared gradient shrinks by
# (1/3) (1/2) per ReLU layer: half of the units pass a gradient.
RELU_DEFAULT_RATE = 0.5 * math.log(1 / 6)


@dataclass(frozen=True, kw_only=True)
class DemoSize:
    """How large the demo's networks are, and how many of each are drawn."""

    depth: int = 1000
    width: int = 256
    relu_depth: int = 100
    steps: int = 1000
    hidden: int = 64
    deep_realizations: int = 20
    realizations: int = 60


@dataclass(frozen=True)
class Demo:
    """What the demo found; ``str()`` is its table.

    Parameters
    ----------
    width_one
        ``{name: {layers: factor}}``: gradient factors of the linear nets of width 1, from the engine.
    growths
        :class:`~fastgrad.growth.Growth` by name of the network.
    pictures
        The files written, (a) to (e).
    """

    width_one: Mapping[str, Mapping[int, float]]
    growths: Mapping[str, Growth]
    pictures: tuple[Path, ...]

    def __str__(self) -> str:
        pictures = ["Pictures:", *(f"  {path}" for path in self.pictures)]
        table = [*_table_lines(self.growths), _TABLE_NOTE]
        parts = [_width_one_lines(self.width_one), table, pictures]
        return "\n\n".join("\n".join(part) for part in parts)


def run_demo(
    out: Path | str,
    *,
    size: DemoSize = DemoSize(),
    rng: int = 0,
    threads: int | None = None,
    progress: bool = False,
) -> Demo:
    """Measure, draw and tabulate.

    Parameters
    ----------
    out
        Folder that exists; five PNG files go there.
    size
        Sizes of the networks and numbers of realizations.
    rng
        Seed.
    threads
        Number of threads; None: all cores.
    progress
        Show a progress bar on stderr once two seconds have passed.

    Raises
    ------
    MissingPackage
        When scikit-learn, which holds the digits, is not installed.
    """
    images, series = digits(), sunspots(size.steps)
    mlps, recurrent = _mlps(size, images.shape[1]), _recurrent(size)
    found: dict[str, xr.Dataset] = {}
    with _bar(2 + len(mlps) + len(recurrent), progress) as advance:
        for name, (network, realizations, inputs) in {
            **{name: (network, 1, None) for name, network in _WIDTH_ONE.items()},
            **{name: (*item, images) for name, item in mlps.items()},
            **{name: (network, size.realizations, series) for name, network in recurrent.items()},
        }.items():
            found[name] = measure(
                network,
                realizations=realizations,
                rng=rng,
                inputs=inputs,
                threads=threads,
                record=_variables(network),
            )
            advance()
    growths = {name: growth(found[name]) for name in (*mlps, *recurrent)}
    factors = {name: factors_from_loss(found[name]) for name in _WIDTH_ONE}
    return Demo(factors, growths, _draw_all(Path(out), found, growths))


def factors_from_loss(ds: xr.Dataset) -> dict[int, float]:
    """Factor of the first realization's gradient norm after 5 and 10 layers, counted from the loss."""
    log_norm = ds["gradient_log_norm"].values[0]
    return {layers: math.exp(log_norm[-1 - layers] - log_norm[-1]) for layers in (5, 10)}


# --- networks ------------------------------------------------------------------------------------------

_WIDTH_ONE = {
    f"weight {weight:g}": MLP(depth=10, width=1, activation="linear", weights=Constant(weight))
    for weight in (2.0, 0.5)
}
_GAINS = {"below": 0.9 * CRITICAL_GAIN, "at": CRITICAL_GAIN, "above": 1.1 * CRITICAL_GAIN}


def _tanh_name(where: str) -> str:
    return f"tanh MLP, gain {_GAINS[where]:.2f} ({where} critical)"


def _mlps(size: DemoSize, features: int) -> dict[str, tuple[Network, int]]:
    """Name -> (network, realizations)."""
    deep = (features, *[size.width] * size.depth)
    shallow = (features, *[size.width] * size.relu_depth)
    nets: dict[str, tuple[Network, int]] = {
        _tanh_name(where): (
            MLP(widths=deep, activation="tanh", weights=Normal(gain), bias_std=BIAS_STD),
            size.deep_realizations,
        )
        for where, gain in _GAINS.items()
    }
    for name, scheme in _RELU.items():
        nets[name] = (MLP(widths=shallow, activation="relu", weights=scheme), size.realizations)
    return nets


_RELU = {"ReLU MLP, PyTorch default": "pytorch_default", "ReLU MLP, He": "he_normal"}


def _recurrent(size: DemoSize) -> dict[str, Network]:
    shape: dict[str, Any] = {"steps": size.steps, "width": size.hidden, "input_width": 1}
    return {
        "RNN": RNN(**shape),
        "LSTM, forget bias 0": LSTM(**shape, forget_bias=0.0),
        "LSTM, forget bias 1": LSTM(**shape, forget_bias=1.0),
        "GRU": GRU(**shape),
    }


def _variables(network: Network) -> list[str]:
    names = ["gradient_log_norm", "gradient_log_max"]
    return [*names, "cell_gradient_log_norm"] if isinstance(network, LSTM) else names


# --- data ----------------------------------------------------------------------------------------------


def digits() -> FloatArray:
    """Ten handwritten digits, one of each class: (10, 64), mean 0 and variance 1 over scikit-learn's pixels.

    Raises
    ------
    MissingPackage
        When scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise MissingPackage(
            "the demo reads the handwritten digits of scikit-learn, which is not installed: "
            "pip install 'fastgrad[demo]'"
        ) from None
    pixels, classes = load_digits(return_X_y=True)
    scaled = (pixels - pixels.mean()) / pixels.std()
    first = [int(np.argmax(classes == digit)) for digit in range(10)]
    return np.asarray(scaled[first], dtype=np.float64)


def sunspots(steps: int) -> FloatArray:
    """Yearly mean sunspot number, 1700-2008, mean 0, variance 1: (steps, 1, 1); repeated beyond 309 years."""
    text = resources.files("fastgrad").joinpath("data/sunspots.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    values = np.array([float(row["value"]) for row in rows])
    return np.resize((values - values.mean()) / values.std(), (steps, 1, 1))


# --- pictures ------------------------------------------------------------------------------------------


def _draw_all(out: Path, found: Mapping[str, xr.Dataset], growths: Mapping[str, Growth]) -> tuple[Path, ...]:
    pictures: dict[str, Callable[[], Figure]] = {
        "a_width_one.png": lambda: _draw_width_one(found),
        "b_tanh_mlp.png": lambda: _draw_tanh(found),
        "c_relu_mlp.png": lambda: _draw_relu(found),
        "d_recurrent.png": lambda: _draw_recurrent(found),
        "e_number_formats.png": lambda: _draw_formats(growths),
    }
    with style():
        for name, draw in pictures.items():
            draw().savefig(out / name)
    return tuple(out / name for name in pictures)


def _figure(columns: int = 1, size: tuple[float, float] | None = None) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size)
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def _draw_width_one(found: Mapping[str, xr.Dataset]) -> Figure:
    figure, (ax,) = _figure()
    ax.margins(y=0.12)
    for name in _WIDTH_ONE:
        plot_growth(found[name], ax=ax, label=name)
        for layers, factor in factors_from_loss(found[name]).items():
            ax.annotate(
                f"{factor:.10g}",
                (10 - layers, math.log10(factor)),
                xytext=(6, 5 if factor > 1 else -5),  # on the side that the line leaves free
                textcoords="offset points",
                va="bottom" if factor > 1 else "top",
                fontsize=9,
            )
            ax.plot(10 - layers, math.log10(factor), marker="o", color=ax.lines[-1].get_color())
    ax.set_title("Width 1, linear: each layer multiplies the gradient by its weight")
    return figure


def _draw_tanh(found: Mapping[str, xr.Dataset]) -> Figure:
    figure, (ax,) = _figure()
    for where in ("above", "at", "below"):
        name = _tanh_name(where)
        slope = mean_field_tanh(_GAINS[where], BIAS_STD).rate
        plot_growth(found[name], ax=ax, label=f"gain {_GAINS[where]:.2f}, {where} critical", theory=slope)
    _name_theory(ax, "mean-field slope")
    layers, width = _shape(found[_tanh_name("at")])
    ax.set_title(f"tanh, {layers:,} layers of width {width}: ten handwritten digits")
    return figure


def _draw_relu(found: Mapping[str, xr.Dataset]) -> Figure:
    figure, (ax,) = _figure()
    for (name, _), slope in zip(_RELU.items(), (RELU_DEFAULT_RATE, 0.0), strict=True):
        plot_growth(found[name], ax=ax, label=name.removeprefix("ReLU MLP, "), theory=slope)
    _name_theory(ax, "mean-field slope")
    layers, width = _shape(found["ReLU MLP, He"])
    ax.set_title(f"ReLU, {layers:,} layers of width {width}: PyTorch's default weights lose the gradient")
    return figure


def _draw_recurrent(found: Mapping[str, xr.Dataset]) -> Figure:
    figure, (left, right) = _figure(2, (9.6, 4.0))
    right.sharey(left)
    # First, so that both panels give them the same looks.
    lstms = ("LSTM, forget bias 0", "LSTM, forget bias 1")
    for name in (*lstms, "RNN", "GRU"):
        plot_growth(found[name], ax=left, label=name)
    for name in lstms:
        plot_growth(found[name], ax=right, variable="cell_gradient_log_norm", label=name)
    left.set_title("Yearly sunspots, PyTorch's default weights: hidden state")
    right.set_title("Cell state of the LSTMs")
    return figure


def _draw_formats(growths: Mapping[str, Growth]) -> Figure:
    figure, (ax,) = _figure(1, (8.0, 1.2 + 0.62 * len(growths)))
    plot_limits(growths, ax=ax)
    ax.set_title("How far from the loss a gradient stays within each number format")
    return figure


def _name_theory(ax: Axes, name: str) -> None:
    legend = ax.get_legend()
    assert legend is not None  # plot_growth makes one
    for line in ax.lines:
        if line.get_label() == "theory":
            line.set_label(name)
    for text in legend.get_texts():
        if text.get_text() == "theory":
            text.set_text(name)


def _shape(ds: xr.Dataset) -> tuple[int, int]:
    """Number of layers and width of the last one, from the description that measure() keeps."""
    network = Network.from_json(ds.attrs["network"])
    assert isinstance(network, MLP)
    return network.depth, network.widths[-1]


# --- table ---------------------------------------------------------------------------------------------


def _width_one_lines(factors: Mapping[str, Mapping[int, float]]) -> list[str]:
    lines = ["Width 1, linear: factor of the gradient, measured"]
    for name, by_layers in factors.items():
        words = ", ".join(f"after {layers} layers {factor:.10g}" for layers, factor in by_layers.items())
        lines.append(f"  {name:<10}  {words}")
    return lines


def _table_lines(growths: Mapping[str, Growth]) -> list[str]:
    head = ("network", "growth per layer or step", "whole network", "verdict", "float32")
    rows = [head, *(_table_row(name, g) for name, g in growths.items())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return [lines[0].rstrip(), "-" * len(lines[0]), *(line.rstrip() for line in lines[1:])]


_TABLE_NOTE = (
    "± is the 95 % interval of the mean. At the critical gain, and with He's weights, infinite width keeps\n"
    "the gradient; what is lost here comes from the finite width, and grows with depth / width."
)


def _table_row(name: str, g: Growth) -> tuple[str, ...]:
    limit = g.limits["float32"]
    half = 0.5 * (g.ci[1] - g.ci[0])
    return (
        name,
        f"{g.rate:+.5f} ± {half:.5f} nats",
        f"{factor_text(g.total)} in {g.length:,} {g.unit}s",
        g.verdict,
        "stays in range"
        if limit.distance is None
        else f"{limit.kind}s after {limit.distance:,.0f}{' (extrapolated)' if limit.extrapolated else ''}",
    )


# --- progress ------------------------------------------------------------------------------------------


@contextmanager
def _bar(total: int, progress: bool) -> Iterator[Callable[[], object]]:
    from tqdm import tqdm

    with tqdm(total=total, desc="measuring", unit="net", delay=2, disable=not progress, leave=False) as bar:
        yield bar.update
