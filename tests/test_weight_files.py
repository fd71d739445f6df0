"""State dicts: the files they come in, and whether they fit a network."""

from __future__ import annotations

import builtins
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgrad.errors import MissingFile, MissingPackage
from fastgrad.networks import GRU, LSTM, MLP, RNN, Network
from fastgrad.weight_files import FittedMLP, FittedRecurrent, fit_state_dict, read_state_dict

MLP_7_13_5 = MLP(widths=(7, 13, 5))
GRU_13 = GRU(4, 13, input_width=7, layers=2)


def mlp_state(
    widths: tuple[int, ...], step: int = 2, bias: bool = True, dtype: Any = np.float64
) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    state: dict[str, Any] = {}
    for l in range(1, len(widths)):
        state[f"{(l - 1) * step}.weight"] = rng.normal(size=(widths[l], widths[l - 1])).astype(dtype)
        if bias:
            state[f"{(l - 1) * step}.bias"] = rng.normal(size=widths[l]).astype(dtype)
    return state


def recurrent_state(gates: int, width: int, inputs: tuple[int, ...]) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    state: dict[str, Any] = {}
    for l, n in enumerate(inputs):
        state[f"weight_ih_l{l}"] = rng.normal(size=(gates * width, n))
        state[f"weight_hh_l{l}"] = rng.normal(size=(gates * width, width))
        state[f"bias_ih_l{l}"] = rng.normal(size=gates * width)
        state[f"bias_hh_l{l}"] = rng.normal(size=gates * width)
    return state


def fits(network: Network, state: dict[str, Any], **options: Any) -> Any:
    return fit_state_dict(network, state, **options)


def refusal(network: Network, state: Any) -> str:
    with pytest.raises(ValueError, match=r"^weights") as caught:
        fit_state_dict(network, state)
    assert "\n" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return str(caught.value)


def without(state: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in state.items() if key not in keys}


@settings(derandomize=True, max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=2, max_size=14).map(tuple),
    st.integers(1, 5),
    st.booleans(),
    st.sampled_from([np.float16, np.float32, np.float64, ">f4"]),
    st.sampled_from([np.float32, np.float64]),
)
def test_an_mlp_is_fitted_in_numeric_order(
    widths: tuple[int, ...], step: int, bias: bool, given_as: Any, wanted: Any
) -> None:
    state = mlp_state(widths, step, bias, given_as)
    shuffled = dict(sorted(state.items()))  # "10.weight" before "2.weight"
    fitted = fit_state_dict(MLP(widths=widths), shuffled, dtype=wanted)
    assert isinstance(fitted, FittedMLP)
    assert len(fitted.weights) == len(fitted.biases) == len(widths) - 1
    for l, (weight, vector) in enumerate(zip(fitted.weights, fitted.biases, strict=True)):
        assert weight.dtype == vector.dtype == wanted
        assert weight.flags.c_contiguous
        np.testing.assert_array_equal(weight, state[f"{l * step}.weight"].astype(wanted))
        expected = state[f"{l * step}.bias"].astype(wanted) if bias else np.zeros(widths[l + 1])
        np.testing.assert_array_equal(vector, expected)


@pytest.mark.parametrize(
    ("network", "state"),
    [
        (RNN(4, 13, input_width=7, layers=2), recurrent_state(1, 13, (7, 13))),
        (LSTM(4, 13, input_width=7, layers=2), recurrent_state(4, 13, (7, 13))),
        (GRU_13, recurrent_state(3, 13, (7, 13))),
        (RNN(1, 1), recurrent_state(1, 1, (1,))),
    ],
)
def test_a_recurrent_network_is_fitted_layer_by_layer(network: Any, state: dict[str, Any]) -> None:
    fitted = fit_state_dict(network, dict(reversed(state.items())))
    assert isinstance(fitted, FittedRecurrent)
    for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        arrays = getattr(fitted, part)
        assert len(arrays) == network.layers
        for l, array in enumerate(arrays):
            np.testing.assert_array_equal(array, state[f"{part}_l{l}"])


