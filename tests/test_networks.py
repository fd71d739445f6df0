"""Descriptions of networks: arguments, checks, conversion to text and back."""

from __future__ import annotations

import contextlib
import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgrad.activation_names import ACTIVATION_NAMES
from fastgrad.networks import GRU, LSTM, MLP, RNN, Network, Recurrent
from fastgrad.weights import SCHEMES, Constant, Normal, Orthogonal, Uniform

NAMES = {cls.__name__: cls for cls in (MLP, RNN, LSTM, GRU, Normal, Uniform, Orthogonal, Constant)}
sizes = st.integers(1, 2**31 - 1)
finite = st.floats(allow_nan=False, allow_infinity=False)
spreads = st.none() | st.floats(0, 1e300)
laws = st.one_of(
    *(st.builds(law, st.floats(1e-300, 1e300)) for law in (Normal, Uniform, Orthogonal)),
    st.builds(Constant, finite),
    st.sampled_from(SCHEMES),
)
common: dict[str, Any] = {
    "steps": sizes,
    "width": sizes,
    "layers": sizes,
    "input_width": st.none() | sizes,
    "weights": laws,
    "input_weights": laws,
    "bias_std": spreads,
}
activations = st.sampled_from(ACTIVATION_NAMES)
of_mlp: dict[str, Any] = {
    "activation": activations,
    "output_activation": st.sampled_from([None, "linear"]),
    "weights": laws,
    "bias_std": spreads,
}
networks = st.one_of(
    st.builds(MLP, depth=sizes, width=sizes, **of_mlp),
    st.builds(MLP, widths=st.lists(st.integers(1, 3) | sizes, min_size=2, max_size=40), **of_mlp),
    st.builds(RNN, activation=activations, **common),
    st.builds(LSTM, forget_bias=st.none() | finite, **common),
    st.builds(GRU, **common),
)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(networks)
def test_a_network_survives_every_round_trip(network: Network) -> None:
    assert type(network).from_json(network.to_json()) == network
    assert Network.from_json(network.to_json()) == network
    assert Network.from_toml(network.to_toml()) == network
    assert type(network).from_toml(network.to_toml()) == network
    assert eval(repr(network), NAMES) == network
    assert str(network) == repr(network)
    for again in (pickle.loads(pickle.dumps(network)), copy.deepcopy(network), network.replace()):
        assert again == network
        assert hash(again) == hash(network)
        assert repr(again) == repr(network)


def test_arguments_by_position() -> None:
    assert MLP(3, 4) == MLP(depth=3, width=4)
    assert RNN(5, 6) == RNN(steps=5, width=6)
    assert LSTM(5, 6) == LSTM(steps=5, width=6)
    assert GRU(5, 6) == GRU(steps=5, width=6)


def test_equal_widths_are_the_same_as_depth_and_width() -> None:
    network = MLP(widths=[4, 4, 4])
    assert network == MLP(2, 4) == MLP(2, 4, widths=(4, 4, 4))
    assert hash(network) == hash(MLP(2, 4))
    assert (network.depth, network.width, network.widths) == (2, 4, (4, 4, 4))
    assert '"widths"' not in network.to_json()


def test_differing_widths() -> None:
    network = MLP(depth=2, widths=np.array([784, 100, 10]))
    assert (network.depth, network.width, network.widths) == (2, None, (784, 100, 10))
    assert all(type(n) is int for n in network.widths)
    assert network.input_width == 784
    assert '"depth"' not in network.to_json()


def test_a_billion_layers_are_described_without_a_billion_integers() -> None:
    network = MLP(2**31 - 1, 1000)
    assert network.parameter_count == (2**31 - 1) * 1000**2
    assert network.input_width == 1000
    assert len(network.to_json()) < 200


def test_defaults() -> None:
    network = MLP(3, 4)
    assert (network.activation, network.output_activation, network.bias_std) == ("tanh", None, None)
    assert network.weights == Normal(1.0)
    for recurrent in (RNN(3, 4), LSTM(3, 4), GRU(3, 4)):
        assert recurrent.weights == recurrent.input_weights == "pytorch_default"
        assert (recurrent.layers, recurrent.input_width, recurrent.bias_std) == (1, 4, None)
    assert RNN(3, 4).activation == "tanh"
    assert LSTM(3, 4).forget_bias is None


