"""Elementary functions: errors in ULP within the bounds of docs/accuracy.md, special values, precisions, and the tail of the normals."""

from __future__ import annotations

import re
from pathlib import Path

import mpmath
import numba
import numpy as np
import pytest
import ulp
from scipy import stats

from fastgrad import elementary
from fastgrad.engine import draws, random
from fastgrad.engine.native_panels import HAVE_PANELS
from fastgrad.jit import KERNEL_OPTIONS

# ULP as defined in ulp.py: (float32 over every 997th bit pattern, float64 against mpmath). A bound that has to grow is a loss of accuracy.
# Phi and the bell curves in float64: the rounding of x^2 is multiplied by x^2, 1.6e-13 relative at the end of the range.
BOUNDS = {
    "exp": (1.1, 1.1),
    "sigmoid": (2.8, 2.2),
    "1 - sigmoid": (2.8, 2.2),
    "tanh": (3.1, 3.1),
    "sech^2": (5.4, 5.2),
    "log(1 + x)": (2.0, 1.1),
    "Phi": (0.52, 1600.0),
    "phi": (0.51, 700.0),
    "erf": (0.51, 1.1),
    "erf'": (0.51, 700.0),
    "sin": (0.501, 1.1),
    "cos": (0.501, 1.1),
    "-ln u": (2.6, 1.6),
    "cos turn": (3.0, 1.9),
    "sin turn": (3.0, 1.9),
}
STEP = 997
POINTS = 1000
CASES = {case.name: case for case in ulp.CASES}
FLOATS = {name: case for name, case in CASES.items() if not case.words}
PRECISIONS = {"float32": np.float32, "float64": np.float64}


@pytest.fixture(scope="module")
def loops():
    """Compiled loops, each once."""
    made = {}

    def get(name, number):
        if (name, number) not in made:
            made[name, number] = ulp.compiled(CASES[name], number)
        return made[name, number]

    return get


# --- the yardstick ----------------------------------------------------------------------------------------------------------------


def test_ulp_of_what_is_known():
    exact = np.array([1.0, 1.0 + 2.0**-24, 2.0**-149, 2.0**-151, 1e300, 0.0, np.nan])
    got = np.array([1.0 + 2.0**-23, 1.0, 2.0**-148, 0.0, np.inf, 2.0**-149, np.nan], np.float32)
    np.testing.assert_array_equal(ulp.single_errors(got, exact), [1.0, 0.5, 1.0, 0.25, 0.0, 1.0, 0.0])
    wrong = ulp.single_errors(np.array([np.inf, np.nan, 1.0], np.float32), np.array([1.0, 1.0, np.nan]))
    np.testing.assert_array_equal(wrong, np.inf)
    assert ulp.double_error(1.0 + 2.0**-52, mpmath.mpf(1)) == 1.0
    assert ulp.double_error(np.inf, mpmath.mpf(1)) == np.inf


def test_the_exact_values_for_float32_are_exact():
    """NumPy's and SciPy's float64 against mpmath: far below a float32 ULP (2^-24 relative at best)."""
    for case in CASES.values():
        with np.errstate(all="ignore"):
            x = ulp.double_arguments(case, 200).astype(np.uint32 if case.words else np.float32)
        x = x[np.isfinite(x)]
        wide = x.view(np.int32).astype(np.float64) if case.name.startswith("cos") else x.astype(np.float64)
        with np.errstate(all="ignore"):
            columns = case.reference(wide)
        for j, argument in enumerate(x):
            value = mpmath.mpf(int(argument)) if case.words else mpmath.mpf(float(argument))
            for got, want in zip(columns, case.exact(value), strict=True):
                scale = max(abs(want), mpmath.mpf(2) ** -149)  # below that, a float32 ULP is absolute
                right = float(want) == got[j] or abs(mpmath.mpf(float(got[j])) - want) <= 1e-12 * scale
                assert right, (case.name, argument)


# --- errors -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_float32_over_the_whole_range(loops, name):
    for result, (error, at) in zip(CASES[name].results, ulp.sweep(CASES[name], loops(name, np.float32), 0, ulp.WORDS, STEP), strict=True):
        assert error <= BOUNDS[result][0], f"{result}: {error:.3f} ULP at {at!r}"


@pytest.mark.parametrize("name", CASES)
def test_float64_against_mpmath(loops, name):
    case = CASES[name]
    found = ulp.double_errors(case, loops(name, np.float64), ulp.double_arguments(case, POINTS))
    for result, (error, at) in zip(case.results, found, strict=True):
        assert error <= BOUNDS[result][1], f"{result}: {error:.3f} ULP at {at!r}"