def test_absent_biases_are_zero_one_by_one() -> None:
    state = recurrent_state(3, 13, (7, 13))
    fitted = fits(GRU_13, without(state, "bias_ih_l0", "bias_hh_l1"))
    assert not fitted.bias_ih[0].any()
    assert not fitted.bias_hh[1].any()
    np.testing.assert_array_equal(fitted.bias_hh[0], state["bias_hh_l0"])
    np.testing.assert_array_equal(fitted.bias_ih[1], state["bias_ih_l1"])


def test_pytorch_modules_are_fitted_as_they_are() -> None:
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(7, 13), torch.nn.Tanh(), torch.nn.Linear(13, 5)
    )
    fitted = fits(MLP_7_13_5, model.state_dict())
    np.testing.assert_array_equal(fitted.weights[1], model[3].weight.detach().numpy())
    fitted = fits(MLP_7_13_5, dict(model.named_parameters()))  # these require gradients
    np.testing.assert_array_equal(fitted.biases[0], model[1].bias.detach().numpy())
    for cls, module in ((RNN, torch.nn.RNN), (LSTM, torch.nn.LSTM), (GRU, torch.nn.GRU)):
        for bias in (True, False):
            model = module(7, 13, num_layers=2, bias=bias)
            fitted = fits(cls(4, 13, layers=2, input_width=7), model.state_dict())
            np.testing.assert_array_equal(fitted.weight_hh[1], model.weight_hh_l1.detach().numpy())


def test_a_pytorch_dtype_that_numpy_lacks_gets_a_sentence() -> None:
    torch = pytest.importorskip("torch")
    state = {"0.weight": torch.zeros(3, 3, dtype=torch.bfloat16)}
    sentence = refusal(MLP(1, 3), state)
    assert "weights['0.weight'] cannot become an array" in sentence
    assert "try .float().cpu()" in sentence


def test_arrays_that_are_not_contiguous_become_so() -> None:
    weight = np.arange(12.0).reshape(3, 4)
    for odd in (np.asfortranarray(weight), np.repeat(weight, 2, axis=1)[:, ::2]):
        fitted = fits(MLP(widths=(4, 3)), {"0.weight": odd})
        assert fitted.weights[0].flags.c_contiguous
        np.testing.assert_array_equal(fitted.weights[0], weight)


STATE_GRU = recurrent_state(3, 13, (7, 13))
STATE_MLP = mlp_state((7, 13, 5))


