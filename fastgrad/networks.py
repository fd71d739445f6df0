"""Descriptions of networks: frozen, checked when made, without arrays and without code that runs them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, Never, Self

from pydantic import Field, PlainValidator, ValidationInfo, model_validator

from fastgrad.activation_names import ACTIVATION_NAMES, ActivationName
from fastgrad.description import (
    Description,
    NumberFromZero,
    OptionalNumber,
    OptionalSize,
    Size,
    as_size,
    optional,
)
from fastgrad.errors import not_allowed, shown, unknown
from fastgrad.layer_widths import Depth, DifferingWidths, Runs
from fastgrad.texts import parse_json, parse_toml
from fastgrad.weights import Normal, Weights, as_weights, weights_to_data

__all__ = ["GRU", "LSTM", "MLP", "RNN", "Network", "Recurrent"]


def _activation(value: Any, info: ValidationInfo) -> str:
    if isinstance(value, str) and value in ACTIVATION_NAMES:
        return str(value)
    raise ValueError(unknown(str(info.field_name), value, ACTIVATION_NAMES))


def _linear(value: Any, info: ValidationInfo) -> str:
    if isinstance(value, str) and value == "linear":
        return "linear"
    must = "None (the same as the other layers) or 'linear'"
    raise ValueError(not_allowed(str(info.field_name), value, must))


def _weights(value: Any, info: ValidationInfo) -> Weights:
    return as_weights(value, str(info.field_name))


def _input_width(value: Any, info: ValidationInfo) -> int:
    if value is None:  # a wrong width has been reported already
        return int(info.data.get("width", 1))
    return as_size(value, "input_width")


_STANDARD_NORMAL = Normal(1.0)

InputWidth = Annotated[int, PlainValidator(_input_width)]
Activation = Annotated[str, PlainValidator(_activation)]
OutputActivation = Annotated[Literal["linear"] | None, optional(_linear)]
CheckedWeights = Annotated[Weights, PlainValidator(_weights)]


class Network(Description):
    """What all networks have in common: conversion to JSON and TOML and back.

    Use one of `MLP`, `RNN`, `LSTM`, `GRU`.
    """

    kind: ClassVar[str] = ""

    def __init__(self, *_: object, **__: object) -> None:
        raise TypeError(f"{type(self).__name__} describes no network by itself: use MLP, RNN, LSTM or GRU")

    @property
    def has_biases(self) -> bool:
        """Whether biases are drawn or set."""
        raise NotImplementedError

    @property
    def parameter_count(self) -> int:
        """Number of weights, and of biases where there are any."""
        raise NotImplementedError

    def to_json(self) -> str:
        """Return the description as one line of JSON.

        Returns
        -------
        str
            An object with ``kind`` and every argument that is not None; `from_json` makes an equal network of
            it.
        """
        return json.dumps(self._data(), allow_nan=False)

    def to_toml(self) -> str:
        """Return the description as TOML.

        Returns
        -------
        str
            A document with ``kind`` and every argument that is not None; `from_toml` makes an equal network
            of it.
        """
        import tomli_w  # here, because few need it

        return tomli_w.dumps(self._data())

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Make a network of what `to_json` returned, or of JSON written by hand.

        Parameters
        ----------
        text
            An object with ``kind`` ("mlp", "rnn", "lstm" or "gru") and the arguments of that class; those
            with a default may be absent. A weight law is a name or ``{"law": "normal", "gain": 1.3}``.

        Returns
        -------
        Network
            Of the class that ``kind`` names; called on a subclass, the kind must be that of the subclass.

        Raises
        ------
        ValueError
            One sentence: the text is not JSON, or what in it is not allowed.
        """
        where = f"{cls.__name__}.from_json"
        return cls._from_data(parse_json(text, where), where)

    @classmethod
    def from_toml(cls, text: str) -> Self:
        """Make a network of what `to_toml` returned, or of TOML written by hand.

        Parameters
        ----------
        text
            A document with ``kind`` ("mlp", "rnn", "lstm" or "gru") and the arguments of that class; those
            with a default may be absent. A weight law is a scheme's name or ``{law = "normal", gain = 1.3}``.

        Returns
        -------
        Network
            Of the class that ``kind`` names; called on a subclass, the kind must be that of the subclass.

        Raises
        ------
        ValueError
            One sentence: the text is not TOML, or what in it is not allowed.
        """
        where = f"{cls.__name__}.from_toml"
        return cls._from_data(parse_toml(text, where), where)

    def _data(self) -> dict[str, Any]:
        arguments = {name: value for name, value in self._arguments().items() if value is not None}
        for name in arguments.keys() & {"weights", "input_weights"}:
            arguments[name] = weights_to_data(arguments[name])
        return {"kind": self.kind, **arguments}

    @classmethod
    def _from_data(cls, data: Any, where: str) -> Self:
        if not isinstance(data, Mapping):
            raise ValueError(f"{where}: expected an object with kind and arguments, got {shown(data)}")
        if "kind" not in data:
            raise ValueError(f"{where}: kind is missing; it must be one of {', '.join(_KINDS)}")
        kind = data["kind"]
        target = _KINDS.get(kind) if isinstance(kind, str) else None
        if target is None:
            raise ValueError(f"{where}: {unknown('kind', kind, _KINDS)}")
        if not issubclass(target, cls):
            hint = f"read it with {target.__name__} or Network"
            raise ValueError(f"{where}: the text describes kind={kind!r}; {hint}")
        return target._from_arguments({name: value for name, value in data.items() if name != "kind"})


