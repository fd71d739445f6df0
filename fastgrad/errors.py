"""The sentences in which fastgrad refuses: what was got, what is allowed, the nearest match."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable
from typing import Any

__all__ = [
    "MissingFile",
    "MissingPackage",
    "RangeWarning",
    "TooLarge",
    "UnreadableFile",
    "nearest",
    "not_allowed",
    "shown",
    "unknown",
]


class RangeWarning(UserWarning):
    """A forward pass left the number range of its dtype; what lies beyond is NaN in the results."""


class TooLarge(MemoryError, ValueError):
    """A request was refused before any allocation because it cannot fit into memory."""


class UnreadableFile(OSError, ValueError):
    """A file could not be opened: it is a folder, or may not be read."""


class MissingFile(UnreadableFile, FileNotFoundError):
    """A named file does not exist."""


class MissingPackage(ImportError, ValueError):
    """An optional package is needed and not installed; the sentence says how to install it."""


def nearest(name: object, allowed: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """Return the allowed name that `name` was most likely meant to be.

    Case, spaces and hyphens are ignored, so that ``"He-Normal"`` finds ``"he_normal"``.

    Parameters
    ----------
    name
        What the user wrote. Anything but a string has no match.
    allowed
        The names that exist.
    cutoff
        Smallest similarity (`difflib.SequenceMatcher.ratio`, 0 to 1) that counts as near.

    Returns
    -------
    str or None
        The nearest name, None when nothing is near.
    """
    if not isinstance(name, str):
        return None
    folded: dict[str, str] = {}
    for candidate in allowed:
        folded.setdefault(_fold(candidate), candidate)
    # Comparing is quadratic in the length: a name of a million characters is nobody's slip of the finger.
    matches = difflib.get_close_matches(_fold(name[:200]), folded, n=1, cutoff=cutoff)
    return folded[matches[0]] if matches else None


def unknown(argument: str, got: object, allowed: Iterable[str]) -> str:
    """Say that a name is not known: ``activation='tahn' is not known; did you mean 'tanh'? Known: elu, ...``.

    Parameters
    ----------
    argument
        The argument that received the name.
    got
        The name received.
    allowed
        Every name that exists.

    Returns
    -------
    str
        The sentence, without a full stop, so that it can be joined with others.
    """
    names = sorted(allowed)
    match = nearest(got, names)
    hint = f"; did you mean {match!r}?" if match else "."
    return f"{argument}={shown(got)} is not known{hint} Known: {', '.join(names)}"


def not_allowed(argument: str, got: object, must: str) -> str:
    """Say that a value is not allowed: ``width=0 is not allowed: width must be an integer of at least 1``.

    Parameters
    ----------
    argument
        The argument that received the value.
    got
        The value received.
    must
        What it must be, continuing "width must be ...".

    Returns
    -------
    str
        The sentence, without a full stop.
    """
    return f"{argument}={shown(got)} is not allowed: {argument} must be {must}"


def shown(value: Any, limit: int = 80) -> str:
    """Represent any value on one line of at most about `limit` characters, whatever its size.

    Parameters
    ----------
    value
        Anything, also objects whose ``repr`` fails.
    limit
        Longest text wanted.

    Returns
    -------
    str
        Its ``repr``; for arrays their shape and dtype; shortened in the middle where long.
    """
    try:
        shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
        if isinstance(shape, tuple) and dtype is not None:
            if shape:
                return f"<array of shape {tuple(shape)} and dtype {dtype}>"
            value = value.item()
        text = " ".join(_brief(limit).repr(value).split())
    except Exception:  # a repr may raise anything, and the sentence must still come out
        text = f"<{type(value).__name__}>"
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _brief(limit: int) -> reprlib.Repr:
    brief = reprlib.Repr()
    brief.maxtuple = brief.maxlist = brief.maxarray = brief.maxdict = brief.maxset = 8
    brief.maxstring = brief.maxother = brief.maxlong = limit
    return brief


def _fold(name: str) -> str:
    return name.strip().casefold().replace("-", "_").replace(" ", "_")
