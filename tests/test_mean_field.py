"""Mean field of tanh layers against published and separately computed numbers."""

from __future__ import annotations

import math

import pytest

from fastgrad.mean_field import mean_field_tanh


@pytest.mark.parametrize(
    ("weight_variance", "bias_variance", "q_star", "chi_1"),
    [
        (6.25, 0.09, 4.079124, 1.585225),
        (1.189190, 0.001, 0.107292, 1.0),
        (1.424205, 0.01, 0.273301, 1.0),
        (1.760955, 0.05, 0.570048, 1.0),  # Schoenholz et al. quote 1.76
        (1.986073, 0.1, 0.805799, 1.0),
        (2.505127, 0.3, 1.461169, 1.0),
        (25 / 9, 0.0, 1.178479, 1.209831),  # Xavier with calculate_gain("tanh") on square layers
    ],
)
def test_known_points(weight_variance: float, bias_variance: float, q_star: float, chi_1: float) -> None:
    point = mean_field_tanh(math.sqrt(weight_variance), math.sqrt(bias_variance))
    assert point.q_star == pytest.approx(q_star, rel=1e-5)  # the quoted weight variances have 7 digits
    assert point.chi_1 == pytest.approx(chi_1, abs=1e-6)


@pytest.mark.parametrize(
    ("weight_variance", "bias_variance", "depth_scale"), [(1.69, 0.09, 16.108), (1.0, 0.05, 3.627)]
)
def test_gradient_depth_scale(weight_variance: float, bias_variance: float, depth_scale: float) -> None:
    point = mean_field_tanh(math.sqrt(weight_variance), math.sqrt(bias_variance))
    assert -0.5 / point.rate == pytest.approx(depth_scale, rel=1e-4)


def test_without_bias_the_origin_is_the_fixed_point_up_to_gain_one() -> None:
    assert mean_field_tanh(0.9) == pytest.approx((0.0, 0.81))
    assert mean_field_tanh(0.9).rate == pytest.approx(math.log(0.9))
    assert mean_field_tanh(1.0) == (0.0, 1.0)


def test_quadrature_holds_for_wide_pre_activations() -> None:
    # For large q, E[sech^4(sqrt(q) z)] -> (4/3) / sqrt(2 pi q) and tanh^2 -> 1 up to 2 / sqrt(2 pi q).
    point = mean_field_tanh(8.0)
    assert point.chi_1 == pytest.approx(64 * (4 / 3) / math.sqrt(2 * math.pi * point.q_star), rel=0.02)
    assert point.q_star == pytest.approx(64 * (1 - 2 / math.sqrt(2 * math.pi * point.q_star)), rel=0.01)


@pytest.mark.parametrize(
    ("gain", "bias_std", "word"), [(0.0, 0.0, "gain"), (math.nan, 0.0, "gain"), (1.0, -0.1, "bias_std")]
)
def test_bad_arguments_are_named(gain: float, bias_std: float, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        mean_field_tanh(gain, bias_std)
