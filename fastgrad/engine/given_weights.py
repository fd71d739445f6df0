"""Where kernels read the weights that a caller gave: in place, or in a copy that is faster for many inputs."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastgrad.engine.aligned import LINE, aligned_empty, whole_lines

MANY = 100  # inputs that go through the same weights: for fewer, what a copy costs would not come back


def _in_place(arrays: Any, number: Any) -> bool:
    """Whether kernels can read the arrays where they are."""
    return all(array.dtype == number and array.flags.c_contiguous and array.flags.aligned for array in arrays)


def _better_at_lines(array: Any) -> bool:
    """Whether rows start inside cache lines and would not, were the matrix moved: products of many inputs then take twice as long."""
    return bool(array.ctypes.data % LINE and not array.strides[0] % LINE)


def addresses_of(arrays: Any, number: Any, shared: bool) -> tuple[Any, Any]:
    """(addresses of given weights, the array that they lie in, or an empty one): where they are, or copied behind one another.

    Copying costs as much as such rows cost some 50 inputs.
    """
    if _in_place(arrays, number) and not (shared and any(map(_better_at_lines, arrays))):
        return np.array([array.ctypes.data for array in arrays], dtype=np.int64), np.empty(0, dtype=number)
    sizes = np.array([whole_lines(array.size) for array in arrays], dtype=np.int64)
    starts = np.cumsum(sizes) - sizes
    weights = aligned_empty(int(sizes.sum()), number)
    for start, array in zip(starts, arrays, strict=True):
        weights[start : start + array.size] = array.ravel()
    return weights.ctypes.data + starts * weights.itemsize, weights
