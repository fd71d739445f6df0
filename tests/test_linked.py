"""What kernels call is compiled into them alone, and computes what plain Python computes."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys

import llvmlite.binding
import numba
import numpy as np
import pytest
from numba import types
from numba.core.codegen import JITCodeLibrary

from fastgrad.elementary import exp
from fastgrad.engine.arrays import copy, copy_rows, fill, transpose
from fastgrad.engine.cell_rows import load_rows, store_rows, store_second
from fastgrad.engine.noalias import load, store
from fastgrad.engine.views import columns_at, columns_turned, rows_turned
from fastgrad.engine.wide import rest_in_a_mask, two_at_a_time
from fastgrad.jit import KERNEL_OPTIONS, formula, reduction, register_jitable


@formula
def square(x):
    return x * x


@reduction
def total(x):
    result = 0.0
    for j in range(x.size):
        result += square(x[j])
    return result


@register_jitable(error_model="numpy")
def weighted(x, pair):
    first, second = pair
    if first > second:
        return total(x) / (first - second)
    return square(total(x))


def run(x, first, second):
    return weighted(x, (first, second)) + total(x)


def test_only_the_kernel_becomes_machine_code(monkeypatch):
    written = []
    original = JITCodeLibrary._finalize_specific

    def finalize(self):
        written.append(self.name)
        original(self)

    monkeypatch.setattr(JITCodeLibrary, "_finalize_specific", finalize)
    x = np.array([1.0, 2.0, 3.0])
    compiled = numba.njit(**KERNEL_OPTIONS)(run)
    assert compiled(x, 3.0, 1.0) == run(x, 3.0, 1.0) == 21.0
    assert compiled(x, 1.0, 3.0) == run(x, 1.0, 3.0) == 210.0
    ours = [name for name in written if any(function in name for function in ("square", "total", "weighted", "run"))]
    assert len(ours) == 1, ours


def test_a_mistake_in_a_called_function_is_reported_as_numba_reports_it():
    @register_jitable
    def wrong(x):
        return x.no_such_thing

    with pytest.raises(numba.errors.TypingError, match="no_such_thing"):
        numba.njit(lambda x: wrong(x))(1.0)


@pytest.mark.parametrize(("source", "target"), [("f4", "f4"), ("f4", "f8"), ("f8", "f4"), ("i8", "i8")])
def test_copies_and_fills(source, target):
    def work(vector, matrix, of_vector, of_matrix, turned, filled, value):
        copy(vector, of_vector)
        copy_rows(matrix, of_matrix)
        transpose(matrix, turned)
        fill(filled, value)

    def arguments():
        matrix = np.arange(35).reshape(5, 7).astype(source)
        # copy_rows reads a matrix with other strides, and more columns than it writes.
        outputs = np.zeros(7, target), np.zeros((5, 4), target), np.zeros((7, 5), target), np.ones(6, target)
        return matrix[2].copy(), np.asfortranarray(matrix), *outputs, 3

    plain, compiled = arguments(), arguments()
    work(*plain)
    numba.njit(work)(*compiled)
    for a, b in zip(plain[2:-1], compiled[2:-1], strict=True):
        np.testing.assert_array_equal(a, b)
    assert plain[2][6] == 20
    assert plain[4][6, 4] == 34
    assert plain[5].tolist() == [3] * 6


@pytest.mark.parametrize("source", ["f4", "f8", "i8"])
def test_transposing(source):
    """Squares of vectors, what does not fill one, and nothing behind a row."""
    compiled = numba.njit(lambda matrix, out: transpose(matrix, out))
    for rows, columns in [(50, 37), (1, 1), (16, 16), (64, 48), (7, 33), (33, 7), (1, 40), (40, 1), (0, 3)]:
        matrix = np.arange(1, rows * columns + 1).reshape(rows, columns).astype(source)
        out, plain = (np.full((columns, rows + 5), -1, source) for _ in range(2))
        compiled(matrix, out)
        transpose(matrix, plain)
        np.testing.assert_array_equal(out[:, :rows], matrix.T)
        assert (out[:, rows:] == -1).all()
        np.testing.assert_array_equal(out, plain)


@pytest.mark.parametrize("turned", [False, True])
def test_rows_and_columns_in_the_opposite_order(turned):
    def work(matrix, turned, by_rows, by_columns):
        copy_rows(rows_turned(columns_at(matrix, 1, 3), turned), by_rows)
        copy_rows(columns_turned(matrix, turned), by_columns)

    matrix = np.arange(20.0).reshape(4, 5)
    by_rows, by_columns = np.empty((4, 3)), np.empty((4, 5))
    numba.njit(work)(matrix, turned, by_rows, by_columns)
    np.testing.assert_array_equal(by_rows, matrix[::-1, 1:4] if turned else matrix[:, 1:4])
    np.testing.assert_array_equal(by_columns, matrix[:, ::-1] if turned else matrix)


def occurrences(pattern, work):
    """How often LLVM's code for work(x, y), vectors of float64, has the pattern."""
    function = numba.njit(types.void(types.float64[::1], types.float64[::1]), **KERNEL_OPTIONS)(work)
    return len(re.findall(pattern, "".join(function.inspect_llvm().values())))


