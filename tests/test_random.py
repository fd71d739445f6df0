"""Random numbers: bits equal published Philox vectors, addresses never collide, any number can be drawn alone, and the stream is frozen."""

from __future__ import annotations

import ctypes
import json

import naive
import numba
import numpy as np
import pytest
import randomgen
from hypothesis import given, settings
from hypothesis import strategies as st

import fastgrad as fg
from fastgrad.engine import draws, random, recurrent_problem
from fastgrad.engine.compile import kernel as compile_kernel
from fastgrad.engine.draws import CONSTANT, NORMAL, ORTHOGONAL, SLACK, UNIFORM, matrix_drawer, prepare
from fastgrad.engine.random import Role, Roles, address, panel_counters, panel_rows, philox
from fastgrad.engine.seeds import key_of, seed_sequence, seed_text
from fastgrad.engine.setup import make_task
from fastgrad.jit import KERNEL_OPTIONS

u32 = np.uint32
NUMBERS = {"float32": np.float32, "float64": np.float64}
KEY = (u32(0x12345678), u32(0x9ABCDEF0))


def words(counter, key=KEY):
    """The four words of a counter, by the functions of the engine in plain Python."""
    return tuple(int(word) for word in philox(*map(u32, counter), *map(u32, key)))


# --- bits -------------------------------------------------------------------------------------------------------------------------


def test_published_vectors():
    """Known answers of Random123 (Salmon et al. 2011), kat_vectors, philox4x32 with 10 rounds."""
    assert len(naive.PHILOX_KNOWN_ANSWERS) == 3
    for counter, key, want in naive.PHILOX_KNOWN_ANSWERS:
        assert words(counter, key) == want


def test_same_bits_as_randomgen():
    """Another implementation, word for word. It raises its counter before each use, so it starts one below."""
    rng = np.random.default_rng(2)
    for _ in range(10):
        counter, key = rng.integers(1, 2**32, 4), rng.integers(0, 2**32, 2)
        start = sum(int(word) << (32 * place) for place, word in enumerate(counter))
        joined = int(key[0]) | int(key[1]) << 32
        generator = randomgen.Philox(counter=start - 1, key=joined, number=4, width=32)
        want = generator.random_raw(12).tolist()
        got = [words(split(start + q), key) for q in range(3)]
        assert [word for four in got for word in four] == want


def split(number):
    """The four words of a 128-bit counter."""
    return [number >> (32 * place) & 0xFFFFFFFF for place in range(4)]


@given(st.lists(st.integers(0, 2**32 - 1), min_size=6, max_size=6))
def test_same_bits_as_the_naive_formula(numbers):
    assert words(numbers[:4], numbers[4:]) == naive.philox4x32(numbers[:4], numbers[4:])


# --- addresses --------------------------------------------------------------------------------------------------------------------

ADDRESSES = st.tuples(st.integers(0, 2**8 - 1), st.integers(0, 2**8 - 1), st.integers(0, 2**32 - 1), st.integers(0, random.MAX_REALIZATIONS - 1))


def decoded(where):
    """(role, part, layer, realization) of the counter words 1, 2, 3: the inverse of `address`."""
    layer, low, high = map(int, where)
    return high >> 24, high >> 16 & 0xFF, layer, (high & 0xFFFF) << 32 | low


@given(ADDRESSES)
def test_addresses_can_be_read_back(parts):
    """One counter for each tensor: the map is injective."""
    assert decoded(address(*parts)) == parts
    assert {type(word) for word in address(*parts)} == {u32}


def test_the_corners_of_the_address_space():
    for role in (0, 1, 255):
        for part in (0, 255):
            for layer in (0, 2**31, 2**32 - 1):
                for realization in (0, 2**32 - 1, 2**32, random.MAX_REALIZATIONS - 1):
                    assert decoded(address(role, part, layer, realization)) == (role, part, layer, realization)


def test_roles_differ_and_never_change():
    """Part of the stream v1: an existing value is never changed, new ones may be added."""
    frozen = {"WEIGHT": 1, "BIAS": 2, "INPUT": 3, "PROBE": 4, "INPUT_WEIGHT": 5, "INPUT_BIAS": 6, "PREACTIVATION": 7, "BACKWARD_NOISE": 8}
    values = Role._asdict()
    assert {name: values[name] for name in frozen} == frozen
    assert len(set(values.values())) == len(Roles._fields)
    assert all(0 < value < 256 for value in values.values())


# --- panels and matrices ----------------------------------------------------------------------------------------------------------


def draw_compiled(dtype, which, sizes, kind, scale, where, key=KEY, base=None):
    """A panel (sizes: (n,)) or a matrix (rows, columns) by the compiled functions that kernels call; checks the room behind it."""
    number = NUMBERS[dtype]
    code = prepare(dtype)[0].address if which == "panel" else matrix_drawer(kind, dtype)
    c_number = ctypes.c_float if dtype == "float32" else ctypes.c_double
    count = int(np.prod(sizes))
    out = np.full(count + SLACK + 8, 7, number)
    size, word = ctypes.c_int64, ctypes.c_uint32
    if which == "panel":
        arguments = [size] * 4 + [c_number, size, word, size, word, word, word]
        values = [1, *sizes, 0, kind, scale, base or 0, *map(int, where), *map(int, key)]
    else:
        arguments = [size] * 3 + [c_number] + [word] * 5
        values = [*sizes, kind, scale, *map(int, where), *map(int, key)]
    ctypes.CFUNCTYPE(None, ctypes.c_void_p, *arguments)(code)(out.ctypes.data, *values)
    np.testing.assert_array_equal(out[count + SLACK :], 7)  # nothing is written beyond the promised room
    return out[:count].reshape(sizes)


def one_number(like, kind, scale, where, counter, word, key=KEY):
    """A single number, from nothing but its counter: in plain Python."""
    w = philox(u32(counter), *where, *key)
    if kind == UNIFORM:
        return random.symmetric_uniform(like, w[word]) * scale
    return random.normal_pair(like, w[word & 2], w[word | 1])[word & 1] * scale


def place_in_matrix(row, column, rows, columns):
    """(counter, word) of an entry, as the module's text says."""
    height = max(1, 4096 // columns)
    panel, inside = divmod(row, height)
    numbers = min(height, rows - panel * height) * columns
    word, q = divmod(inside * columns + column, -(-numbers // 4))
    return panel * -(-height * columns // 4) + q, word


SHAPES = [(1, 1), (3, 5), (13, 13), (7, 100), (9000, 1), (33, 256), (3, 4097), (9, 1000), (40, 7), (65, 64), (129, 2), (1400, 3)]


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("kind", [NORMAL, UNIFORM])
def test_any_number_can_be_drawn_alone(dtype, kind):
    number = NUMBERS[dtype]
    where = address(Role.WEIGHT, 2, 77, 2**33 + 5)
    rng = np.random.default_rng(1)
    for rows, columns in SHAPES:
        matrix = draw_compiled(dtype, "matrix", (rows, columns), kind, 0.25, where)
        for row, column in [(0, 0), (rows - 1, columns - 1), *zip(rng.integers(0, rows, 6), rng.integers(0, columns, 6), strict=True)]:
            counter, word = place_in_matrix(int(row), int(column), rows, columns)
            alone = one_number(number(1), kind, number(0.25), where, counter, word)
            # compiled code fuses multiplications, plain Python does not
            assert matrix[row, column] == pytest.approx(alone, rel=8 * float(np.finfo(number).eps)), (rows, columns, row, column)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 63, 64, 1001])
def test_a_vector_is_one_panel(n):
    where = address(Role.PROBE, 0, 3, 4)
    vector = draw_compiled("float64", "panel", (n,), NORMAL, 2.0, where, base=0)
    counters = -(-n // 4)
    assert panel_counters(n) == counters
    for k in range(n):
        alone = one_number(np.float64(1), NORMAL, 2.0, where, k % counters, k // counters)
        assert vector[k] == pytest.approx(alone, rel=1e-14)


@pytest.mark.parametrize("dtype", NUMBERS)
def test_rows_of_a_group_are_single_vectors(dtype):
    """`draw_normals` draws for several realizations what `draw_vector` draws for each: the same bytes."""
    draws.prepare(dtype)

    @numba.njit(_nrt=False, **KERNEL_OPTIONS)
    def together(out, n, realization):
        draws.draw_normals(out, out.shape[0], n, 4, Role.BACKWARD_NOISE, realization, KEY)

    @numba.njit(_nrt=False, **KERNEL_OPTIONS)
    def alone(out, n, realization):
        draws.draw_vector(out, n, draws.NORMAL, out.dtype.type(1), address(Role.BACKWARD_NOISE, 0, 4, realization), KEY)

    for n in (1, 16, 67):
        rows, single = np.zeros((2, 5, n + draws.SLACK + 3), dtype)
        together(rows, n, 2**32 - 3)
        for k in range(5):
            alone(single[k], n, 2**32 - 3 + k)
        np.testing.assert_array_equal(rows[:, :n], single[:, :n])


@settings(max_examples=40)
@given(st.integers(1, 300), st.integers(1, 5000))
def test_matrices_never_use_a_number_twice(rows, columns):
    """Also where columns do not divide ``PANEL``, and in the last, shorter panel."""
    assert panel_rows(columns) == max(1, 4096 // columns)
    row, column = (each.ravel() for each in np.indices((rows, columns)))
    height = panel_rows(columns)
    panel, inside = row // height, row % height
    numbers = np.minimum(height, rows - panel * height) * columns
    per_word = (numbers + 3) // 4
    place = inside * columns + column
    counter = panel * panel_counters(height * columns) + place % per_word
    address_of = counter * 4 + place // per_word
    assert (place // per_word).max() <= 3
    assert np.unique(address_of).size == rows * columns
    assert [place_in_matrix(int(r), int(c), rows, columns) for r, c in zip(row[-3:], column[-3:], strict=True)] == [
        (int(a) // 4, int(a) % 4) for a in address_of[-3:]
    ]


@pytest.mark.parametrize("dtype", NUMBERS)
def test_numbers_of_a_matrix_differ(dtype):
    """What the count of addresses says, seen in the numbers themselves."""
    for rows, columns in SHAPES:
        matrix = draw_compiled("float64", "matrix", (rows, columns), UNIFORM, 1.0, address(Role.WEIGHT, 0, 1, 0))
        assert np.unique(matrix).size == matrix.size
    assert np.all(draw_compiled(dtype, "matrix", (3, 5), CONSTANT, 0.5, address(1, 0, 0, 0)) == 0.5)


@pytest.mark.parametrize("kind", [NORMAL, UNIFORM])
def test_both_precisions_see_the_same_numbers(kind):
    where = address(Role.WEIGHT, 0, 9, 123)
    single = draw_compiled("float32", "matrix", (99, 33), kind, 0.5, where)
    double = draw_compiled("float64", "matrix", (99, 33), kind, 0.5, where)
    np.testing.assert_allclose(single, double, rtol=1e-6)


@pytest.mark.parametrize("shape", [(4, 4), (3, 7), (7, 3), (1, 5), (5, 1), (1, 1), (30, 30)])
def test_orthogonal_matrices(shape):
    """Orthonormal rows or columns in both precisions, the same matrix."""
    where = address(Role.WEIGHT, 0, 1, 2)
    double = draw_compiled("float64", "matrix", shape, ORTHOGONAL, 2.0, where)
    small = double @ double.T if shape[0] <= shape[1] else double.T @ double
    np.testing.assert_allclose(small, 4 * np.eye(min(shape)), atol=1e-13)
    single = draw_compiled("float32", "matrix", shape, ORTHOGONAL, 2.0, where)
    np.testing.assert_allclose(single, double, atol=1e-4)


def test_plain_python_draws_the_same():
    """Without Numba (its simulator, a debugger): the same text runs."""
    where = address(Role.INPUT, 1, 5, 6)
    for kind in (NORMAL, UNIFORM):
        out = np.empty(7 * 9 + SLACK)
        draws.draw_matrix(out, 7, 9, kind, np.float64(1), where, KEY)
        want = draw_compiled("float64", "matrix", (7, 9), kind, 1.0, where)
        np.testing.assert_allclose(out[:63].reshape(7, 9), want, rtol=1e-14)


def test_uniforms_end_before_one():
    """Extreme words: +-(1 - 2^-32), never 1 in float64; float32 rounds to 1."""
    ends = [random.symmetric_uniform(np.float64(1), u32(word)) for word in (2**31, 2**31 - 1, 0, 2**32 - 1)]
    assert ends == [-(1 - 2.0**-32), 1 - 2.0**-32, 2.0**-32, -(2.0**-32)]
    assert random.symmetric_uniform(np.float32(1), u32(2**31 - 1)) == 1.0


# --- the stream is frozen ---------------------------------------------------------------------------------------------------------

# Stream v2. If one of these numbers changes, every published seed means another network: give the stream a new name first.
GOLDEN_WHERE = (Role.WEIGHT, 1, 7, 2**40 + 3)
GOLDEN_KEYS = {
    "0": (2968811710, 3677149159),
    "42": (3444837047, 2669555309),
    "2**100": (740723363, 1301814144),
    "[1, 2, 3]": (3822189696, 3026158655),
}
GOLDEN_WORDS = (1681428930, 4044112343, 1751813421, 2971365760)
# entries (0, 0), (0, 1), (2, 3) and (4, 6) of a 5 x 7 matrix
GOLDEN_NORMALS = [1.2783356952229181, 1.2459838562908367, -2.298629770460936, -1.173935041035096]
GOLDEN_UNIFORMS = [0.7829763602931052, 0.8626367615070194, -0.4988167316187173, -0.5434728360269219]
GOLDEN_ENTRIES = ((0, 0, 2, 4), (0, 1, 3, 6))
# entries (0, 0), (9, 399), (10, 0) and (24, 399) of a 25 x 400 matrix: ends of its first panel and of the last, which is shorter
GOLDEN_PANELS = {
    NORMAL: [1.2783356952229181, 0.2451900778215213, -2.0766447892481525, 0.2825178289827807],
    UNIFORM: [0.7829763602931052, 0.1472940614912659, 0.18748235306702554, 0.16996276681311429],
}
GOLDEN_ENDS = ((0, 9, 10, 24), (0, 399, 0, 399))


def test_the_stream_has_not_changed():
    assert random.STREAM == "v2"
    for text, key in GOLDEN_KEYS.items():
        assert key_of(seed_sequence(eval(text))) == key
    where = address(*GOLDEN_WHERE)
    assert words((0, *where)) == GOLDEN_WORDS
    for dtype, digits in (("float32", 1e-6), ("float64", 1e-14)):
        normals = draw_compiled(dtype, "matrix", (5, 7), NORMAL, 1.0, where)[GOLDEN_ENTRIES]
        uniforms = draw_compiled(dtype, "matrix", (5, 7), UNIFORM, 1.0, where)[GOLDEN_ENTRIES]
        np.testing.assert_allclose(normals, GOLDEN_NORMALS, rtol=digits)
        np.testing.assert_allclose(uniforms, GOLDEN_UNIFORMS, rtol=digits)
        for kind, golden in GOLDEN_PANELS.items():
            np.testing.assert_allclose(draw_compiled(dtype, "matrix", (25, 400), kind, 1.0, where)[GOLDEN_ENDS], golden, rtol=digits)


# --- seeds ------------------------------------------------------------------------------------------------------------------------

SEEDS = {
    "int": 5,
    "numpy int": np.int64(5),
    "large int": 2**200 + 1,
    "list": [1, 2**70, 3],
    "tuple": (4, 5),
    "array": np.array([1, 2], np.uint32),
    "sequence": np.random.SeedSequence(9),
    "spawned": np.random.SeedSequence(9).spawn(3)[2],
    "spawned twice": np.random.SeedSequence([1, 2]).spawn(3)[2].spawn(1)[0],
    "large pool": np.random.SeedSequence(9, pool_size=8),
    "spawned of large pool": np.random.SeedSequence(9, pool_size=8).spawn(1)[0],
    "generator": np.random.default_rng(3),
    "bit generator": np.random.PCG64(3),
    "none": None,
}


@pytest.mark.parametrize("form", SEEDS)
def test_the_text_of_a_seed_gives_the_same_key(form):
    """``rng=json.loads(ds.attrs["seed"])`` repeats a run, whatever it was started with."""
    sequence = seed_sequence(SEEDS[form])
    text = seed_text(sequence)
    again = seed_sequence(json.loads(text))
    assert key_of(again) == key_of(sequence)
    assert seed_text(again) == text
    assert all(0 <= word < 2**32 for word in key_of(sequence))


def test_forms_of_seeds():
    assert key_of(seed_sequence(5)) == key_of(seed_sequence(np.uint8(5))) == key_of(np.random.SeedSequence(5))
    assert seed_text(seed_sequence(2**70)) == str(2**70)  # what users type again
    assert seed_sequence(SEEDS["sequence"]) is SEEDS["sequence"]
    keys = [key_of(np.random.SeedSequence(9, **more)) for more in ({}, {"spawn_key": (2,)}, {"pool_size": 8})]
    assert len(set(keys)) == 3
    generator = np.random.default_rng(3)
    assert key_of(seed_sequence(generator)) != key_of(seed_sequence(generator))  # drawn from, as SPEC 7 wants
    assert key_of(seed_sequence(np.random.PCG64(3))) == key_of(seed_sequence(np.random.default_rng(np.random.PCG64(3))))
    assert key_of(seed_sequence(None)) != key_of(seed_sequence(None))


@pytest.mark.parametrize("wrong", [True, 1.5, np.float32(1), "7", b"7", -1, [-1], [1.5], object(), {"entrpy": 1}, {"entropy": -1}, np.random])
def test_what_is_no_seed_gets_a_sentence(wrong):
    with pytest.raises((TypeError, ValueError), match=r"^rng=.* is not allowed: rng must be a non-negative int, ") as caught:
        seed_sequence(wrong)
    assert "\n" not in str(caught.value)


# --- recurrent nets' weights ---------------------------------------------------------------------------------------------------------


def draw_alone(out, rows, columns, kind, scale, where, key, drawer):
    if rows > 0:
        draws.draw_matrix(out, rows, columns, kind, scale, where, key, drawer)
    else:
        draws.draw_vector(out, columns, kind, scale, where, key)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("law", ["pytorch_default", fg.Normal(1.5), fg.Constant(0.25), "orthogonal"])
def test_weights_drawn_where_they_stay_are_those_of_their_addresses(law, dtype):
    """What is drawn beyond one gate's matrix or one layer's bias must not be left in another, nor go beyond the room behind the last."""
    alone = compile_kernel(draw_alone, counts_references=False)
    number = np.dtype(dtype).type
    for make in (fg.RNN, fg.LSTM, fg.GRU):
        for width, features in ((1, 1), (2, 3), (3, 1), (5, 3)):
            biases = {} if law == "pytorch_default" else {"bias_std": 0.5}
            task, _ = make_task(make(4, width, layers=3, input_width=features, weights=law, input_weights=law, **biases), rng=9, dtype=dtype)
            weights, inputs = recurrent_problem._weights(task), recurrent_problem._inputs(task)
            for array in (weights.recurrent, weights.input_first, weights.input_rest, weights.biases, weights.input_biases):
                array.base[...] = 0xA5
            cell = recurrent_problem._cell(task.network, dtype)
            work = recurrent_problem.work_arrays(weights, inputs, cell, keep_d_pre=False)
            recurrent_problem._run(task, cell, weights, work, recurrent_problem._block(task, inputs, 6, 1))

            def expected(rows, columns, kind, scale, role, part, layer, drawer, task=task):
                out = np.empty(max(rows, 1) * columns + draws.SLACK, number)
                alone(out, rows, columns, kind, number(scale), address(role, part, layer, 6), task.key_words, drawer)
                return out[: max(rows, 1) * columns]

            gates = task.network.gates
            for layer in range(3):
                below = weights.input_first if layer == 0 else weights.input_rest[layer - 1]
                for gate in range(gates):
                    rows = slice(gate * width, (gate + 1) * width)
                    want = expected(width, width, weights.recurrent_kind, weights.recurrent_scale, Role.WEIGHT, gate, layer, weights.recurrent_drawer)
                    np.testing.assert_array_equal(weights.recurrent[layer, rows].ravel(), want)
                    laws = weights.input_kind, weights.input_scales[layer], Role.INPUT_WEIGHT, gate, layer, weights.input_drawer
                    np.testing.assert_array_equal(below[rows].ravel(), expected(width, below.shape[1], *laws))
                laws = weights.bias_kind, weights.bias_scale
                want = expected(0, gates * width, *laws, Role.INPUT_BIAS, 0, layer, 0)
                np.testing.assert_array_equal(weights.input_biases[layer], want)
                want = expected(0, gates * width, *laws, Role.BIAS, 0, layer, 0) if weights.both_biases else 0 * want
                np.testing.assert_array_equal(weights.biases[layer], want)
            for array in (weights.recurrent, weights.input_first, weights.input_rest, weights.biases, weights.input_biases):
                start = array.ctypes.data - array.base.ctypes.data
                end = start + array.nbytes + draws.SLACK * array.itemsize
                assert (array.base[:start] == 0xA5).all()
                assert (array.base[end:] == 0xA5).all()
