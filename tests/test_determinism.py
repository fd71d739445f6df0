"""One seed, one machine: the same bytes, whoever computes them and in whatever pieces."""

from __future__ import annotations

import gc
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
from comparisons import bytes_of

import fastgrad as fg
from fastgrad.engine import aligned, given_weights, mlp_problem, recurrent_problem
from fastgrad.engine.blocks import blocks_of, engine_of, run_task
from fastgrad.engine.setup import make_task
from fastgrad.engine.trace import trace

NETWORKS = {
    "mlp": fg.MLP(depth=40, width=17, activation="tanh", weights=fg.Normal(1.3), bias_std=0.1),
    "mlp_orthogonal": fg.MLP(depth=20, width=9, activation="tanh", weights="orthogonal"),
    "rnn": fg.RNN(30, 11, layers=2),
    "lstm": fg.LSTM(25, 13, input_width=3, forget_bias=1.0),
    "gru": fg.GRU(25, 6, layers=2, input_width=4),
}
REALIZATIONS = 23  # a prime: no block size but 1 and 23 divides it


@pytest.fixture(scope="session")
def baseline():
    return {
        name: fg.measure(net, realizations=REALIZATIONS, rng=42, threads=1) for name, net in NETWORKS.items()
    }


def assert_same_bytes(got, want):
    got, want = bytes_of(got), bytes_of(want)
    assert set(got) == set(want)
    for name in want:
        assert got[name] == want[name], name


@pytest.mark.parametrize("threads", [2, 7])
@pytest.mark.parametrize("name", NETWORKS)
def test_any_number_of_threads(baseline, name, threads):
    got = fg.measure(NETWORKS[name], realizations=REALIZATIONS, rng=42, threads=threads)
    assert_same_bytes(got, baseline[name])


def poison(monkeypatch):
    """From now on, working arrays whose contents nobody wrote are full of NaN (as integers, of -1)."""

    def allocate(how, shape, dtype, beyond):
        array = whole(how, shape, dtype, beyond)
        if how is np.empty:
            array.view(np.uint8)[...] = 0xFF
        return array

    whole = aligned._aligned
    monkeypatch.setattr(aligned, "_aligned", allocate)


@pytest.mark.parametrize("name", NETWORKS)
def test_nothing_is_read_that_nobody_wrote(monkeypatch, name):
    options = {"realizations": 5, "rng": 42, "threads": 1, "method": "dense"}  # the conditional method has no such arrays
    want = fg.measure(NETWORKS[name], **options)
    poison(monkeypatch)
    assert_same_bytes(fg.measure(NETWORKS[name], **options), want)


def test_no_product_takes_along_what_nobody_wrote(monkeypatch):
    """Behind the rows of recurrent weights: a subnormal there would slow a narrow net down several times, and change no digit."""
    poison(monkeypatch)
    network = fg.LSTM(3, 5, layers=2, input_width=7)
    task, _ = make_task(network, rng=0)
    block, weights = recurrent_problem._block(task, recurrent_problem._inputs(task), 0, 1), recurrent_problem._weights(task)
    work = recurrent_problem.work_arrays(weights, block.inputs, recurrent_problem._cell(network, task.dtype), keep_d_pre=True)
    for rows, width in ((work.w, 5), (work.w_t, 20), (work.first_t, 20), (work.rest_t, 20)):
        assert rows.shape[1] > width
        assert (rows[:, width:] == 0).all()


def test_any_number_of_realizations(baseline):
    for name, network in NETWORKS.items():
        fewer = fg.measure(network, realizations=5, rng=42)
        assert_same_bytes(fewer, baseline[name].isel(realization=slice(0, 5)))


