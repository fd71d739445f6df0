"""Runs of steps of a recurrent layer, in C and its twin: the product and the cell by turns, ended where a gradient leaves the window."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from fastgrad.engine import steps
from fastgrad.engine.pointwise import TWO_VECTORS, VECTOR, cell_of, numba_backward_address, numba_forward_address

WINDOW = 2**20
DTYPES = ["float32", "float64"]
KINDS = ["rnn", "lstm", "gru"]
IMPLEMENTATIONS = {"c": steps.native_step_addresses, "twin": steps.numba_step_addresses}


def called(address, returns, arrays, *sizes):
    function = ctypes.CFUNCTYPE(returns, *[ctypes.c_void_p] * len(arrays), *[ctypes.c_int64] * len(sizes))(address)
    return function(*[array.ctypes.data for array in arrays], *sizes)


class Layer:
    """A layer of H units and B sequences through some steps, as arrays; rows of weights are longer than need be."""

    def __init__(self, kind, dtype, implementation, batch=1, width=19, count=6, scale=1.0):
        self.cell = cell = cell_of(kind, None)
        self.addresses = IMPLEMENTATIONS[implementation](dtype)
        if self.addresses is None:
            pytest.skip("the C extension is absent: there is only the twin")
        self.loops = numba_forward_address(cell, dtype), numba_backward_address(cell, dtype)
        self.batch, self.width, self.count, self.rows = batch, width, count, len(cell.recurrent_rows) * width
        rng = np.random.default_rng(5)
        self.weights = (scale * rng.standard_normal((self.rows, width)) / width**0.5).astype(dtype)
        self.transposed = np.full((width, self.rows + 5), np.nan, dtype)
        self.transposed[:, : self.rows] = self.weights.T
        self.padded = np.full((self.rows, width + 3), np.nan, dtype)
        self.padded[:, :width] = self.weights
        self.pre = rng.standard_normal((count, batch, cell.n_pre * width)).astype(dtype)
        self.states = np.full((cell.n_states, count + 1, batch, width), 7, dtype)
        self.states[:, 0] = rng.standard_normal(self.states[:, 0].shape)
        self.local = np.full((count, batch, cell.n_local, width), 7, dtype)
        self.gradients = np.full((count + 1, cell.n_states, batch, width), 7, dtype)
        self.gradients[count] = rng.standard_normal(self.gradients[count].shape)
        self.d_pre = np.full((count, batch, cell.n_pre * width), 7, dtype)
        self.totals = np.full((count, batch, width), 7, dtype)

    def forward(self, turned=0, turning=0):
        """All steps by the code under test."""
        units, cell = self.batch * self.width, self.cell
        gap = (cell.n_states - 1) * (self.count + 1) * units
        arrays = self.transposed, self.states, self.pre, self.states, self.local
        called(
            self.addresses.forward, None, arrays, self.loops[0], self.count, self.batch, self.width, self.rows, self.rows + 5,
            cell.n_pre * self.width, cell.n_local * self.width, gap, self.width - self.width % TWO_VECTORS, turned, turning,
        )  # fmt: skip

    def forward_slowly(self):
        """The same with products by NumPy, sequence by sequence."""
        for t in range(self.count):
            for b in range(self.batch):
                product = self.weights.astype(float) @ self.states[0, t, b].astype(float)
                self.pre[t, b, : self.rows] = (self.pre[t, b, : self.rows].astype(float) + product).astype(self.pre.dtype)
                state, new = np.ascontiguousarray(self.states[:, t, b]), np.ascontiguousarray(self.states[:, t + 1, b])
                called(
                    self.loops[0], None, (self.pre[t, b], state, new, self.local[t, b]), self.width, self.width,
                    self.width - self.width % TWO_VECTORS,
                )  # fmt: skip
                self.states[:, t + 1, b] = new

    def backward(self, turned=0, turning=0, d_pre_kept=True):
        """All steps back, or as far as the code under test goes; returns what it returns."""
        units, cell, last = self.batch * self.width, self.cell, self.count - 1
        pre_width = cell.n_pre * self.width
        arrays = self.padded, self.gradients[self.count], self.local[last], self.d_pre[last], self.totals[last]
        return called(
            self.addresses.backward, ctypes.c_int64, arrays, self.loops[1], self.count, self.batch, self.width, self.rows, self.width + 3,
            pre_width, cell.n_local * self.width, (cell.n_states - 1) * units, cell.n_states * units,
            self.batch * pre_width if d_pre_kept else 0, self.width - self.width % VECTOR, turned, turning, WINDOW,
        )  # fmt: skip

    def backward_slowly(self):
        """The same with products by NumPy; returns the largest entry of each gradient, latest step first."""
        sizes = []
        for t in range(self.count - 1, -1, -1):
            for b in range(self.batch):
                gradient, before = np.ascontiguousarray(self.gradients[t + 1, :, b]), np.ascontiguousarray(self.gradients[t, :, b])
                called(
                    self.loops[1], None, (gradient, self.local[t, b], self.d_pre[t, b], before, self.totals[t, b]), self.width, self.width,
                    self.width - self.width % VECTOR,
                )  # fmt: skip
                before[0] = (before[0].astype(float) + self.d_pre[t, b, : self.rows].astype(float) @ self.weights.astype(float)).astype(before.dtype)
                self.gradients[t, :, b] = before
            sizes.append(np.abs(self.gradients[t]).max())
        return sizes


def assert_close(got, wanted):
    size = np.abs(wanted).max()
    np.testing.assert_allclose(got / size, wanted / size, rtol=0, atol=3000 * np.finfo(wanted.dtype).eps)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("batch", "width"), [(1, 1), (1, 19), (1, 64), (3, 33)])
def test_steps_are_products_and_cells(kind, dtype, implementation, batch, width):
    slow = Layer(kind, dtype, "twin", batch, width)
    slow.forward_slowly()
    slow.backward_slowly()
    for turned, turning in ((0, 0), (0, 1), (1, 1)):
        fast = Layer(kind, dtype, implementation, batch, width)
        fast.forward(turned, turning)
        assert fast.backward(turned, turning) == fast.count
        for name in ("pre", "states", "local", "gradients", "d_pre", "totals"):
            got, wanted = getattr(fast, name), getattr(slow, name)
            if name != "totals" or fast.cell.n_states == 2:  # else nobody writes them
                assert_close(got, wanted)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_d_pre_of_one_step_may_be_all_there_is(implementation):
    kept, last = Layer("gru", "float64", implementation, 2), Layer("gru", "float64", implementation, 2)
    for layer in (kept, last):
        layer.forward()
    assert kept.backward() == last.backward(d_pre_kept=False) == kept.count
    assert last.d_pre[-1].tobytes() == kept.d_pre[0].tobytes()
    assert np.all(last.d_pre[:-1] == 7)
    assert last.gradients.tobytes() == kept.gradients.tobytes()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [3e3, 1e-3, 0.0, np.nan])
def test_steps_end_where_the_gradient_leaves_the_window(implementation, dtype, scale):
    """By growing, by shrinking, with zero and with NaN; what lies beyond is left alone."""
    slow, fast = (Layer("rnn", dtype, which, 2, 33, scale=0.5) for which in ("twin", implementation))
    for layer in (slow, fast):
        layer.forward()
        for matrix in (layer.weights, layer.padded):
            matrix *= np.dtype(dtype).type(scale)
        layer.local[:] = 1
    sizes = slow.backward_slowly()
    outside = [not 1 / WINDOW <= size <= WINDOW for size in sizes]
    ran = fast.backward()
    assert -slow.count < ran < 0
    assert -ran == outside.index(True) + 1
    left = slow.count + ran
    if scale > 0:
        assert_close(fast.gradients[left], slow.gradients[left])
    else:
        np.testing.assert_array_equal(fast.gradients[left], slow.gradients[left])
    for untouched in (fast.gradients[:left], fast.d_pre[:left], fast.totals[:left]):
        assert np.all(untouched == 7)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("leaves_after", [1, 4, 6])
def test_the_cell_state_alone_may_leave_the_window(implementation, dtype, leaves_after):
    """Also at the last step of a run, and only there."""
    layer = Layer("lstm", dtype, implementation, 2, 33, scale=0.01)
    layer.forward()
    layer.local[:, :, :5] *= np.dtype(dtype).type(1e-3)
    layer.local[:, :, 5] = 1  # c hands its gradient on
    layer.local[layer.count - leaves_after, 1, 5, 7] = 2.0**30
    assert layer.backward() == -leaves_after
    assert np.abs(layer.gradients[layer.count - leaves_after, 0]).max() < WINDOW


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_every_other_step_adds_its_terms_in_the_opposite_order(implementation):
    """The bytes say so: with turns they are those of a matrix and a vector whose terms come in that order. Forward, and back."""
    straight, turned, turning = (Layer("rnn", "float32", implementation, width=40, count=2) for _ in range(3))
    straight.forward(0, 0)
    turned.forward(1, 0)
    turning.forward(0, 1)
    assert straight.pre[0].tobytes() == turning.pre[0].tobytes() != turned.pre[0].tobytes()
    again = Layer("rnn", "float32", implementation, width=40, count=2)
    again.states[0, 0], again.pre[0] = turning.states[0, 1], again.pre[1]
    again.forward(1, 0)
    assert again.pre[0].tobytes() == turning.pre[1].tobytes() != straight.pre[1].tobytes()

    for layer in (turned, turning):
        layer.local[:] = straight.local
    straight.backward(0, 0)
    turned.backward(1, 0)
    turning.backward(0, 1)
    assert straight.gradients[1].tobytes() == turning.gradients[1].tobytes() != turned.gradients[1].tobytes()
    assert straight.gradients[0].tobytes() != turning.gradients[0].tobytes()
