"""Logarithms of recorded norms: within one unit in the last place of the exact ones, at any exponent, and zeros, infinities and NaN as they are."""

from __future__ import annotations

import math

import mpmath
import numba
import numpy as np
import pytest

from fastgrad.engine.logarithms import add_half_logs, log_norms_of, natural_log, take_logs
from fastgrad.engine.norms import log_norm, log_norm_of, power_of_two
from fastgrad.jit import KERNEL_OPTIONS


@numba.njit(**KERNEL_OPTIONS)
def logs(x, out):
    for j in range(x.size):
        out[j] = natural_log(x[j])


def test_within_one_unit_of_mpmath():
    rng = np.random.default_rng(3)
    root = math.sqrt(0.5)
    seams = [1.0, np.nextafter(1.0, 0), np.nextafter(1.0, 2), root, np.nextafter(root, 0), np.nextafter(root, 1), 2.0, 5e-324, 2.0**-1022, 1.7e308]
    near_one = 1.0 + np.concatenate([1, -1] * np.logspace(-15, -1, 60)[:, None])
    x = np.concatenate([seams, near_one, np.exp(rng.uniform(-744, 709, 2000)), rng.uniform(0.5, 2, 500)])
    got = np.empty_like(x)
    logs(x, got)
    for value, argument in zip(got, x, strict=True):
        exact = mpmath.log(mpmath.mpf(float(argument)))
        unit = np.spacing(abs(float(exact))) if exact else 1e-300
        assert abs(mpmath.mpf(float(value)) - exact) <= unit, argument


def test_special_values():
    got = np.empty(4)
    logs(np.array([0.0, np.inf, np.nan, 1.0]), got)
    np.testing.assert_array_equal(got, [-np.inf, np.inf, np.nan, 0.0])


def test_vectors_agree_with_one_at_a_time():
    rng = np.random.default_rng(4)
    squares = np.exp(rng.uniform(-600, 600, 37))
    squares[5] = 0.0
    exponents = rng.integers(-(10**6), 10**6, 37).astype(float)
    want = np.array([log_norm(s, int(e)) for s, e in zip(squares, exponents, strict=True)])

    @numba.njit(**KERNEL_OPTIONS)
    def run(values, exponents, more):
        take_logs(values, exponents, 0.5)
        add_half_logs(values, more)

    values = squares.copy()
    run(values, exponents, np.full(37, 9.0))
    np.testing.assert_allclose(values, want + math.log(3.0), rtol=1e-15)
    assert values[5] == -np.inf


@numba.njit(**KERNEL_OPTIONS)
def norms_of_rows(x, gap, n, exponents, together, one_by_one):
    log_norms_of(x, gap, n, exponents, together)
    for i in range(exponents.size):
        one_by_one[i] = log_norm_of(x[i * gap : i * gap + n], exponents[i])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_norms_of_many_rows(dtype):
    """Rows as large as the format allows, as small, zero, infinite and NaN, with numbers between the rows that do not count."""
    n, gap = 21, 30
    tops = [1.0, 0.0, np.finfo(dtype).max, np.finfo(dtype).tiny, np.finfo(dtype).smallest_subnormal, np.inf, np.nan, 1e-3]
    x = np.full((len(tops), gap), 7, dtype)
    finite = [float(top) if math.isfinite(top) else 0.0 for top in tops]
    x[:, :n] = np.random.default_rng(1).uniform(0.1, 0.5, (len(tops), n)) * np.array(finite)[:, None]
    x[:, 3] = tops
    exponents = np.array([0, -(2**62), 5000, -5000, 3, 0, 0, -7])
    got, expected = np.empty(len(tops)), np.empty(len(tops))
    norms_of_rows(x.ravel(), gap, n, exponents, got, expected)
    np.testing.assert_allclose(got, expected, rtol=1e-15)
    assert got[1] == -math.inf
    assert got[5] == math.inf
    assert math.isnan(got[6])


def test_powers_of_two_from_end_to_end():
    """Compiled and not: exact, 0 below the subnormal numbers, infinity beyond the largest."""

    @numba.njit
    def compiled(exponent):
        return power_of_two(exponent)

    for exponent in (-1075, -1074, -1073, -1023, -1022, -1021, -1, 0, 1, 1022, 1023):
        assert compiled(exponent) == power_of_two(exponent) == math.ldexp(1.0, exponent)
    assert [compiled(-(10**6)), compiled(1024), compiled(2**62)] == [0.0, math.inf, math.inf]