def test_a_wrong_digit_is_found():
    """The sweep itself: a coefficient off by 1e-6 exceeds the bound."""
    case = CASES["exp"]
    wrong = case._replace(pair=ulp.scaled(elementary.exp, 1.0 + 1e-6))
    ((error, _),) = ulp.sweep(wrong, ulp.compiled(wrong, np.float32), 0, ulp.WORDS, 99_991)
    assert error > 2 * BOUNDS["exp"][0]


def test_the_table_in_the_documentation_shows_these_bounds():
    text = (Path(__file__).parent.parent / "docs" / "accuracy.md").read_text()
    rows = {}
    for line in text.splitlines():
        cells = [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        if len(cells) == 5 and re.fullmatch(r"[\d.]+", cells[1]):
            rows[cells[0]] = [float(cell) for cell in cells[1:]]
    assert set(rows) == set(BOUNDS)
    for result, (single, single_bound, double, double_bound) in rows.items():
        assert (single_bound, double_bound) == BOUNDS[result], result
        assert single <= single_bound, result
        assert double <= double_bound, result


# --- special values ---------------------------------------------------------------------------------------------------------------

SPECIAL = [np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0]
AT_SPECIAL = {
    "exp": ([np.nan, np.nan, np.inf, 0.0, 1.0, 1.0],),
    "sigmoid, 1 - sigmoid": ([np.nan, np.nan, 1.0, 0.0, 0.5, 0.5], [np.nan, np.nan, 0.0, 1.0, 0.5, 0.5]),
    "tanh, sech^2": ([np.nan, np.nan, 1.0, -1.0, 0.0, -0.0], [np.nan, np.nan, 0.0, 0.0, 1.0, 1.0]),
    "Phi, phi": ([np.nan, np.nan, 1.0, 0.0, 0.5, 0.5], [np.nan, np.nan, 0.0, 0.0, *[1 / np.sqrt(2 * np.pi)] * 2]),
    "erf, erf'": ([np.nan, np.nan, 1.0, -1.0, 0.0, -0.0], [np.nan, np.nan, 0.0, 0.0, *[2 / np.sqrt(np.pi)] * 2]),
    "sin, cos": ([np.nan, np.nan, np.nan, np.nan, 0.0, -0.0], [np.nan] * 4 + [1.0, 1.0]),
}


def run(loop, x):
    first, second = np.empty_like(x), np.empty_like(x)
    loop(x, first, second)
    return first, second


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", AT_SPECIAL)
def test_special_values(loops, name, precision):
    number = PRECISIONS[precision]
    # sixteen times each, and once more: vector code, and the scalar loop for the rest
    x = np.array(SPECIAL * 16 + SPECIAL, number)
    for got, want in zip(run(loops(name, number), x), AT_SPECIAL[name], strict=False):
        wanted = np.array(want * 17).astype(number)
        np.testing.assert_array_equal(got, wanted)
        zero = wanted == 0
        np.testing.assert_array_equal(np.signbit(got[zero]), np.signbit(wanted[zero]))


def test_overflow_and_underflow_of_exp(loops):
    largest, smallest = 88.72283, -103.97207  # ln of the largest float32; ln of half the smallest subnormal
    x = np.array([largest, 88.72284, 1e30, smallest, -103.9721, -1e30, -87.5, -100.0], np.float32)
    y, _ = run(loops("exp", np.float32), x)
    assert np.isfinite(y[0])
    assert y[0] > 3.4e38
    np.testing.assert_array_equal(y[1:3], np.inf)
    assert y[3] == np.float32(2.0**-149)
    np.testing.assert_array_equal(y[4:6], 0.0)
    assert np.all((y[6:] > 0) & (y[6:] < np.finfo(np.float32).tiny))
    x = np.array([709.782712893384, 709.782712893385, -745.1332191019411, -745.1332191019413])
    y, _ = run(loops("exp", np.float64), x)
    assert np.isfinite(y[0])
    np.testing.assert_array_equal(y[1:], [np.inf, 5e-324, 0.0])


def test_slopes_reach_zero_only_where_they_underflow(loops):
    """sech^2 through the subnormal numbers to an exact zero, and never a floor."""
    for number, last in ((np.float32, 53.0), (np.float64, 374.0)):
        y, slope = run(loops("tanh, sech^2", number), np.array([last - 2, last, 1e6, np.finfo(number).max], number))
        assert 0 < slope[0] < np.finfo(number).tiny
        np.testing.assert_array_equal(slope[1:], 0.0)
        np.testing.assert_array_equal(y, 1.0)


@pytest.mark.parametrize("name", ["tanh, sech^2", "erf, erf'", "sin, cos"])
def test_odd_functions_are_odd_to_the_bit(loops, name):
    x = np.random.default_rng(3).standard_normal(999).astype(np.float32) * 4
    above, below = run(loops(name, np.float32), x), run(loops(name, np.float32), -x)
    np.testing.assert_array_equal(above[0], -below[0])
    np.testing.assert_array_equal(above[1], below[1])


# --- precision --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", FLOATS)
def test_results_have_the_precision_of_the_argument(name, precision):
    pair, number = FLOATS[name].pair, PRECISIONS[precision]
    for value in (0.3, 1.0):
        assert [type(result) for result in pair(number(value))] == [number, number]
    compiled = numba.njit(**KERNEL_OPTIONS)(lambda x: pair(x))
    numbers = getattr(numba.types, precision)
    compiled.compile((numbers,))
    (signature,) = compiled.nopython_signatures
    assert list(signature.return_type) == [numbers, numbers]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", FLOATS)
def test_plain_python_agrees(loops, name, precision):
    """The same text without Numba: equal up to fused multiplications, and silent."""
    number, case = PRECISIONS[precision], FLOATS[name]
    values = [0.0, -0.0, 1e-3, -0.4, 0.9, 3.0, -20.0, 60.0, -105.0, np.nan, np.inf, -np.inf]
    x = np.array([v for v in values if not v < case.domain[0] and not v > case.domain[1]], number)
    first, second = run(loops(name, number), x)
    plain = [case.pair(value) for value in x]
    digits = 8 * np.finfo(number).eps
    tiny = 4 * np.finfo(number).smallest_subnormal
    np.testing.assert_allclose([p[0] for p in plain], first, rtol=digits, atol=tiny)
    np.testing.assert_allclose([p[1] for p in plain], second, rtol=digits, atol=tiny)


# --- normals from words -----------------------------------------------------------------------------------------------------------


def normals(number, radius_words, angle_words):
    """Pairs of normals of a precision, by compiled code."""

    @numba.njit(**KERNEL_OPTIONS)
    def loop(like, r, a, out):
        for j in range(r.size):
            out[0, j], out[1, j] = random.normal_pair(like, r[j], a[j])

    out = np.empty((2, radius_words.size), number)
    loop(number(1), radius_words, angle_words, out)
    return out


# u next to sqrt(1/2) and 3/4 too, and to the parts of [1, 2) and the directions that have table entries in csrc/normals.c
EXTREMES = np.array([0, 1, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1, 0xB504F333, 0xB504F334, 0xBFFFFFFF, 0xC0000000, 0xF7FFFFFF, 0xF8000000], np.uint32)
TURNS = np.array(
    [0, 1, 2**26 - 1, 2**26, 3 * 2**26, 2**29 - 1, 2**29, 2**30 - 1, 2**30, 2**31 - 1, 2**31, 3 * 2**30 - 1, 3 * 2**30, 2**32 - 1], np.uint32
)


def exact_normals(radius_word, angle_word):
    half = mpmath.mpf("0.5")
    radius = mpmath.sqrt(-2 * mpmath.log((int(radius_word) + half) / ulp.WORDS))
    angle = 2 * mpmath.pi * (int(angle_word) + half) / ulp.WORDS
    return radius * mpmath.cos(angle), radius * mpmath.sin(angle)


def some_words():
    """(2, n) words of pairs: the ends and seams, and random ones."""
    rng = np.random.default_rng(7)
    seams = np.array(np.meshgrid(EXTREMES, TURNS)).reshape(2, -1)
    return np.concatenate([seams, rng.integers(0, 2**32, (2, 1500), dtype=np.uint32)], axis=1)


def worst_normal(words, got):
    """Largest error of pairs of normals (2, n) made from words (2, n), in units of the last place of the exact value."""
    bits = 24 if got.dtype == np.float32 else 53
    worst = 0.0
    for j in range(words.shape[1]):
        for value, exact in zip(got[:, j], exact_normals(words[0, j], words[1, j]), strict=True):
            unit = mpmath.mpf(2) ** (mpmath.floor(mpmath.log(abs(exact), 2)) + 1 - bits)
            worst = max(worst, float(abs(mpmath.mpf(float(value)) - exact) / unit))
    return worst


@pytest.mark.parametrize("precision", PRECISIONS)
def test_normals_from_words(precision):
    """Against mpmath, at random words and at the ends and seams: float32 within 5 ULP, float64 within 3."""
    number = PRECISIONS[precision]
    words = some_words()
    got = normals(number, words[0], words[1])
    assert got.dtype == number
    assert worst_normal(words, got) <= (5.0 if number is np.float32 else 3.0)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_tail_ends_where_it_is_said_to_end(precision):
    number = PRECISIONS[precision]
    r, a = np.array(np.meshgrid(EXTREMES, TURNS), np.uint32).reshape(2, -1)
    got = np.abs(normals(number, r, a))
    limit = np.sqrt(66 * np.log(2))
    assert 6.7637 < limit < 6.7638
    assert float(got.max()) == pytest.approx(limit, rel=1e-6)
    assert float(got.max()) <= np.nextafter(number(limit), number(7))
    assert np.all(got > 0)  # neither factor is ever exactly zero


# Each p-value below is compared with 1e-6: with the seeds fixed nothing is random, but a *right* generator would have failed such a test
# with that probability when the seed was chosen. About 100 p-values: a false alarm once in 10^4 choices of the seed.
RARE = 1e-6
KEY = np.uint32(2026), np.uint32(7)
COUNT = 2**18


@pytest.fixture(scope="module", params=["numba", "c"])
def drawn(request):
    """(4, COUNT) normals and uniforms, one row per word of the counter, float32: one panel of a tensor; by Numba's loop and by C."""
    if request.param == "c" and not HAVE_PANELS:
        pytest.skip("no AVX-512 here, or no C extension: normals come from Numba's loop alone")
    options = {**KERNEL_OPTIONS}
    by_c = request.param == "c"
    draws.prepare("float32")

    @numba.njit(**options)
    def fill(normal, uniform, where, key):
        if by_c:
            draws.draw_vector(normal, normal.size, draws.NORMAL, np.float32(1), where, key)
        else:
            random.fill_normal(normal, normal.size, np.float32(1), 0, where, key)
        random.fill_uniform(uniform, uniform.size, np.float32(1), 0, where, key)

    def get(role=1, part=0, layer=0, realization=0, count=COUNT, key=KEY):
        normal, uniform = np.empty((2, 4 * count), np.float32)
        fill(normal, uniform, random.address(role, part, layer, realization), key)
        return normal.reshape(4, count), uniform.reshape(4, count)

    return get


def test_moments_of_normals_and_uniforms(drawn):
    normal, uniform = (x.astype(np.float64).ravel() for x in drawn())
    n = normal.size
    # moment, its expectation, and the variance of its mean
    for k, mean, variance in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10395 - 225), (8, 105, 2027025 - 105**2)]:
        z = (np.mean(normal**k) - mean) / np.sqrt(variance / n)
        assert 2 * stats.norm.sf(abs(z)) > RARE, k
    for k in range(1, 9):
        mean = 1 / (k + 1) if k % 2 == 0 else 0.0
        z = (np.mean(uniform**k) - mean) / np.sqrt((1 / (2 * k + 1) - mean**2) / n)
        assert 2 * stats.norm.sf(abs(z)) > RARE, k
    assert np.abs(uniform).max() <= 1.0


