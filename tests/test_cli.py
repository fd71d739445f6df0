"""The command line: what it prints, where, and with which exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import fastgrad as fg
from fastgrad.cli import main
from fastgrad.cli_options import law

SMALL = ["measure", "mlp", "--depth", "6", "--width", "5", "--realizations", "8", "--rng", "1"]


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The sentence of a command that must be refused."""
    code, out, err = run(capsys, *words)
    assert code == 2
    assert out == ""
    assert err.startswith("fastgrad: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err


def process(*words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fastgrad", *words]
    environment = {**os.environ, **settings}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)


# --- measuring -----------------------------------------------------------------------------------------


def test_text_result_is_that_of_the_library(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, *SMALL, "--gain", "1.3")
    net = fg.MLP(6, 5, weights=fg.Normal(1.3))
    expected = fg.growth(fg.measure(net, realizations=8, rng=1))
    assert (code, err) == (0, "")
    assert str(net) in out
    assert str(expected) in out
    assert "seed          1" in out


def test_json_result(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, *SMALL, "--json", "--threshold", "5", "--confidence", "0.9")
    data = json.loads(out)
    expected = fg.growth(fg.measure(fg.MLP(6, 5), realizations=8, rng=1), threshold=5, confidence=0.9)
    assert code == 0
    assert data["growth"] == json.loads(json.dumps(expected.to_dict()))
    assert data["network"]["kind"] == "mlp"
    assert data["attributes"]["seed"] == "1"


@pytest.mark.parametrize(
    ("words", "network"),
    [
        (
            ["rnn", "--steps", "7", "--width", "4", "--layers", "2", "--activation", "relu", "--gain", "1.2"],
            fg.RNN(7, 4, layers=2, activation="relu", weights=fg.Normal(1.2)),
        ),
        (
            ["lstm", "--steps", "7", "--width", "4", "--forget-bias", "1", "--input-width", "3"],
            fg.LSTM(7, 4, forget_bias=1.0, input_width=3),
        ),
        (
            ["gru", "--steps", "7", "--width", "4", "--input-weights", "orthogonal", "--input-gain", "0.5"],
            fg.GRU(7, 4, input_weights=fg.Orthogonal(0.5)),
        ),
        (
            ["mlp", "--widths", "3,8,2", "--output-activation", "linear", "--bias-std", "0.1"],
            fg.MLP(widths=(3, 8, 2), output_activation="linear", bias_std=0.1),
        ),
    ],
)
def test_every_kind(capsys: pytest.CaptureFixture[str], words: list[str], network: fg.Network) -> None:
    code, out, _ = run(capsys, "measure", *words, "--realizations", "3", "--rng", "0", "--json")
    data = json.loads(out)
    assert code == 0
    assert fg.Network.from_json(json.dumps(data["network"])) == network
    assert data["growth"]["rate"] == fg.growth(fg.measure(network, realizations=3, rng=0)).rate


def test_save_and_plot(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    saved, plot = tmp_path / "a.nc", tmp_path / "a.png"
    code, out, _ = run(capsys, *SMALL, "--save", saved, "--plot", plot)
    assert code == 0
    assert f"written       {saved}" in out
    assert plot.read_bytes().startswith(b"\x89PNG")
    expected = fg.measure(fg.MLP(6, 5), realizations=8, rng=1)
    with xr.open_dataset(saved) as ds:
        for name in expected.data_vars:
            np.testing.assert_array_equal(ds[name].values, expected[name].values)
        assert ds.attrs["seed"] == "1"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nc", "a.png"]


def test_probes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    saved, plot = tmp_path / "a.nc", tmp_path / "a.png"
    assert run(capsys, *SMALL, "--probes", "3", "--save", saved, "--plot", plot)[0] == 0
    expected = fg.measure(fg.MLP(6, 5), realizations=8, rng=1, probes=3)
    with xr.open_dataset(saved) as ds:
        assert ds.sizes["probe"] == 3
        for name in expected.data_vars:
            np.testing.assert_array_equal(ds[name].values, expected[name].values)
    code, _, err = run(capsys, *SMALL, "--probes", "3", "--method", "dense")
    assert code == 2
    assert "probes" in err


def test_memory(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, *SMALL, "--memory", "1e9")[0] == 0
    code, out, err = run(capsys, *SMALL, "--memory", "2e3")
    assert (code, out) == (2, "")
    assert "2.0 kB can be had" in err or "2 kB can be had" in err
    assert run(capsys, *SMALL, "--memory", "much")[0] == 2


def test_inputs_and_weights_from_files(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(3, 4))
    weights = {"0.weight": rng.normal(size=(5, 4)), "2.weight": rng.normal(size=(2, 5))}
    np.save(tmp_path / "x.npy", inputs)
    np.savez(tmp_path / "w.npz", **weights)
    files = ["--inputs", tmp_path / "x.npy", "--weights-file", tmp_path / "w.npz"]
    code, out, _ = run(capsys, "measure", "mlp", "--widths", "4,5,2", *files, "--loss", "sum", "--json")
    net = fg.MLP(widths=(4, 5, 2))
    expected = fg.measure(net, realizations=1, inputs=inputs, weights=weights, loss="sum", rng=0)
    assert code == 0
    assert json.loads(out)["growth"]["total"] == pytest.approx(fg.growth(expected).total)
    assert json.loads(out)["growth"]["realizations"] == 1


@pytest.mark.parametrize("suffix", ["json", "toml"])
def test_network_from_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path, suffix: str) -> None:
    net = fg.LSTM(5, 3, forget_bias=1.0)
    path = tmp_path / f"net.{suffix}"
    path.write_text(net.to_json() if suffix == "json" else net.to_toml(), encoding="utf-8")
    how = ["--network", path, "--realizations", "2", "--rng", "0", "--json"]
    for words in (["measure", *how], ["measure", "lstm", *how]):
        code, out, _ = run(capsys, *words)
        assert code == 0
        assert fg.Network.from_json(json.dumps(json.loads(out)["network"])) == net
    _, out, _ = run(capsys, "measure", "lstm", *how, "--steps", "8")
    assert json.loads(out)["network"]["steps"] == 8
    assert "GRU" in refused(capsys, "measure", "gru", *how)


# --- laws ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((None, None, None), None),
        ((None, 1.3, None), fg.Normal(1.3)),
        (("normal", None, None), fg.Normal(1.0)),
        (("uniform", 2.0, None), fg.Uniform(2.0)),
        (("orthogonal", 0.5, None), fg.Orthogonal(0.5)),
        (("constant", None, -2.0), fg.Constant(-2.0)),
        ((None, None, 2.0), fg.Constant(2.0)),
        (("he_normal", None, None), "he_normal"),
    ],
)
def test_laws(options: tuple[str | None, float | None, float | None], expected: object) -> None:
    assert law(*options) == expected