class MLP(Network):
    """A fully connected network: ``h_l = W_l x_{l-1} + b_l``, ``x_l = phi(h_l)`` for l = 1 ... depth.

    Give either `depth` and `width`, or `widths`; both only where they agree.

    Parameters
    ----------
    depth : int, optional
        Number of layers of weights, at least 1.
    width : int, optional
        Number of units in every layer, the input included, at least 1.
    widths : sequence of int, optional
        The widths ``(n_0, n_1, ..., n_depth)`` of the input and of every layer.
    activation : str, default "tanh"
        One of `fastgrad.activation_names.ACTIVATION_NAMES`.
    output_activation : {None, "linear"}, default None
        None: the last layer has the same activation as the others. "linear": it has none, as in most
        ``nn.Sequential`` models.
    weights : Normal, Uniform, Orthogonal, Constant or str, default Normal(1.0)
        The law of the weights, or the name of a scheme.
    bias_std : float, optional
        Standard deviation of Gaussian biases, a finite number of at least 0. None: what PyTorch does with the
        scheme, that is U(+-1 / sqrt(fan_in)) for ``"pytorch_default"`` and no bias otherwise.

    Raises
    ------
    ValueError
        One sentence that names every problem.

    Examples
    --------
    >>> MLP(1000, 256, weights=Normal(1.3), bias_std=0.1)
    MLP(depth=1000, width=256, weights=Normal(gain=1.3), bias_std=0.1)
    >>> MLP(widths=(784, 100, 10), activation="relu").depth
    2
    """

    kind: ClassVar[str] = "mlp"
    depth: Depth
    width: OptionalSize
    # Kept only where the widths differ: a depth of a billion must not cost a billion integers before it is
    # refused.
    differing_widths: DifferingWidths = Field(alias="widths")
    activation: Activation
    output_activation: OutputActivation
    weights: CheckedWeights
    bias_std: NumberFromZero

    def __init__(
        self,
        depth: int | None = None,
        width: int | None = None,
        *,
        widths: Iterable[int] | None = None,
        activation: ActivationName | str = "tanh",
        output_activation: Literal["linear"] | None = None,
        weights: Weights = _STANDARD_NORMAL,
        bias_std: float | None = None,
        **unknown: Never,
    ) -> None:
        values = {
            "depth": depth,
            "width": width,
            "widths": widths,
            "activation": activation,
            "output_activation": output_activation,
            "weights": weights,
            "bias_std": bias_std,
        }
        self._fill(values, unknown)

    @model_validator(mode="after")
    def _keep_one_form(self) -> Self:
        """Hold equal networks in one form, whichever arguments described them."""
        widths = self.differing_widths
        if widths is not None:
            constant = len(set(widths)) == 1
            depth, width = len(widths) - 1, widths[0] if constant else None
            self.__dict__.update(depth=depth, width=width, differing_widths=None if constant else widths)
        return self

    @property
    def widths(self) -> tuple[int, ...]:
        """The widths ``(n_0, ..., n_depth)``; a tuple of depth + 1 integers, made when asked for."""
        if self.differing_widths is not None:
            return self.differing_widths
        assert self.width is not None  # _keep_one_form leaves one of the two
        return (self.width,) * (self.depth + 1)

    @property
    def input_width(self) -> int:
        """Number of features of an input."""
        return self.widths[0] if self.width is None else self.width

    @property
    def has_biases(self) -> bool:
        """Whether biases are drawn."""
        return self.bias_std is not None or self.weights == "pytorch_default"

    @property
    def parameter_count(self) -> int:
        """Number of weights, and of biases where there are any."""
        if self.width is not None:
            return self.depth * self.width * (self.width + self.has_biases)
        return sum((below + self.has_biases) * width for below, width in pairwise(self.widths))

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some arguments changed; new widths replace depth and width, and the reverse.

        Parameters
        ----------
        **changes
            Arguments of the class and their new values.

        Returns
        -------
        MLP
            The changed copy; the original stays as it is.

        Raises
        ------
        ValueError
            When a name is unknown or a value not allowed; the sentence names every problem.
        """
        kept = self._arguments()
        if "widths" in changes:
            kept.update(depth=None, width=None)
        elif changes.keys() >= {"depth", "width"}:
            kept.update(widths=None)
        return self._from_arguments({**kept, **changes})

    def _arguments(self) -> dict[str, Any]:
        constant = self.width is not None
        return {
            "depth": self.depth if constant else None,
            "width": self.width,
            "widths": self.differing_widths,
            "activation": self.activation,
            "output_activation": self.output_activation,
            "weights": self.weights,
            "bias_std": self.bias_std,
        }

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        for name, value in self._shown_arguments():
            yield name, Runs(value) if name == "widths" else value


class Recurrent(Network):
    """What the recurrent networks have in common; use one of `RNN`, `LSTM`, `GRU`.

    The conventions are PyTorch's: two biases a layer, gates stacked in the order i f g o (LSTM) and r z n
    (GRU), the GRU's reset gate applied after the product.
    """

    gates: ClassVar[int] = 1
    """Number of matrices of shape (width, width) in ``weight_hh``: 1 (RNN), 4 (LSTM), 3 (GRU)."""

    steps: Size
    width: Size
    layers: Size
    input_width: InputWidth
    weights: CheckedWeights
    input_weights: CheckedWeights
    bias_std: NumberFromZero

    @property
    def input_widths(self) -> tuple[int, ...]:
        """The widths of what enters each stacked layer: ``(input_width, width, width, ...)``."""
        return (self.input_width,) + (self.width,) * (self.layers - 1)

    @property
    def has_biases(self) -> bool:
        """Whether biases are drawn or set."""
        return self.bias_std is not None or self.weights == "pytorch_default"

    @property
    def parameter_count(self) -> int:
        """Number of weights, and of biases (two for each row, as in PyTorch) where there are any."""
        rows = self.gates * self.width
        columns = self.input_width + (self.layers - 1) * self.width + self.layers * self.width
        return rows * (columns + 2 * self.layers * self.has_biases)

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some arguments changed; an input as wide as the network stays as wide as it.

        Parameters
        ----------
        **changes
            Arguments of the class and their new values.

        Returns
        -------
        Self
            The changed copy; the original stays as it is.

        Raises
        ------
        ValueError
            When a name is unknown or a value not allowed; the sentence names every problem.
        """
        kept = self._arguments()
        if self.input_width == self.width:
            kept["input_width"] = None
        return self._from_arguments({**kept, **changes})

    def _shown_arguments(self) -> Iterator[tuple[str, Any]]:
        for name, value in super()._shown_arguments():
            if name != "input_width" or value != self.width:
                yield name, value


