"""Errors of the elementary functions in ULP, for ``test_elementary.py`` (a sample) and ``bench/accuracy.py`` (every float32).

The error of a result is |result - exact| / u, where u is the distance between neighbouring numbers of the format at the correctly rounded
result. Below the smallest normal number u stays what it is there (2^-149 for float32, 2^-1074 for float64): a subnormal result is not asked
for digits that the format does not have. Correct rounding is an error of at most 0.5. Where the exact value rounds to infinity, or is NaN,
the result must be the same; otherwise the error is infinite.

Exact values are float64 from NumPy and SciPy for float32 results (their error is below 1e-6 of a float32 ULP except where a `Case` says
otherwise), and mpmath with 60 digits for float64 results.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import mpmath
import numba
import numpy as np
from scipy import special

from fastgrad import elementary
from fastgrad.engine import random
from fastgrad.engine.noalias import load, store
from fastgrad.jit import KERNEL_OPTIONS, formula

WORDS = 2**32  # bit patterns of a float32, and values of a random word
mpmath.mp.dps = 60


class Case(NamedTuple):
    """A function of one number with one or two results.

    Attributes
    ----------
    name : str
        Results separated by a comma.
    pair : function
        What is compiled: always two results.
    reference : function
        float64 array -> two float64 arrays, the exact values for float32.
    exact : function
        One mpmath number -> its results.
    words : bool
        The argument is a random word, not a float.
    domain : (float, float)
        Arguments outside are not asked for.
    """

    name: str
    pair: Callable[..., Any]
    reference: Callable[..., Any]
    exact: Callable[..., Any]
    words: bool = False
    domain: tuple[float, float] = (-np.inf, np.inf)

    @property
    def results(self) -> list[str]:
        """Names of the results."""
        return self.name.split(", ")


def twice(function):
    """A function of one result as one of two."""

    @formula
    def both(x):
        y = function(x)
        return y, y

    return both


def scaled(function, factor):
    """A function that is wrong by a factor, to see that this is found."""

    @formula
    def both(x):
        y = function(x) * type(x)(factor)
        return y, y

    return both


# --- exact values: float64 --------------------------------------------------------------------------------------------------------


def _sigmoid(x):
    e = np.exp(-np.abs(x))
    large, small = 1 / (1 + e), e / (1 + e)
    return np.where(x >= 0, large, small), np.where(x >= 0, small, large)


def _tanh(x):
    e = np.exp(-2 * np.abs(x))
    return np.tanh(x), 4 * e / (1 + e) ** 2


def _normal(x):
    return 0.5 * special.erfc(-x / np.sqrt(2)), np.exp(-0.5 * x * x) / np.sqrt(2 * np.pi)


def _erf(x):
    return special.erf(x), 2 / np.sqrt(np.pi) * np.exp(-x * x)


def _minus_log(word):
    u = (word + 0.5) / WORDS
    return np.where(u > 0.5, -np.log1p(-(WORDS - 0.5 - word) / WORDS), -np.log(u))


def _turn(word):
    # Quarter turns are taken off in integers: near a zero of cosine or sine the angle itself has too few digits.
    s = word.astype(np.int64)
    k = (s + 2**29) >> 30
    a = (s - (k << 30) + 0.5) * (2 * np.pi / WORDS)
    c, s = np.cos(a), np.sin(a)
    k = k % 4
    return np.choose(k, [c, -s, -c, s]), np.choose(k, [s, c, -s, -c])


# --- exact values: mpmath ---------------------------------------------------------------------------------------------------------


def _exact_sigmoid(x):
    return 1 / (1 + mpmath.exp(-x)), 1 / (1 + mpmath.exp(x))


def _exact_normal(x):
    return mpmath.erfc(-x / mpmath.sqrt(2)) / 2, mpmath.exp(-x * x / 2) / mpmath.sqrt(2 * mpmath.pi)


def _exact_turn(word):
    a = 2 * mpmath.pi * (word + mpmath.mpf("0.5")) / WORDS
    return mpmath.cos(a), mpmath.sin(a)


CASES = (
    Case("exp", twice(elementary.exp), lambda x: (np.exp(x),), lambda x: (mpmath.exp(x),)),
    Case("sigmoid, 1 - sigmoid", elementary.sigmoid_pair, _sigmoid, _exact_sigmoid),
    Case("tanh, sech^2", elementary.tanh_pair, _tanh, lambda x: (mpmath.tanh(x), mpmath.sech(x) ** 2)),
    Case("log(1 + x)", twice(elementary.log1p_unit), lambda x: (np.log1p(x),), lambda x: (mpmath.log1p(x),), domain=(0.0, 1.0)),
    Case("Phi, phi", elementary.normal_pair, _normal, _exact_normal),
    Case("erf, erf'", elementary.erf_pair, _erf, lambda x: (mpmath.erf(x), 2 / mpmath.sqrt(mpmath.pi) * mpmath.exp(-x * x))),
    Case("sin, cos", elementary.sin_pair, lambda x: (np.sin(x), np.cos(x)), lambda x: (mpmath.sin(x), mpmath.cos(x))),
    Case(
        "-ln u",
        None,
        lambda w: (_minus_log(w),),
        lambda w: (-mpmath.log((w + mpmath.mpf("0.5")) / WORDS),),
        words=True,
    ),
    Case("cos turn, sin turn", None, _turn, _exact_turn, words=True),
)
_WORD_FORMULAS = {
    "-ln u": (twice(random._minus_log_32), twice(random._minus_log_64)),
    "cos turn, sin turn": (random._turn_32, random._turn_64),
}


def compiled(case: Case, number: type) -> Callable[..., None]:
    """A loop ``(x, first, second) -> None`` with the project's options, as its kernels contain it."""
    pair = _WORD_FORMULAS[case.name][number is np.float64] if case.words else case.pair

    @numba.njit(**KERNEL_OPTIONS)
    def loop(x, first, second):
        for j in range(x.size):
            a, b = pair(load(x, j))
            store(first, j, a, 0)
            store(second, j, b, 1)

    return loop