# --- mistakes ------------------------------------------------------------------------------------------

MLP = ["measure", "mlp", "--depth", "3", "--width", "2"]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ([*MLP, "--activation", "tahn"], ["activation='tahn'", "did you mean 'tanh'"]),
        ([*MLP, "--weights", "he_norml"], ["--weights='he_norml'", "did you mean 'he_normal'"]),
        ([*MLP, "--weights", "he_normal", "--gain", "2"], ["--gain goes with", "not with he_normal"]),
        ([*MLP, "--gain", "2", "--value", "3"], ["--value goes with", "not with normal"]),
        ([*MLP, "--weights", "constant"], ["--weights constant needs --value"]),
        (["measure", "mlp", "--depth", "3", "--width", "5.5"], ["--width", "'5.5' is not an integer"]),
        ([*MLP, "--dept", "5"], ["--dept", "--depth"]),
        (["measure", "mlp", "--depth", "0", "--width", "-3"], ["depth=0", "width=-3"]),
        (["measure", "mlp", "--depth", "3"], ["width"]),
        (["measure", "rnn", "--width", "3"], ["measure rnn needs --steps"]),
        (["measure", "mpl"], ["mpl", "mlp"]),
        (["measure"], ["mlp, rnn, lstm or gru"]),
        (["mesure"], ["mesure", "measure"]),
        ([*MLP, "--realizations", "0"], ["realizations", "0"]),
        ([*MLP, "--rng", "-1"], ["rng", "-1"]),
        ([*MLP, "--dtype", "float46"], ["dtype", "float46", "float64"]),
        ([*MLP, "--record", "gradient_lognorm"], ["gradient_lognorm", "gradient_log_norm"]),
        ([*MLP, "--threshold", "0.5"], ["threshold=0.5"]),
        ([*MLP, "--confidence", "95"], ["confidence=95"]),
        ([*MLP, "--inputs", "/nowhere/x.npy"], ["x.npy"]),
        ([*MLP, "--weights-file", "/nowhere/w.npz"], ["w.npz"]),
        (["measure", "--network", "/nowhere/net.json"], ["--network /nowhere/net.json does not exist"]),
        (["measure", "--network", "net.yaml"], ["must end in .json or .toml"]),
    ],
)
def test_mistakes_get_one_sentence(
    capsys: pytest.CaptureFixture[str], words: list[str], parts: list[str]
) -> None:
    sentence = refused(capsys, *words)
    for part in parts:
        assert part in sentence