class RNN(Recurrent):
    """Elman's network: ``h_t = phi(W h_{t-1} + b_hh + U x_t + b_ih)``, as ``nn.RNN``.

    Parameters
    ----------
    steps : int
        Number of time steps, at least 1.
    width : int
        Number of units of every stacked layer, at least 1.
    layers : int, default 1
        Number of stacked layers.
    input_width : int, optional
        Number of features of the input; None: equal to `width`.
    activation : str, default "tanh"
        One of `fastgrad.activation_names.ACTIVATION_NAMES`.
    weights, input_weights : Normal, Uniform, Orthogonal, Constant or str, default "pytorch_default"
        The laws of the recurrent matrices ``weight_hh`` and of the input matrices ``weight_ih``, or names of
        schemes.
    bias_std : float, optional
        Standard deviation of a Gaussian ``bias_ih`` (``bias_hh`` is then zero), a finite number of at least
        0. None: U(+-1 / sqrt(width)) for both biases with ``weights="pytorch_default"``, no bias otherwise.

    Raises
    ------
    ValueError
        One sentence that names every problem.

    Examples
    --------
    >>> RNN(1000, 64, weights=Normal(1.2))
    RNN(steps=1000, width=64, weights=Normal(gain=1.2))
    """

    kind: ClassVar[str] = "rnn"
    activation: Activation

    def __init__(
        self,
        steps: int,
        width: int,
        *,
        layers: int = 1,
        input_width: int | None = None,
        activation: ActivationName | str = "tanh",
        weights: Weights = "pytorch_default",
        input_weights: Weights = "pytorch_default",
        bias_std: float | None = None,
        **unknown: Never,
    ) -> None:
        values = {
            "steps": steps,
            "width": width,
            "layers": layers,
            "input_width": input_width,
            "activation": activation,
            "weights": weights,
            "input_weights": input_weights,
            "bias_std": bias_std,
        }
        self._fill(values, unknown)


