"""The tanh of csrc/tanh.c and csrc/tanh_sums.c: within the bounds of Numba's, special values, underflow of the slope, lengths; clean at its ends."""

from __future__ import annotations

import ctypes

import llvmlite.binding
import numpy as np
import pytest
import ulp
from comparisons import bytes_of
from test_elementary import AT_SPECIAL, BOUNDS, SPECIAL

import fastgrad as fg
from fastgrad.engine import conditional_problem, pointwise
from fastgrad.engine.layer_sums import HA, SUMS
from fastgrad.engine.native_tanh import native_activation_address, native_elman_address, native_sums_address

pytestmark = pytest.mark.skipif(native_activation_address("tanh", "float32") is None, reason="needs the C extension and AVX-512")

CASE = next(case for case in ulp.CASES if case.name == "tanh, sech^2")


def tanh(h, bias=None, room=0):
    """(x, slope, everything that was written, `room` numbers beyond the end included)."""
    h = np.ascontiguousarray(h, np.float32)
    bias = np.full_like(h, -0.0) if bias is None else np.ascontiguousarray(bias, np.float32)  # -0 leaves even -0 alone
    out = np.full((2, h.size + room), 7, np.float32)
    pointers = [array.ctypes.data for array in (h, bias, out[0], out[1])]
    ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4, ctypes.c_int64)(native_activation_address("tanh", "float32"))(*pointers, h.size)
    return out[0, : h.size], out[1, : h.size], out


def loop(x, first, second):
    first[:], second[:], _ = tanh(x)


@pytest.mark.parametrize("start", [0, 2**31])
def test_errors_are_within_the_bounds_of_the_loop_it_replaces(start):
    found = ulp.sweep(CASE, loop, start, start + 2**31, 997)
    for name, (error, at) in zip(CASE.results, found, strict=True):
        assert error <= BOUNDS[name][0], (name, error, at)


def test_special_values():
    for length in (1, 6, 64, 70):
        x, slope, _ = tanh((SPECIAL * 12)[:length])
        for got, want in zip((x, slope), AT_SPECIAL["tanh, sech^2"], strict=True):
            wanted = np.array((want * 12)[:length], np.float32)
            np.testing.assert_array_equal(got, wanted)
            np.testing.assert_array_equal(np.signbit(got[wanted == 0]), np.signbit(wanted[wanted == 0]))


def test_the_slope_underflows_through_the_subnormal_numbers():
    h = np.linspace(39.9, 53.0, 4000).astype(np.float32)
    x, slope, _ = tanh(h)
    np.testing.assert_array_equal(x, 1.0)
    assert np.all(np.diff(slope) <= 0)
    exact = 4 * np.exp(-2 * h.astype(np.float64))
    assert np.all(np.abs(slope - exact) <= 4e-7 * exact + 2.0**-149)
    assert tanh([53.0, 1e6, np.finfo(np.float32).max])[1].max() == 0


def test_odd_to_the_bit_and_the_same_wherever_a_number_stands():
    h, bias = np.random.default_rng(3).standard_normal((2, 150)).astype(np.float32) * 3
    whole = tanh(h, bias)
    np.testing.assert_array_equal(whole[0], -tanh(-h, -bias)[0])
    np.testing.assert_array_equal(whole[0], tanh(h + bias)[0])
    for n in range(1, 150):
        x, slope, out = tanh(h[:n], bias[:n], room=20)
        np.testing.assert_array_equal(x, whole[0][:n])
        np.testing.assert_array_equal(slope, whole[1][:n])
        assert np.all(out[:, n:] == 7)


def test_the_recurrent_cell_gives_the_same_bytes():
    h = np.random.default_rng(4).standard_normal(150).astype(np.float32) * 3
    step = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4, *[ctypes.c_int64] * 3)(native_elman_address("tanh", "float32"))
    for n in range(1, 150):
        out = np.full((2, n + 20), 7, np.float32)
        step(h.ctypes.data, None, out[0].ctypes.data, out[1].ctypes.data, n, 0, n - n % 32)  # the state before is not read
        for got, want in zip(out, tanh(h[:n])[:2], strict=True):
            np.testing.assert_array_equal(got[:n], want)
            assert np.all(got[n:] == 7)


