"""Reading .npy and .npz files of unknown origin: no pickle, and no allocation before the sizes are believed.

NumPy allocates what a header claims; a forged header of a hundred bytes can claim terabytes, and a zip member
of a few megabytes can unfold to many gigabytes. Here the header is compared with the bytes that are there
first.
"""

from __future__ import annotations

import lzma
import math
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any

import numpy as np
import psutil
from numpy.lib import format as npy
from numpy.typing import NDArray

from fastgrad.errors import MissingFile, TooLarge, UnreadableFile, nearest, shown

__all__ = ["check_memory", "existing_file", "read_npy", "read_npz", "wrong_suffix"]

# Weights and measured inputs hardly shrink when compressed. What unfolds further than this is a zip bomb, or
# holds little but zeros; small archives may do what they like.
LARGEST_UNFOLDING = 100
ALWAYS_ALLOWED_BYTES = 64 * 2**20

_CORRUPT = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,  # a compression method that zipfile lacks
    RuntimeError,  # an encrypted member
    SyntaxError,  # a header that is no Python literal
    TokenError,  # the same, found by NumPy's second attempt
    TypeError,
    ValueError,
    OverflowError,
    OSError,
)


class _Refused(Exception):
    """A complete reason for refusing a file, without its path."""


def existing_file(path: str | os.PathLike[str], argument: str) -> Path:
    """Return the path of a file that exists and can be opened.

    Parameters
    ----------
    path
        The path.
    argument
        The argument's name, for the sentence.

    Returns
    -------
    pathlib.Path
        The same path.

    Raises
    ------
    MissingFile
        When there is no such file (a FileNotFoundError and a ValueError); names the nearest file in the
        folder.
    UnreadableFile
        When it is a folder or may not be read (an OSError and a ValueError).
    ValueError
        When the argument is no path.
    """
    try:
        found = Path(path)
        if found.is_file():
            with found.open("rb"):
                return found
        exists = found.exists()
    except (TypeError, ValueError):
        raise ValueError(f"{argument}={shown(path)} is not allowed: {argument} must be a path") from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UnreadableFile(f"{argument}={shown(path)} cannot be read: {reason}") from None
    if exists:
        raise UnreadableFile(f"{argument}={shown(str(path))} is not a file")
    match = nearest(found.name, _neighbours(found))
    hint = f"; did you mean {match!r}?" if match else ""
    raise MissingFile(f"{argument}={shown(str(path))} does not exist{hint}")


def wrong_suffix(path: Path, argument: str, known: tuple[str, ...]) -> str:
    """Say which kinds of files are read.

    Parameters
    ----------
    path
        A path with another suffix.
    argument
        The argument's name.
    known
        The suffixes that are read.

    Returns
    -------
    str
        The sentence.
    """
    match = nearest(path.suffix.lower(), known)
    hint = f"; did you mean {match!r}?" if match else ""
    return f"{argument}={shown(str(path))} is not allowed: the file must be one of {', '.join(known)}{hint}"


def read_npy(path: Path) -> NDArray[Any]:
    """Read one array of numbers from a .npy file.

    Parameters
    ----------
    path
        An existing file.

    Returns
    -------
    ndarray
        The array, with its shape and dtype.

    Raises
    ------
    ValueError
        When the file is corrupt, truncated or forged, or holds Python objects or records.
    TooLarge
        When the array does not fit into the memory that is free.
    """
    with _sentences(path), path.open("rb") as file:
        return _read_array(file, path.stat().st_size)


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """Read every array of numbers from a .npz archive.

    Parameters
    ----------
    path
        An existing file.

    Returns
    -------
    dict
        The arrays under their names, in the order of the archive.

    Raises
    ------
    ValueError
        When the archive is corrupt, forged or a zip bomb, or holds something that is not an array of numbers.
    TooLarge
        When the arrays do not fit into the memory that is free.
    """
    arrays: dict[str, NDArray[Any]] = {}
    with _sentences(path), zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        _check_unfolding(members, path.stat().st_size)
        for member in members:
            name = member.filename.removesuffix(".npy")
            if name == member.filename:
                raise _Refused(f"its member {shown(name)} is not an array (.npy)")
            if name in arrays:
                raise _Refused(f"it holds {shown(name)} twice")
            with _of_member(name), archive.open(member) as file:
                arrays[name] = _read_array(file, member.file_size)
    return arrays


