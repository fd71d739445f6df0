"""The laws from which weight matrices are drawn, and the named schemes of the field.

A law is a description: `draw` turns it, for one matrix, into a distribution with one number.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal, NamedTuple, Never, TypeAlias, get_args

from fastgrad.description import Description, FiniteNumber, PositiveNumber, as_size
from fastgrad.errors import shown, unknown

__all__ = [
    "SCHEMES",
    "Constant",
    "Draw",
    "Normal",
    "Orthogonal",
    "Scheme",
    "Uniform",
    "Weights",
    "as_weights",
    "draw",
    "weights_to_data",
]

Scheme = Literal[
    "he_normal",
    "he_uniform",
    "xavier_normal",
    "xavier_uniform",
    "lecun_normal",
    "orthogonal",
    "pytorch_default",
]
"""The named schemes, as a type that editors complete."""

SCHEMES: tuple[str, ...] = get_args(Scheme)
"""The named schemes."""


class _Law(Description):
    """What the laws have in common: their number is always shown, also when it is the default."""

    def _shown_arguments(self) -> Iterator[tuple[str, Any]]:
        yield from self._arguments().items()


class Normal(_Law):
    """Independent Gaussian weights of mean 0 and variance ``gain**2 / fan_in``.

    Parameters
    ----------
    gain : float, default 1.0
        A finite number greater than 0, without unit. The mean-field papers call it sigma_w.

    Raises
    ------
    ValueError
        One sentence that names every problem.

    Examples
    --------
    >>> Normal(1.3)
    Normal(gain=1.3)
    """

    law: ClassVar[str] = "normal"
    gain: PositiveNumber

    def __init__(self, gain: float = 1.0, **unknown: Never) -> None:
        self._fill({"gain": gain}, unknown)


class Uniform(_Law):
    """Independent uniform weights of mean 0 and variance ``gain**2 / fan_in``.

    The interval is ``+-gain * sqrt(3 / fan_in)``.

    Parameters
    ----------
    gain : float, default 1.0
        A finite number greater than 0, without unit.

    Raises
    ------
    ValueError
        One sentence that names every problem.
    """

    law: ClassVar[str] = "uniform"
    gain: PositiveNumber

    def __init__(self, gain: float = 1.0, **unknown: Never) -> None:
        self._fill({"gain": gain}, unknown)


class Orthogonal(_Law):
    """``gain`` times a matrix drawn from the Haar measure on matrices with orthonormal rows or columns.

    Parameters
    ----------
    gain : float, default 1.0
        A finite number greater than 0, without unit: every singular value equals it.

    Raises
    ------
    ValueError
        One sentence that names every problem.

    References
    ----------
    Saxe, McClelland, Ganguli 2014, "Exact solutions to the nonlinear dynamics of learning in deep linear
    neural networks", arXiv:1312.6120.
    """

    law: ClassVar[str] = "orthogonal"
    gain: PositiveNumber

    def __init__(self, gain: float = 1.0, **unknown: Never) -> None:
        self._fill({"gain": gain}, unknown)


class Constant(_Law):
    """Every weight has the same value.

    Parameters
    ----------
    value : float
        Any finite number, without unit.

    Raises
    ------
    ValueError
        One sentence that names every problem.
    """

    law: ClassVar[str] = "constant"
    value: FiniteNumber

    def __init__(self, value: float, **unknown: Never) -> None:
        self._fill({"value": value}, unknown)


Weights: TypeAlias = Normal | Uniform | Orthogonal | Constant | Scheme | str
"""A law, or the name of a scheme."""

_LAWS: dict[str, type[Normal] | type[Uniform] | type[Orthogonal] | type[Constant]] = {
    law.law: law for law in (Normal, Uniform, Orthogonal, Constant)
}


class Draw(NamedTuple):
    """A distribution for the entries of one matrix.

    Attributes
    ----------
    kind
        ``"normal"``, ``"uniform"``, ``"orthogonal"`` or ``"constant"``.
    scale
        The standard deviation, the half-width of the interval around 0, the gain, or the value, in this
        order.
    """

    kind: Literal["normal", "uniform", "orthogonal", "constant"]
    scale: float


def draw(law: Weights, fan_in: int, fan_out: int) -> Draw:
    """Return the distribution of the entries of one weight matrix of shape ``(fan_out, fan_in)``.

    With *n* = fan_in and *m* = fan_out, and the meaning that each name has in PyTorch:

    ================== =========================================== ==========================================
    law                distribution                                source
    ================== =========================================== ==========================================
    Normal(gain)       N(0, gain**2 / n)
    Uniform(gain)      U(+-gain sqrt(3 / n)): the same variance
    Orthogonal(gain)   gain times Haar                             Saxe et al. 2014
    Constant(value)    value
    he_normal          N(0, 2 / n)                                 He et al. 2015, eq. 10; kaiming_normal_
    he_uniform         U(+-sqrt(6 / n))                            He et al. 2015; kaiming_uniform_
    xavier_normal      N(0, 2 / (n + m))                           Glorot & Bengio 2010, eq. 12
    xavier_uniform     U(+-sqrt(6 / (n + m)))                      Glorot & Bengio 2010, eq. 16
    lecun_normal       N(0, 1 / n)                                 LeCun et al. 1998, eq. 16
    orthogonal         Haar                                        Saxe et al. 2014; orthogonal_
    pytorch_default    U(+-1 / sqrt(n))                            nn.Linear, nn.RNN, nn.LSTM, nn.GRU
    ================== =========================================== ==========================================

    Parameters
    ----------
    law
        A law or the name of a scheme.
    fan_in
        Number of columns. For ``"pytorch_default"`` in a recurrent net pass the net's width also for the
        input weights: ``nn.RNN``, ``nn.LSTM`` and ``nn.GRU`` draw everything from U(+-1 / sqrt(hidden_size)).
    fan_out
        Number of rows; of one gate in a recurrent net.

    Returns
    -------
    Draw
        The kind of distribution and its one number.

    Raises
    ------
    ValueError
        When the scheme is not known or a fan is not an integer of at least 1.

    References
    ----------
    - Glorot, Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks",
    AISTATS.
    - He, Zhang, Ren, Sun 2015, "Delving deep into rectifiers", arXiv:1502.01852.
    - LeCun, Bottou, Orr, Mueller 1998, "Efficient BackProp", in Neural Networks: Tricks of the Trade.
    - Saxe, McClelland, Ganguli 2014, arXiv:1312.6120.
    - ``nn.Linear`` calls ``kaiming_uniform_(a=sqrt(5))``, which is U(+-1 / sqrt(fan_in)).

    Examples
    --------
    >>> draw("he_normal", 200, 100)
    Draw(kind='normal', scale=0.1)
    """
    n, m = as_size(fan_in, "fan_in"), as_size(fan_out, "fan_out")
    match as_weights(law, "law"):
        case Normal(gain=gain):
            return Draw("normal", gain / math.sqrt(n))
        case Uniform(gain=gain):
            return Draw("uniform", gain * math.sqrt(3 / n))
        case Orthogonal(gain=gain):
            return Draw("orthogonal", gain)
        case Constant(value=value):
            return Draw("constant", value)
        case str(scheme):
            return _draw_scheme(scheme, n, m)


def _draw_scheme(scheme: str, n: int, m: int) -> Draw:
    match scheme:
        case "he_normal":
            return Draw("normal", math.sqrt(2 / n))
        case "he_uniform":
            return Draw("uniform", math.sqrt(6 / n))
        case "xavier_normal":
            return Draw("normal", math.sqrt(2 / (n + m)))
        case "xavier_uniform":
            return Draw("uniform", math.sqrt(6 / (n + m)))
        case "lecun_normal":
            return Draw("normal", 1 / math.sqrt(n))
        case "orthogonal":
            return Draw("orthogonal", 1.0)
        case "pytorch_default":
            return Draw("uniform", 1 / math.sqrt(n))
    raise ValueError(unknown("law", scheme, SCHEMES))


def as_weights(value: Any, argument: str) -> Weights:
    """Return a checked law or scheme from what a user or a file gave.

    Parameters
    ----------
    value
        A law, the name of a scheme, or a mapping such as ``{"law": "normal", "gain": 1.3}``.
    argument
        The argument's name, for the sentence.

    Returns
    -------
    Weights
        A law, or the name of a scheme.

    Raises
    ------
    ValueError
        One sentence that names the argument.
    """
    if isinstance(value, Normal | Uniform | Orthogonal | Constant):
        return value
    if isinstance(value, str):
        if value not in SCHEMES:
            raise ValueError(_unknown_scheme(argument, value))
        return str(value)
    if isinstance(value, Mapping):
        return _from_data(value, argument)
    hint = f"; write {value.__name__}(...)" if value in _LAWS.values() else ""
    raise ValueError(
        f"{argument}={shown(value)} is not allowed: {argument} must be Normal(gain), Uniform(gain), "
        f"Orthogonal(gain), Constant(value) or the name of a scheme ({', '.join(SCHEMES)}){hint}"
    )


def weights_to_data(weights: Weights) -> str | dict[str, Any]:
    """Return what `as_weights` reads back: a scheme's name, or the law's name with its number.

    Parameters
    ----------
    weights
        A law or the name of a scheme.

    Returns
    -------
    str or dict
        Strings and floats only, fit for JSON and TOML.
    """
    return weights if isinstance(weights, str) else {"law": weights.law, **weights._arguments()}


def _unknown_scheme(argument: str, value: str) -> str:
    law = _LAWS.get(value.casefold())
    hint = f"; for that law write {law.__name__}(...)" if law and value not in SCHEMES else ""
    return unknown(argument, value, SCHEMES) + hint


def _from_data(data: Mapping[str, Any], argument: str) -> Weights:
    name = data.get("law")
    if not isinstance(name, str) or name not in _LAWS:
        raise ValueError(unknown(f"{argument}.law", name, _LAWS))
    try:
        return _LAWS[name]._from_arguments({key: value for key, value in data.items() if key != "law"})
    except ValueError as error:
        raise ValueError(f"{argument}: {error}") from None
