"""Sentences: what they name, and that nothing can break them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgrad.activation_names import ACTIVATION_NAMES
from fastgrad.errors import MissingFile, MissingPackage, TooLarge, nearest, not_allowed, shown, unknown


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("tahn", "tanh"),
        ("TANH", "tanh"),
        ("Leaky ReLU", "leaky_relu"),
        ("leaky-relu", "leaky_relu"),
        ("gelo", "gelu"),
    ],
)
def test_the_nearest_name_is_found(written: str, meant: str) -> None:
    assert nearest(written, ACTIVATION_NAMES) == meant


@pytest.mark.parametrize("written", ["", "swishmax9000", None, 3, ["tanh"], "x" * 10**7])
def test_nothing_is_near_a_far_name(written: object) -> None:
    assert nearest(written, ACTIVATION_NAMES) is None


def test_nothing_is_near_when_nothing_is_allowed() -> None:
    assert nearest("tanh", []) is None


def test_the_sentence_for_an_unknown_name() -> None:
    assert unknown("activation", "tahn", ["tanh", "erf"]) == (
        "activation='tahn' is not known; did you mean 'tanh'? Known: erf, tanh"
    )
    assert unknown("activation", 7, ["tanh", "erf"]) == "activation=7 is not known. Known: erf, tanh"


def test_the_sentence_for_a_value() -> None:
    assert not_allowed("width", 0, "an integer of at least 1") == (
        "width=0 is not allowed: width must be an integer of at least 1"
    )


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.float64(2.5), "2.5"),
        (np.zeros((3, 4), np.float32), "<array of shape (3, 4) and dtype float32>"),
        (Unprintable(), "Unprintable"),
        pytest.param(10**5000, "int", id="huge-int"),
        (list(range(10**6)), "[0, 1, 2, 3, 4, 5, 6, 7, ...]"),
        ("two\nlines", r"two\nlines"),
    ],
)
def test_any_value_is_shown_shortly(value: object, text: str) -> None:
    assert text in shown(value)
    assert len(shown(value)) <= 80
    assert "\n" not in shown(value)


@settings(derandomize=True, max_examples=40, deadline=None)
@given(
    st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists),
    st.integers(10, 99),
)
def test_a_shown_value_keeps_to_its_limit(value: object, limit: int) -> None:
    assert len(shown(value, limit)) <= limit


def test_a_small_value_is_shown_as_its_repr() -> None:
    assert shown((784, 10)) == "(784, 10)"
    assert shown("tahn") == "'tahn'"


@pytest.mark.parametrize(
    ("error", "bases"),
    [
        (TooLarge, (MemoryError, ValueError)),
        (MissingFile, (FileNotFoundError, ValueError)),
        (MissingPackage, (ImportError, ValueError)),
    ],
)
def test_errors_are_caught_by_their_usual_names_and_print_their_sentence(
    error: type[Exception], bases: tuple[type[Exception], ...]
) -> None:
    for base in bases:
        with pytest.raises(base, match=r"^the sentence$"):
            raise error("the sentence")