def _read_array(file: IO[bytes], size: int) -> NDArray[Any]:
    """Read an array from a stream of `size` bytes, believing its header only where the bytes are there."""
    version = npy.read_magic(file)
    if version == (1, 0):
        shape, fortran, dtype = npy.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, fortran, dtype = npy.read_array_header_2_0(file)
    else:
        raise _Refused(f"its format is .npy version {version[0]}.{version[1]}, expected 1.0 or 2.0")
    if dtype.hasobject:
        raise _Refused("it holds Python objects, which are never read; save an array of numbers")
    if dtype.kind not in "biufc":
        raise _Refused(f"it has dtype {dtype}, expected numbers")
    if any(length < 0 for length in shape):
        raise _Refused(f"its header claims the shape {shown(shape)}")
    claimed, present = math.prod(shape) * dtype.itemsize, size - file.tell()
    if claimed != present:
        raise _Refused(
            f"its header claims shape {shown(shape)} and dtype {dtype}, {claimed:,} bytes, "
            f"and {present:,} bytes follow"
        )
    check_memory(claimed)
    array = np.empty(math.prod(shape), dtype)
    room = array.view(np.uint8).data
    filled = 0
    while filled < claimed:
        chunk = file.read(min(claimed - filled, 2**24))
        if not chunk:
            raise _Refused(f"it ends after {filled:,} of {claimed:,} bytes")
        room[filled : filled + len(chunk)] = chunk
        filled += len(chunk)
    if file.read(1):  # at the end of a zip member this is also where zipfile compares the checksum
        raise _Refused("it is longer than it says")
    return array.reshape(shape, order="F" if fortran else "C")


def _check_unfolding(members: list[zipfile.ZipInfo], size: int) -> None:
    unfolded = sum(member.file_size for member in members)
    if unfolded > max(ALWAYS_ALLOWED_BYTES, LARGEST_UNFOLDING * size):
        raise _Refused(
            f"its {size:,} bytes claim to unfold to {unfolded:,} bytes, more than {LARGEST_UNFOLDING} times "
            "as many; if that is meant, save it uncompressed with numpy.savez"
        )
    check_memory(unfolded)


def check_memory(needed: int) -> None:
    """Refuse to read more bytes than are free.

    Parameters
    ----------
    needed
        Bytes about to be allocated.

    Raises
    ------
    TooLarge
        With both numbers, to be completed by the path.
    """
    free = int(psutil.virtual_memory().available)
    if needed > free:
        raise TooLarge(f"it needs {needed / 2**30:,.1f} GiB and {free / 2**30:,.1f} GiB of memory are free")


def _neighbours(path: Path) -> Iterator[str]:
    try:
        with os.scandir(path.parent) as entries:
            for entry, _ in zip(entries, range(1000), strict=False):
                yield entry.name
    except OSError:
        return


@contextmanager
def _of_member(name: str) -> Iterator[None]:
    """Name the member of an archive in whatever is wrong with it."""
    try:
        yield
    except _Refused as reason:
        raise _Refused(f"in {shown(name)}, {reason}") from None
    except _CORRUPT as error:
        raise _Refused(f"in {shown(name)}, it is corrupt: {_first_line(error)}") from None


@contextmanager
def _sentences(path: Path) -> Iterator[None]:
    """Turn whatever is wrong with a file into one sentence that begins with its path."""
    try:
        yield
    except _Refused as reason:
        raise ValueError(f"{path} cannot be read: {reason}") from None
    except TooLarge as reason:
        raise TooLarge(f"{path} cannot be read: {reason}") from None
    except MemoryError:
        raise TooLarge(f"{path} cannot be read: it does not fit into memory") from None
    except _CORRUPT as error:
        raise ValueError(f"{path} cannot be read: it is corrupt: {_first_line(error)}") from None


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
