"""Options of the command line that several commands share, and what they become.

Nothing heavy is imported at the top: ``fastgrad --help`` reads this module.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter, Token

from fastgrad.errors import MissingFile, MissingPackage, UnreadableFile, unknown

if TYPE_CHECKING:
    from fastgrad.networks import Network
    from fastgrad.weights import Weights

__all__ = ["CellOptions", "MeasureOptions", "OutputOptions", "build_network", "given", "law", "read_network"]


# --- words on the command line -> values ---------------------------------------------------------------


def _whole(_type: Any, tokens: Sequence[Token]) -> int:
    # cyclopts alone would round 5.5 to 6.
    return _integer(tokens[0].value)


def _wholes(_type: Any, tokens: Sequence[Token]) -> tuple[int, ...]:
    return tuple(_integer(part) for part in _parts(tokens))


def _names(_type: Any, tokens: Sequence[Token]) -> tuple[str, ...]:
    return tuple(_parts(tokens))


def _parts(tokens: Sequence[Token]) -> list[str]:
    parts = [part for token in tokens for part in token.value.split(",")]
    if not all(parts):
        raise ValueError("there is an empty entry between two commas")
    return parts


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an integer") from None


NETWORK = Group("Network", sort_key=1)
MEASUREMENT = Group("Measurement", sort_key=2)
OUTPUT = Group("Output", sort_key=3)

Whole = Annotated[int | None, Parameter(converter=_whole, n_tokens=1)]
Wholes = Annotated[
    tuple[int, ...] | None,
    Parameter(converter=_wholes, consume_multiple=True, negative="", metavar="INT,INT,..."),
]
Names = Annotated[
    tuple[str, ...] | None,
    Parameter(converter=_names, consume_multiple=True, negative="", metavar="NAME,NAME,..."),
]
Switch = Annotated[bool, Parameter(negative="")]


_LAWS = (
    "Law of the recurrent weights: normal, uniform, orthogonal (with --gain), constant (with --value), or a "
    "scheme's name: he_normal, he_uniform, xavier_normal, xavier_uniform, lecun_normal, pytorch_default "
    "(pytorch_default)."
)


# --- groups of options ---------------------------------------------------------------------------------


@Parameter(name="*", group=NETWORK)
@dataclass(frozen=True, kw_only=True)
class CellOptions:
    """What RNN, LSTM and GRU have in common; None: the network's own default."""

    steps: Whole = None
    """Number of time steps."""
    width: Whole = None
    """Number of units of every stacked layer."""
    layers: Whole = None
    """Number of stacked layers (1)."""
    input_width: Whole = None
    """Number of features of the input (equal to --width)."""
    weights: Annotated[str | None, Parameter(help=_LAWS)] = None
    gain: float | None = None
    """Gain of the recurrent weights; alone it means --weights normal."""
    value: float | None = None
    """Value of constant recurrent weights."""
    input_weights: str | None = None
    """Law of the input weights, as --weights (pytorch_default)."""
    input_gain: float | None = None
    """Gain of the input weights."""
    input_value: float | None = None
    """Value of constant input weights."""
    bias_std: float | None = None
    """Standard deviation of Gaussian biases (what PyTorch does)."""


@Parameter(name="*", group=MEASUREMENT)
@dataclass(frozen=True, kw_only=True)
class MeasureOptions:
    """How to measure; None: the default of fastgrad.measure."""

    realizations: Whole = None
    """Number of independent networks (100)."""
    rng: Whole = None
    """Seed, an integer; the same seed gives the same numbers (drawn from the system, and printed)."""
    inputs: Path | None = None
    """Inputs, FILE.npy, .npz or .csv: (batch, features), or (steps, batch, features) (standard normal)."""
    weights_file: Path | None = None
    """Weights of a trained network, FILE.npz or .safetensors, named as in PyTorch."""
    loss: str | None = None
    """probe: a random unit vector times the output; sum: the sum of the outputs (probe)."""
    probes: Whole = None
    """Random directions of the loss for each network (1); more than one goes with the conditional method."""
    method: str | None = None
    """dense, conditional or auto (auto)."""
    dtype: str | None = None
    """float32 or float64 (float32)."""
    record: Names = None
    """Variables to keep, for example gradient_log_norm,gradient_log_max (all)."""
    every: Whole = None
    """Keep each k-th layer or step, and both ends (1)."""
    threads: Whole = None
    """Number of threads (all cores); the numbers do not depend on it."""
    memory: float | None = None
    """Bytes that it may take, for example 2e9 (what is free); a request for more is refused before anything is computed."""


@Parameter(name="*", group=OUTPUT)
@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """What to do with the result."""

    plot: Path | None = None
    """Draw gradient norms into FILE.png, .pdf, .svg, .jpg or .webp."""
    save: Path | None = None
    """Save every number as FILE.nc (NetCDF 4, needs h5netcdf)."""
    json: Switch = False
    """Print the result as JSON."""
    threshold: float = 10.0
    """Factor over the whole network beyond which gradients explode, or below whose inverse they vanish."""
    confidence: float = 0.95
    """Level of the confidence interval."""
    progress: bool | None = None
    """Progress bar on stderr (when stderr is a terminal)."""

    def check(self) -> None:
        """Refuse, before anything is computed, what could not be written afterwards.

        Raises
        ------
        ValueError
            When a suffix is unknown, a folder is missing or not writable, h5netcdf is missing, or threshold
            or confidence is out of bounds.
        """
        from fastgrad.growth import check_bounds

        check_bounds(self.threshold, self.confidence)
        if self.plot is not None:
            _check_writable("--plot", self.plot, (".png", ".pdf", ".svg", ".jpg", ".webp"))
        if self.save is not None:
            _check_writable("--save", self.save, (".nc",))
            for module in ("h5netcdf", "h5py"):
                _check_installed(module, "--save", "fastgrad[netcdf]")