def test_distribution_of_each_word(drawn):
    normal, uniform = drawn()
    for word in range(4):
        assert stats.kstest(normal[word], "norm", mode="asymp").pvalue > RARE
        assert stats.kstest(uniform[word], stats.uniform(-1, 2).cdf, mode="asymp").pvalue > RARE
    # the tail, where a KS test sees nothing: Poisson counts
    for edge in (3.5, 4.0, 4.5, 5.0):
        expected = 2 * stats.norm.sf(edge) * normal.size
        found = int(np.sum(np.abs(normal) > edge))
        assert 2 * min(stats.poisson.cdf(found, expected), stats.poisson.sf(found - 1, expected)) > RARE, edge


def assert_independent(x, y, label):
    """Neither the values nor their squares are correlated."""
    for power in (1, 2):
        r = np.corrcoef(x.astype(np.float64) ** power, y.astype(np.float64) ** power)[0, 1]
        assert 2 * stats.norm.sf(abs(r) * np.sqrt(x.size)) > RARE, (label, power, r)


def test_the_four_words_are_independent(drawn):
    for numbers in drawn():
        for a in range(4):
            for b in range(a):
                assert_independent(numbers[a], numbers[b], (a, b))


def test_neighbours_are_independent(drawn):
    """Neighbouring counters, realizations, layers, gates, roles and keys."""
    count = 2**16
    for numbers in drawn(count=count):
        for lag in (1, 2, 16, 256):
            assert_independent(numbers[:, lag:].ravel(), numbers[:, :-lag].ravel(), lag)
    base = drawn(count=count)
    others = [
        {"realization": 1},
        {"realization": 2**32},
        {"layer": 1},
        {"part": 1},
        {"role": 2},
        {"key": (np.uint32(2027), np.uint32(7))},
        {"key": (np.uint32(2026), np.uint32(8))},
    ]
    for other in others:
        for a, b in zip(base, drawn(count=count, **other), strict=True):
            assert_independent(a.ravel(), b.ravel(), other)
