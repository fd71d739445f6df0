"""Arrays that start at a cache line; copies and fills as plain loops: a slice assignment costs Numba most of a second to compile, each."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba.extending import register_jitable

LINE = 64  # bytes of a cache line, and of the widest vector: a vector that starts inside one is loaded from two


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


@register_jitable
def copy(source, target):
    """target[:] = source for vectors; the formats may differ."""
    for j in range(target.size):
        target[j] = source[j]


@register_jitable
def copy_rows(source, target):
    """target[:, :] = source for matrices with any strides; the formats may differ."""
    for i in range(target.shape[0]):
        for j in range(target.shape[1]):
            target[i, j] = source[i, j]


@register_jitable
def fill(target, value):
    """target[:] = value for a vector."""
    for j in range(target.size):
        target[j] = value


@register_jitable
def transpose(matrix, out):
    """out[j, i] = matrix[i, j]."""
    for i in range(matrix.shape[0]):
        for j in range(matrix.shape[1]):
            out[j, i] = matrix[i, j]
