"""Cells: forward against naive formulas, backward against finite differences, plain Python against compiled loops, both precisions."""

from __future__ import annotations

import naive
import numpy as np
import pytest
from loops import PRECISIONS, assert_vector_code, call, cell_loops, conversions

from fastgrad.activations import ACTIVATIONS
from fastgrad.engine.pointwise import TWO_VECTORS, VECTOR, cell_of

CELLS = {
    "lstm": ("lstm", None),
    "gru": ("gru", None),
    "elman tanh": ("rnn", "tanh"),
    "elman relu": ("rnn", "relu"),
    "elman silu": ("rnn", "silu"),
}
EVERY_ELMAN = [f"elman {name}" for name in ACTIVATIONS]
UNITS = 37  # vectors, and a remainder


@pytest.fixture(scope="module")
def loops():
    """The compiled loops of a cell, each once."""
    made = {}

    def get(name, dtype):
        if (name, dtype) not in made:
            made[name, dtype] = cell_loops(*CELLS[name], dtype)
        return made[name, dtype]

    return get


def states_and_pre(cell, dtype, scale=2.0, seed=11):
    """Random pre-activations (P, H) and states (V, H)."""
    rng = np.random.default_rng(seed)
    pre = (scale * rng.standard_normal((cell.n_pre, UNITS))).astype(PRECISIONS[dtype])
    return pre, rng.standard_normal((cell.n_states, UNITS)).astype(PRECISIONS[dtype])


def run_forward(loop, cell, pre, state):
    """(new states, local derivatives) of all units by the compiled loop, in the pieces that the engine makes."""
    units = pre.shape[1]
    new = np.full_like(state, 7)
    local = np.full((cell.n_local, units), 7, pre.dtype)
    call(loop, (pre, state, new, local), units, units, units - units % TWO_VECTORS)
    return new, local


def run_backward(loop, cell, gradient, local):
    """(d_pre, d_state, total of the last state) of all units by the compiled loop."""
    units = local.shape[1]
    d_pre = np.full((cell.n_pre, units), 7, local.dtype)
    before, total = np.full_like(gradient, 7), np.full(units, 7, local.dtype)
    call(loop, (gradient, local, d_pre, before, total), units, units, units - units % VECTOR)
    return d_pre, before, total


def in_python(function, *rows):
    """A pointwise function on columns of numbers, one by one; results as arrays (rows, units)."""
    results = [function(*(tuple(row[:, j]) for row in rows)) for j in range(UNITS)]
    return [np.array([result[k] for result in results]).T for k in range(len(results[0]))]


# --- naive formulas: float64 arrays, complex numbers welcome ----------------------------------------------------------------------


def _logistic(x):
    return 1 / (1 + np.exp(-x))


def naive_forward(name, pre, state):
    """New states by the textbook's formulas; complex arguments give complex results (complex step)."""
    if name == "lstm":
        i, f, g, o = _logistic(pre[0]), _logistic(pre[1]), np.tanh(pre[2]), _logistic(pre[3])
        c = f * state[1] + i * g
        return np.array([o * np.tanh(c), c])
    if name == "gru":
        r, z = _logistic(pre[0]), _logistic(pre[1])
        n = np.tanh(pre[3] + r * pre[2])
        return np.array([(1 - z) * n + z * state[0]])
    if name == "elman relu":
        return np.array([np.where(pre[0].real > 0, pre[0], 0)])
    if name == "elman silu":
        return np.array([pre[0] * _logistic(pre[0])])
    return np.array([np.tanh(pre[0])])


def complex_step(name, pre, state, which, row):
    """Derivatives of every new state by one row of pre-activations or states: exact, no difference is formed."""
    arguments = [pre.astype(complex), state.astype(complex)]
    arguments[which][row] += 1e-200j
    return naive_forward(name, *arguments).imag / 1e-200


# --- the battery ------------------------------------------------------------------------------------------------------------------


def check_cell(name, cell, forward, backward, dtype):
    """Everything that holds for a cell. forward, backward: its compiled loops."""
    pre, state = states_and_pre(cell, dtype)
    tolerance = 1e-13 if dtype == "float64" else 2e-6
    new, local = run_forward(forward, cell, pre, state)
    check_shape(cell, pre, state)
    np.testing.assert_allclose(new, naive_forward(name, pre.astype(float), state.astype(float)), rtol=tolerance, atol=tolerance)
    check_jacobian(name, cell, backward, pre, state, local, tolerance)
    check_linear(cell, backward, local)
    check_plain_python(cell, forward, backward, pre, state, tolerance)


