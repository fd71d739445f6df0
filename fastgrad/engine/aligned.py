"""Arrays that start at a cache line: a vector that starts inside one is loaded from two, at half the speed where the cache is the limit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

LINE = 64  # bytes of a cache line, and of the widest vector


def aligned_zeros(shape: int | tuple[int, ...], dtype: Any = np.float64) -> Any:
    """``np.zeros`` whose first number lies at a multiple of 64 bytes."""
    return _aligned(np.zeros, shape, dtype)


def aligned_empty(shape: int | tuple[int, ...], dtype: Any = np.float64) -> Any:
    """``np.empty`` whose first number lies at a multiple of 64 bytes."""
    return _aligned(np.empty, shape, dtype)


def whole_lines(count: int) -> int:
    """At least ``count`` numbers, so many that rows of them behind one another start at cache lines in either precision."""
    return -(-count // 16) * 16


def _aligned(allocate: Any, shape: int | tuple[int, ...], dtype: Any) -> Any:
    number = np.dtype(dtype)
    size = (shape if isinstance(shape, int) else math.prod(shape)) * number.itemsize
    room = allocate(size + LINE, np.uint8)
    start = -room.ctypes.data % LINE
    return room[start : start + size].view(number).reshape(shape)
