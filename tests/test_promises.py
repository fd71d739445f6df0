"""Every promise in docs/promises.md names a test, and every test it names exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROMISES = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(tests/\w+\.py)::(\w+)`", PROMISES)))


@cache
def names_in(path: str) -> set[str]:
    """Names of the tests of a file, which is read and not imported; none where there is no such file."""
    file = ROOT / path
    if not file.is_file():
        return set()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    functions = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return {name for name in functions if name.startswith("test_")}


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_a_named_test_exists(path: str, name: str) -> None:
    assert name in names_in(path)


def test_every_promise_names_a_test() -> None:
    table = [line for line in PROMISES.splitlines() if line.startswith("| ")]
    rows = [line for line in table if not line.startswith(("| promise", "| ---"))]
    assert len(rows) > 30
    without = [row for row in rows if not re.search(r"`tests/\w+\.py::test_\w+`", row)]
    assert not without


def test_nothing_is_named_in_another_form() -> None:
    """A reference that the first test does not read would not be checked."""
    assert len(re.findall(r"tests/\w+\.py::", PROMISES)) == len(re.findall(r"`tests/\w+\.py::\w+`", PROMISES))
