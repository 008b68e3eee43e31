from __future__ import annotations

import csv
import math

import numpy as np
import pytest
import xarray

from recollect import Status
from recollect.study import Study, export, points, product, run, to_xarray


def mixed(width, kind, *, seed):
    if width == 2 and kind == "b":
        raise ValueError("not this one")
    return {
        "error": width + 0.1 * seed,
        "count": width,
        "good": width > 1,
        "word": kind * width,
        "lag": np.array([0.0, 1.0, 2.0]),
        "kernel": np.arange(3) * width,
        "ragged": np.arange(width),
        "poles": np.full(2, 1j * width),
        "status": Status("precision_limit" if width == 3 else "ok"),
    }


STUDY = Study(
    "mixed",
    mixed,
    product(width=[1, 2, 3], kind=["a", "b"]),
    seeds=2,
    dimensions={"kernel": ("lag",), "lag": ("lag",)},
    units={"error": "V", "lag": "s", "width": "1"},
    figure="9",
    paper="Z",
)


@pytest.fixture(scope="module")
def ledger(tmp_path_factory):
    path = tmp_path_factory.mktemp("results") / "mixed.sqlite"
    run(STUDY, path)
    return path


def test_named_dimensions_units_and_holes(ledger):
    results = to_xarray(ledger)
    assert results.error.dims == ("width", "kind", "seed")
    assert results.kernel.dims == ("width", "kind", "seed", "lag")
    assert results.error.attrs == {"units": "V"}
    assert results.lag.attrs == {"units": "s"}
    assert results.attrs["figure"] == "9"
    assert float(results.error.sel(width=3, kind="a", seed=1)) == 3.1
    assert list(results.kind.values) == ["a", "b"]
    assert list(results.lag.values) == [0, 1, 2]
    assert math.isnan(results.error.sel(width=2, kind="b", seed=0))
    assert str(results.status.sel(width=2, kind="b", seed=0).values) == "failed"
    assert str(results.status.sel(width=3, kind="b", seed=0).values) == "precision_limit"
    assert results.word.sel(width=2, kind="b", seed=0) == ""
    assert results.poles.dtype == complex


def test_ragged_arrays_are_padded(ledger):
    ragged = to_xarray(ledger).ragged
    assert ragged.dims[-1] == "ragged_0"
    np.testing.assert_array_equal(ragged.sel(width=1, kind="a", seed=0), [0, np.nan, np.nan])
    np.testing.assert_array_equal(ragged.sel(width=3, kind="a", seed=0), [0, 1, 2])


def test_an_array_that_changes_its_kind_is_named(tmp_path):
    study = Study("s", lambda n: {"x": np.zeros((2,) * n)}, product(n=[1, 2]))
    run(study, tmp_path / "s.sqlite")
    with pytest.raises(
        ValueError, match=r"one number of dimensions of 'x' in all trials, got 1 and 2"
    ):
        to_xarray(tmp_path / "s.sqlite")


def test_netcdf_round_trip(ledger, tmp_path):
    path = export(ledger, tmp_path / "r.nc")
    original = to_xarray(ledger)
    with xarray.open_dataset(path, engine="scipy") as read:
        np.testing.assert_array_equal(read.error, original.error)
        np.testing.assert_array_equal(read.kernel, original.kernel)
        np.testing.assert_array_equal(read.poles_imag, original.poles.imag)
        assert read.error.attrs["units"] == "V"
        assert list(read.kind.values.astype(str)) == ["a", "b"]
        assert read.status.values.astype(str)[1, 1, 0] == "failed"


def test_csv_has_a_row_per_trial(ledger, tmp_path):
    path = export(ledger, tmp_path / "r.csv")
    with open(path, newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == STUDY.n_trials
    assert float(table[1]["error"]) == 1.1
    assert table[6]["status"] == "failed"
    assert table[6]["message"] == "ValueError: not this one"
    assert table[6]["error"] == ""


def test_export_refuses(ledger, tmp_path):
    with pytest.raises(ValueError, match=r"export file: expected one of \.nc, \.csv, got '\.xlsx'"):
        export(ledger, tmp_path / "r.xlsx")
    (tmp_path / "r.csv").write_text("mine")
    with pytest.raises(FileExistsError, match="exists"):
        export(ledger, tmp_path / "r.csv")
    assert (tmp_path / "r.csv").read_text() == "mine"
    export(ledger, tmp_path / "r.csv", overwrite=True)
    with pytest.raises(FileNotFoundError, match="existing folder"):
        export(ledger, tmp_path / "none" / "r.csv")


def test_lists_of_points_lie_along_trials(tmp_path):
    def f(a, b=(1, 2)):
        return a

    study = Study("s", f, points([{"a": 1}, {"a": 2, "b": (3,)}, {"a": 5, "b": None}]))
    run(study, tmp_path / "s.sqlite")
    results = to_xarray(tmp_path / "s.sqlite")
    assert results["value"].dims == ("trial",)
    assert list(results.b.values) == ["[1,2]", "[3]", "null"]
    xarray.load_dataset(export(tmp_path / "s.sqlite", tmp_path / "s.nc"), engine="scipy")


@pytest.mark.parametrize("values", [[2**40, 1], [True, False], [1, 2.5], ["x", 3], [None, 1.0]])
def test_any_axis_survives_netcdf(tmp_path, values):
    run(
        Study("s", lambda a: {"v": 1.0, "n": 2**60, "ok": True}, product(a=values)),
        tmp_path / "s.sqlite",
    )
    read = xarray.load_dataset(export(tmp_path / "s.sqlite", tmp_path / "s.nc"), engine="scipy")
    assert read.sizes["a"] == 2
    assert float(read.n[0]) == 2.0**60


def test_a_study_that_only_fails_still_has_results(tmp_path):
    def broken(i):
        raise ValueError("always")

    run(Study("s", broken, product(i=[1, 2])), tmp_path / "s.sqlite")
    results = to_xarray(tmp_path / "s.sqlite")
    assert list(results.status.values) == ["failed", "failed"]
