"""Arrays that start at a cache line: a vector that starts inside one is loaded from two, at half the speed where the cache is the limit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

LINE = 64  # bytes of a cache line, and of the widest vector


def aligned_zeros(shape: int | tuple[int, ...], dtype: Any = np.float64, beyond: int = 0) -> Any:
    """``np.zeros`` whose first number lies at a multiple of 64 bytes, with room for ``beyond`` numbers behind the last."""
    return _aligned(np.zeros, shape, dtype, beyond)


def aligned_empty(shape: int | tuple[int, ...], dtype: Any = np.float64, beyond: int = 0) -> Any:
    """``np.empty`` whose first number lies at a multiple of 64 bytes, with room for ``beyond`` numbers behind the last."""
    return _aligned(np.empty, shape, dtype, beyond)


def whole_lines(count: int) -> int:
    """At least ``count`` numbers, so many that rows of them behind one another start at cache lines in either precision."""
    return -(-count // 16) * 16


def odd_lines(count: int, dtype: Any) -> int:
    """As `whole_lines`, but an odd number of lines: what stands above one another in rows of even ones competes for few places of a cache."""
    of_a_line = LINE // np.dtype(dtype).itemsize
    return int((-(-count // of_a_line) | 1) * of_a_line)


def _aligned(allocate: Any, shape: int | tuple[int, ...], dtype: Any, beyond: int) -> Any:
    number = np.dtype(dtype)
    size = (shape if isinstance(shape, int) else math.prod(shape)) * number.itemsize
    room = allocate(size + beyond * number.itemsize + LINE, np.uint8)
    start = -room.ctypes.data % LINE
    return room[start : start + size].view(number).reshape(shape)
