"""The products: C, twin and NumPy agree; bytes do not depend on how a batch is cut; kernels stay cached."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numba
import numpy as np
import pytest

import fastgrad as fg
from fastgrad.engine import native, norms
from fastgrad.engine.native import multiply, multiply_transposed

ROOT = Path(__file__).resolve().parent.parent
DTYPES = [np.float32, np.float64]
SHAPES = [  # B, K, M
    *[(1 + n % 6, n, 71 - n) for n in range(1, 71)],
    (1, 513, 300), (2, 600, 17), (3, 1025, 33), (5, 129, 517), (9, 300, 97), (1, 8, 257), (33, 40, 41),
]  # fmt: skip


@numba.njit(nogil=True)
def transposed(P, X, out, accumulate):
    multiply_transposed(P, X, out, accumulate)


@numba.njit(nogil=True)
def dot(A, X, out, accumulate):
    multiply(A, X, out, accumulate)


@numba.njit(nogil=True)
def transposed_twin(P, X, out, accumulate):
    native._transposed_in_numba(P, X, out, accumulate)


@numba.njit(nogil=True)
def dot_twin(A, X, out, accumulate):
    native._in_numba(A, X, out, accumulate)


numba.extending.register_jitable(native._transposed_in_numba)
numba.extending.register_jitable(native._in_numba)


def strided(array):
    """The same numbers as a view whose rows and columns have gaps."""
    rows, columns = array.shape
    wide = np.full((2 * rows, 3 * columns + 1), np.nan, array.dtype)
    wide[::2, : 3 * columns : 3] = array
    return wide[::2, : 3 * columns : 3]


def gapped(array):
    """The same numbers, rows contiguous but with a gap of NaN after each."""
    rows, columns = array.shape
    wide = np.full((rows, columns + 3), np.nan, array.dtype)
    wide[:, :columns] = array
    return wide[:, :columns]


def problem(B, K, M, dtype):
    rng = np.random.default_rng([B, K, M])
    return (rng.standard_normal(shape).astype(dtype) for shape in ((K, M), (B, K), (B, M)))


def assert_close(got, P, X, start):
    """Any order of K additions is within K ULP of the sum of magnitudes (Higham 2002, eq. 3.5)."""
    exact = X.astype(np.longdouble) @ P.astype(np.longdouble) + start
    magnitude = np.abs(X).astype(float) @ np.abs(P).astype(float) + np.abs(start)
    assert np.all(np.abs(got - exact) <= (P.shape[0] + 2) * np.finfo(got.dtype).eps * magnitude)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("product", [transposed, transposed_twin, multiply_transposed])
def test_transposed_form(product, accumulate, dtype):
    for shape in SHAPES:
        P, X, out = problem(*shape, dtype)
        start = out.astype(float) if accumulate else np.zeros_like(out, float)
        product(P, X, out, accumulate)
        assert_close(out, P, X, start)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("product", [dot, dot_twin, multiply])
def test_dot_form(product, accumulate, dtype):
    for shape in SHAPES:
        P, X, out = problem(*shape, dtype)
        start = out.astype(float) if accumulate else np.zeros_like(out, float)
        product(np.ascontiguousarray(P.T), X, out, accumulate)
        assert_close(out, P, X, start)


@pytest.mark.parametrize("dtype", DTYPES)
def test_strides(dtype):
    for B, K, M in [(1, 5, 3), (1, 70, 40), (4, 33, 50), (7, 20, 21), (3, 600, 18)]:
        P, X, out = problem(B, K, M, dtype)
        expected = out.copy()
        transposed(P, X, expected, True)
        for view in (strided(X), strided(X.T).T, gapped(X), X[::-1].copy()[::-1]):
            result = gapped(out)
            transposed(gapped(P), view, result, True)
            assert np.array_equal(result, expected)
            assert np.isnan(result.base[:, M:]).all(), "the gaps between rows of out were written"

        A = np.ascontiguousarray(P.T)
        expected = out.copy()
        dot(A, X, expected, True)
        result = gapped(out)
        dot(gapped(A), gapped(X), result, True)
        assert_close(result, P, X, out.astype(float))
        assert np.array_equal(result, expected) or not native.HAVE_C


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("accumulate", [False, True])
def test_bytes_do_not_depend_on_the_batch(accumulate, dtype):
    for K, M in [(1, 1), (2, 9), (3, 5), (4, 33), (5, 6), (7, 40), (13, 13), (64, 64), (65, 130), (129, 300), (513, 20), (1100, 35)]:
        P, X, start = problem(70, K, M, dtype)
        A = np.ascontiguousarray(P.T)
        for product, matrix in ((transposed, P), (dot, A)):
            whole = start.copy()
            product(matrix, X, whole, accumulate)
            for size in (1, 2, 3, 4, 5, 7, 16, 19, 64):
                parts = start.copy()
                for b in range(0, 70, size):
                    product(matrix, X[b : b + size], parts[b : b + size], accumulate)
                assert parts.tobytes() == whole.tobytes(), (product, K, M, size)


@pytest.mark.skipif(not native.HAVE_C, reason="the C extension is absent: only its sums are independent of M")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [3, 17])
def test_bytes_do_not_depend_on_the_number_of_outputs(batch, dtype):
    for K in (2, 5, 64, 130, 600):
        P, X, out = problem(batch, K, 150, dtype)
        A = np.ascontiguousarray(P.T)
        whole, by_rows = out.copy(), out.copy()
        transposed(P, X, whole, False)
        dot(A, X, by_rows, False)
        for M in (1, 3, 8, 17, 64, 131):
            for left in (0, 19):
                part = np.empty((batch, M), dtype)
                transposed(P[:, left : left + M], X, part, False)
                assert part.tobytes() == np.ascontiguousarray(whole[:, left : left + M]).tobytes()
                dot(A[left : left + M], X, part, False)
                assert part.tobytes() == np.ascontiguousarray(by_rows[:, left : left + M]).tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_narrow_matrices_whichever_way_their_rows_go(dtype):
    """The last rows in memory, which a whole vector would reach beyond, come first where rows are turned; a row may stand for all."""
    for K, M in [(1, 3), (5, 1), (9, 7), (20, 13)]:
        P, X, out = problem(3, K, M, dtype)
        exact = np.ascontiguousarray(P)
        for rows in (exact, exact[::-1], np.broadcast_to(exact[0], exact.shape), np.ascontiguousarray(np.pad(exact, ((0, 0), (0, 4))))[::-1, :M]):
            got = np.empty_like(out)
            transposed(rows, X, got, False)
            assert_close(got, np.ascontiguousarray(rows), X, np.zeros(out.shape))


def test_empty_sums_and_empty_batches():
    out = np.ones((2, 3))
    transposed(np.empty((0, 3)), np.empty((2, 0)), out, True)
    assert (out == 1).all()
    transposed(np.empty((0, 3)), np.empty((2, 0)), out, False)
    assert (out == 0).all()
    dot(np.empty((3, 0)), np.empty((2, 0)), out, True)
    assert (out == 0).all()
    transposed(np.ones((4, 3)), np.empty((0, 4)), np.empty((0, 3)), False)


def test_infinities_and_nan_stay_where_they_belong():
    for K, M in [(3, 40), (40, 3), (70, 45)]:
        P, X, out = problem(5, K, M, np.float32)
        P[K - 1, M - 1] = np.inf
        X[2, 0] = np.nan
        for product, matrix in ((transposed, P), (dot, np.ascontiguousarray(P.T))):
            product(matrix, X, out, False)
            assert np.isnan(out[2]).all()
            assert np.isinf(out[[0, 1, 3, 4], M - 1]).all()
            assert np.isfinite(out[[0, 1, 3, 4], : M - 1]).all()


@pytest.mark.parametrize("product", [transposed, dot, multiply_transposed, multiply])
def test_shapes_that_do_not_fit_are_refused(product):
    with pytest.raises(ValueError, match="do not fit together"):
        product(np.ones((4, 4)), np.ones((2, 5)), np.ones((2, 4)), False)
    with pytest.raises(ValueError, match="do not fit together"):
        product(np.ones((4, 4)), np.ones((2, 4)), np.ones((3, 4)), False)


@pytest.mark.skipif(not native.HAVE_C, reason="the C extension is absent: its twins take any strides")
@pytest.mark.parametrize("product", [transposed, dot])
def test_rows_that_are_not_contiguous_are_refused(product):
    P, out = np.ones((4, 4), np.float32), np.ones((2, 4), np.float32)
    for bad_P, bad_out in ((strided(P), gapped(out)), (gapped(P), strided(out))):
        with pytest.raises(ValueError, match="contiguous"):
            product(bad_P, gapped(out), bad_out, False)


def test_the_twins_sum_in_vectors_for_a_caller_without_fastmath():
    """A plain sum may not be reordered, so without the twin's own flags its loop would stay scalar."""
    dot_twin(np.ones((4, 4), np.float32), np.ones((1, 4), np.float32), np.ones((1, 4), np.float32), False)
    [signature] = [s for s in dot_twin.signatures if s[0].dtype == numba.float32 and s[0].layout == "C"][:1]
    ir = dot_twin.inspect_llvm(signature)
    assert "fadd reassoc nsz arcp contract <" in ir or "llvm.vector.reduce.fadd" in ir
    assert "fadd fast" not in ir
    assert "nnan" not in ir


