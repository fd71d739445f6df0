"""The command ``fastgrad``: measure one network, draw the demo, tell about the installation, compile ahead.

Results go to stdout, progress and complaints to stderr. Bodies of commands import what they need, so that
``fastgrad --help`` answers at once.

Exit codes: 0 done; 1 an error in fastgrad itself (with traceback); 2 a mistake in the command, a file or the
size of the request (one sentence); 130 interrupted.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, CycloptsError, Parameter

from fastgrad import __version__
from fastgrad.cli_options import (
    NETWORK,
    CellOptions,
    MeasureOptions,
    OutputOptions,
    Switch,
    Whole,
    Wholes,
    build_network,
    check_folder,
    given,
)
from fastgrad.errors import unknown

if TYPE_CHECKING:
    import xarray as xr

    from fastgrad.growth import Growth
    from fastgrad.measure import Measured
    from fastgrad.networks import Network

__all__ = ["app", "main"]

_CODES = """Results go to stdout, progress and messages to stderr. Exit codes:
  0    done
  1    an error in fastgrad itself
  2    a mistake in the command, in a file or in the size of the request
  130  interrupted"""

app = App(
    name="fastgrad",
    help="Measure how gradients explode or vanish across thousands of layers and time steps.",
    help_epilogue=_CODES,
    help_format="plaintext",
    version=__version__,
    suppress_keyboard_interrupt=False,
)
measure_app = App(
    name="measure",
    help="Measure gradient norms through one network: growth per layer or step, verdict, number range.",
)
app.command(measure_app)

Description = Annotated[Path | None, Parameter(group=NETWORK)]
Text = Annotated[str | None, Parameter(group=NETWORK)]
Number = Annotated[float | None, Parameter(group=NETWORK)]


def main(tokens: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    tokens
        The words after ``fastgrad``; those of the process when None.

    Returns
    -------
    int
        The exit code: 0, 1, 2 or 130, as in the module's docstring.
    """
    words = sys.argv[1:] if tokens is None else list(tokens)
    if tokens is None:  # this process is ours
        # Imports and compilation make a million objects that stay: looking for garbage among them is a sixth of a short run.
        gc.set_threshold(50_000, 20, 20)
    try:
        with _one_line_warnings():
            app(words, exit_on_error=False, print_error=False, result_action="return_value")
            sys.stdout.flush()
    except KeyboardInterrupt:
        _complain("interrupted")
        return 130
    except BrokenPipeError:
        # The reader of a pipe had enough; Python would complain once more when it flushes stdout at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except ModuleNotFoundError:
        return _internal_error()
    except (CycloptsError, ValueError, OSError, ImportError, MemoryError) as error:
        # ImportError: what is missing is optional, and the sentence says how to get it.
        _complain(str(error) or type(error).__name__)
        return 2
    except Exception:
        return _internal_error()
    return 0


def _internal_error() -> int:
    import traceback

    traceback.print_exc()
    _complain(f"an error in fastgrad {__version__} itself; please report it with the lines above")
    return 1


# --- measure -------------------------------------------------------------------------------------------


@measure_app.default
def measure_file(
    kind: Annotated[str | None, Parameter(show=False)] = None,
    /,
    *,
    network: Description = None,
    how: MeasureOptions = MeasureOptions(),  # noqa: B008 - frozen
    output: OutputOptions = OutputOptions(),  # noqa: B008
) -> None:
    """Measure the network of a file, of whatever kind, or choose a kind: fastgrad measure mlp --help.

    Parameters
    ----------
    network
        Description of the network, FILE.json or .toml.
    """
    from fastgrad.networks import Network

    if kind is not None:
        raise ValueError(unknown("kind", kind, ("mlp", "rnn", "lstm", "gru")))
    if network is None:
        raise ValueError("measure needs a kind of network, mlp, rnn, lstm or gru, or --network FILE.json.")
    _measure(Network, network, {}, how, output)