def test_a_recurrent_net_takes_the_loop_in_c_where_there_is_one():
    assert pointwise.cell_addresses("rnn", "tanh", "float32").forward == native_elman_address("tanh", "float32")
    for kind, activation, dtype in (("rnn", "tanh", "float64"), ("rnn", "relu", "float32"), ("gru", None, "float32"), ("lstm", None, "float32")):
        assert pointwise.cell_addresses(kind, activation, dtype).forward != native_elman_address("tanh", "float32")


# --- a layer's sums in one pass ------------------------------------------------------------------------------------------------------


def sums_in_one_pass(z, spreads, noise, n):
    rows, gap = z.shape
    out = np.full((SUMS, rows + 1), 7, np.float32)
    sizes = rows, n, gap, rows + 1
    call = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4, *[ctypes.c_int64] * 4)(native_sums_address("tanh", "float32"))
    call(*[array.ctypes.data for array in (z, spreads, noise, out)], *sizes)
    return out


def sums_in_three_passes(z, spreads, noise, n):
    rows = z.shape[0]
    out = np.full((SUMS, rows + 1), 7, np.float32)
    with np.errstate(over="ignore"):  # a spread of float64 may be infinite in float32
        h = z * spreads.astype(np.float32)[:, None]
    x, slope, _ = tanh(h)
    layer_sums = llvmlite.binding.address_of_symbol("fg1_layer_sums_f32")
    call = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 3, *[ctypes.c_void_p] * 5, ctypes.c_int64)(layer_sums)
    call(rows, n, z.shape[1], *[array.ctypes.data for array in (h, x, slope, noise, out)], rows + 1)
    return out


@pytest.mark.parametrize("spread", [1.0, 1e-30, 30.0, 1e4, 1e30, 1e39])
def test_one_pass_gives_the_bytes_of_three(spread):
    rng = np.random.default_rng(11)
    for n in [*range(1, 40), 63, 64, 65, 127, 128, 129, 191, 192, 200, 256, 300]:
        z, noise = rng.standard_normal((2, 3, n + 16)).astype(np.float32)
        z[:, n:] = noise[:, n:] = np.nan  # nobody's business
        spreads = spread * rng.uniform(0.5, 2, 3)
        one, three = (way(z, spreads, noise, n) for way in (sums_in_one_pass, sums_in_three_passes))
        np.testing.assert_array_equal(np.isnan(one), np.isnan(three))  # whose sign nobody looks at
        assert np.nan_to_num(one, nan=5.0).tobytes() == np.nan_to_num(three, nan=5.0).tobytes(), n
        assert np.all(one[:, 3] == 7)


def test_what_left_the_number_range_is_seen_in_the_sums():
    z = np.ones((3, 20), np.float32)
    z[0, 7], z[1, 19] = np.inf, np.nan
    sums = sums_in_one_pass(z, np.ones(3), z, 20)
    assert not np.isfinite(sums[HA:, 0]).any()  # x = 1 itself is a number
    assert not np.isfinite(sums[:2, 1]).any()
    assert np.all(np.isfinite(sums[:, 2]))


NETWORKS = [
    fg.MLP(30, 70, weights=fg.Normal(1.5), bias_std=0.1),
    fg.MLP(widths=(3, 1, 64, 200, 17), weights=fg.Normal(1e3)),
    fg.MLP(6, 17, weights=fg.Normal(1e40)),
    fg.MLP(6, 17, bias_std=1e39),
    fg.MLP(6, 3, weights=fg.Normal(3e38)),
]


@pytest.mark.parametrize("network", NETWORKS)
def test_the_engine_gives_the_same_bytes_either_way(monkeypatch, network):
    def measure():
        return bytes_of(fg.measure(network, realizations=40, rng=3, method="conditional", every=3))  # every=1 keeps layers: three passes

    once = measure()
    monkeypatch.setattr(conditional_problem, "activation_sums_address", lambda activation, dtype: 0)
    assert measure() == once