def test_two_vectors_at_a_time():
    """LLVM heeds the wish: the loop in front of it has twice the divisions of the one without."""

    def compiled(wish):
        def work(x, y):
            for j in range(x.size):
                store(y, j, 1.0 / (1.0 + exp(load(x, j))), 0)
            if wish:
                two_at_a_time()

        return occurrences(r"= fdiv [a-z ]*<", work)

    assert compiled(True) > compiled(False) > 0


@pytest.mark.skipif(not llvmlite.binding.get_host_cpu_features().get("avx2", False), reason="NOT TESTED: this processor has no masked stores")
def test_what_is_left_over_goes_through_a_mask():
    """LLVM heeds the wish, and of two loops only that in front of it has it."""

    def compiled(first, second):
        def work(x, y):
            for j in range(x.size):
                store(y, j, 1.0 / (1.0 + exp(load(x, j))), 0)
            if first:
                rest_in_a_mask()
            for j in range(x.size):
                store(y, j, 1.0 / (2.0 + exp(load(x, j))), 0)
            if second:
                rest_in_a_mask()

        return occurrences("call void @llvm.masked.store", work)

    neither, one, both = compiled(False, False), compiled(True, False), compiled(False, True)
    assert neither == 0
    assert one > 0
    assert both == 2 * one


@pytest.mark.skipif(platform.machine() not in {"x86_64", "AMD64"}, reason="NOT TESTED: a processor without masks is a plain x86-64 here")
def test_without_masks_loops_stay_vector_code():
    code = """
import numba, re
from numba import types
from fastgrad.engine.noalias import load, store
from fastgrad.engine.wide import rest_in_a_mask
from fastgrad.jit import KERNEL_OPTIONS

def work(x, y):
    for j in range(x.size):
        store(y, j, 1.0 / (1.0 + load(x, j)), 0)
    rest_in_a_mask()

function = numba.njit(types.void(types.float64[::1], types.float64[::1]), **KERNEL_OPTIONS)(work)
assert re.search(r"= fdiv [a-z ]*<", "".join(function.inspect_llvm().values()))
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": ""})


@pytest.mark.parametrize("count", [1, 2, 6])
def test_rows_of_cells(count):
    def work(numbers, gap, out, second):
        for j in range(3):
            values = load_rows(numbers, gap, j, count)
            store_rows(out, gap + 1, j, values, 2)
            store_second(second, j, values, 8)

    def arguments():
        return np.arange(40, dtype=np.float32), 5, np.zeros(40, np.float32), np.zeros(3, np.float32)

    plain, compiled = arguments(), arguments()
    work(*plain)
    numba.njit(work)(*compiled)
    for a, b in zip(plain, compiled, strict=True):
        np.testing.assert_array_equal(a, b)
    assert plain[2][6 * (count - 1) + 2] == 5 * (count - 1) + 2
    assert plain[3].tolist() == ([5, 6, 7] if count > 1 else [0, 0, 0])