@measure_app.command
def mlp(
    *,
    depth: Annotated[Whole, Parameter(group=NETWORK)] = None,
    width: Annotated[Whole, Parameter(group=NETWORK)] = None,
    widths: Annotated[Wholes, Parameter(group=NETWORK)] = None,
    activation: Text = None,
    output_activation: Text = None,
    weights: Text = None,
    gain: Number = None,
    value: Number = None,
    bias_std: Number = None,
    network: Description = None,
    how: MeasureOptions = MeasureOptions(),  # noqa: B008
    output: OutputOptions = OutputOptions(),  # noqa: B008
) -> None:
    """Measure a multilayer perceptron, as in: fastgrad measure mlp --depth 1000 --width 256 --gain 1.3

    Parameters
    ----------
    depth
        Number of layers.
    width
        Number of units of every layer and of the input.
    widths
        All widths from the input to the output, in place of --depth and --width.
    activation
        linear, tanh, sigmoid, relu, leaky_relu, elu, selu, gelu, silu, softplus, erf or sin (tanh).
    output_activation
        linear: no activation after the last layer (the same as the others).
    weights
        Law of the weights: normal, uniform, orthogonal (with --gain), constant (with --value), or a scheme's
        name: he_normal, he_uniform, xavier_normal, xavier_uniform, lecun_normal, pytorch_default (normal).
    gain
        Gain of the weights: standard deviation times the square root of fan_in (1); alone it means normal.
    value
        Value of constant weights.
    bias_std
        Standard deviation of Gaussian biases (what PyTorch does for the scheme; none for a law).
    network
        Description of the network, FILE.json or .toml; options given beside it replace what it says.
    """
    from fastgrad.networks import MLP

    options = {
        "depth": depth,
        "width": width,
        "widths": widths,
        "activation": activation,
        "output_activation": output_activation,
        "weights": weights,
        "gain": gain,
        "value": value,
        "bias_std": bias_std,
    }
    _measure(MLP, network, options, how, output)


@measure_app.command
def rnn(
    *,
    cell: CellOptions = CellOptions(),  # noqa: B008
    activation: Text = None,
    network: Description = None,
    how: MeasureOptions = MeasureOptions(),  # noqa: B008
    output: OutputOptions = OutputOptions(),  # noqa: B008
) -> None:
    """Measure a plain recurrent network, as in: fastgrad measure rnn --steps 1000 --width 64 --gain 1.2

    Parameters
    ----------
    activation
        linear, tanh, sigmoid, relu, leaky_relu, elu, selu, gelu, silu, softplus, erf or sin (tanh).
    network
        Description of the network, FILE.json or .toml; options given beside it replace what it says.
    """
    from fastgrad.networks import RNN

    _measure(RNN, network, {**given(cell), "activation": activation}, how, output)


@measure_app.command
def lstm(
    *,
    cell: CellOptions = CellOptions(),  # noqa: B008
    forget_bias: Number = None,
    network: Description = None,
    how: MeasureOptions = MeasureOptions(),  # noqa: B008
    output: OutputOptions = OutputOptions(),  # noqa: B008
) -> None:
    """Measure an LSTM, as in: fastgrad measure lstm --steps 1000 --width 64 --forget-bias 1

    Parameters
    ----------
    forget_bias
        Total bias of the forget gate (as the other biases).
    network
        Description of the network, FILE.json or .toml; options given beside it replace what it says.
    """
    from fastgrad.networks import LSTM

    _measure(LSTM, network, {**given(cell), "forget_bias": forget_bias}, how, output)


@measure_app.command
def gru(
    *,
    cell: CellOptions = CellOptions(),  # noqa: B008
    network: Description = None,
    how: MeasureOptions = MeasureOptions(),  # noqa: B008
    output: OutputOptions = OutputOptions(),  # noqa: B008
) -> None:
    """Measure a GRU, as in: fastgrad measure gru --steps 1000 --width 64 --plot gru.png

    Parameters
    ----------
    network
        Description of the network, FILE.json or .toml; options given beside it replace what it says.
    """
    from fastgrad.networks import GRU

    _measure(GRU, network, given(cell), how, output)


def _measure(
    kind: type[Network],
    description: Path | None,
    options: dict[str, Any],
    how: MeasureOptions,
    output: OutputOptions,
) -> None:
    output.check()
    network = build_network(kind, description, {k: v for k, v in options.items() if v is not None})
    found = _run(network, given(how), _wants_progress(output.progress))
    if output.save is not None:
        _write(output.save, lambda path: found.dataset().to_netcdf(path, engine="h5netcdf"))
    if output.plot is not None:
        _write(output.plot, lambda path: _draw(found.dataset(), network, path))
    _report(found, network, output)