@pytest.mark.parametrize(
    ("network", "state", "parts"),
    [
        (
            GRU_13,
            STATE_GRU | {"weight_hh_l1": np.zeros((39, 12))},
            ["weights['weight_hh_l1'] has shape (39, 12), expected (39, 13) for GRU(steps=4, width=13"],
        ),
        (
            GRU_13,
            recurrent_state(4, 13, (7, 13)),
            ["has shape (52, 7), expected (39, 7)", "52 rows are those of LSTM"],
        ),
        (
            GRU_13,
            STATE_GRU | {"weight_ih_l0": np.zeros((7, 39))},
            ["has shape (7, 39), expected (39, 7)", "its transpose"],
        ),
        (
            GRU_13,
            without(STATE_GRU, "weight_hh_l1") | {"weight_hh_11": np.zeros((3, 4))},
            [
                "weights has no 'weight_hh_l1', expected with shape (39, 13)",
                "did you mean 'weight_hh_11', of shape (3, 4)",
            ],
        ),
        (
            GRU_13,
            without(STATE_GRU, "bias_hh_l1") | {"bais_hh_l1": np.zeros(39)},
            [
                "weights has 'bais_hh_l1' of shape (39,), which GRU(",
                "did you mean 'bias_hh_l1', of shape (39,)?",
            ],
        ),
        (GRU(4, 13, input_width=7), STATE_GRU, ["weights has 'weight_ih_l1' of shape (39, 13), which GRU("]),
        (
            GRU_13.replace(layers=3),
            STATE_GRU,
            ["weights has no 'weight_ih_l2', expected with shape (39, 13)"],
        ),
        (GRU_13.replace(layers=2**31 - 1), STATE_GRU, ["weights has no 'weight_ih_l2'"]),
        (GRU_13, STATE_MLP, ["weights has no 'weight_ih_l0'", "it has '0.weight' of shape (13, 7) instead"]),
        (GRU_13, {}, ["weights has no 'weight_ih_l0'", "it has nothing"]),
        (
            GRU_13,
            STATE_GRU | {"weight_ih_l0_reverse": np.zeros((39, 7))},
            ["weights has 'weight_ih_l0_reverse': bidirectional networks are not supported"],
        ),
        (LSTM(4, 13), {"weight_hr_l0": np.zeros((3, 13))}, ["weights has 'weight_hr_l0'", "projections"]),
        (
            GRU_13,
            {f"rnn.{key}": value for key, value in STATE_GRU.items()} | {"head.weight": np.zeros((2, 13))},
            ["weights has 'rnn.weight_ih_l0' where 'weight_ih_l0' is expected; strip the prefix 'rnn.'"],
        ),
        (
            MLP_7_13_5,
            {f"net.body.{key}": value for key, value in STATE_MLP.items()},
            ["where '0.weight' is expected; strip the prefix 'net.body.' with {k[9:]: v for k, v in weights"],
        ),
        (
            MLP_7_13_5,
            STATE_MLP | {"2.weight": np.zeros((5, 12))},
            ["weights['2.weight'] has shape (5, 12), expected (5, 13) for MLP(widths=(7, 13, 5))"],
        ),
        (MLP_7_13_5, STATE_MLP | {"2.bias": np.zeros(())}, ["weights['2.bias'] has shape (), expected (5,)"]),
        (
            MLP_7_13_5,
            without(STATE_MLP, "2.weight"),
            ["weights has no '2.weight', expected with shape (5, 13)"],
        ),
        (
            MLP_7_13_5,
            STATE_MLP | {"4.weight": np.zeros((5, 5))},
            ["weights has '4.weight' of shape (5, 5), which MLP"],
        ),
        (MLP_7_13_5, STATE_MLP | {"1.bias": np.zeros(13)}, ["weights has '1.bias' of shape (13,)"]),
        (
            MLP_7_13_5,
            STATE_MLP | {"1.running_mean": np.zeros(13)},
            ["normalization layers are not supported"],
        ),
        (
            MLP(widths=(7, 13)),
            {"0.weight": np.zeros((13, 3, 3))},
            ["weights['0.weight'] has shape (13, 3, 3), expected (13, 7)", "only linear layers"],
        ),
        (
            MLP(2**31 - 1, 2**31 - 1),
            STATE_MLP,
            ["weights has no '4.weight', expected with shape (2147483647, 2147"],
        ),
        (
            MLP_7_13_5,
            STATE_MLP | {"2.bias": np.array([0, 0, np.nan, 0, np.inf])},
            ["weights['2.bias'][2] is nan", "(2 are"],
        ),
        (
            MLP_7_13_5,
            STATE_MLP | {"2.bias": np.zeros(5, int)},
            ["weights['2.bias'] has dtype int64, expected float16"],
        ),
        (MLP_7_13_5, STATE_MLP | {"2.bias": np.zeros(5, complex)}, ["dtype complex128"]),
        (MLP_7_13_5, STATE_MLP | {"2.bias": np.zeros(5, object)}, ["dtype object"]),
        (MLP_7_13_5, STATE_MLP | {"2.bias": np.zeros(5, bool)}, ["dtype bool"]),
        (
            MLP_7_13_5,
            STATE_MLP | {"2.bias": [0.0] * 5},
            ["weights['2.bias']=[0.0, 0.0", "it must be an array of floats"],
        ),
        (MLP_7_13_5, STATE_MLP | {"2.bias": None}, ["weights['2.bias']=None is not allowed"]),
        (MLP_7_13_5, STATE_MLP | {2: np.zeros(5)}, ["weights has the key 2: every key must be a str"]),
        (MLP_7_13_5, [1.0], ["weights=[1.0] is not allowed: weights must be a dict of names and arrays"]),
        (MLP_7_13_5, "model.npz", ["weights='model.npz' is not allowed"]),
    ],
)
def test_weights_that_do_not_fit_are_refused_with_the_first_name_that_differs(
    network: Network, state: Any, parts: list[str]
) -> None:
    sentence = refusal(network, state)
    for part in parts:
        assert part in sentence


def test_the_suggested_way_to_strip_a_prefix_works() -> None:
    weights = {f"rnn.{key}": value for key, value in STATE_GRU.items()} | {"head.weight": np.zeros((2, 13))}
    expression = refusal(GRU_13, weights).partition(" with ")[2]
    fits(GRU_13, eval(expression, {"weights": weights}))


