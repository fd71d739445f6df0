"""What several test files ask of a Dataset."""

from __future__ import annotations

import numpy as np


def logs_of(ds, realization=0):
    """The variables of one realization as plain arrays; recurrent ones always (layers, T + 1)."""
    out = {}
    for name, variable in ds.data_vars.items():
        if name == "left_range_at":
            continue
        values = variable.isel(realization=realization).values
        if "step" in ds.dims and "layer" not in ds.dims:
            values = values[None]  # a single recurrent layer has no layer dimension
        out[str(name)] = values
    return out


def assert_same_logs(got, want, tolerance):
    """Norms within `tolerance` of each other, relatively; -inf and NaN in the same places."""
    assert set(got) == set(want)
    for name, expected in want.items():
        assert got[name].shape == expected.shape, name
        finite = np.isfinite(expected)
        # infinities and NaN: equal to themselves only
        np.testing.assert_array_equal(got[name][~finite], expected[~finite], err_msg=name)
        np.testing.assert_allclose(got[name][finite], expected[finite], rtol=0, atol=tolerance, err_msg=name)


def assert_close(got, want, tolerance, name=""):
    """Largest error of an array relative to its largest value."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape, name
    scale = np.max(np.abs(want))
    assert np.max(np.abs(got - want)) <= tolerance * scale, name


def bytes_of(ds):
    """Everything that must be the same when a run is repeated."""
    return {str(name): ds[name].values.tobytes() for name in list(ds.data_vars) + list(ds.coords)}
