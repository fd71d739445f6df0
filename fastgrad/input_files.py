"""Inputs of a network: reading them from a file, and checking that they fit."""

from __future__ import annotations

import csv
import math
import os
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastgrad.errors import shown
from fastgrad.networks import MLP, Network, Recurrent
from fastgrad.npy_files import existing_file, read_npy, read_npz, wrong_suffix

__all__ = ["check_inputs", "read_inputs"]


def read_inputs(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Read inputs from a .npy, .npz or .csv file.

    Parameters
    ----------
    path
        A .npy file; a .npz archive of exactly one array; or a .csv file (UTF-8) of numbers, separated by
        commas, semicolons or tabs, one row a line. The first line may be a header; empty lines and lines that
        begin with ``#`` are passed over. No pickled objects are ever read.

    Returns
    -------
    ndarray
        The array as stored; from .csv float64 of shape (rows, columns).

    Raises
    ------
    ValueError
        One sentence: the file is missing (also a FileNotFoundError), unreadable, corrupt, of another kind, or
        holds something that is not a number (with its line). Sizes are checked before memory is taken.
    TooLarge
        When the array does not fit into the memory that is free.
    """
    found = existing_file(path, "inputs")
    match found.suffix.lower():
        case ".npy":
            return read_npy(found)
        case ".npz":
            return _only_array(found)
        case ".csv":
            return _read_csv(found)
    raise ValueError(wrong_suffix(found, "inputs", (".npy", ".npz", ".csv")))


def check_inputs(network: Network, inputs: object) -> NDArray[np.float64]:
    """Check that inputs fit a network and bring them into the engine's form.

    Parameters
    ----------
    network
        The network that will receive them.
    inputs
        Real numbers: for an MLP of shape (batch, features) or (features,); for a recurrent network of shape
        (steps, batch, features) or (steps, features), where features is the network's `input_width`.

    Returns
    -------
    ndarray
        Float64, C-contiguous, always with the batch axis: (batch, features) or (steps, batch, features).

    Raises
    ------
    ValueError
        One sentence: not an array of real numbers, NaN or infinite, or of a shape that does not fit.
    """
    numbers = _as_numbers(inputs)
    shaped = _with_batch(network, numbers)
    with np.errstate(over="ignore"):  # an overflow on the way from longdouble is reported below
        result = np.ascontiguousarray(shaped, dtype=np.float64)
    bad = np.argwhere(~np.isfinite(result.reshape(numbers.shape)))
    if len(bad):
        place = ", ".join(map(str, bad[0]))
        value = numbers[tuple(bad[0])]
        raise ValueError(f"inputs[{place}] is {value}: every input must be finite ({len(bad):,} {'is' if len(bad) == 1 else 'are'} not)")
    return result


def _as_numbers(inputs: object) -> NDArray[Any]:
    if isinstance(inputs, np.ma.MaskedArray) and np.ma.is_masked(inputs):
        raise ValueError("inputs has masked entries: fill them first, for example with inputs.filled(0.0)")
    if hasattr(inputs, "detach"):  # a PyTorch tensor that requires a gradient becomes no array by itself
        inputs = inputs.detach()
    try:
        numbers = np.asarray(inputs)
    except Exception as error:  # a foreign __array__ may raise anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"inputs={shown(inputs)} is not an array of numbers: {reason}") from None
    if numbers.dtype.kind not in "iuf":
        raise ValueError(
            f"inputs has dtype {numbers.dtype}, expected real numbers; convert them with inputs.astype(float)"
            if numbers.dtype.kind == "b"
            else f"inputs has dtype {numbers.dtype}, expected real numbers"
        )
    return numbers


def _with_batch(network: Network, numbers: NDArray[Any]) -> NDArray[Any]:
    shape = numbers.shape
    if isinstance(network, MLP):
        n = network.input_width
        if shape == (n,):
            return numbers[np.newaxis]
        if len(shape) == 2 and shape[0] > 0 and shape[1] == n:
            return numbers
        raise _misfit(network, shape, f"(batch, {n}) or ({n},)", _hint_for_mlp(shape, n))
    assert isinstance(network, Recurrent)
    steps, n = network.steps, network.input_width
    if shape == (steps, n):
        return numbers[:, np.newaxis]
    if len(shape) == 3 and shape[0] == steps and shape[1] > 0 and shape[2] == n:
        return numbers
    hint = _hint_for_recurrent(shape, steps, n)
    raise _misfit(network, shape, f"({steps}, batch, {n}) or ({steps}, {n})", hint)


def _misfit(network: Network, shape: tuple[int, ...], expected: str, hint: str) -> ValueError:
    return ValueError(f"inputs has shape {shape}, expected {expected} for {shown(network, 120)}{hint}")


def _hint_for_mlp(shape: tuple[int, ...], features: int) -> str:
    if 0 in shape:
        return "; it is empty"
    if len(shape) == 2 and shape[0] == features:
        return "; did you mean inputs.T?"
    if len(shape) > 2 and np.prod(shape[1:], dtype=object) == features:
        return "; did you mean inputs.reshape(len(inputs), -1)?"
    return ""


def _hint_for_recurrent(shape: tuple[int, ...], steps: int, features: int) -> str:
    if 0 in shape:
        return "; it is empty"
    if len(shape) == 3 and shape[1] == steps and shape[2] == features:
        return "; steps come first: did you mean inputs.swapaxes(0, 1)?"
    if shape == (features, steps):
        return "; did you mean inputs.T?"
    if shape == (steps,) and features == 1:
        return "; did you mean inputs[:, None]?"
    if len(shape) in (2, 3) and shape[-1] == features and shape[0] > steps:
        return f"; did you mean inputs[:{steps}]?"
    if len(shape) in (2, 3) and shape[-1] == features:
        return f"; did you mean steps={shape[0]}?"
    return ""


def _only_array(path: Path) -> NDArray[Any]:
    arrays = read_npz(path)
    if len(arrays) != 1:
        names = ", ".join(map(shown, arrays)) or "none"
        raise ValueError(f"{path} holds {len(arrays)} arrays ({names}), expected exactly one")
    return next(iter(arrays.values()))


def _read_csv(path: Path) -> NDArray[np.float64]:
    numbers = array("d")
    columns = 0
    try:
        for line, cells in _csv_rows(path):
            values = [_number(cell) for cell in cells]
            if not columns and all(value is None for value in values):
                columns = len(cells)  # the header
                continue
            columns = columns or len(cells)
            if len(cells) != columns:
                raise ValueError(f"{path}, line {line}: {len(cells)} columns, expected {columns} as above")
            for column, value in enumerate(values):
                if value is None or not math.isfinite(value):
                    place, fault = (
                        f"line {line}, column {column + 1}",
                        "a number" if value is None else "finite",
                    )
                    raise ValueError(f"{path}, {place}: {shown(cells[column])} is not {fault}")
                numbers.append(value)
    except UnicodeDecodeError:
        raise ValueError(f"{path} cannot be read: it is not UTF-8 text") from None
    except csv.Error as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if not numbers:
        raise ValueError(f"{path} cannot be read: it holds no numbers")
    return np.array(numbers, dtype=np.float64).reshape(-1, columns)


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the cells of every line that holds something."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        delimiter = _delimiter(file.readline() for _ in range(100))
        file.seek(0)
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        for cells in reader:
            if any(cell.strip() for cell in cells) and not cells[0].lstrip().startswith("#"):
                yield reader.line_num, cells


def _delimiter(lines: Iterator[str]) -> str:
    """Return the first of semicolon, tab and comma in the first line that holds something."""
    for line in lines:
        if line.strip() and not line.lstrip().startswith("#"):
            return next((mark for mark in ";\t" if mark in line), ",")
    return ","


def _number(cell: str) -> float | None:
    """Return a finite or infinite number; Python's own 1_000 is none."""
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None
