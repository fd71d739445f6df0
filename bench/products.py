"""How long does one small matrix product take: the C extension, its Numba twin, or BLAS by way of np.dot?

One line a shape: microseconds a call, the best of many short runs taken in turn (so that a busy neighbour
hits all of them alike). The calls are made inside one compiled loop, as a kernel makes them.
Run: python bench/products.py [float32|float64]
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # one core each

import numba
import numpy as np

from fastgrad.engine import native
from fastgrad.engine.native import multiply, multiply_transposed
from fastgrad.jit import KERNEL_OPTIONS

SHAPES = [  # B, K (in), M (out)
    (1, 32, 32), (1, 64, 64), (1, 64, 256), (1, 128, 512), (1, 256, 1024), (1, 100, 100),
    (4, 64, 256), (8, 128, 512), (32, 128, 512), (256, 128, 512),
]  # fmt: skip
ROUNDS, SECONDS = 60, 2e-4


@numba.njit(**KERNEL_OPTIONS)
def transposed(calls, P, A, X, out):
    for _ in range(calls):
        multiply_transposed(P, X, out, False)


@numba.njit(**KERNEL_OPTIONS)
def dot(calls, P, A, X, out):
    for _ in range(calls):
        multiply(A, X, out, False)


@numba.njit(**KERNEL_OPTIONS)
def transposed_twin(calls, P, A, X, out):
    for _ in range(calls):
        native._transposed_twin(P, X, out, False)


@numba.njit(**KERNEL_OPTIONS)
def dot_twin(calls, P, A, X, out):
    for _ in range(calls):
        native._twin(A, X, out, False)


@numba.njit(**KERNEL_OPTIONS)
def blas(calls, P, A, X, out):
    for _ in range(calls):
        np.dot(X, P, out)


def aligned(shape: tuple[int, int], dtype: type, rng: np.random.Generator) -> np.ndarray:
    """Standard normal numbers that start at a multiple of 64 bytes, as the engine lays them out."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    room = np.empty(size + 64, np.uint8)
    start = -room.ctypes.data % 64
    array = room[start : start + size].view(dtype).reshape(shape)
    array[...] = rng.standard_normal(shape)
    return array


def seconds_each(
    contenders: dict[str, Callable[..., None]], arguments: tuple[np.ndarray, ...]
) -> dict[str, float]:
    best = dict.fromkeys(contenders, np.inf)
    calls = {}
    for name, run in contenders.items():
        run(1, *arguments)
        start = time.perf_counter()
        run(10, *arguments)
        calls[name] = 1 + int(SECONDS / ((time.perf_counter() - start) / 10))
    for _ in range(ROUNDS):
        for name, run in contenders.items():
            start = time.perf_counter()
            run(calls[name], *arguments)
            best[name] = min(best[name], (time.perf_counter() - start) / calls[name])
    return best


def main() -> None:
    dtype = np.dtype(sys.argv[1] if len(sys.argv) > 1 else "float32").type
    contenders = {
        "transposed C": transposed, "transposed twin": transposed_twin,
        "dot C": dot, "dot twin": dot_twin, "np.dot": blas,
    }  # fmt: skip
    if not native.HAVE_C:
        print("The C extension is absent: the columns named C are the twins.")
    rng = np.random.default_rng(0)
    names = "".join(f"{name:>17}" for name in contenders)
    print(f"{'B':>4} {'in':>5} {'out':>5} {names}   us a call")
    for B, K, M in SHAPES:
        P, X = aligned((K, M), dtype, rng), aligned((B, K), dtype, rng)
        A, out = aligned((M, K), dtype, rng), aligned((B, M), dtype, rng)
        A[...] = P.T
        expected = X.astype(float) @ P
        for name, run in contenders.items():
            run(1, P, A, X, out)
            assert np.allclose(out, expected, rtol=0, atol=1e-4 * K), name
        best = seconds_each(contenders, (P, A, X, out))
        rate = B * K * M / best["transposed C"]
        times = "".join(f"{1e6 * t:17.3f}" for t in best.values())
        print(f"{B:4} {K:5} {M:5} {times}   {rate / 1e9:5.1f} G/s")
    large = blas_rate(dtype) / 1e9
    print(f"G/s: multiply-adds of transposed C; np.dot of 768 x 768 here: {large:.1f} G/s")


def blas_rate(dtype: type) -> float:
    """Multiply-adds a second of a large BLAS product on one core: arithmetic with little memory traffic."""
    a, b = np.ones((2, 768, 768), dtype)
    best = np.inf
    for _ in range(8):
        start = time.perf_counter()
        np.dot(a, b)
        best = min(best, time.perf_counter() - start)
    return 768**3 / best


if __name__ == "__main__":
    main()
