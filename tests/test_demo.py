"""The demo at a small size: the same networks, data, pictures and table."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastgrad.demo import BIAS_STD, CRITICAL_GAIN, Demo, DemoSize, digits, run_demo, sunspots
from fastgrad.mean_field import mean_field_tanh

SMALL = DemoSize(depth=60, width=24, relu_depth=30, steps=40, hidden=8, deep_realizations=6, realizations=6)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    return run_demo(tmp_path_factory.mktemp("demo"), size=SMALL)


def test_width_one_is_exact(demo: Demo) -> None:
    text = str(demo)
    assert "weight 2    after 5 layers 32, after 10 layers 1024" in text
    assert "weight 0.5  after 5 layers 0.03125, after 10 layers 0.0009765625" in text
    assert demo.width_one["weight 2"] == pytest.approx({5: 32, 10: 1024}, rel=1e-14)


def test_five_pictures(demo: Demo) -> None:
    assert [path.name[0] for path in demo.pictures] == list("abcde")
    for path in demo.pictures:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size > 10_000
        assert str(path) in str(demo)


def test_findings(demo: Demo) -> None:
    below, at, above = (g for name, g in demo.growths.items() if name.startswith("tanh"))
    assert below.rate < at.rate < above.rate
    # At width 24 finite-width corrections are some hundredths of a nat per layer.
    assert below.rate == pytest.approx(mean_field_tanh(0.9 * CRITICAL_GAIN, BIAS_STD).rate, abs=0.04)
    assert above.rate == pytest.approx(mean_field_tanh(1.1 * CRITICAL_GAIN, BIAS_STD).rate, abs=0.04)
    default, he = (g for name, g in demo.growths.items() if name.startswith("ReLU"))
    assert default.verdict == "vanishing"
    assert default.rate == pytest.approx(-0.896 + he.rate, abs=0.1)
    assert demo.growths["LSTM, forget bias 0"].rate < demo.growths["LSTM, forget bias 1"].rate < 0
    assert demo.growths["RNN"].rate < demo.growths["GRU"].rate < 0


def test_table_has_a_line_for_each_network(demo: Demo) -> None:
    lines = str(demo).splitlines()
    for name in demo.growths:
        assert sum(line.startswith(f"{name}  ") for line in lines) == 1
    assert max(map(len, lines)) < 160


def test_critical_gain_is_critical() -> None:
    assert mean_field_tanh(CRITICAL_GAIN, BIAS_STD).chi_1 == pytest.approx(1, abs=1e-6)


def test_digits_are_ten_different_ones() -> None:
    images = digits()
    assert images.shape == (10, 64)
    assert abs(images.mean()) < 0.2
    assert np.unique(images, axis=0).shape == (10, 64)


def test_digits_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ImportError, match=r"pip install 'fastgrad\[demo\]'"):
        digits()


def test_sunspots() -> None:
    series = sunspots(309)
    assert series.shape == (309, 1, 1)
    assert series.mean() == pytest.approx(0, abs=1e-12)
    assert series.std() == pytest.approx(1)
    assert 1700 + int(series.argmax()) == 1957  # the strongest maximum on record
    np.testing.assert_array_equal(sunspots(1000)[309:618], series)


def test_demo_folder_as_text(tmp_path: Path) -> None:
    tiny = DemoSize(depth=6, width=4, relu_depth=4, steps=5, hidden=3, deep_realizations=2, realizations=2)
    assert all(path.parent == tmp_path for path in run_demo(str(tmp_path), size=tiny).pictures)