CACHED = """
    import json, sys
    import numba, numpy as np
    sys.path.insert(0, {root!r})
    from fastgrad.engine import native
    from fastgrad.engine.native import multiply, multiply_transposed

    @numba.njit(cache=True, nogil=True)
    def both(P, X, out):
        multiply_transposed(P, X, out, False)
        multiply(P, X, out, True)

    out = np.empty((2, 3))
    both(np.arange(9.0).reshape(3, 3), np.arange(6.0).reshape(2, 3), out)
    hits = sum(both.stats.cache_hits.values())
    print(json.dumps([hits, out.tolist(), native.HAVE_C, native.native_fingerprint()]))
"""


@pytest.mark.parametrize("disable_c", ["0", "1"])
def test_kernels_are_cached_across_processes(tmp_path, disable_c):
    script = tmp_path / "cached.py"
    script.write_text(textwrap.dedent(CACHED.format(root=str(ROOT))))
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "FASTGRAD_DISABLE_C": disable_c}
    command = [sys.executable, str(script)]
    runs = [
        json.loads(subprocess.run(command, env=environment, check=True, capture_output=True).stdout)
        for _ in range(2)
    ]
    P, X = np.arange(9.0).reshape(3, 3), np.arange(6.0).reshape(2, 3)
    assert [run[0] for run in runs] == [0, 1]
    assert runs[0][1] == runs[1][1] == (X @ P + X @ P.T).tolist()
    assert runs[0][2] is (disable_c == "0" and (ROOT / "fastgrad" / "_native.abi3.so").exists())
    assert (runs[0][3] == native.native_fingerprint()) is (runs[0][2] is native.HAVE_C)