@pytest.mark.parametrize("count", [1, 5, REALIZATIONS])
@pytest.mark.parametrize("name", NETWORKS)
def test_any_block_size(baseline, name, count):
    task, _ = make_task(NETWORKS[name], rng=42)
    arrays, left = run_task(task, REALIZATIONS, threads=2, count=count)
    for variable, values in arrays.items():
        assert values.tobytes() == baseline[name][variable].values.tobytes(), variable
    assert left.tobytes() == baseline[name]["left_range_at"].values.tobytes()


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("network", [fg.MLP(1000, 64), fg.MLP(1000, 1024), fg.LSTM(50, 8), fg.MLP(20, 4, weights="orthogonal")], ids=repr)
def test_blocks_are_as_equal_as_may_be(network, workers):
    task, _ = make_task(network, rng=42)
    together = engine_of(task).together(task)
    for realizations in (1, 2, 3, 7, 16, 33, 80, 100, 528, 1001, 20_000):
        blocks = list(blocks_of(task, realizations, workers))
        sizes = [count for _, count in blocks]
        assert [first for first, _ in blocks] == [sum(sizes[:i]) for i in range(len(sizes))]
        assert sum(sizes) == realizations
        assert len(blocks) == realizations or len(blocks) % workers == 0  # nobody is idle
        in_groups = min(sizes[:-1], default=0) >= 4 * together
        assert max(sizes) - min(sizes) <= (2 * together - 1 if in_groups else 1)
        assert not in_groups or all(count % together == 0 for count in sizes[:-1])


def test_executor_of_threads(baseline):
    with ThreadPoolExecutor(3) as executor:
        for name, network in NETWORKS.items():
            assert_same_bytes(
                fg.measure(network, realizations=REALIZATIONS, rng=42, executor=executor), baseline[name]
            )


def test_executor_of_spawned_processes(baseline):
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as executor:
        for name in ("mlp", "lstm"):
            got = fg.measure(NETWORKS[name], realizations=REALIZATIONS, rng=42, executor=executor)
            assert_same_bytes(got, baseline[name])


def test_inputs_and_weights_given_as_arrays_in_processes():
    rng = np.random.default_rng(0)
    network = fg.MLP(widths=(4, 3, 2), output_activation="linear")
    options = {
        "weights": {"0.weight": rng.standard_normal((3, 4)), "2.weight": rng.standard_normal((2, 3))},
        "inputs": rng.standard_normal((5, 4)),
        "realizations": 7,
        "rng": 1,
    }
    want = fg.measure(network, threads=1, **options)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        assert_same_bytes(fg.measure(network, executor=executor, **options), want)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_is_a_subset(baseline, name):
    whole = baseline[name]
    axis = "layer" if name.startswith("mlp") else "step"
    thinned = fg.measure(NETWORKS[name], realizations=REALIZATIONS, rng=42, every=7)
    kept = thinned[axis].values.tolist()
    last = int(whole[axis][-1])
    assert kept[0] == 0
    assert kept[-1] == last
    assert kept == sorted({0, *range(0, last + 1, 7), last}) or kept == sorted(
        {0, *range(last, -1, -7), last}
    )
    assert_same_bytes(thinned, whole.sel({axis: kept}))


@pytest.mark.parametrize("name", NETWORKS)
def test_record_is_a_subset(baseline, name):
    names = ["gradient_log_norm", "weight_gradient_log_norm"]
    got = fg.measure(NETWORKS[name], realizations=REALIZATIONS, rng=42, record=names)
    assert {*names} <= set(got.data_vars) <= {*names, "left_range_at"}
    assert_same_bytes(got, baseline[name][list(got.data_vars)])


RECURRENT = {
    "rnn": fg.RNN(1, 18),
    "rnn that shrinks": fg.RNN(1, 16, weights=fg.Normal(0.3)),
    "rnn that grows": fg.RNN(1, 16, activation="relu", weights=fg.Normal(6.0)),
    "rnn of two layers": fg.RNN(1, 9, layers=2, weights=fg.Normal(3.0)),
    "lstm": fg.LSTM(1, 13),
    "gru of two layers": fg.GRU(1, 17, layers=2),
}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", RECURRENT)
def test_steps_that_run_together_change_no_byte(name, batch):
    """Where gradients by the weights are asked for at each step, steps run one by one; else as many as may be. Around the ends of chunks, too."""
    for steps in (1, 2, 63, 64, 65, 130, 200):
        network = RECURRENT[name].model_copy(update={"steps": steps})
        inputs = np.random.default_rng(steps).standard_normal((steps, batch, network.input_width))
        variables = ["gradient_log_norm", "gradient_log_max", "activation_log_norm", *(["cell_gradient_log_norm"] if "lstm" in name else [])]
        together = fg.measure(network, inputs=inputs, realizations=2, rng=3, record=variables, dtype="float32")
        one_by_one = fg.measure(network, inputs=inputs, realizations=2, rng=3, record=[*variables, "weight_gradient_log_norm"], dtype="float32")
        assert_same_bytes(together, one_by_one[list(together.data_vars)])


# rng: the forms of SPEC 7 -------------------------------------------------------------------------

