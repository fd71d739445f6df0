"""Orthonormal frames of a few long vectors, kept as the rows of a float64 matrix: Gram–Schmidt that reveals the rank.

Modified Gram–Schmidt, each vector twice ("twice is enough", Giraud, Langou & Rozložník 2005), relative to the vector's own size: vectors of one
call may differ by hundreds of binary orders.
"""

from __future__ import annotations

import math

from fastgrad.engine.norms import inner, largest, multiply_by, power_of_two, sum_of_squares
from fastgrad.jit import register_jitable

DEPENDENT = 1e-14  # a vector is in the span of those before it when less than this of it is left


@register_jitable(error_model="numpy")
def add_multiple(target, source, factor):
    """target += factor * source for vectors of one length."""
    for j in range(target.size):
        target[j] += factor * source[j]


@register_jitable(error_model="numpy")
def binary_orders(top):
    """Exponent that brings ``top`` into [1, 2); 0 for 0 and non-finite."""
    return math.frexp(top)[1] - 1 if top > 0.0 and math.isfinite(top) else 0


@register_jitable(error_model="numpy")
def orthonormalise(a, count, n, most, r):
    """Rows a[c, :n] = sum_i r[i, c] q_i, c < count; q_i replace the first rows of a; returns how many, at most ``most``.

    The rows behind them, up to count, become 0, as does what r (at least as many rows as the rank, count columns) has below its triangle.
    """
    rank = 0
    for c in range(count):
        for i in range(r.shape[0]):
            r[i, c] = 0.0
        row = a[c, :n]
        up = binary_orders(largest(row))
        multiply_by(row, power_of_two(-up))
        before = math.sqrt(sum_of_squares(row))
        for _ in range(2):
            for i in range(rank):
                part = inner(a[i, :n], row)
                add_multiple(row, a[i, :n], -part)
                r[i, c] += part
        left = math.sqrt(sum_of_squares(row))
        if left > DEPENDENT * before and rank < most:
            r[rank, c] = left
            for j in range(n):
                a[rank, j] = row[j] / left
            rank += 1
        for i in range(rank):
            r[i, c] *= power_of_two(up)
    for c in range(rank, count):
        for j in range(n):
            a[c, j] = 0.0
    return rank


@register_jitable(error_model="numpy")
def project_off(row, q, rank, n):
    """row[:n] loses its components along the orthonormal rows q[:rank, :n]."""
    for _ in range(2):
        for i in range(rank):
            add_multiple(row[:n], q[i, :n], -inner(q[i, :n], row[:n]))


@register_jitable(error_model="numpy")
def inner_products(a, rows, b, columns, n, out):
    """out[i, c] = <a_i, b_c> of the rows a[i, :n], i < rows, and b[c, :n], c < columns."""
    for i in range(rows):
        for c in range(columns):
            out[i, c] = inner(a[i, :n], b[c, :n])


@register_jitable(error_model="numpy")
def add_combination(target, coefficients, rows, column, vectors, n):
    """target[:n] += sum over i < rows of coefficients[i, column] vectors[i, :n]."""
    for i in range(rows):
        factor = coefficients[i, column]
        if factor != 0.0:
            add_multiple(target[:n], vectors[i, :n], factor)


@register_jitable(error_model="numpy")
def largest_of_block(a, rows, first, columns):
    """Largest |a[i, first + c]|, i < rows, c < columns."""
    top = 0.0
    for i in range(rows):
        for c in range(columns):
            top = max(top, abs(a[i, first + c]))
    return top


@register_jitable(error_model="numpy")
def product_squares(a, rows, first, columns, b, b_rows, scale):
    """Squared Frobenius norm of scale A B^T for A = a[:rows, first : first + columns], B = b[:b_rows, :columns]."""
    total = 0.0
    for i in range(rows):
        for j in range(b_rows):
            entry = 0.0
            for c in range(columns):
                entry += (scale * a[i, first + c]) * b[j, c]
            total += entry * entry
    return total


@register_jitable(error_model="numpy")
def row_sum_squares(a, rows, first, columns, scale):
    """Squared norm of scale A (1, …, 1)^T for A = a[:rows, first : first + columns]."""
    total = 0.0
    for i in range(rows):
        entry = 0.0
        for c in range(columns):
            entry += scale * a[i, first + c]
        total += entry * entry
    return total