def arguments(case: Case, patterns: np.ndarray) -> np.ndarray:
    """Bit patterns as the arguments that they stand for, within the domain."""
    if case.words:
        return patterns
    x = patterns.view(np.float32)
    return x[~((x < case.domain[0]) | (x > case.domain[1]))] if np.isfinite(case.domain[0]) else x


def single_errors(got: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Errors of float32 results in ULP; NaN where NaN was due, so that `worst` can pass over it."""
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        rounded = exact.astype(np.float32)
        unit = np.spacing(np.abs(rounded), dtype=np.float32).astype(np.float64)
        error = np.abs(got.astype(np.float64) - exact) / unit
    odd = ~np.isfinite(rounded) | ~np.isfinite(got)
    same = (rounded == got) | (np.isnan(rounded) & np.isnan(got))
    return np.where(odd, np.where(same, 0.0, np.inf), error)


def sweep(case: Case, loop: Callable[..., None], start: int, stop: int, step: int) -> list[tuple[float, Any]]:
    """Largest error of each result of a float32 function over the bit patterns range(start, stop, step), and the argument it is at."""
    x = arguments(case, np.arange(start, stop, step, dtype=np.uint64).astype(np.uint32))
    first, second = np.empty(x.size, np.float32), np.empty(x.size, np.float32)
    if x.size == 0:
        return [(0.0, None)] * len(case.results)
    loop(x, first, second)
    with np.errstate(all="ignore"):
        wide = x.view(np.int32).astype(np.float64) if case.name.startswith("cos") else x.astype(np.float64)
        exact = case.reference(wide)
    out = []
    for got, want in zip((first, second), exact, strict=False):
        error = single_errors(got, want)
        at = int(np.argmax(error))
        out.append((float(error[at]), x[at]))
    return out


def double_error(got: float, exact: Any) -> float:
    """Error of a float64 result in ULP against an mpmath number."""
    rounded = float(exact)
    if not (np.isfinite(rounded) and np.isfinite(got)):
        return 0.0 if rounded == got or (np.isnan(rounded) and np.isnan(got)) else np.inf
    return float(abs(mpmath.mpf(float(got)) - exact) / mpmath.mpf(float(np.spacing(abs(rounded)))))


def double_errors(case: Case, loop: Callable[..., None], x: np.ndarray) -> list[tuple[float, Any]]:
    """Largest error of each result of a float64 function over the arguments x, and the argument it is at."""
    first, second = np.empty(x.size), np.empty(x.size)
    loop(x, first, second)
    worst: list[tuple[float, Any]] = [(0.0, None)] * len(case.results)
    for j in range(x.size):
        argument = mpmath.mpf(float(x[j])) if not case.words else mpmath.mpf(int(x[j]))
        for k, exact in enumerate(case.exact(argument)):
            error = double_error((first, second)[k][j], exact)
            if error > worst[k][0]:
                worst[k] = (error, x[j])
    return worst


def double_arguments(case: Case, points: int) -> np.ndarray:
    """Arguments for `double_errors`: where the function is neither constant nor linear, all sizes, and its edges."""
    rng = np.random.default_rng(1)
    if case.words:
        small = rng.integers(0, 2**16, points // 4)
        return np.concatenate([rng.integers(0, WORDS, points // 2), small, WORDS - 1 - small]).astype(np.uint32)
    if np.isfinite(case.domain[0]):
        return np.concatenate([rng.uniform(*case.domain, points // 2), 2.0 ** rng.uniform(-1074, 0, points // 2), [0.0, 1.0]])
    sizes = np.exp2(rng.uniform(-60, 10, points // 2)) * rng.choice([-1.0, 1.0], points // 2)
    edges = [0.0, -0.0, 709.78, 709.79, -708.4, -745.1, -745.2, 37.5, -37.5, 26.5, 354.2, 372.5, 5e-324, -5e-324, 1e300]
    return np.concatenate([rng.uniform(-40, 40, points // 2), sizes, edges])
