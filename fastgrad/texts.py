"""Reading JSON and TOML texts so that whatever is wrong with them comes out as one sentence."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from fastgrad.errors import not_allowed

__all__ = ["parse_json", "parse_toml"]


def parse_json(text: object, where: str) -> Any:
    """Parse JSON, refusing what JSON does not have (NaN) and names that appear twice.

    Parameters
    ----------
    text
        The text.
    where
        Who asks, the beginning of the sentence.

    Returns
    -------
    Any
        What the text holds.

    Raises
    ------
    ValueError
        When the text is not JSON.
    """
    try:
        return json.loads(
            _as_text(text, where), parse_constant=_no_constant, object_pairs_hook=_without_repetition
        )
    except (ValueError, RecursionError) as error:
        raise ValueError(_sentence(where, "JSON", error)) from None


def parse_toml(text: object, where: str) -> dict[str, Any]:
    """Parse TOML.

    Parameters
    ----------
    text
        The text.
    where
        Who asks, the beginning of the sentence.

    Returns
    -------
    dict
        What the text holds.

    Raises
    ------
    ValueError
        When the text is not TOML.
    """
    import tomllib  # here, because few need it and it takes a tenth of the import of fastgrad.networks

    try:
        return tomllib.loads(_as_text(text, where))
    except (ValueError, RecursionError) as error:
        raise ValueError(_sentence(where, "TOML", error)) from None


class _NotText(ValueError):
    """The argument is no str: its sentence is complete already."""


def _as_text(text: object, where: str) -> str:
    if not isinstance(text, str):
        raise _NotText(f"{where}: {not_allowed('text', text, 'a str')}")
    return text


def _sentence(where: str, language: str, error: Exception) -> str:
    if isinstance(error, _NotText):
        return str(error)
    reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
    return f"{where}: the text is not valid {language}: {reason}"


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for name, value in pairs:
        if name in data:
            raise ValueError(f"{name!r} appears twice")
        data[name] = value
    return data
