"""Times of single kernels by pytest-benchmark: ``pytest bench``. Nothing is asserted about them; ``make test`` does not collect this folder."""

from __future__ import annotations

import numpy as np
import pytest

import fastgrad as fg
from fastgrad.engine.aligned import aligned_empty
from fastgrad.engine.native import multiply, multiply_transposed
from fastgrad.engine.norms import largest, log_norm_of, outer_squares
from fastgrad.jit import KERNEL_OPTIONS

numba = pytest.importorskip("numba")
pytest.importorskip("pytest_benchmark")

PRODUCTS = [(1, 64, 64), (1, 64, 256), (1, 256, 64), (1, 128, 512), (1, 256, 1024), (32, 128, 512), (64, 256, 256)]  # B, in, out
STEPS = 200


@numba.njit(**KERNEL_OPTIONS)
def transposed(P, X, out):
    multiply_transposed(P, X, out, False)


@numba.njit(**KERNEL_OPTIONS)
def dot(A, X, out):
    multiply(A, X, out, False)


@numba.njit(**KERNEL_OPTIONS)
def outer(D, X):
    return outer_squares(D, X)


@numba.njit(**KERNEL_OPTIONS)
def size(x):
    return largest(x)


@numba.njit(**KERNEL_OPTIONS)
def norm(x):
    return log_norm_of(x, 0)


def normals(*shape):
    array = aligned_empty(shape, np.float32)
    array[...] = np.random.default_rng(0).standard_normal(shape)
    return array


@pytest.mark.parametrize(("batch", "into", "out"), PRODUCTS)
@pytest.mark.parametrize("form", [transposed, dot], ids=["transposed", "dot"])
def test_product(benchmark, form, batch, into, out):
    matrix = normals(into, out) if form is transposed else normals(out, into)
    X, result = normals(batch, into), normals(batch, out)
    benchmark(form, matrix, X, result)
    expected = X.astype(float) @ (matrix if form is transposed else matrix.T)
    np.testing.assert_allclose(result, expected, atol=1e-4 * into)


@pytest.mark.parametrize("batch", [4, 32, 64])
def test_weight_gradient_norm(benchmark, batch):
    D, X = normals(batch, 256), normals(batch, 256)
    assert benchmark(outer, D, X) == pytest.approx(((D.T.astype(float) @ X) ** 2).sum(), rel=1e-5)


@pytest.mark.parametrize("n", [64, 256, 16384])
@pytest.mark.parametrize("kernel", [size, norm], ids=["largest", "log_norm"])
def test_norm(benchmark, kernel, n):
    x = normals(n)
    expected = np.abs(x).max() if kernel is size else np.log(np.linalg.norm(x.astype(float)))
    assert benchmark(kernel, x) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize("kind", [fg.RNN, fg.LSTM, fg.GRU])
def test_unrolled(benchmark, kind, width):
    network = kind(STEPS, width)
    result = benchmark(fg.measure, network, realizations=4, rng=0, threads=1, record=["gradient_log_norm"])
    assert np.isfinite(result.gradient_log_norm).all()


@pytest.mark.parametrize("batch", [1, 64])
def test_dense_layers(benchmark, batch):
    inputs = None if batch == 1 else normals(batch, 256)
    network = fg.MLP(50, 256, weights=fg.Normal(1.3))
    result = benchmark(fg.measure, network, inputs=inputs, realizations=2, rng=0, threads=1, method="dense")
    assert np.isfinite(result.gradient_log_norm).all()