def test_numpy_integers_become_int() -> None:
    network = RNN(np.int64(3), np.uint8(4), layers=np.int32(2))
    assert all(type(n) is int for n in (network.steps, network.width, network.layers, network.input_width))
    assert network == RNN(3, 4, layers=2)


def test_sizes_of_recurrent_networks() -> None:
    assert (RNN.gates, LSTM.gates, GRU.gates) == (1, 4, 3)
    assert GRU(3, 4, layers=3, input_width=7).input_widths == (7, 4, 4)
    assert GRU(3, 4).input_widths == (4,)


def test_parameters_are_counted_as_in_pytorch() -> None:
    torch = pytest.importorskip("torch")

    def count(module: Any) -> int:
        return sum(p.numel() for p in module.parameters())

    linears = torch.nn.Sequential(torch.nn.Linear(7, 13), torch.nn.Tanh(), torch.nn.Linear(13, 5))
    assert MLP(widths=(7, 13, 5), bias_std=0).parameter_count == count(linears)
    assert MLP(widths=(7, 13, 5)).parameter_count == 7 * 13 + 13 * 5
    assert MLP(3, 4, weights="pytorch_default").parameter_count == 3 * (16 + 4)
    for cls, module in ((RNN, torch.nn.RNN), (LSTM, torch.nn.LSTM), (GRU, torch.nn.GRU)):
        network = cls(3, 13, layers=2, input_width=7)
        assert network.parameter_count == count(module(7, 13, num_layers=2))
        without = network.replace(weights="orthogonal")
        assert without.parameter_count == count(module(7, 13, num_layers=2, bias=False))


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (MLP(3, 4), False),
        (MLP(3, 4, bias_std=0), True),
        (MLP(3, 4, weights="pytorch_default"), True),
        (RNN(3, 4), True),
        (RNN(3, 4, weights=Normal()), False),
        (LSTM(3, 4, weights=Normal()), False),
        (LSTM(3, 4, weights=Normal(), forget_bias=0), True),
        (GRU(3, 4, weights=Normal(), bias_std=1), True),
    ],
)
def test_which_networks_have_biases(network: Network, expected: bool) -> None:
    assert network.has_biases is expected