def run_driver(tmp_path, *flags):
    """Every instruction set that this processor can run, one by one, over odd sizes in buffers of exactly their size."""
    driver = tmp_path / "driver"
    source = ROOT / "tests" / "products_driver.c"
    subprocess.run(["gcc", "-std=gnu11", *flags, f"-I{ROOT / 'csrc'}", str(source), "-lm", "-o", str(driver)], check=True)
    # Leak checks need ptrace, which containers forbid; the driver frees everything anyway.
    environment = os.environ | {"ASAN_OPTIONS": "detect_leaks=0"}
    run = subprocess.run([driver], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.endswith(" 0 wrong\n")
    assert int(run.stdout.split()[0]) > 1000


def test_the_c_code_is_clean_under_sanitizers(tmp_path):
    if shutil.which("gcc") is None:
        pytest.skip("no gcc: the C products were not run under AddressSanitizer and UBSan")
    flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    (tmp_path / "empty.c").write_text("int main(void) { return 0; }\n")
    probe = ["gcc", *flags, str(tmp_path / "empty.c"), "-o", str(tmp_path / "empty")]
    if subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("gcc has no sanitizers (libasan, libubsan): the C products were not run under them")
    run_driver(tmp_path, "-O0", "-DFG_ONE_COPY", *flags)


def test_every_instruction_set_as_it_is_built(tmp_path):
    if shutil.which("gcc") is None:
        pytest.skip("no gcc: only the instruction set that this processor prefers was run")
    run_driver(tmp_path, "-O3", "-ffp-contract=off")


@numba.njit(nogil=True)
def gram(D, X):
    return native.gram_squares(D, X)


@numba.njit(nogil=True)
def gram_twin(D, X):
    return native._gram_twin(D, X)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", [gram, gram_twin, native.gram_squares])
def test_gram_squares(function, dtype):
    rng = np.random.default_rng(3)
    for B, M, N in [(1, 1, 1), (2, 3, 5), (3, 16, 17), (4, 33, 8), (5, 600, 40), (9, 7, 1200), (17, 64, 65)]:
        D, X = rng.standard_normal((B, M)).astype(dtype), rng.standard_normal((B, N)).astype(dtype)
        exact = ((D.T.astype(np.longdouble) @ X) ** 2).sum()
        assert abs(function(D, X) / float(exact) - 1.0) < 50 * np.finfo(dtype).eps


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_that_have_lost_their_digits_say_so(dtype):
    D = np.ones((2, 40), dtype)
    D[1] = -1.0
    X = np.ones((2, 30), dtype)
    X[1, 0] += 1e-3
    assert gram(D, X) == gram_twin(D, X) == native.gram_squares(D, X) == -1.0
    exact = ((D.T.astype(float) @ X) ** 2).sum()
    assert norms.outer_squares(D, X) == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_largest_passes_over_nan(dtype):
    compiled = numba.njit(lambda x: norms.largest(x))
    tiny = np.finfo(dtype).smallest_subnormal
    for numbers, expected in [([], 0), ([0.0, -0.0], 0), ([1.0, np.nan, -3.0], 3), ([np.nan], 0), ([-np.inf, 1.0], np.inf), ([tiny], tiny)]:
        x = np.array(numbers * 20, dtype)
        assert compiled(x) == norms.largest(x) == expected


WITHOUT_C = """
    import sys
    sys.path[:0] = [{root!r}, {tests!r}]
    import numpy as np
    from fastgrad.engine import native
    from test_native import whole_engine

    assert not native.HAVE_C
    np.savez(sys.argv[1], **whole_engine())
"""


def whole_engine():
    """Every variable of a few networks in float64."""
    rng = np.random.default_rng(2)
    cases = {
        "mlp": (fg.MLP(12, 33, weights=fg.Normal(1.2), bias_std=0.1), None),
        "mlp batch": (fg.MLP(12, 21, weights=fg.Normal(1.2)), rng.standard_normal((7, 21))),
        "rnn": (fg.RNN(20, 17, layers=2), None),
        "lstm": (fg.LSTM(20, 19, input_width=5), rng.standard_normal((20, 5, 5))),
        "gru": (fg.GRU(20, 18), None),
    }
    arrays = {}
    for name, (network, inputs) in cases.items():
        result = fg.measure(network, inputs=inputs, realizations=3, rng=1, dtype="float64", method="dense" if "mlp" in name else "auto")
        arrays |= {f"{name} {variable}": values.values for variable, values in result.data_vars.items()}
    return arrays


@pytest.mark.skipif(not native.HAVE_C, reason="the C extension is absent: there is nothing to compare the twins with")
def test_the_whole_engine_agrees_with_itself_without_c(tmp_path):
    script, results = tmp_path / "without.py", tmp_path / "results.npz"
    script.write_text(textwrap.dedent(WITHOUT_C.format(root=str(ROOT), tests=str(ROOT / "tests"))))
    subprocess.run([sys.executable, str(script), str(results)], env=os.environ | {"FASTGRAD_DISABLE_C": "1"}, check=True)
    without = np.load(results)
    for name, values in whole_engine().items():
        np.testing.assert_allclose(values, without[name], rtol=1e-12, atol=1e-12, err_msg=name)
