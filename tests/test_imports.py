"""What the sources may contain: imports that point one way, no print, no global random state, no fast-math; read from the syntax tree."""

from __future__ import annotations

import ast
import graphlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import fastgrad

PACKAGE = Path(fastgrad.__file__).parent

# From the lowest floor to the highest. A module may import what lies below its own floor; inside cells and engine, what makes no circle.
FLOORS = (
    ("errors", "activation_names", "linked"),
    ("jit",),
    ("texts", "npy_files", "description", "elementary"),
    ("layer_widths", "weights", "activations"),
    ("networks", "cells"),
    ("input_files", "weight_files", "mean_field"),
    ("engine",),
    ("measure",),
    ("growth",),
    ("plots",),
    ("demo", "installation"),
    ("cli_options",),
    ("cli",),
    ("__main__",),
)
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}
PACKAGES = {"cells", "engine"}
MAY_PRINT = {"cli.py"}

# Whatever else stands in numpy.random draws from, or sets, the state that all programs in a process share.
LOCAL_GENERATORS = {"BitGenerator", "Generator", "MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64", "SeedSequence", "default_rng"}


def sources():
    """Path within the package -> syntax tree."""
    return {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}


SOURCES = sources()


def module_of(path):
    """``engine/random.py`` -> ``engine.random``; a package by its name."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imported(tree, modules):
    """Modules of fastgrad that a source imports anywhere, in functions and for type checking too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where they point"
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        found |= {name.removeprefix("fastgrad.") for name in names if name.startswith("fastgrad.")}
    return found & modules


def graph(trees):
    """module -> modules it imports; `fastgrad` itself, which imports lazily, is left out."""
    modules = {module_of(path) for path in trees if path != "__init__.py"}
    return {module_of(path): imported(tree, modules) for path, tree in trees.items() if path != "__init__.py"}


def against_the_order(imports):
    """Sentences on imports that do not point down."""
    wrong = []
    for module, targets in imports.items():
        here = module.split(".")[0]
        for target in targets:
            there = target.split(".")[0]
            if here == there and here in PACKAGES:
                continue
            if FLOOR[there] >= FLOOR[here]:
                wrong.append(f"{module} imports {target}, which is not below it")
    return wrong


def test_every_module_has_its_floor():
    found = {module.split(".")[0] for module in graph(SOURCES)}
    assert found <= set(FLOOR), f"give these a place in FLOORS: {sorted(found - set(FLOOR))}"
    assert found == set(FLOOR), f"gone: {sorted(set(FLOOR) - found)}"


def test_imports_point_one_way():
    assert against_the_order(graph(SOURCES)) == []


def test_imports_make_no_circle():
    list(graphlib.TopologicalSorter(graph(SOURCES)).static_order())  # raises CycleError with the circle


def test_the_checks_find_mistakes():
    trees = {
        "networks.py": ast.parse("def f():\n    from fastgrad.engine.blocks import run"),
        "engine/blocks.py": ast.parse("from fastgrad.engine import plan"),
        "engine/plan.py": ast.parse("import fastgrad.engine.blocks"),
    }
    assert against_the_order(graph(trees)) == ["networks imports engine.blocks, which is not below it"]
    with pytest.raises(graphlib.CycleError):
        list(graphlib.TopologicalSorter(graph(trees)).static_order())
    for text in ("np.random.seed(1)", "import random", "from random import choice", "from numpy.random import rand"):
        assert list(shared_random_state(ast.parse(text))), text
    for text in ("njit(fastmath=True)", "options = {'fastmath': True}", "njit(fastmath={'fast'})", "njit(fastmath={'nnan'})"):
        assert list(full_fast_math(ast.parse(text))), text
    assert list(prints(ast.parse("print(1)")))
    harmless = ast.parse("np.random.default_rng(1); njit(fastmath={'contract'}); from fastgrad.engine.random import Role")
    assert not [*shared_random_state(harmless), *full_fast_math(harmless), *prints(harmless)]


def prints(tree):
    """Calls of print, and writes to the standard streams."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id == "print":
            yield f"line {node.lineno}: print"
        if isinstance(node, ast.Attribute) and node.attr == "write" and ast.unparse(node.value) in ("sys.stdout", "sys.stderr"):
            yield f"line {node.lineno}: {ast.unparse(node)}"


def shared_random_state(tree):
    """Uses of NumPy's or Python's global generator."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("np.random", "numpy.random"):
            names = [node.attr]
        elif isinstance(node, ast.ImportFrom) and node.module == "numpy.random":
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "random" and node.level == 0:
            names = ["random"]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name == "random"]
        else:
            continue
        yield from (f"line {node.lineno}: {name}" for name in names if name not in LOCAL_GENERATORS)


def full_fast_math(tree):
    """``fastmath`` set to anything but a set of flags that leave NaN and infinity alone."""
    for node in ast.walk(tree):
        values = []
        if isinstance(node, ast.keyword) and node.arg == "fastmath":
            values = [node.value]
        elif isinstance(node, ast.Dict):
            values = [v for k, v in zip(node.keys, node.values, strict=True) if isinstance(k, ast.Constant) and k.value == "fastmath"]
        for value in values:
            if isinstance(value, ast.Constant) and value.value is not False:
                yield f"line {value.lineno}: fastmath={ast.unparse(value)}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Set):
            flags = {element.value for element in node.elts if isinstance(element, ast.Constant)}
            if flags & {"fast", "nnan", "ninf", "afn"}:
                yield f"line {node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize("path", SOURCES)
def test_no_print_in_the_library(path):
    if path not in MAY_PRINT:
        assert list(prints(SOURCES[path])) == []


@pytest.mark.parametrize("path", SOURCES)
def test_no_shared_random_state(path):
    assert list(shared_random_state(SOURCES[path])) == []


@pytest.mark.parametrize("path", SOURCES)
def test_no_fast_math_that_drops_nan(path):
    assert list(full_fast_math(SOURCES[path])) == []


@pytest.mark.parametrize("path", SOURCES)
def test_annotations_are_postponed(path):
    """Hints cost nothing at run time, and name types that are only imported for type checking."""
    body = SOURCES[path].body
    if path == "__main__.py" or all(isinstance(node, ast.Expr) for node in body):
        return
    assert "from __future__ import annotations" in {ast.unparse(node) for node in body}


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        ("import fastgrad", ["numba", "xarray", "pydantic", "matplotlib", "scipy", "pandas", "cyclopts", "torch"]),
        ("import fastgrad; fastgrad.LSTM(2, 3).to_json()", ["numba", "xarray", "matplotlib", "scipy", "pandas", "torch"]),
        ("import fastgrad.cli", ["numba", "xarray", "matplotlib", "scipy", "pandas", "torch"]),
    ],
)
def test_nothing_heavy_is_imported_before_it_is_needed(statement, heavy):
    program = f"import json, sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); {statement}; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    loaded = json.loads(done.stdout)
    assert "fastgrad" in loaded
    assert not set(heavy) & set(loaded)
