"""What the README and the docstrings show works: code and commands are run, links lead somewhere."""

from __future__ import annotations

import doctest
import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import fastgrad
from fastgrad.cli import main

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", "CONTRIBUTING.md", "docs/decisions.md", "docs/mathematics.md", "docs/promises.md"]
MODULES = ["fastgrad.measure", "fastgrad.networks", "fastgrad.weights", "fastgrad.growth", "fastgrad.plots"]


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to run in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_readmes_python_runs_from_top_to_bottom(elsewhere: Path) -> None:
    code = blocks("README.md", "python")
    assert len(code) >= 4
    namespace: dict[str, Any] = {}
    for block in code:
        exec(compile(block, "README.md", "exec"), namespace)
    assert set(namespace) >= {"fg", "net", "ds", "lstm"}


def test_the_first_example_has_five_lines() -> None:
    assert len([line for line in blocks("README.md", "python")[0].splitlines() if line]) == 5


def test_the_readmes_commands_run(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line for block in blocks("README.md", "sh") for line in block.splitlines()]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("fastgrad ")]
    assert len(commands) >= 3
    for words in commands:
        assert main(words) == 0, (words, capsys.readouterr().err)
    assert (elsewhere / "lstm.png").stat().st_size > 10_000


def test_the_readmes_make_targets_exist() -> None:
    wanted = set(re.findall(r"^make (\w+)", "\n".join(blocks("README.md", "sh")), re.MULTILINE))
    assert wanted == {"demo", "test"}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in wanted)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page: str) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text(encoding="utf-8"))
    missing = [link for link in links if not (ROOT / page).parent.joinpath(link).exists()]
    assert not missing


def test_every_name_the_readme_lists_exists() -> None:
    from fastgrad.activation_names import ACTIVATION_NAMES
    from fastgrad.measure import LONG_NAMES
    from fastgrad.weights import SCHEMES

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.split("## What is measured")[1]
    assert all(name in text for name in (*ACTIVATION_NAMES, *SCHEMES))
    assert all(name in table for name in LONG_NAMES if not name.endswith("total_log_norm"))


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name: str, elsewhere: Path) -> None:
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


@pytest.mark.parametrize("name", ["measure", "plot_growth", "MLP", "RNN", "LSTM", "GRU", "Normal"])
def test_public_names_have_an_example(name: str) -> None:
    assert ">>>" in getattr(fastgrad, name).__doc__
