"""Weight laws: their numbers against PyTorch's initialisers, their checks, their data."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgrad.weights import (
    SCHEMES,
    Constant,
    Draw,
    Normal,
    Orthogonal,
    Uniform,
    Weights,
    as_weights,
    draw,
    weights_to_data,
)

torch = pytest.importorskip("torch")
FAN_IN, FAN_OUT = 300, 500


def kaiming(name: str) -> Callable[[Any], Any]:
    # The default nonlinearity of PyTorch's kaiming functions, leaky_relu with slope 0, has the gain sqrt(2).
    return lambda w: getattr(torch.nn.init, name)(w, nonlinearity="relu")


TORCH: dict[str, Callable[[Any], Any]] = {
    "he_normal": kaiming("kaiming_normal_"),
    "he_uniform": kaiming("kaiming_uniform_"),
    "xavier_normal": torch.nn.init.xavier_normal_,
    "xavier_uniform": torch.nn.init.xavier_uniform_,
    "lecun_normal": lambda w: torch.nn.init.kaiming_normal_(w, nonlinearity="linear"),
    "orthogonal": torch.nn.init.orthogonal_,
    "pytorch_default": lambda w: torch.nn.init.kaiming_uniform_(w, a=math.sqrt(5)),
}


def test_every_scheme_is_compared_with_pytorch() -> None:
    assert set(TORCH) == set(SCHEMES)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_scheme_means_what_it_means_in_pytorch(scheme: str) -> None:
    torch.manual_seed(0)
    weight = TORCH[scheme](torch.empty(FAN_OUT, FAN_IN, dtype=torch.float64)).numpy()
    kind, scale = draw(scheme, FAN_IN, FAN_OUT)
    n = weight.size
    if kind == "normal":
        # The standard deviation of n normals has the relative standard error 1/sqrt(2n): six of these.
        assert weight.std() == pytest.approx(scale, rel=6 / math.sqrt(2 * n))
        assert np.abs(weight).max() > 3.5 * scale
    elif kind == "uniform":
        # P(the largest of n is below 1 - 20/n of the bound) = exp(-20).
        assert scale * (1 - 20 / n) < np.abs(weight).max() <= scale
        assert weight.std() == pytest.approx(scale / math.sqrt(3), rel=6 / math.sqrt(2 * n))
    else:
        assert kind == "orthogonal"
        np.testing.assert_allclose(np.linalg.svd(weight, compute_uv=False), scale, rtol=1e-10)


def test_pytorch_default_is_what_the_modules_do() -> None:
    torch.manual_seed(0)
    linear = torch.nn.Linear(FAN_IN, FAN_OUT)
    bound = draw("pytorch_default", FAN_IN, FAN_OUT).scale
    for values in (linear.weight, linear.bias):
        largest = float(values.detach().abs().max())
        assert 0.95 * bound < largest <= bound * (1 + 1e-6)
    width = 64
    bound = draw("pytorch_default", width, width).scale
    for module in (torch.nn.RNN, torch.nn.LSTM, torch.nn.GRU):
        for values in module(7, width).parameters():  # the input weights too, whose own fan_in is 7
            largest = float(values.detach().abs().max())
            assert 0.9 * bound < largest <= bound * (1 + 1e-6)


@pytest.mark.parametrize("gain", [0.5, 1.0, 1.3])
def test_normal_and_uniform_have_the_variance_of_their_docstring(gain: float) -> None:
    variance = gain**2 / FAN_IN
    assert draw(Normal(gain), FAN_IN, FAN_OUT) == ("normal", pytest.approx(math.sqrt(variance), rel=1e-14))
    kind, half_width = draw(Uniform(gain), FAN_IN, FAN_OUT)
    assert kind == "uniform"
    assert half_width**2 / 3 == pytest.approx(variance, rel=1e-14)  # the variance of U(-a, a) is a^2/3
    assert draw(Orthogonal(gain), FAN_IN, FAN_OUT) == Draw("orthogonal", gain)
    assert draw(Constant(-gain), FAN_IN, FAN_OUT) == Draw("constant", -gain)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Normal(gian=2), r"^Normal: gian=2 is not an argument; did you mean 'gain'\? Known: gain$"),
        (lambda: Normal(0), "^Normal: gain=0 is not allowed: gain must be a finite number greater than 0$"),
        (lambda: Uniform(-1), "gain=-1 is not allowed"),
        (lambda: Orthogonal(math.inf), "gain=inf is not allowed"),
        (lambda: Normal(math.nan), "gain=nan is not allowed"),
        (lambda: Normal(True), "gain=True is not allowed"),
        (lambda: Normal("1"), "gain='1' is not allowed"),
        (lambda: Normal(10**400), "is not allowed"),
        (lambda: Normal(None), "gain=None is not allowed"),
        (lambda: Normal(np.ones(3)), r"gain=<array of shape \(3,\) and dtype float64> is not allowed"),
        (lambda: Constant(math.inf), "value=inf is not allowed: value must be a finite number"),
        (lambda: Normal(-1, gian=2), "gain=-1 is not allowed.*; gian=2 is not an argument"),
        (lambda: draw("he_nromal", 1, 1), "law='he_nromal' is not known; did you mean 'he_normal'?"),
        (lambda: draw("normal", 1, 1), r"law='normal' is not known.*write Normal\(\.\.\.\)"),
        (lambda: draw(Normal, 1, 1), r"law=<class .*is not allowed.*write Normal\(\.\.\.\)"),
        (lambda: draw(Normal(), 0, 1), "fan_in=0 is not allowed"),
        (lambda: draw(Normal(), 1, 1.5), "fan_out=1.5 is not allowed"),
    ],
)
def test_what_is_not_allowed_is_named_in_one_sentence(make: Callable[[], object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        make()
    assert "\n" not in str(caught.value)
    assert type(caught.value) is ValueError  # and not pydantic's


def test_numpy_numbers_are_numbers() -> None:
    assert Normal(np.float32(0.5)) == Normal(gain=0.5) == Normal(np.float64(0.5))
    assert Normal(np.int64(2)) == Normal(2)
    assert type(Normal(np.float32(0.5)).gain) is float


def test_laws_are_compared_by_kind_and_number() -> None:
    assert Normal(1) != Uniform(1)
    assert Normal(1) != Normal(2)
    assert len({Normal(1), Normal(1.0), Normal(), Uniform()}) == 2


def test_laws_are_frozen() -> None:
    with pytest.raises(AttributeError, match="Normal is frozen: gain cannot be set"):
        Normal().gain = 2


laws = st.one_of(
    *(st.builds(law, st.floats(1e-300, 1e300)) for law in (Normal, Uniform, Orthogonal)),
    st.builds(Constant, st.floats(allow_nan=False, allow_infinity=False)),
    st.sampled_from(SCHEMES),
)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(laws)
def test_a_law_survives_its_data_and_its_repr(law: Weights) -> None:
    assert as_weights(weights_to_data(law), "weights") == law
    assert eval(repr(law)) == law