def _run(network: Network, options: dict[str, Any], progress: bool) -> Measured:
    from fastgrad.input_files import read_inputs
    from fastgrad.measure import measured
    from fastgrad.weight_files import read_state_dict

    weights_file = options.pop("weights_file", None)
    if weights_file is not None:
        options["weights"] = read_state_dict(weights_file)
        options.setdefault("realizations", 1)
    if "inputs" in options:
        options["inputs"] = read_inputs(options["inputs"])
    return measured(network, progress=progress, **options)


def _wants_progress(asked: bool | None) -> bool:
    return sys.stderr.isatty() if asked is None else asked


def _draw(ds: xr.Dataset, network: Network, path: Path) -> None:
    from matplotlib.figure import Figure

    from fastgrad.plots import plot_growth, style

    with style():
        figure = Figure()
        ax = plot_growth(ds, ax=figure.subplots())
        ax.set_title(str(network), fontsize=9)
        figure.savefig(path)


def _write(path: Path, write: Any) -> None:
    """Write beside `path` and move there, so that an interrupted run leaves no half file."""
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        write(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _report(found: Measured, network: Network, output: OutputOptions) -> None:
    from fastgrad.growth import growth_of

    answer = growth_of(found.variables, found.coords, threshold=output.threshold, confidence=output.confidence)
    files = [str(path) for path in (output.save, output.plot) if path is not None]
    if output.json:
        _print_json(network, answer, found.attrs, files)
        return
    print(network)
    print(answer)
    print(f"seed          {found.attrs['seed']}")
    print(f"method        {found.attrs['method']}, {found.attrs['dtype']}")
    for file in files:
        print(f"written       {file}")


def _print_json(network: Network, answer: Growth, attributes: dict[str, Any], files: list[str]) -> None:
    import json

    result = {
        "network": json.loads(network.to_json()),
        "growth": answer.to_dict(),
        "attributes": {name: _plain(value) for name, value in attributes.items()},
        "files": files,
    }
    print(json.dumps(result, indent=2, allow_nan=False))


def _plain(value: Any) -> Any:
    """NumPy scalars as Python's, anything that JSON does not know as text."""
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if isinstance(value, str | int | None) else str(value)


# --- the other commands --------------------------------------------------------------------------------


@app.command
def demo(*, out: Path = Path("demo_output"), rng: Whole = None, threads: Whole = None) -> None:
    """Measure what the field is about, on real data, in five pictures and one table (under a minute).

    Parameters
    ----------
    out
        Folder for the pictures; made if need be.
    rng
        Seed, an integer (0).
    threads
        Number of threads (all cores).
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file; name a folder.")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--out {out} cannot be made ({error.strerror}); name a folder that can be written.") from None
    check_folder("--out", out)
    from fastgrad.demo import run_demo

    print(run_demo(out, rng=rng or 0, threads=threads, progress=sys.stderr.isatty()))


@app.command
def info(*, json: Switch = False) -> None:
    """Tell versions, whether the C extension is in use, threads, and the folder of compiled kernels.

    Parameters
    ----------
    json
        Print JSON.
    """
    from fastgrad.installation import installation

    found = installation()
    if json:
        from json import dumps

        print(dumps(found, indent=2))
        return
    for name, value in found.items():
        print(f"{name:<14} {value}")


@app.command
def warmup() -> None:
    """Compile the usual kernels now, so that the first measurement does not wait for them."""
    import time

    import fastgrad

    start = time.perf_counter()
    fastgrad.warmup()
    print(f"kernels are compiled and kept ({time.perf_counter() - start:.1f} s)")


# --- messages ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _one_line_warnings() -> Iterator[None]:
    """Warnings as one sentence on stderr, without file and line."""

    def show(message: Warning | str, category: type[Warning], *_where: Any, **_kwargs: Any) -> None:
        _complain(f"warning: {message}")

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def _complain(message: str) -> None:
    print("fastgrad:", " ".join(message.split()), file=sys.stderr)
