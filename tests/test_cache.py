"""Compiled kernels are kept, are found again by the next process, and can never be stale. Each check is a fresh process.

The programs compile one or two pointwise loops: seconds, not the minute that the large drivers take.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fastgrad

PACKAGE = Path(fastgrad.__file__).parent

# One step of one recurrent unit; prints its new state, and how many of the two loops came from the cache.
PROGRAM = """
import ctypes, json, os, sys, warnings
sys.path.insert(0, sys.argv[1])
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import numpy as np
    import fastgrad
    from fastgrad.engine import pointwise

    addresses = pointwise.cell_addresses("rnn", sys.argv[2], "float32")
    pre, state, new, local = np.array([[0.3], [0.5], [0], [0]], np.float32)
    loop = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4, *[ctypes.c_int64] * 3)(addresses.forward)
    loop(*[array.ctypes.data for array in (pre, state, new, local)], 1, 1, 0)
print(json.dumps({
    "package": os.path.dirname(fastgrad.__file__),
    "new": new.tolist(),
    "hits": sum(each.cache_hits for each in pointwise._keep_alive),
    "warnings": [[each.category.__name__, str(each.message)] for each in caught],
}))
"""


def run(package, cache, activation="sigmoid"):
    """The program's report, from a package's folder and with a cache folder of its own."""
    home = cache.parent / "home"
    home.mkdir(exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_", "XDG_", "PYTHON"))}
    environment |= {"NUMBA_CACHE_DIR": str(cache), "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", PROGRAM, str(package.parent), activation]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=home, timeout=200)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["package"] == str(package)
    return report


def files(folder):
    """Every file below a folder, with its time and size."""
    return {str(path.relative_to(folder)): path.stat()[6:9:2] for path in sorted(folder.rglob("*")) if path.is_file()}


def machine_code(folder):
    """The kernels in a cache folder."""
    return {name: when for name, when in files(folder).items() if name.endswith(".nbc")}


def copy_of_package(folder):
    """The sources (and the C extension) somewhere else."""
    target = folder / "fastgrad"
    shutil.copytree(PACKAGE, target, ignore=shutil.ignore_patterns("__pycache__", "*.nbc", "*.nbi"))
    return target


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """(copy of the package, its filled cache, what the first process reported)."""
    folder = tmp_path_factory.mktemp("cache")
    package, cache = copy_of_package(folder), folder / "kernels"
    return package, cache, run(package, cache)


def edit(path, old, new):
    """Replace what stands once in a source."""
    text = path.read_text()
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {path.name}: this test needs another edit"
    path.write_text(text.replace(old, new))


def test_the_second_process_loads(first):
    package, cache, report = first
    assert report["hits"] == 0
    assert report["warnings"] == []
    before = files(cache)
    assert len(machine_code(cache)) == 2  # forward and backward
    again = run(package, cache)
    assert again["hits"] == 2
    assert again["new"] == report["new"]
    assert machine_code(cache) == {name: before[name] for name in before if name.endswith(".nbc")}


def test_nothing_is_written_elsewhere(first):
    """Neither in the package nor in the user's folders, with NUMBA_CACHE_DIR set; all kernels in one folder of this version."""
    package, cache, _ = first
    assert files(cache.parent / "home") == {}
    assert set(files(package)) == set(files(PACKAGE)) - {name for name in files(PACKAGE) if "__pycache__" in name}
    folders = {name.split("/")[1] for name in files(cache)}
    assert len(folders) == 1
    assert folders.pop().startswith("kernels-")


def test_another_activation_has_kernels_of_its_own(first, tmp_path):
    """Loops of one name and one file differ only in what they close over; with the relu's in the cache, each finds its own."""
    package, cache, report = first
    both = tmp_path / "both"
    shutil.copytree(cache, both)
    other = run(package, both, activation="relu")
    assert other["hits"] == 1  # the backward loop, which knows no activation
    assert other["new"] != report["new"]
    again = run(package, both)
    assert again["hits"] == 2
    assert again["new"] == report["new"]


@pytest.fixture
def twin(first):
    """A copy of the package at the very place, and of the very times, that filled the cache: Numba's own key holds both."""
    package = first[0]
    aside = package.with_name("aside")
    package.rename(aside)
    shutil.copytree(aside, package)
    yield package
    shutil.rmtree(package)
    aside.rename(package)


EDITS = {
    "the cell": ("cells/elman.py", "return (h,), (slope,)", "return (h * h,), (slope,)"),
    "a function that the cell calls": (
        "elementary.py",
        "return (large, small) if x >= f32(0) else (small, large)",
        "return small, large",
    ),
}


def test_an_edited_formula_is_compiled_anew(first, twin):
    """The loop's file (pointwise.py) and the cache are the same: only a formula that is inlined into the loop has changed."""
    _, cache, report = first
    for source, old, new in EDITS.values():
        original = (twin / source).read_text()
        edit(twin / source, old, new)
        edited = run(twin, cache)
        assert edited["hits"] == 0
        assert edited["new"] != report["new"]
        (twin / source).write_text(original)
    restored = run(twin, cache)  # finds the first kernels again: what missed above did so because of the edit
    assert restored["hits"] == 2
    assert restored["new"] == report["new"]


@pytest.mark.skipif(os.geteuid() == 0, reason="NOT TESTED with permissions: root may write everywhere; the next test stands in")
def test_a_folder_without_permission(first, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    assert_works_uncached(first, run(first[0], locked))
    assert files(locked) == {}


def test_a_folder_that_cannot_be_made(first, tmp_path):
    """The cache folder's place is taken by a file: also root cannot write there."""
    taken = tmp_path / "taken"
    taken.write_text("")
    assert_works_uncached(first, run(first[0], taken))
    assert taken.read_text() == ""


def assert_works_uncached(first, report):
    """The same numbers, and one warning that says what to do."""
    assert report["new"] == first[2]["new"]
    assert report["hits"] == 0
    ((category, text),) = report["warnings"]
    assert category == "RuntimeWarning"
    assert "NUMBA_CACHE_DIR" in text
    assert "\n" not in text
