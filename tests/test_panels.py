"""The random numbers of csrc/: those that random.py describes, normals within a few units in the last place, and nothing outside their panel."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import llvmlite.binding
import numba
import numpy as np
import pytest
from test_elementary import some_words, worst_normal

from fastgrad.engine import draws, native_panels
from fastgrad.engine.random import Role, address, fill_uniform, normal_pair
from fastgrad.jit import KERNEL_OPTIONS

pytestmark = pytest.mark.skipif(
    not native_panels.HAVE_PANELS, reason="no AVX-512 here, or no C extension: random numbers come from Numba's loops alone"
)

KEY = np.uint32(2026), np.uint32(7)
SIZE, WORD, POINTER = ctypes.c_int64, ctypes.c_uint32, ctypes.c_void_p


def c_function(name, *arguments):
    return ctypes.CFUNCTYPE(None, *arguments)(llvmlite.binding.address_of_symbol(name))


def panels(count, n, gap, *, law="normals", scale=1.0, base=0, layer=2, realization=3, role=Role.WEIGHT << 24, room=0):
    """(count, gap) numbers from a C function, ``room`` more behind them; what it does not write is 7."""
    out = np.full(count * gap + room, 7, np.float32)
    function = c_function(f"fg1_{law}_f32", SIZE, SIZE, POINTER, SIZE, ctypes.c_float, SIZE, WORD, SIZE, WORD, WORD, WORD)
    function(count, n, out.ctypes.data, gap, scale, base, layer, realization, role, *map(int, KEY))
    return out


def pairs(radius, angle):
    out = np.empty((2, radius.size), np.float32)
    c_function("fg1_normal_pairs_f32", SIZE, *[POINTER] * 4)(
        radius.size, radius.ctypes.data, angle.ctypes.data, out[0].ctypes.data, out[1].ctypes.data
    )
    return out


@numba.njit(**KERNEL_OPTIONS)
def double_pairs(radius, angle, out):
    for j in range(radius.size):
        out[0, j], out[1, j] = normal_pair(1.0, radius[j], angle[j])


def ulps(got, exact):
    """Errors of float32 numbers in units of the last place of the exact ones."""
    return np.abs(got.astype(np.float64) - exact) / np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64)


def test_against_mpmath():
    words = np.ascontiguousarray(some_words())
    assert worst_normal(words, pairs(words[0], words[1])) <= 5.0


def test_against_float64_for_words_from_end_to_end():
    """Every 509th of the 2^32 words as radius, every 1021st as angle; largest error found: 4.6."""
    radius = np.arange(0, 2**32, 509, dtype=np.uint64).astype(np.uint32)
    angle = (np.arange(radius.size, dtype=np.uint64) * 1021 * 510).astype(np.uint32)
    exact = np.empty((2, radius.size))
    double_pairs(radius, angle, exact)
    got = pairs(radius, angle)
    assert ulps(got, exact).max() <= 5.0
    limit = np.float32(np.sqrt(66 * np.log(2)))
    assert np.abs(got).max() <= np.nextafter(limit, np.float32(7))


def test_the_check_finds_a_wrong_table():
    """An error of one table entry by 1e-6, or a quadrant that is off, would not pass for rounding."""
    words = np.ascontiguousarray(some_words())
    right = pairs(words[0], words[1])
    assert worst_normal(words, (right * np.float32(1 + 1e-6)).astype(np.float32)) > 5.0
    assert worst_normal(words, right[::-1]) > 5.0


@pytest.mark.parametrize("law", ["normals", "uniforms"])
@pytest.mark.parametrize("n", [*range(1, 70), 127, 128, 129, 1000])
def test_nothing_is_written_behind_a_panel(n, law):
    written = 4 * -(-n // 4)
    gap = written + 3
    out = panels(3, n, gap, law=law, room=64)
    for panel in range(3):
        assert np.all(out[panel * gap + written : (panel + 1) * gap] == 7)
        assert np.all(out[panel * gap : panel * gap + written] != 7)
    assert np.all(out[3 * gap :] == 7)


@pytest.mark.parametrize("n", [1, 5, 16, 63, 64, 65, 200])
@pytest.mark.parametrize("realization", [0, 2**32 - 2, 2**40 + 11])
def test_panels_are_the_numbers_of_their_addresses(n, realization):
    """Against the same bits in float64, drawn one realization at a time; also where the realization's low word runs over."""
    draws.prepare("float64")

    @numba.njit(**KERNEL_OPTIONS)
    def double(out, where):
        draws.draw_vector(out, n, draws.NORMAL, 0.5, where, KEY)

    gap = 4 * -(-n // 4)
    got = panels(3, n, gap, scale=0.5, layer=9, realization=realization, role=(Role.PREACTIVATION << 24) | (5 << 16)).reshape(3, gap)
    exact = np.empty(n + draws.SLACK)
    for k in range(3):
        double(exact, address(Role.PREACTIVATION, 5, 9, realization + k))
        assert ulps(got[k, :n], exact[:n]).max() <= 5.0


@numba.njit(**KERNEL_OPTIONS)
def uniforms_of_numba(out, n, scale, base, where):
    fill_uniform(out, n, scale, base, where, KEY)


@pytest.mark.parametrize("n", [1, 5, 16, 63, 64, 65, 200, 4096])
@pytest.mark.parametrize("realization", [0, 2**32 - 2, 2**40 + 11])
@pytest.mark.parametrize("scale", [1.0, 0.3, 1e-42])
def test_uniform_numbers_are_those_of_numba(n, realization, scale):
    """To the bit, also where the realization's low word runs over and where the numbers are subnormal."""
    gap = 4 * -(-n // 4)
    got = panels(3, n, gap, law="uniforms", scale=scale, base=2**32 - 40, layer=9, realization=realization, role=Role.INPUT << 24).reshape(3, gap)
    wanted = np.empty(gap, np.float32)
    for k in range(3):
        uniforms_of_numba(wanted, n, np.float32(scale), 2**32 - 40, address(Role.INPUT, 0, 9, realization + k))
        assert got[k].tobytes() == wanted.tobytes()


@pytest.mark.parametrize("law", ["normals", "uniforms"])
def test_a_later_counter_starts_later(law):
    whole = panels(1, 64, 64, law=law).reshape(4, 16)
    rest = panels(1, 32, 32, law=law, base=8).reshape(4, 8)
    np.testing.assert_array_equal(whole[:, 8:], rest)


def test_clean_under_sanitizers(tmp_path):
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("no gcc: the C random numbers and tanh were not run under AddressSanitizer and UBSan")
    tests = Path(__file__).parent
    flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-std=gnu11", "-O1"]
    (tmp_path / "empty.c").write_text("int main(void) { return 0; }\n")
    if subprocess.run([compiler, *flags, str(tmp_path / "empty.c"), "-o", str(tmp_path / "empty")], capture_output=True).returncode:
        pytest.skip("gcc has no sanitizers (libasan, libubsan): the C normals and tanh were not run under them")
    driver = tmp_path / "driver"
    subprocess.run([compiler, *flags, f"-I{tests.parent / 'csrc'}", str(tests / "wide_driver.c"), "-lm", "-o", str(driver)], check=True)
    # Leak checks need ptrace, which containers forbid; the driver frees everything anyway.
    run = subprocess.run([driver], env=os.environ | {"ASAN_OPTIONS": "detect_leaks=0"}, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.endswith(" 0 wrong\n")
    assert int(run.stdout.split()[0]) > 10_000
