"""Frozen descriptions that are checked when they are made: what networks and weight laws have in common.

Pydantic does the checking and collects every problem; here its report becomes one `ValueError` of sentences.
The signature of ``__init__`` is the only place where arguments and defaults are written.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import cache
from inspect import Parameter, signature
from numbers import Integral, Real
from typing import Annotated, Any, ClassVar, NoReturn, Self

from pydantic import BaseModel, ConfigDict, PlainValidator, ValidationError, ValidationInfo
from pydantic_core import ErrorDetails

from fastgrad.errors import nearest, not_allowed, shown

__all__ = [
    "Description",
    "FiniteNumber",
    "NumberFromZero",
    "OptionalNumber",
    "OptionalSize",
    "PositiveNumber",
    "Size",
    "as_size",
    "optional",
]

LARGEST_SIZE = 2**31 - 1


class Description(BaseModel):
    """A frozen, hashable, comparable description whose every problem is reported at once."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    def _fill(self, values: Mapping[str, Any], extra: Mapping[str, Any]) -> None:
        """Check the values and take them over; raise one ValueError that names every problem."""
        try:
            BaseModel.__init__(self, **values, **extra)
        except ValidationError as error:
            names = list(_parameters(type(self)))
            problems = [_sentence(details, names) for details in error.errors(include_url=False)]
            raise ValueError(f"{type(self).__name__}: {'; '.join(problems)}") from None

    @classmethod
    def _from_arguments(cls, given: Mapping[str, Any]) -> Self:
        """Build from named arguments read from a file, where also a missing one needs a sentence."""
        new = cls.__new__(cls)
        new._fill({**_defaults(cls), **given}, {})
        return new

    def _arguments(self) -> dict[str, Any]:
        """Return the arguments that make an equal description, in the order of the signature."""
        return {name: getattr(self, name) for name in _parameters(type(self))}

    def _shown_arguments(self) -> Iterator[tuple[str, Any]]:
        """Yield the arguments that differ from their defaults."""
        defaults = _defaults(type(self))
        for name, value in self._arguments().items():
            if name not in defaults or value != defaults[name]:
                yield name, value

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some arguments changed, checked like a new description.

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
        return self._from_arguments({**self._arguments(), **changes})

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return `replace` of the update: pydantic's own method would skip the checks."""
        return self.replace(**(update or {}))

    def __setattr__(self, name: str, value: object) -> NoReturn:
        hint = f"; make a changed copy with replace({name}=...)" if name in _parameters(type(self)) else ""
        raise AttributeError(f"{type(self).__name__} is frozen: {name} cannot be set{hint}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is frozen: {name} cannot be deleted")

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        yield from self._shown_arguments()

    def __str__(self) -> str:
        return repr(self)


@cache
def _parameters(cls: type[Description]) -> dict[str, Parameter]:
    """Return the arguments of ``__init__``, without self and the catch-all for unknown names."""
    parameters = signature(cls.__init__).parameters
    return {n: p for n, p in parameters.items() if n != "self" and p.kind is not Parameter.VAR_KEYWORD}


@cache
def _defaults(cls: type[Description]) -> dict[str, Any]:
    return {n: p.default for n, p in _parameters(cls).items() if p.default is not Parameter.empty}


def _sentence(details: ErrorDetails, names: list[str]) -> str:
    name = str(details["loc"][0]) if details["loc"] else ""
    if details["type"] == "extra_forbidden":
        match = nearest(name, names)
        hint = f"; did you mean {match!r}?" if match else "."
        return f"{name}={shown(details['input'])} is not an argument{hint} Known: {', '.join(names)}"
    if details["type"] == "missing":
        return f"{name} is missing"
    return str(details.get("ctx", {}).get("error", details["msg"]))


def as_size(value: Any, name: str) -> int:
    """Return a size (layers, units, steps) as an int; what is not an integer, bool included, is refused."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError(not_allowed(name, value, "an integer of at least 1"))
    size = int(value)
    if size < 1:
        raise ValueError(not_allowed(name, value, "an integer of at least 1"))
    if size > LARGEST_SIZE:
        raise ValueError(not_allowed(name, value, f"an integer of at most {LARGEST_SIZE:,}"))
    return size


def _finite(value: Any) -> float | None:
    """Return a finite number as a float, None for everything else."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _size(value: Any, info: ValidationInfo) -> int:
    return as_size(value, str(info.field_name))


def _number(value: Any, info: ValidationInfo) -> float:
    number = _finite(value)
    if number is None:
        raise ValueError(not_allowed(str(info.field_name), value, "a finite number"))
    return number


def _positive(value: Any, info: ValidationInfo) -> float:
    number = _finite(value)
    if number is None or number <= 0:
        raise ValueError(not_allowed(str(info.field_name), value, "a finite number greater than 0"))
    return number


def _from_zero(value: Any, info: ValidationInfo) -> float:
    number = _finite(value)
    if number is None or number < 0:
        raise ValueError(not_allowed(str(info.field_name), value, "None or a finite number of at least 0"))
    return abs(number)  # minus zero has no business in a standard deviation


def optional(check: Any) -> PlainValidator:
    """Make a validator that lets None through and hands everything else to `check`."""

    def validate(value: Any, info: ValidationInfo) -> Any:
        return None if value is None else check(value, info)

    return PlainValidator(validate)


Size = Annotated[int, PlainValidator(_size)]
OptionalSize = Annotated[int | None, optional(_size)]
FiniteNumber = Annotated[float, PlainValidator(_number)]
OptionalNumber = Annotated[float | None, optional(_number)]
PositiveNumber = Annotated[float, PlainValidator(_positive)]
NumberFromZero = Annotated[float | None, optional(_from_zero)]