@pytest.mark.parametrize(
    ("network", "text"),
    [
        (
            MLP(1000, 256, weights=Normal(1.3), bias_std=0.1),
            "MLP(depth=1000, width=256, weights=Normal(gain=1.3), bias_std=0.1)",
        ),
        (MLP(widths=(784, 100, 10)), "MLP(widths=(784, 100, 10))"),
        (MLP(widths=[784] + [256] * 99 + [10]), "MLP(widths=(784,) + (256,) * 99 + (10,))"),
        (RNN(5, 6), "RNN(steps=5, width=6)"),
        (GRU(5, 6, input_width=1, layers=2), "GRU(steps=5, width=6, layers=2, input_width=1)"),
        (LSTM(5, 6, forget_bias=1), "LSTM(steps=5, width=6, forget_bias=1.0)"),
    ],
)
def test_a_repr_is_short_and_shows_what_is_not_default(network: Network, text: str) -> None:
    assert repr(network) == text


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (
            lambda: MLP(1000, 0, activation="tahn"),
            [
                "MLP: width=0 is not allowed: width must be an integer of at least 1; activation='tahn' is "
                "not known; did you mean 'tanh'? Known: elu, erf, "
            ],
        ),
        (lambda: MLP(3, widht=4), ["width is missing", "widht=4 is not an argument; did you mean 'width'?"]),
        (lambda: MLP(), ["depth and width are missing: give depth and width, or widths"]),
        (lambda: MLP(3), ["width is missing: give depth and width, or widths"]),
        (lambda: MLP((784, 10)), ["depth=(784, 10) is not allowed", "write widths="]),
        (
            lambda: MLP(3, widths=(5, 6)),
            ["depth=3 and widths=(5, 6) disagree: these widths make a depth of 1"],
        ),
        (lambda: MLP(1, 7, widths=(5, 6)), ["width=7 and widths=(5, 6) disagree"]),
        (lambda: MLP(1, 5, widths=(5, 6)), ["width=5 and widths=(5, 6) disagree"]),
        (lambda: MLP(widths=(5,)), ["widths=(5,) is not allowed", "at least two integers"]),
        (lambda: MLP(widths=5), ["widths=5 is not allowed"]),
        (lambda: MLP(widths="784"), ["widths='784' is not allowed"]),
        (lambda: MLP(widths=np.array(3)), ["widths=3 is not allowed"]),
        (lambda: MLP(widths=(3, 0, 2.5, 4)), ["widths[1]=0 is not", "widths[2]=2.5 is not"]),
        (lambda: MLP(widths=[0] * 1000), ["widths[2]=0 is not", "and 997 more"]),
        (lambda: MLP(True, "3"), ["depth=True is not allowed", "width='3' is not allowed"]),
        (lambda: MLP(2.0, np.bool_(True)), ["depth=2.0 is not allowed", "width=True is not allowed"]),
        (
            lambda: MLP(2**31, 1),
            ["depth=2147483648 is not allowed: depth must be an integer of at most 2,147"],
        ),
        (
            lambda: MLP(3, 4, output_activation="tanh"),
            ["output_activation='tanh' is not allowed", "'linear'"],
        ),
        (lambda: MLP(3, 4, bias_std=-1), ["bias_std=-1 is not allowed"]),
        (lambda: MLP(3, 4, bias_std=float("nan")), ["bias_std=nan is not allowed"]),
        (
            lambda: MLP(3, 4, weights="he_nromal"),
            ["weights='he_nromal' is not known; did you mean 'he_normal'?"],
        ),
        (lambda: MLP(3, 4, weights=1.3), ["weights=1.3 is not allowed", "Normal(gain)"]),
        (lambda: RNN(-5, 3), ["RNN: steps=-5 is not allowed"]),
        (
            lambda: RNN(
                0, 0, layers=0, input_width=0, activation=None, weights=0, input_weights=0, bias_std="1"
            ),
            [
                "steps=0",
                "width=0",
                "layers=0",
                "input_width=0",
                "weights=0",
                "input_weights=0",
                "bias_std='1'",
            ],
        ),
        (lambda: LSTM(3, 4, forget_bias=float("inf")), ["forget_bias=inf is not allowed"]),
        (
            lambda: LSTM(3, 4, forget_bais=1),
            ["forget_bais=1 is not an argument; did you mean 'forget_bias'?"],
        ),
        (lambda: GRU(3, 4, forget_bias=1), ["forget_bias=1 is not an argument"]),
        (lambda: MLP(3, 4).replace(depth=-1, widht=2), ["depth=-1", "did you mean 'width'?"]),
        (lambda: MLP(widths=(3, 4)).replace(depth=5), ["depth=5 and widths=(3, 4) disagree"]),
        (lambda: MLP(3, 4).model_copy(update={"width": -1}), ["width=-1 is not allowed"]),
    ],
)
def test_every_problem_is_named_in_one_sentence(make: Callable[[], object], parts: list[str]) -> None:
    with pytest.raises(ValueError, match=r"^\w+: ") as caught:
        make()
    assert type(caught.value) is ValueError  # and not pydantic's
    assert caught.value.__suppress_context__
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "pydantic" not in str(caught.value)


