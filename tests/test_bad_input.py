"""Every mistake gets one sentence: the argument, what it got, what is allowed. No error of Numba gets out."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastgrad as fg
from fastgrad.engine import setup
from fastgrad.errors import TooLarge

MLP = fg.MLP(widths=(4, 3, 2))
RNN = fg.RNN(5, 3, input_width=2)
LSTM = fg.LSTM(5, 3, layers=2)
SHAPES = {"0.weight": (3, 4), "0.bias": (3,), "2.weight": (2, 3), "2.bias": (2,)}
FITTING = {name: np.zeros(shape) for name, shape in SHAPES.items()}


def with_entry(name, value):
    return {**FITTING, name: value}


def without_entry(name):
    return {key: value for key, value in FITTING.items() if key != name}


def poisoned(shape, value=np.nan):
    a = np.zeros(shape)
    a[-1] = value
    return a


# network, options, words that the sentence must have
MISTAKES = {
    "record": (MLP, {"record": ["gradient_lognorm"]}, ["record", "gradient_lognorm", "gradient_log_norm"]),
    "record_of_another_kind": (
        MLP,
        {"record": ["cell_gradient_log_norm"]},
        ["record", "cell_gradient_log_norm"],
    ),
    "record_string": (MLP, {"record": 3}, ["record", "3"]),
    "loss": (MLP, {"loss": "prob"}, ["loss", "'prob'", "'probe'"]),
    "method": (MLP, {"method": "densse"}, ["method", "'densse'", "'dense'"]),
    "dtype": (MLP, {"dtype": "float46"}, ["dtype", "'float46'", "float64"]),
    "dtype_half": (MLP, {"dtype": "float16"}, ["dtype", "float16", "float32"]),
    "realizations_zero": (MLP, {"realizations": 0}, ["realizations", "0", "at least 1"]),
    "realizations_negative": (MLP, {"realizations": -3}, ["realizations", "-3", "at least 1"]),
    "realizations_float": (MLP, {"realizations": 2.5}, ["realizations", "2.5", "integer"]),
    "realizations_bool": (MLP, {"realizations": True}, ["realizations", "True", "integer"]),
    "every_zero": (MLP, {"every": 0}, ["every", "0", "at least 1"]),
    "every_text": (MLP, {"every": "2"}, ["every", "'2'", "integer"]),
    "threads_zero": (MLP, {"threads": 0}, ["threads", "0", "at least 1"]),
    "probes_zero": (MLP, {"probes": 0}, ["probes", "0", "at least 1"]),
    "rng_negative": (MLP, {"rng": -1}, ["rng", "-1"]),
    "rng_text": (MLP, {"rng": "seed"}, ["rng", "'seed'"]),
    "rng_float": (MLP, {"rng": 1.5}, ["rng", "1.5"]),
    "rng_legacy": (MLP, {"rng": np.random.RandomState(0)}, ["rng"]),
    "executor": (MLP, {"executor": "threads"}, ["executor", "'threads'"]),
    "progress": (MLP, {"progress": "yes"}, ["progress", "'yes'"]),
    "memory": (MLP, {"memory": -5}, ["memory", "-5"]),
    "inputs_text": (MLP, {"inputs": "digits"}, ["inputs"]),
    "inputs_one_dimension": (MLP, {"inputs": np.zeros(5)}, ["inputs", "(5,)", "(batch, 4)"]),
    "inputs_features": (MLP, {"inputs": np.zeros((3, 5))}, ["inputs", "(3, 5)", "(batch, 4)"]),
    "inputs_empty": (MLP, {"inputs": np.zeros((0, 4))}, ["inputs", "(0, 4)"]),
    "inputs_nan": (MLP, {"inputs": poisoned((3, 4))}, ["inputs", "nan", "finite"]),
    "inputs_infinite": (MLP, {"inputs": poisoned((3, 4), np.inf)}, ["inputs", "inf"]),
    "inputs_complex": (MLP, {"inputs": np.zeros((3, 4), complex)}, ["inputs", "complex"]),
    "inputs_objects": (MLP, {"inputs": np.full((3, 4), None)}, ["inputs", "object"]),
    "inputs_strings": (MLP, {"inputs": np.full((3, 4), "1")}, ["inputs", "U1"]),
    "inputs_ragged": (MLP, {"inputs": [[1.0, 2.0], [3.0]]}, ["inputs"]),
    "inputs_beyond_float32": (MLP, {"inputs": np.full((1, 4), 1e300)}, ["inputs", "float32"]),
    "inputs_steps": (RNN, {"inputs": np.zeros((4, 1, 2))}, ["inputs", "(4, 1, 2)", "(5, batch, 2)"]),
    "inputs_flat_sequence": (RNN, {"inputs": np.zeros((5, 3))}, ["inputs", "(5, 3)", "(5, batch, 2)"]),
    "weights_list": (MLP, {"weights": [np.zeros((3, 4))]}, ["weights"]),
    "weights_empty": (MLP, {"weights": {}}, ["weights", "0.weight"]),
    "weights_name": (MLP, {"weights": {"fc.weight": np.zeros((3, 4))}}, ["weights", "fc.weight", "0.weight"]),
    "weights_missing": (MLP, {"weights": without_entry("2.weight")}, ["weights", "2.weight", "(2, 3)"]),
    "weights_extra": (MLP, {"weights": with_entry("4.weight", np.zeros((2, 2)))}, ["weights", "4.weight"]),
    "weights_shape": (
        MLP,
        {"weights": with_entry("2.weight", np.zeros((2, 4)))},
        ["weights", "2.weight", "(2, 4)", "(2, 3)"],
    ),
    "weights_transposed": (
        MLP,
        {"weights": with_entry("0.weight", np.zeros((4, 3)))},
        ["weights", "0.weight", "(4, 3)", "(3, 4)"],
    ),
    "weights_nan": (
        MLP,
        {"weights": with_entry("0.bias", poisoned(3))},
        ["weights", "0.bias", "nan", "finite"],
    ),
    "weights_infinite": (
        MLP,
        {"weights": with_entry("0.bias", poisoned(3, -np.inf))},
        ["weights", "0.bias", "inf"],
    ),
    "weights_dtype": (MLP, {"weights": with_entry("0.bias", np.zeros(3, "U1"))}, ["weights", "0.bias"]),
    "weights_of_lstm_in_rnn": (
        RNN,
        {"weights": {"weight_ih_l0": np.zeros((12, 2)), "weight_hh_l0": np.zeros((12, 3))}},
        ["weights", "weight_ih_l0", "(12, 2)", "(3, 2)"],
    ),
    "weights_of_one_layer_in_two": (
        LSTM,
        {"weights": {"weight_ih_l0": np.zeros((12, 3)), "weight_hh_l0": np.zeros((12, 3))}},
        ["weights", "weight_ih_l1", "(12, 3)"],
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_in_measure(mistake):
    network, options, words = MISTAKES[mistake]
    with pytest.raises((TypeError, ValueError)) as caught:
        fg.measure(network, **{"realizations": 2, "rng": 0, **options})
    sentence = str(caught.value)
    for word in words:
        assert word in sentence, sentence
    assert "\n" not in sentence
    assert len(sentence) < 600


def test_the_network_must_be_one():
    for wrong in (None, "mlp", 3, fg.MLP, {"kind": "mlp"}):
        with pytest.raises((TypeError, ValueError), match="network"):
            fg.measure(wrong)


def test_unknown_argument_is_a_type_error():
    with pytest.raises(TypeError, match="realisations"):
        fg.measure(MLP, realisations=3)


@pytest.mark.parametrize("network", [MLP, RNN])
def test_what_is_asked_for_is_done_or_refused(network):
    """An argument that is read and then forgotten is worse than one that is refused."""
    error = refusal(lambda: fg.measure(network, realizations=1, rng=0, method="conditional"))
    if error is None:
        ds = fg.measure(network, realizations=1, rng=0, method="conditional")
        assert ds.attrs["method"] == "conditional"
    one = fg.measure(network, realizations=1, rng=0)
    error = refusal(lambda: fg.measure(network, realizations=1, rng=0, probes=3))
    if error is None:
        three = fg.measure(network, realizations=1, rng=0, probes=3)
        assert three["gradient_log_norm"].size == 3 * one["gradient_log_norm"].size


# networks -----------------------------------------------------------------------------------------

NETWORK_MISTAKES = {
    "activation": (lambda: fg.MLP(3, 4, activation="tahn"), ["activation", "'tahn'", "'tanh'"]),
    "scheme": (lambda: fg.MLP(3, 4, weights="he_norml"), ["weights", "'he_norml'", "'he_normal'"]),
    "width_zero": (lambda: fg.MLP(3, 0), ["width", "0", "at least 1"]),
    "depth_negative": (lambda: fg.MLP(-3, 4), ["depth", "-3", "at least 1"]),
    "steps_negative": (lambda: fg.RNN(-1, 4), ["steps", "-1", "at least 1"]),
    "layers_float": (lambda: fg.GRU(3, 4, layers=1.5), ["layers", "1.5", "integer"]),
    "gain_nan": (lambda: fg.MLP(3, 4, weights=fg.Normal(float("nan"))), ["gain", "nan"]),
    "bias_std": (lambda: fg.LSTM(3, 4, bias_std=-1), ["bias_std", "-1"]),
    "forget_bias": (lambda: fg.LSTM(3, 4, forget_bias="big"), ["forget_bias", "'big'"]),
    "widths_and_depth": (lambda: fg.MLP(3, 4, widths=(1, 2)), ["widths", "depth"]),
    "two_at_once": (lambda: fg.MLP(0, -4), ["depth", "width"]),
}


@pytest.mark.parametrize("mistake", NETWORK_MISTAKES)
def test_mistake_in_a_network(mistake):
    make, words = NETWORK_MISTAKES[mistake]
    with pytest.raises(ValueError, match=r".") as caught:
        make()
    for word in words:
        assert word in str(caught.value), str(caught.value)
    assert "\n" not in str(caught.value)


# too large ----------------------------------------------------------------------------------------

TERA = 10**12
TOO_LARGE = {
    "width": (fg.MLP(depth=10, width=2**20), {"method": "dense"}),
    "depth": (fg.MLP(depth=2**31 - 1, width=100, activation="tanh"), {"method": "dense"}),
    "steps": (fg.LSTM(2**31 - 1, 500), {}),
    "hidden": (fg.GRU(10, 2**20), {}),
    "results": (fg.MLP(depth=10**6, width=2), {"realizations": 10**6}),
    "realizations": (fg.MLP(depth=2, width=2), {"realizations": 10**13}),
    "memory": (fg.MLP(depth=2000, width=100), {"memory": 2**20, "method": "dense"}),
}


@pytest.mark.parametrize("case", TOO_LARGE)
def test_what_cannot_fit_is_refused_before_anything_is_allocated(case):
    network, options = TOO_LARGE[case]
    tracemalloc.start()  # sees NumPy's arrays too
    try:
        with pytest.raises(TooLarge) as caught:
            fg.measure(network, rng=0, **options)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8e6
    sentence = str(caught.value)
    assert any(unit in sentence for unit in ("MB", "GB", "TB", "PB", "EB", "MiB", "GiB", "TiB", "PiB", "EiB"))
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("network", "argument"),
    [(fg.MLP(1, 2**18), "width"), (fg.GRU(1, 2**18), "width"), (fg.RNN(2**31 - 1, 2, input_width=9), "steps")],
)
def test_a_tensor_with_more_numbers_than_addresses_is_refused(network, argument):
    task, _ = setup.make_task(network, rng=0, method="dense")
    with pytest.raises(TooLarge, match=f"{argument}="):
        setup.check_addresses(task)
    setup.check_addresses(setup.make_task(fg.MLP(1, 2**16), rng=0, method="dense")[0])


# nothing of Numba's gets out ----------------------------------------------------------------------

junk = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from([10**30, -(10**30)])
    | st.floats()
    | st.complex_numbers()
    | st.text(max_size=5)
    | st.binary(max_size=3)
    | st.lists(st.integers() | st.floats() | st.text(max_size=2), max_size=3)
    | st.dictionaries(st.text(max_size=3) | st.integers(), st.none() | st.floats(), max_size=2)
    | st.sampled_from(
        [object(), int, np.float32, np.nan, np.array(3), np.zeros((2, 4)), np.zeros((1, 0)), ...]
    )
)


def refusal(call):
    """The error that a call ends in, None when it succeeds; anything but three plain kinds is let through."""
    try:
        call()
    except (TypeError, ValueError) as error:
        caught = error
    else:
        return None
    assert type(caught) in (TypeError, ValueError, TooLarge), repr(caught)
    assert "\n" not in str(caught)
    return caught


ARGUMENTS = [
    "realizations", "rng", "inputs", "loss", "method", "dtype", "record", "every", "threads", "executor",
    "progress", "weights", "probes", "memory",
]  # fmt: skip


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(
    network=st.sampled_from([MLP, RNN]), options=st.dictionaries(st.sampled_from(ARGUMENTS), junk, max_size=3)
)
def test_junk_is_refused_in_plain_words(network, options):
    error = refusal(lambda: fg.measure(network, **{"realizations": 1, **options}))
    if error is not None:
        assert any(name in str(error) for name in options), str(error)


arrays = (
    st.sampled_from(
        [np.zeros((3, 4)), np.zeros(3), np.zeros((4, 3)), np.zeros((3, 4), int), np.zeros((3, 4), bool)]
    )
    | junk
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(
    weights=st.dictionaries(
        st.sampled_from(["0.weight", "0.bias", "2.weight", "1.weight", "weight_hh_l0", ""]),
        arrays,
        max_size=4,
    )
)
def test_junk_in_a_state_dict_is_refused_in_plain_words(weights):
    error = refusal(lambda: fg.measure(MLP, realizations=1, weights=weights))
    if error is not None:
        assert "weights" in str(error)


# what looks odd and is fine -----------------------------------------------------------------------


def test_arrays_of_any_layout_and_number_type_are_read():
    rng = np.random.default_rng(0)
    inputs = rng.integers(-2, 3, (3, 4))
    want = fg.measure(MLP, realizations=1, rng=0, inputs=inputs.astype(float))
    for same in (
        inputs,
        inputs.tolist(),
        np.asfortranarray(inputs.astype(np.float64)),
        inputs.astype(">f8"),
        inputs.astype(np.float32)[::-1][::-1],
        inputs.astype(np.int8),
        np.ma.masked_array(inputs),
    ):
        got = fg.measure(MLP, realizations=1, rng=0, inputs=same)
        assert got["gradient_log_norm"].values.tobytes() == want["gradient_log_norm"].values.tobytes()


def test_read_only_arrays_are_left_as_they_are():
    inputs = np.ones((2, 4))
    inputs.flags.writeable = False
    state = {name: np.random.default_rng(1).standard_normal(value.shape) for name, value in FITTING.items()}
    kept = {name: value.copy() for name, value in state.items()}
    for value in state.values():
        value.flags.writeable = False
    fg.measure(MLP, realizations=2, rng=0, inputs=inputs, weights=state)
    for name, value in state.items():
        np.testing.assert_array_equal(value, kept[name])