# --- networks ------------------------------------------------------------------------------------------


def given(options: Any) -> dict[str, Any]:
    """Options of a dataclass that are not None, by name."""
    values = {field.name: getattr(options, field.name) for field in fields(options)}
    return {name: value for name, value in values.items() if value is not None}


def law(weights: str | None, gain: float | None, value: float | None, prefix: str = "") -> Weights | None:
    """Weight law from --weights, --gain and --value; None when none is given.

    Parameters
    ----------
    weights
        Name of a law or scheme, or None.
    gain, value
        The law's number, or None.
    prefix
        ``"input_"`` for the options of the input weights.

    Raises
    ------
    ValueError
        When the name is not known or the number does not go with it.
    """
    from fastgrad.weights import SCHEMES, Constant, Normal, Orthogonal, Uniform

    start = f"--{prefix}".replace("_", "-")
    flag, gain_flag, value_flag = f"{start}weights", f"{start}gain", f"{start}value"
    with_gain = {"normal": Normal, "uniform": Uniform, "orthogonal": Orthogonal}
    if weights is None and gain is None and value is None:
        return None
    name = weights or ("constant" if gain is None else "normal")
    if name not in {*with_gain, "constant", *SCHEMES}:
        raise ValueError(unknown(flag, name, {*with_gain, "constant", *SCHEMES}))
    if gain is not None and name not in with_gain:
        raise ValueError(f"{gain_flag} goes with {flag} normal, uniform or orthogonal, not with {name}.")
    if value is not None and name != "constant":
        raise ValueError(f"{value_flag} goes with {flag} constant, not with {name}.")
    if name == "constant":
        if value is None:
            raise ValueError(f"{flag} constant needs {value_flag}, for example {value_flag} 2.")
        return Constant(value)
    if name not in with_gain:
        return name
    found: Weights = with_gain[name](1.0 if gain is None else gain)
    return found


def build_network(kind: type[Network], description: Path | None, options: dict[str, Any]) -> Network:
    """Network from a file, from options, or from a file with options in place of what it says.

    Parameters
    ----------
    kind
        MLP, RNN, LSTM or GRU; Network takes any kind from the file.
    description
        JSON or TOML file, or None.
    options
        Arguments of `kind` by name, with ``gain``, ``value`` and their ``input_`` forms in place of laws.

    Raises
    ------
    ValueError
        One sentence, when anything is missing or not allowed.
    """
    arguments = dict(options)
    for prefix in ("", "input_"):
        names = (f"{prefix}weights", f"{prefix}gain", f"{prefix}value")
        weights, gain, value = (arguments.pop(name, None) for name in names)
        found = law(weights, gain, value, prefix)
        if found is not None:
            arguments[f"{prefix}weights"] = found
    if description is not None:
        network = read_network(kind, description)
        return network.replace(**arguments) if arguments else network
    missing = [name for name in ("steps", "width") if kind.kind != "mlp" and name not in arguments]
    if missing:
        flags = " and ".join(f"--{name}" for name in missing)
        raise ValueError(f"measure {kind.kind} needs {flags}, for example --steps 1000 --width 64.")
    return kind(**arguments)


def read_network(kind: type[Network], path: Path) -> Network:
    """Network described by a JSON or TOML file.

    Raises
    ------
    ValueError
        When the file is missing, unreadable, of another suffix, or describes something else.
    """
    suffix = path.suffix.lower()
    if suffix not in (".json", ".toml"):
        raise ValueError(f"--network {path} must end in .json or .toml.")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise MissingFile(f"--network {path} does not exist.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableFile(f"--network {path} cannot be read: {_reason(error)}.") from None
    try:
        return kind.from_json(text) if suffix == ".json" else kind.from_toml(text)
    except ValueError as error:
        raise ValueError(f"--network {path}: {error}") from None


# --- files to write ------------------------------------------------------------------------------------


def _check_writable(flag: str, path: Path, suffixes: tuple[str, ...]) -> None:
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{flag} {path} must end in {' or '.join(suffixes)}.")
    if path.is_dir():
        example = path / f"growth{suffixes[0]}"
        raise ValueError(f"{flag} {path} is a folder; name a file in it, such as {example}.")
    if not path.parent.is_dir():
        raise ValueError(f"{flag} {path}: the folder {path.parent} does not exist; create it first.")
    if path.exists() and not os.access(path, os.W_OK):
        raise ValueError(f"{flag} {path} exists and may not be written.")
    check_folder(flag, path.parent)


def check_folder(flag: str, folder: Path) -> None:
    """Refuse a folder in which no file can be made, by making one.

    Raises
    ------
    ValueError
        When making a file fails.
    """
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = _reason(error)
        raise ValueError(f"{flag}: no file can be written in the folder {folder}: {reason}.") from None


def _check_installed(module: str, flag: str, extra: str) -> None:
    from importlib.util import find_spec

    if find_spec(module) is None:
        raise MissingPackage(f"{flag} needs {module}: pip install {extra!r}")


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
