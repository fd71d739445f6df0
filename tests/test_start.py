"""`import fastgrad` is quick: nothing heavy is imported before it is needed."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import fastgrad

HEAVY = ["numba", "llvmlite", "xarray", "pandas", "pydantic", "matplotlib", "scipy", "torch", "cyclopts"]


def python(code: str) -> str:
    root = str(Path(fastgrad.__file__).parent.parent)
    program = f"import sys; sys.path.insert(0, {root!r}); {code}"
    return subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout


def test_import_brings_no_heavy_package():
    loaded = json.loads(python("import fastgrad, json; print(json.dumps(sorted(sys.modules)))"))
    assert "fastgrad" in loaded
    assert not set(HEAVY) & set(loaded)


def test_the_stub_lists_what_can_be_imported():
    stub = ast.parse(Path(fastgrad.__file__).with_suffix(".pyi").read_text())
    names = {alias.name for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert names == set(fastgrad.__all__)
    for name in names:
        assert getattr(fastgrad, name) is not None


def test_functions_keep_their_names_when_their_modules_are_imported():
    code = "import fastgrad.measure, fastgrad.growth as g; print(callable(fastgrad.measure), callable(g))"
    assert python(code).split() == ["True", "True"]