RNN_TEXT = '{"kind": "rnn", "steps": 3, "width": 4'


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda: Network.from_json("{"), "Network.from_json: the text is not valid JSON: "),
        (lambda: Network.from_json(""), "the text is not valid JSON"),
        (lambda: Network.from_json("[" * 10**6), "nested too deeply"),
        (lambda: Network.from_json("[1, 2]"), "expected an object with kind and arguments, got [1, 2]"),
        (lambda: Network.from_json("{}"), "kind is missing; it must be one of mlp, rnn, lstm, gru"),
        (lambda: Network.from_json('{"kind": "ltsm"}'), "kind='ltsm' is not known; did you mean 'lstm'?"),
        (lambda: Network.from_json('{"kind": ["rnn"]}'), "kind=['rnn'] is not known"),
        (lambda: MLP.from_json(RNN_TEXT + "}"), "MLP.from_json: the text describes kind='rnn'"),
        (lambda: Network.from_json('{"kind": "rnn"}'), "RNN: steps is missing; width is missing"),
        (lambda: Network.from_json('{"kind": "mlp"}'), "MLP: depth and width are missing"),
        (
            lambda: Network.from_json(RNN_TEXT + ', "widht": 4}'),
            "widht=4 is not an argument; did you mean 'width'?",
        ),
        (lambda: Network.from_json(RNN_TEXT + ', "width": 5}'), "'width' appears twice"),
        (lambda: Network.from_json(RNN_TEXT + ', "bias_std": NaN}'), "NaN is not a number of JSON"),
        (
            lambda: Network.from_json(RNN_TEXT + ', "layers": ' + "9" * 5000 + "}"),
            "the text is not valid JSON",
        ),
        (lambda: Network.from_json(RNN_TEXT + ', "weights": {"law": "nromal"}}'), "did you mean 'normal'?"),
        (lambda: Network.from_json(RNN_TEXT + ', "weights": {"gain": 1}}'), "weights.law=None is not known"),
        (
            lambda: Network.from_json(RNN_TEXT + ', "weights": {"law": "normal", "gian": 1}}'),
            "RNN: weights: Normal: gian=1 is not an argument; did you mean 'gain'?",
        ),
        (lambda: Network.from_json(b"{}"), "text=b'{}' is not allowed: text must be a str"),
        (lambda: Network.from_toml("depth ="), "Network.from_toml: the text is not valid TOML: "),
        (lambda: Network.from_toml("a = " + "[" * 10**5), "nested too deeply"),
        (lambda: Network.from_toml('kind = "mlp"\nkind = "mlp"'), "the text is not valid TOML"),
        (
            lambda: Network.from_toml('kind = "gru"\nsteps = 3\nwidth = 2021-01-01'),
            "width=datetime.date(2021, 1, 1)",
        ),
        (lambda: Network.from_toml(None), "text=None is not allowed"),
    ],
)
def test_a_corrupt_text_gets_one_sentence(make: Callable[[], object], part: str) -> None:
    with pytest.raises(ValueError, match=r"^\w+") as caught:
        make()
    assert type(caught.value) is ValueError
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(networks, st.integers(0, 400), st.characters(codec="utf-8"))
def test_a_damaged_text_never_raises_anything_but_a_sentence(
    network: Network, place: int, inserted: str
) -> None:
    for text, read in ((network.to_json(), Network.from_json), (network.to_toml(), Network.from_toml)):
        place %= len(text)
        for damaged in (text[:place], text[:place] + inserted + text[place + 1 :]):
            with contextlib.suppress(ValueError):
                read(damaged)


def test_text_written_by_hand_may_leave_defaults_out() -> None:
    assert Network.from_toml('kind = "lstm"\nsteps = 9\nwidth = 3\nforget_bias = 1') == LSTM(
        9, 3, forget_bias=1
    )
    assert Network.from_json('{"kind": "mlp", "widths": [3, 2], "weights": {"law": "uniform"}}') == MLP(
        widths=(3, 2), weights=Uniform()
    )


def test_a_network_is_frozen() -> None:
    network = MLP(3, 4)
    with pytest.raises(
        AttributeError, match=r"MLP is frozen: width cannot be set; make a changed copy with replace"
    ):
        network.width = 5
    with pytest.raises(AttributeError, match="cannot be deleted"):
        del network.width
    with pytest.raises(AttributeError, match="cannot be set"):
        network.colour = "red"
    assert network.width == 4


def test_replace_keeps_what_it_is_not_told_to_change() -> None:
    network = MLP(3, 4, activation="relu", bias_std=0.5)
    assert network.replace(depth=7) == MLP(7, 4, activation="relu", bias_std=0.5)
    assert network.replace(widths=(2, 3)) == MLP(widths=(2, 3), activation="relu", bias_std=0.5)
    assert network.replace(widths=(2, 3)).replace(depth=1, width=9).widths == (9, 9)
    assert network == MLP(3, 4, activation="relu", bias_std=0.5)
    assert GRU(5, 6).replace(width=8) == GRU(5, 8)
    assert GRU(5, 6, input_width=2).replace(width=8) == GRU(5, 8, input_width=2)


@pytest.mark.parametrize("base", [Network, Recurrent])
def test_the_base_classes_describe_nothing(base: type[Network]) -> None:
    with pytest.raises(TypeError, match="use MLP, RNN, LSTM or GRU"):
        base()


def test_networks_of_different_kinds_differ() -> None:
    assert LSTM(3, 4) != GRU(3, 4)
    assert len({RNN(3, 4), LSTM(3, 4), GRU(3, 4), RNN(3, 4)}) == 3


def test_describing_a_network_imports_nothing_heavy() -> None:
    heavy = "numba scipy xarray matplotlib torch pandas"
    code = (
        "import sys; from fastgrad.networks import MLP; MLP(3, 4).to_toml(); "
        f"print(*[name for name in {heavy!r}.split() if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []
