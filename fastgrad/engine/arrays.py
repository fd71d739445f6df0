"""Copies and fills as plain loops: a slice assignment costs Numba most of a second to compile, each."""

from __future__ import annotations

from fastgrad.jit import register_jitable


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
