"""The widths of a fully connected network: checking them against depth and width, and writing them
shortly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Annotated, Any

from pydantic import PlainValidator, ValidationInfo

from fastgrad.description import as_size
from fastgrad.errors import not_allowed, shown

__all__ = ["Depth", "DifferingWidths", "Runs"]


def _depth(value: Any, info: ValidationInfo) -> int | None:
    try:
        return None if value is None else as_size(value, "depth")
    except ValueError as error:
        hint = "; for one width per layer write widths=..." if isinstance(value, list | tuple) else ""
        raise ValueError(f"{error}{hint}") from None


def _widths(value: Any, info: ValidationInfo) -> tuple[int, ...] | None:
    """Return the widths, and compare them with depth and width where these passed their own checks."""
    if value is None:
        given = {name: info.data.get(name, "wrong") for name in ("depth", "width")}
        missing = [name for name in given if given[name] is None]
        if missing:
            verb = "are" if len(missing) == 2 else "is"
            raise ValueError(f"{' and '.join(missing)} {verb} missing: give depth and width, or widths")
        return None
    widths = _sizes(value)
    depth, width = info.data.get("depth"), info.data.get("width")
    problems = []
    if depth is not None and depth != len(widths) - 1:
        clash = f"depth={depth} and widths={shown(widths)} disagree"
        problems.append(f"{clash}: these widths make a depth of {len(widths) - 1}")
    if width is not None and set(widths) != {width}:
        problems.append(f"width={width} and widths={shown(widths)} disagree: give one of the two")
    if problems:
        raise ValueError("; ".join(problems))
    return widths


def _sizes(value: Any) -> tuple[int, ...]:
    must = "a sequence of at least two integers: the widths of the input and of every layer"
    if isinstance(value, str | bytes | Mapping | set | frozenset) or not isinstance(value, Iterable):
        raise ValueError(not_allowed("widths", value, must))
    try:
        entries = list(value)
    except TypeError:  # an array without dimensions has __iter__ and refuses to iterate
        raise ValueError(not_allowed("widths", value, must)) from None
    if len(entries) < 2:
        raise ValueError(not_allowed("widths", value, must))
    widths, problems = [], []
    for l, entry in enumerate(entries):
        try:
            widths.append(as_size(entry, f"widths[{l}]"))
        except ValueError as error:
            problems.append(str(error))
    if problems:
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError("; ".join(problems[:3]) + more)
    return tuple(widths)


Depth = Annotated[int, PlainValidator(_depth)]  # None only until MLP has settled its widths
DifferingWidths = Annotated[tuple[int, ...] | None, PlainValidator(_widths)]


class Runs:
    """A tuple of widths whose repr writes long runs as products: ``(784,) + (256,) * 99 + (10,)``."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        self.widths = widths

    def __repr__(self) -> str:
        if len(self.widths) <= 8:
            return repr(self.widths)
        pieces: list[str] = []
        loose: list[int] = []
        for width, group in groupby(self.widths):
            count = sum(1 for _ in group)
            if count < 4:
                loose += [width] * count
                continue
            pieces += [repr(tuple(loose))] if loose else []
            pieces.append(f"({width},) * {count}")
            loose = []
        pieces += [repr(tuple(loose))] if loose else []
        return " + ".join(pieces)