class LSTM(Recurrent):
    """Long short-term memory with gates i, f, g, o, as ``nn.LSTM``.

    Hochreiter & Schmidhuber 1997, with the forget gate of Gers, Schmidhuber & Cummins 2000.

    Parameters
    ----------
    steps : int
        Number of time steps, at least 1.
    width : int
        Number of units of every stacked layer, at least 1.
    layers : int, default 1
        Number of stacked layers.
    input_width : int, optional
        Number of features of the input; None: equal to `width`.
    forget_bias : float, optional
        The total bias of the forget gate, any finite number: the forget part of ``bias_ih`` is set to it and
        that of ``bias_hh`` to zero. None: drawn like the other biases.
    weights, input_weights : Normal, Uniform, Orthogonal, Constant or str, default "pytorch_default"
        The laws of ``weight_hh`` and ``weight_ih``, or names of schemes; one matrix is drawn for each gate.
    bias_std : float, optional
        Standard deviation of a Gaussian ``bias_ih`` (``bias_hh`` is then zero), a finite number of at least
        0. None: U(+-1 / sqrt(width)) for both biases with ``weights="pytorch_default"``, no bias otherwise.

    Raises
    ------
    ValueError
        One sentence that names every problem.

    Examples
    --------
    >>> LSTM(steps=1000, width=64, forget_bias=1)
    LSTM(steps=1000, width=64, forget_bias=1.0)
    """

    kind: ClassVar[str] = "lstm"
    gates: ClassVar[int] = 4
    forget_bias: OptionalNumber

    def __init__(
        self,
        steps: int,
        width: int,
        *,
        layers: int = 1,
        input_width: int | None = None,
        forget_bias: float | None = None,
        weights: Weights = "pytorch_default",
        input_weights: Weights = "pytorch_default",
        bias_std: float | None = None,
        **unknown: Never,
    ) -> None:
        values = {
            "steps": steps,
            "width": width,
            "layers": layers,
            "input_width": input_width,
            "forget_bias": forget_bias,
            "weights": weights,
            "input_weights": input_weights,
            "bias_std": bias_std,
        }
        self._fill(values, unknown)

    @property
    def has_biases(self) -> bool:
        """Whether biases are drawn or set."""
        return self.forget_bias is not None or super().has_biases


class GRU(Recurrent):
    """Gated recurrent unit with gates r, z, n, as ``nn.GRU``.

    Cho et al. 2014, arXiv:1406.1078, in cuDNN's form: the reset gate multiplies after the product.

    Parameters
    ----------
    steps : int
        Number of time steps, at least 1.
    width : int
        Number of units of every stacked layer, at least 1.
    layers : int, default 1
        Number of stacked layers.
    input_width : int, optional
        Number of features of the input; None: equal to `width`.
    weights, input_weights : Normal, Uniform, Orthogonal, Constant or str, default "pytorch_default"
        The laws of ``weight_hh`` and ``weight_ih``, or names of schemes; one matrix is drawn for each gate.
    bias_std : float, optional
        Standard deviation of a Gaussian ``bias_ih`` (``bias_hh`` is then zero), a finite number of at least
        0. None: U(+-1 / sqrt(width)) for both biases with ``weights="pytorch_default"``, no bias otherwise.

    Raises
    ------
    ValueError
        One sentence that names every problem.

    Examples
    --------
    >>> GRU(1000, 64, layers=2)
    GRU(steps=1000, width=64, layers=2)
    """

    kind: ClassVar[str] = "gru"
    gates: ClassVar[int] = 3

    def __init__(
        self,
        steps: int,
        width: int,
        *,
        layers: int = 1,
        input_width: int | None = None,
        weights: Weights = "pytorch_default",
        input_weights: Weights = "pytorch_default",
        bias_std: float | None = None,
        **unknown: Never,
    ) -> None:
        values = {
            "steps": steps,
            "width": width,
            "layers": layers,
            "input_width": input_width,
            "weights": weights,
            "input_weights": input_weights,
            "bias_std": bias_std,
        }
        self._fill(values, unknown)


_KINDS: dict[str, type[Network]] = {network.kind: network for network in (MLP, RNN, LSTM, GRU)}