SMALL = fg.MLP(depth=3, width=5)


def measured(rng):
    return fg.measure(SMALL, realizations=3, rng=rng)


def test_another_seed_gives_other_numbers():
    assert bytes_of(measured(0)) != bytes_of(measured(1))


@pytest.mark.parametrize(
    "make",
    [
        lambda: 5,
        lambda: np.int64(5),
        lambda: 2**100,
        lambda: [1, 2, 3],
        lambda: np.array([1, 2], np.uint32),
        lambda: np.random.SeedSequence(5),
        lambda: np.random.SeedSequence(5).spawn(2)[1],
        lambda: np.random.default_rng(5),
        lambda: np.random.Philox(5),
        lambda: np.random.Generator(np.random.MT19937(5)),
    ],
)
def test_every_form_of_rng_can_be_repeated(make):
    assert_same_bytes(measured(make()), measured(make()))


def test_the_same_entropy_is_the_same_seed():
    want = measured(5)
    assert_same_bytes(measured(np.random.SeedSequence(5)), want)
    assert_same_bytes(measured([5]), want)


def test_spawned_seeds_differ():
    first, second = np.random.SeedSequence(5).spawn(2)
    assert bytes_of(measured(first)) != bytes_of(measured(second))
    assert bytes_of(measured(first)) != bytes_of(measured(5))


def test_generators_of_one_seed_do_not_repeat_themselves():
    rng = np.random.default_rng(5)
    assert bytes_of(measured(rng)) != bytes_of(measured(rng))


def test_none_draws_fresh_entropy_and_says_which():
    first, second = measured(None), measured(None)
    assert bytes_of(first) != bytes_of(second)
    assert_same_bytes(measured(int(first.attrs["seed"])), first)


def test_the_global_state_is_left_alone():
    np.random.seed(3)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    measured(None)
    measured(1)
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_attributes_are_enough_to_run_it_again(baseline):
    for ds in baseline.values():
        network = fg.Network.from_json(ds.attrs["network"])
        again = fg.measure(
            network, realizations=ds.sizes["realization"], rng=int(ds.attrs["seed"]), dtype=ds.attrs["dtype"]
        )
        assert_same_bytes(again, ds)
        assert ds.attrs["stream"] == "v2"


@pytest.mark.parametrize("batch", [None, 3])
def test_given_weights_whoever_shares_a_product(batch):
    """Realizations with given weights go through the layers in groups: who else is in the group must not matter."""
    depth, width = 40, 19
    rng = np.random.default_rng(5)
    weights = {f"{k}.weight": rng.standard_normal((width, width)) * 3.0 / width**0.5 for k in range(depth)}
    weights |= {f"{k}.bias": rng.standard_normal(width) for k in range(depth)}
    inputs = None if batch is None else rng.standard_normal((batch, width))
    options = {"weights": weights, "inputs": inputs, "rng": 4, "dtype": "float32"}
    network = fg.MLP(depth, width, activation="softplus", bias_std=1.0)
    whole = fg.measure(network, realizations=70, threads=1, **options)
    for realizations, threads in ((1, 1), (7, 1), (33, 3)):
        part = fg.measure(network, realizations=realizations, threads=threads, **options)
        for name in part.data_vars:
            assert np.array_equal(part[name].values, whole[name].values[:realizations], equal_nan=True), name


def _moved(array, numbers):
    """A copy that starts `numbers` numbers behind the start of a cache line."""
    room = aligned.aligned_empty(array.size + numbers, array.dtype)
    room[numbers:] = array.ravel()
    return room[numbers:].reshape(array.shape)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_given_weights_wherever_they_lie(dtype):
    """At starts of cache lines they are read in place, elsewhere copied if many inputs share them: the same bytes, and nobody writes to them."""
    rng = np.random.default_rng(6)
    widths = [7, 30, 5, 64, 64, 1, 9]
    exact = {f"{k}.weight": rng.standard_normal((n, m)).astype(dtype) for k, (m, n) in enumerate(pairwise(widths))}
    whole_line = 64 // np.dtype(dtype).itemsize
    as_they_may_come = {
        "at lines": {name: _moved(array, whole_line) for name, array in exact.items()},
        "inside lines": {name: _moved(array, 1 + k) for k, (name, array) in enumerate(exact.items())},
        "read-only": {name: np.frombuffer(array.tobytes(), dtype).reshape(array.shape) for name, array in exact.items()},
        "columns first": {name: np.asfortranarray(array) for name, array in exact.items()},
        "every second": {name: np.repeat(array, 2, axis=1)[:, ::2] for name, array in exact.items()},
        "between numbers": {name: _between_numbers(array) for name, array in exact.items()},
        "turned bytes": {name: array.astype(array.dtype.newbyteorder()) for name, array in exact.items()},
    }
    network = fg.MLP(widths=widths)
    for realizations in (1, 130):
        results = {}
        for name, weights in as_they_may_come.items():
            results[name] = fg.measure(network, weights=weights, realizations=realizations, rng=1, dtype=dtype, threads=1)
            for key, array in weights.items():
                np.testing.assert_array_equal(array, exact[key])
            assert_same_bytes(results[name], results["at lines"])
    traced = trace(network, weights=as_they_may_come["inside lines"], rng=1, dtype=dtype)
    for one, array in zip(traced["weight"], exact.values(), strict=True):
        np.testing.assert_array_equal(one, array.astype(np.float64))