def test_too_large_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    sentence = refused(capsys, "measure", "mlp", "--depth", "10000000", "--width", "100000")
    assert any(unit in sentence for unit in ("GB", "TB", "PB", "GiB", "TiB", "PiB"))


@pytest.fixture
def _nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("measured although the output cannot be written")

    monkeypatch.setattr("fastgrad.cli._run", forbidden)


@pytest.mark.usefixtures("_nothing_runs")
def test_outputs_are_checked_before_anything_is_measured(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert "must end in .png" in refused(capsys, *SMALL, "--plot", "a.gif")
    assert "must end in .nc" in refused(capsys, *SMALL, "--save", tmp_path / "a.npz")
    assert "does not exist" in refused(capsys, *SMALL, "--save", tmp_path / "none" / "a.nc")
    (tmp_path / "folder.nc").mkdir()
    assert "threshold=0.5" in refused(capsys, *SMALL, "--threshold", "0.5")
    assert "is a folder" in refused(capsys, *SMALL, "--save", tmp_path / "folder.nc")


@pytest.mark.usefixtures("_nothing_runs")
def test_a_folder_that_takes_no_files_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", read_only)
    assert "Read-only file system" in refused(capsys, *SMALL, "--save", tmp_path / "a.nc")


def test_a_failed_write_leaves_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_self: object, path: Path, **_: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("xarray.Dataset.to_netcdf", full)
    assert "No space left" in refused(capsys, *SMALL, "--save", tmp_path / "a.nc")
    assert list(tmp_path.iterdir()) == []


# --- exit codes and streams ----------------------------------------------------------------------------


def test_interrupted(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fastgrad.cli._run", interrupt)
    assert run(capsys, *SMALL) == (130, "", "fastgrad: interrupted\n")


def test_internal_error_has_a_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("fastgrad.cli._run", broken)
    code, out, err = run(capsys, *SMALL)
    assert (code, out) == (1, "")
    assert "ZeroDivisionError: a bug" in err
    assert "please report it" in err


@pytest.mark.filterwarnings("default")
def test_warnings_are_one_sentence_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    growing = ["--depth", "400", "--width", "4", "--activation", "elu", "--value", "9", "--realizations", "2"]
    _, _, err = run(capsys, "measure", "mlp", *growing, "--rng", "0")
    first = err.splitlines()[0]
    assert first.startswith("fastgrad: warning: ")
    assert "range" in first


def test_progress_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, *SMALL, "--progress", "--json")
    assert code == 0
    json.loads(out)


def test_measuring_without_a_file_imports_no_xarray() -> None:
    script = (
        "import sys; from fastgrad.cli import main; code = main(['measure', 'mlp', '--depth', '2', '--width', '4', '--rng', '0']);"
        "heavy = {'xarray', 'pandas', 'matplotlib', 'scipy.stats'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert "rate" in done.stdout


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; from fastgrad.cli import main; main(['--help']); main(['measure', 'mlp', '--help']);"
        "heavy = {'numpy', 'numba', 'scipy', 'xarray', 'matplotlib', 'pydantic', 'torch'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "130  interrupted" in done.stdout
    assert "--depth INT" in done.stdout


def test_process_exit_codes_and_no_colour() -> None:
    done = process("info", NO_COLOR="1")
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert process("measure", "mlp", "--depth", "x").returncode == 2
    assert process("--version").stdout.strip() == fg.__version__


def test_reader_of_a_pipe_may_leave() -> None:
    command = f"{sys.executable} -m fastgrad info | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "0"
    assert done.stderr == ""


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "info", "--json")
    data = json.loads(out)
    assert code == 0
    assert data["fastgrad"] == fg.__version__
    assert data["numpy"] == np.__version__
    assert data["threads"] >= 1
    assert {"c_extension", "cache_folder", "python", "numba"} <= data.keys()
    _, out, _ = run(capsys, "info")
    assert f"numpy          {np.__version__}" in out


def test_warmup(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    monkeypatch.setattr(fg, "warmup", lambda: called.append(True), raising=False)
    code, out, _ = run(capsys, "warmup")
    assert code == 0
    assert called == [True]
    assert "kernels are compiled" in out


def test_demo_refuses_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    assert "is a file" in refused(capsys, "demo", "--out", tmp_path / "taken")