def test_weights_beyond_float32_are_refused_there_and_kept_in_float64() -> None:
    state = {"0.weight": np.full((1, 1), 1e300)}
    assert fits(MLP(1, 1), state).weights[0] == 1e300
    with pytest.raises(
        ValueError, match=r"weights\['0.weight'\] reaches 1e\+300, beyond the range of float32"
    ):
        fits(MLP(1, 1), state, dtype=np.float32)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_archive_is_read(tmp_path: Path, save: Any) -> None:
    path = tmp_path / "model.npz"
    save(path, **STATE_GRU)
    read = read_state_dict(path)
    assert list(read) == list(STATE_GRU)
    for key, value in STATE_GRU.items():
        np.testing.assert_array_equal(read[key], value)


def test_a_safetensors_file_is_read(tmp_path: Path) -> None:
    numpy_files = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "model.safetensors"
    state = {
        key: value.astype(dtype) for (key, value), dtype in zip(STATE_GRU.items(), "efdd" * 2, strict=True)
    }
    numpy_files.save_file(state, path)
    read = read_state_dict(str(path))
    assert read.keys() == state.keys()
    for key, value in state.items():
        assert read[key].dtype == value.dtype
        np.testing.assert_array_equal(read[key], value)


def test_bfloat16_becomes_float32(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch_files = pytest.importorskip("safetensors.torch")
    torch.manual_seed(0)
    state = {"a": torch.randn(3, 5).bfloat16(), "b": torch.randn(7), "c": torch.randn(2, 2).bfloat16()}
    path = tmp_path / "model.safetensors"
    torch_files.save_file(state, path)
    read = read_state_dict(path)
    for key, value in state.items():
        assert read[key].dtype == np.float32
        np.testing.assert_array_equal(read[key], value.float().numpy())
    torch_files.save_file({"w": torch.zeros(2).to(torch.float8_e4m3fn)}, path)
    with pytest.raises(ValueError, match=r"'w' has dtype F8_E4M3"):
        read_state_dict(path)


def test_a_damaged_safetensors_file_gets_a_sentence(tmp_path: Path) -> None:
    numpy_files = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "model.safetensors"
    whole = numpy_files.save(STATE_MLP)
    header_only = (2**40).to_bytes(8, "little")
    claim = b'{"w":{"dtype":"F32","shape":[93000,93000],"data_offsets":[0,34596000000]}}'
    for content in (b"", whole[:7], whole[:40], whole[:-1], whole + b"\0", header_only, b"\xff" * 99):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"cannot be read: it is corrupt: [^\n]+$"):
            read_state_dict(path)
    path.write_bytes(len(claim).to_bytes(8, "little") + claim)
    with pytest.raises(ValueError, match="it is corrupt"):
        read_state_dict(path)


def test_a_missing_safetensors_package_is_named_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"")
    real = builtins.__import__

    def fail(name: str, *arguments: Any) -> Any:
        if name.startswith("safetensors"):
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.delitem(sys.modules, "safetensors", raising=False)
    monkeypatch.setattr(builtins, "__import__", fail)
    with pytest.raises(MissingPackage, match=r"pip install 'fastgrad\[safetensors\]'"):
        read_state_dict(path)


def test_missing_files_and_other_kinds_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "model.npz", **STATE_MLP)
    with pytest.raises(MissingFile, match=r"does not exist; did you mean 'model.npz'\?$"):
        read_state_dict(tmp_path / "modle.npz")
    (tmp_path / "model.pt").write_bytes(b"\x80")
    with pytest.raises(ValueError, match=r"must be one of .npz, .safetensors; \.pt is a pickle.*save_file"):
        read_state_dict(tmp_path / "model.pt")
    (tmp_path / "model.safetensor").write_bytes(b"")
    with pytest.raises(ValueError, match=r"did you mean '.safetensors'"):
        read_state_dict(tmp_path / "model.safetensor")


def test_an_archive_of_python_objects_is_never_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "model.npz"
    np.savez(path, **{"0.weight": np.array([{"a": 1}], dtype=object)})
    with pytest.raises(ValueError, match=r"in '0.weight', it holds Python objects, which are never read"):
        read_state_dict(path)