def test_given_weights_are_copied_only_where_it_pays():
    """For many inputs, and only if moving a matrix lets its rows start at cache lines."""
    matrices = {64: np.ones((64, 64), np.float32), 30: np.ones((30, 30), np.float32)}
    for width, moved, shared, copied in ((64, 0, True, False), (64, 3, False, False), (64, 3, True, True), (30, 3, True, False)):
        arrays = [_moved(matrices[width], moved) for _ in range(3)]
        addresses, weights = given_weights.addresses_of(arrays, np.float32, shared)
        assert (weights.size > 0) == copied, (width, moved, shared)
        if copied:
            assert not (addresses % 64).any()
        else:
            assert list(addresses) == [array.ctypes.data for array in arrays]
    odd, weights = given_weights.addresses_of([_between_numbers(matrices[64])], np.float32, False)
    assert weights.size > 0
    assert odd[0] % 64 == 0
    weights = {f"{k}.weight": _moved(matrices[64], 3) for k in range(2)}
    layers = mlp_problem._SharedLayers(make_task(fg.MLP(2, 64), rng=0, weights=weights)[0])
    assert layers.for_inputs(99).weights.size == 0
    assert layers.for_inputs(100).weights.size == 2 * 64 * 64
    assert layers.for_inputs(200) is layers.for_inputs(100)
    assert layers.for_inputs(1).weights.size == 0
    weights = {f"{k}.weight": _between_numbers(matrices[64]) for k in range(2)}  # copied from the start, and not again
    layers = mlp_problem._SharedLayers(make_task(fg.MLP(2, 64), rng=0, weights=weights)[0])
    assert layers.for_inputs(200) is layers.for_inputs(1)


def test_given_weights_outlive_whoever_gave_them():
    """A task keeps them alive, in threads and in processes, whose copies lie elsewhere."""
    network = fg.MLP(60, 64, activation="softplus")
    drawn = np.random.default_rng(8).standard_normal((60, 64, 64)).astype(np.float32) / 8
    weights = {f"{k}.weight": _moved(array, 3) for k, array in enumerate(drawn)}
    want = fg.measure(network, weights=weights, realizations=300, rng=2, threads=1)
    assert_same_bytes(fg.measure(network, weights=weights, realizations=300, rng=2, threads=2), want)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert_same_bytes(fg.measure(network, weights=weights, realizations=300, rng=2, executor=pool), want)
    task, _ = make_task(network, rng=2, weights=weights)
    weights.clear()
    gc.collect()
    for first in (0, 100, 7):
        block = engine_of(task).run(task, first, 3)
        filler = [np.full((64, 64), np.nan, np.float32) for _ in range(60)]  # where they would have been
        np.testing.assert_array_equal(block.arrays["gradient_log_norm"], want.gradient_log_norm.values[first : first + 3])
        del filler


def _between_numbers(array):
    """A copy whose numbers start at odd addresses."""
    room = np.zeros(array.nbytes + 1, np.uint8)
    view = room[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def test_rows_with_an_odd_number_of_lines():
    for dtype in (np.float32, np.float64):
        of_a_line = 64 // np.dtype(dtype).itemsize
        for count in range(1, 200):
            row = aligned.odd_lines(count, dtype)
            assert row >= count
            assert row % (2 * of_a_line) == of_a_line
            assert row - count < 2 * of_a_line