def check_shape(cell, pre, state):
    """The counts of the description are those of the functions, and rows name pre-activations."""
    new, local = cell.forward(tuple(pre[:, 0]), tuple(state[:, 0]))
    d_pre, d_state, total = cell.backward(tuple(state[:, 0]), local)
    counts = (cell.n_states, cell.n_local, cell.n_pre, cell.n_states, cell.n_states)
    assert tuple(map(len, (new, local, d_pre, d_state, total))) == counts
    assert len(cell.recurrent_rows) == len(cell.input_rows)
    assert set(cell.recurrent_rows) | set(cell.input_rows) == set(range(cell.n_pre))


def check_jacobian(name, cell, backward, pre, state, local, tolerance):
    """Backward with unit vectors gives the rows of the Jacobian: by pre-activations, directly by states, and through the last state."""
    wide = pre.astype(float), state.astype(float)
    for s in range(cell.n_states):
        unit = np.zeros_like(state)
        unit[s] = 1
        d_pre, d_state, total = run_backward(backward, cell, unit, local)
        for p in range(cell.n_pre):
            np.testing.assert_allclose(d_pre[p], complex_step(name, *wide, 0, p)[s], rtol=tolerance, atol=tolerance)
        for v in range(cell.n_states):
            np.testing.assert_allclose(d_state[v], complex_step(name, *wide, 1, v)[s], rtol=tolerance, atol=tolerance)
        if name == "lstm":  # h' = o tanh(c'): how h depends on c' is part of the total derivative by c'
            o, c = _logistic(wide[0][3]), naive_forward(name, *wide)[1]
            np.testing.assert_allclose(total, [o / np.cosh(c) ** 2, np.ones(UNITS)][s], rtol=tolerance, atol=tolerance)
        else:
            np.testing.assert_array_equal(total, 7)  # with one state the engine uses the gradient that came in


def check_linear(cell, backward, local):
    """Backward is linear in the gradient, and by powers of two to the bit: rescaling cannot be seen."""
    rng = np.random.default_rng(3)
    a, b = rng.standard_normal((2, cell.n_states, UNITS)).astype(local.dtype)
    outputs = [run_backward(backward, cell, g, local) for g in (a, b, a + b, a * local.dtype.type(2.0**-40))]
    for one, other, both, tiny in zip(*outputs, strict=True):
        if np.all(one == 7):
            continue
        np.testing.assert_allclose(both, one + other, rtol=0, atol=8 * np.finfo(local.dtype).eps * np.abs(one).max())
        np.testing.assert_array_equal(tiny, one * local.dtype.type(2.0**-40))


def check_plain_python(cell, forward, backward, pre, state, tolerance):
    """The same functions without Numba: the same numbers but for fused multiplications, in the same precision."""
    new, local = run_forward(forward, cell, pre, state)
    plain_new, plain_local = in_python(cell.forward, pre, state)
    assert {plain_new.dtype, plain_local.dtype} == {pre.dtype}
    np.testing.assert_allclose(plain_new, new, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(plain_local, local, rtol=tolerance, atol=tolerance)
    gradient = np.random.default_rng(4).standard_normal(state.shape).astype(pre.dtype)
    d_pre, d_state, total = run_backward(backward, cell, gradient, local)
    plain = in_python(cell.backward, gradient, local)
    assert {each.dtype for each in plain} == {pre.dtype}
    np.testing.assert_allclose(plain[0], d_pre, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(plain[1], d_state, rtol=tolerance, atol=tolerance)
    np.testing.assert_array_equal(plain[2][0], gradient[0])
    if cell.n_states == 2:
        np.testing.assert_allclose(plain[2][1], total, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("name", CELLS)
def test_battery(loops, name, dtype):
    check_cell(name, cell_of(*CELLS[name]), *loops(name, dtype), dtype)


def test_the_battery_finds_mistakes(loops):
    """A gate's derivative off by 1e-6, a forgotten path from h to c, rows exchanged."""
    cell = cell_of("lstm", None)
    forward, backward = loops("lstm", "float64")
    pre, state = states_and_pre(cell, "float64")
    _, local = run_forward(forward, cell, pre, state)
    for row in range(cell.n_local):
        wrong = local.copy()
        wrong[row] *= 1 + 1e-6
        with pytest.raises(AssertionError):
            check_jacobian("lstm", cell, backward, pre, state, wrong, 1e-13)
    with pytest.raises(AssertionError):
        check_jacobian("lstm", cell, backward, pre[[1, 0, 2, 3]], state, local, 1e-13)
    with pytest.raises(AssertionError):
        check_shape(cell._replace(n_local=5), pre, state)


# --- saturation -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("name", ["lstm", "gru", "elman tanh"])
def test_derivatives_of_saturated_units_keep_their_digits(loops, name, dtype):
    """Far out the local derivatives are tiny, and still right relatively: 1 - s and sech^2 are never formed by subtraction."""
    cell = cell_of(*CELLS[name])
    rng = np.random.default_rng(8)
    shape = (cell.n_pre, UNITS)
    far = rng.uniform(12, 25, shape) * rng.choice([-1.0, 1.0], shape)
    if name == "gru":
        far[2] = rng.uniform(0.1, 0.5, UNITS) * np.sign(far[3])  # no cancellation between the candidate's two parts
    pre = far.astype(PRECISIONS[dtype])
    state = rng.uniform(1.5, 3.0, (cell.n_states, UNITS)).astype(PRECISIONS[dtype])
    forward, backward = loops(name, dtype)
    _, local = run_forward(forward, cell, pre, state)
    unit = np.zeros_like(state)
    unit[0] = 1
    d_pre, _, _ = run_backward(backward, cell, unit, local)
    wide = pre.astype(np.longdouble), state.astype(np.longdouble)
    for p in range(cell.n_pre):
        want = long_derivative(name, *wide, p)
        np.testing.assert_allclose(d_pre[p], want.astype(float), rtol=1e-10 if dtype == "float64" else 1e-4)


def long_derivative(name, pre, state, p):
    """d h'/d pre_p by the chain rule, every slope from exponentials of -|x|, in extended precision."""

    def slope(x):
        e = np.exp(-np.abs(x))
        return e / (1 + e) ** 2

    def sech2(x):
        return 4 * slope(2 * x)

    s = naive._sigmoid
    if name == "elman tanh":
        return sech2(pre[0])
    if name == "gru":
        r, z, a = s(pre[0]), s(pre[1]), pre[3] + s(pre[0]) * pre[2]
        dn = s(-pre[1]) * sech2(a)
        return [dn * pre[2] * slope(pre[0]), (state[0] - np.tanh(a)) * slope(pre[1]), dn * r, dn][p] * np.ones_like(z)
    i, f, g, o = s(pre[0]), s(pre[1]), np.tanh(pre[2]), s(pre[3])
    c = f * state[1] + i * g
    dc = o * sech2(c)
    return [dc * g * slope(pre[0]), dc * state[1] * slope(pre[1]), dc * i * sech2(pre[2]), np.tanh(c) * slope(pre[3])][p]


@pytest.mark.parametrize("name", EVERY_ELMAN)
def test_elman_is_its_activation(name):
    """Every activation makes a cell: value and slope of the one, new state and local derivative of the other."""
    activation = ACTIVATIONS[name.split()[1]]
    cell = cell_of("rnn", activation.name)
    for number in PRECISIONS.values():
        for x in (-1.5, 0.0, 0.7):
            (h,), (slope,) = cell.forward((number(x),), (number(0.3),))
            assert (h, slope) == activation.pair(number(x))
            (d_pre,), (d_state,), (total,) = cell.backward((number(2),), (slope,))
            assert (d_pre, d_state, total) == (2 * slope, 0, 2)
            assert {type(each) for each in (h, slope, d_pre, d_state, total)} == {number}


def test_nan_reaches_the_output(loops):
    """A unit that is not a number is seen; its neighbours are not touched."""
    for name, pair in CELLS.items():
        cell = cell_of(*pair)
        for p in range(cell.n_pre):
            pre, state = states_and_pre(cell, "float32")
            pre[p, 20] = np.nan
            new, _ = run_forward(loops(name, "float32")[0], cell, pre, state)
            assert np.isnan(new[0, 20])
            assert np.isfinite(np.delete(new, 20, axis=1)).all()


# --- machine code -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("name", CELLS)
def test_a_unit_does_not_depend_on_where_it_stands(loops, name, dtype):
    """In a pair of vectors, in one, or in the masked rest: a net's width must not change what a unit does."""
    forward, backward = loops(name, dtype)
    cell = cell_of(*CELLS[name])
    rng = np.random.default_rng(3)
    pre, state, gradient = (rng.standard_normal((n, 70)).astype(dtype) for n in (cell.n_pre, cell.n_states, cell.n_states))
    new, local = run_forward(forward, cell, pre, state)
    d_pre, before, total = run_backward(backward, cell, gradient, local)
    for n in range(1, 70):
        few = [np.ascontiguousarray(rows[:, :n]) for rows in (pre, state, gradient)]
        part_new, part_local = run_forward(forward, cell, *few[:2])
        part_d_pre, part_before, part_total = run_backward(backward, cell, few[2], part_local)
        pairs = ((part_new, new), (part_local, local), (part_d_pre, d_pre), (part_before, before), (part_total, total))
        for part, whole in pairs:
            np.testing.assert_array_equal(part, whole[..., :n], err_msg=f"{n} units")


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("name", CELLS)
def test_loops_are_vector_code(loops, name, dtype):
    for loop in loops(name, dtype):
        assert_vector_code(loop)
        assert conversions(loop) == 0
