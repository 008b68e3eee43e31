"""A study's results as labelled arrays and as files."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recollect._core._check import require_choice
from recollect._core._files import write_whole
from recollect.study._grid import canonical_text
from recollect.study._ledger import Ledger, Row, unusable

if TYPE_CHECKING:
    import xarray


def to_xarray(ledger: str | Path) -> xarray.Dataset:
    """Returns a study's results with named dimensions and units.

    A study on a product has one dimension per parameter (and `seed`, if there are several); any
    other has the dimension `trial` with the parameters along it. Trials that are missing or
    returned nothing hold NaN (text: empty); arrays whose lengths differ between trials are padded
    with NaN. Variables `status` and `seconds` say how each trial ended and how long it took.

    Args:
        ledger: the SQLite file.

    Raises:
        ValueError: if the file is no ledger or damaged, or if an array has not the same number of
            dimensions in all trials.
    """
    import xarray

    with Ledger(ledger, must_exist=True) as book:
        description = book.description()
        rows = list(book.rows())
    units = description.get("units", {})
    layout = _Layout(description, rows)
    variables: dict[str, Any] = {}
    for name in _names(rows, lambda row: row.metrics):
        values = [row.metrics.get(name, math.nan) for row in rows]
        variables[name] = (layout.dims, layout.spread(_column(values)))
    shared: dict[str, Any] = {}
    for name in _names(rows, lambda row: row.arrays):
        dims = tuple(description.get("dimensions", {}).get(name, ()))
        arrays = [row.arrays.get(name) for row in rows]
        present = [array for array in arrays if array is not None]
        n_dims = max(array.ndim for array in present)
        if len(dims) != n_dims:
            dims = tuple(f"{name}_{axis}" for axis in range(n_dims))
        if dims == (name,) and _all_equal(present):
            shared[name] = (dims, present[0])
        else:
            label = f"{name}_values" if name in dims else name
            variables[label] = ((*layout.dims, *dims), layout.spread(_padded(name, arrays)))
    variables["status"] = (layout.dims, layout.spread(np.array([r.status.code for r in rows], "U")))
    variables["seconds"] = (layout.dims, layout.spread(np.array([r.seconds for r in rows], float)))
    dataset = xarray.Dataset(variables, {**layout.coordinates, **shared})
    for name in dataset.variables:
        if name in units:
            dataset[name].attrs["units"] = units[name]
    dataset["seconds"].attrs["units"] = "s"
    for key in ("name", "function", "revision", "figure", "paper"):
        if description.get(key):
            dataset.attrs[key] = description[key]
    return dataset


def export(ledger: str | Path, path: str | Path, *, overwrite: bool = False) -> Path:
    """Returns the path of a file written with a study's results.

    Args:
        ledger: the SQLite file.
        path: `.nc` for NetCDF (everything), `.csv` for a table (numbers and words, one row per
            trial; no arrays).
        overwrite: replace an earlier file.

    Raises:
        ValueError: if the suffix is another one.
        FileExistsError: if the file is there and `overwrite` is False.
    """
    path = Path(path)
    suffix = require_choice("export file", path.suffix, (".nc", ".csv"))
    if path.exists() and not overwrite:
        raise FileExistsError(
            f"export file: {str(path)!r} exists; pass overwrite (--force) to replace it"
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(f"export file: expected an existing folder, got {str(path)!r}")
    write_whole(path, _netcdf(to_xarray(ledger)) if suffix == ".nc" else _table(ledger))
    return path


class _Layout:
    """Where each row goes: dimensions, coordinates, and positions along them."""

    def __init__(self, description: dict[str, Any], rows: list[Row]):
        axes = description.get("axes")
        seeds = description.get("seeds", [0])
        if axes is None or not description:
            self.dims: tuple[str, ...] = ("trial",)
            self.shape: tuple[int, ...] = (len(rows),)
            self.places = [(place,) for place in range(len(rows))]
            self.coordinates = {
                name: (("trial",), _column([row.parameters.get(name, math.nan) for row in rows]))
                for name in _names(rows, lambda row: row.parameters)
            }
            if description.get("takes_seed"):
                self.coordinates["seed"] = (("trial",), np.array([r.seed for r in rows], int))
            return
        axes = dict(axes)
        if len(seeds) > 1:
            axes["seed"] = seeds
        self.dims = tuple(axes)
        self.shape = tuple(len(values) for values in axes.values())
        where = {
            name: {canonical_text(value): place for place, value in enumerate(values)}
            for name, values in axes.items()
        }
        self.places = [
            tuple(
                where[name][canonical_text(row.seed if name == "seed" else row.parameters[name])]
                for name in self.dims
            )
            for row in rows
        ]
        self.coordinates = {name: ((name,), _column(values)) for name, values in axes.items()}

    def spread(self, values: np.ndarray) -> np.ndarray:
        """Returns values, one per row, at their places."""
        shape = self.shape + values.shape[1:]
        full = len(values) == math.prod(self.shape)
        if full:
            result = np.empty(shape, values.dtype)
        elif values.dtype.kind == "U":
            result = np.full(shape, "", values.dtype)
        else:
            kind = values.dtype if values.dtype.kind in "fc" else np.float64
            result = np.full(shape, np.nan, kind)
        for place, value in zip(self.places, values, strict=True):
            result[place] = value
        return result


def _names(rows: list[Row], of: Callable[[Row], dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in of(row)))


def _column(values: list[Any]) -> np.ndarray:
    array = np.array(values, dtype=object)
    present = [v for v in values if not (isinstance(v, float) and math.isnan(v))]
    if present and all(isinstance(v, bool) for v in values):
        return np.array(values, bool)
    if present and all(isinstance(v, int) and not isinstance(v, bool) for v in values):
        return (
            np.array(values, np.int64) if max(map(abs, values)) < 2**63 else np.array(values, float)
        )
    if all(isinstance(v, (int, float)) for v in values):
        return np.array(values, np.float64)
    words = [v if isinstance(v, str) else "" if _is_nan(v) else canonical_text(v) for v in values]
    return np.array(words, dtype="U") if words else array.astype("U")


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _all_equal(arrays: list[np.ndarray]) -> bool:
    return all(a.shape == arrays[0].shape and np.array_equal(a, arrays[0]) for a in arrays)


def _padded(name: str, arrays: list[np.ndarray | None]) -> np.ndarray:
    present = [array for array in arrays if array is not None]
    if len(kinds := {array.ndim for array in present}) > 1:
        found = " and ".join(map(str, sorted(kinds)))
        raise unusable(f"one number of dimensions of {name!r} in all trials", found)
    shape = tuple(max(sizes) for sizes in zip(*(array.shape for array in present), strict=True))
    dtype = np.result_type(*present)
    if len(present) < len(arrays) or any(array.shape != shape for array in present):
        dtype = np.result_type(dtype, np.float64 if dtype.kind in "biu" else dtype)
        result = np.full((len(arrays), *shape), np.nan, dtype)
    else:
        result = np.empty((len(arrays), *shape), dtype)
    for place, array in enumerate(arrays):
        if array is not None:
            result[(place, *map(slice, array.shape))] = array
    return result


def _netcdf(dataset: xarray.Dataset) -> bytes:
    import xarray

    # NetCDF 3 knows neither complex numbers nor truth values nor 64-bit integers.
    variables: dict[Any, Any] = {}
    for name, variable in dataset.variables.items():
        kind = variable.dtype.kind
        if kind == "c":
            variables[f"{name}_real"], variables[f"{name}_imag"] = variable.real, variable.imag
        elif kind == "b":
            variables[name] = variable.astype("int8")
        elif kind in "iu" and variable.dtype.itemsize > 4:
            fits = variable.size == 0 or abs(variable).max() < 2**31
            variables[name] = variable.astype("int32" if fits else "float64")
        else:
            variables[name] = variable
    coordinates = {name: variables.pop(name) for name in dataset.coords if name in variables}
    plain = xarray.Dataset(variables, coordinates, dataset.attrs)
    return bytes(plain.to_netcdf(engine="scipy"))


def _table(ledger: str | Path) -> bytes:
    with Ledger(ledger, must_exist=True) as book:
        parameters: dict[str, None] = {}
        metrics: dict[str, None] = {}
        for row in book.rows(with_arrays=False, with_superseded=True):
            parameters.update(dict.fromkeys(row.parameters))
            metrics.update(dict.fromkeys(row.metrics))
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        own = ["seed", "status", "message", "seconds", "revision", "is_current"]
        writer.writerow([*parameters, *metrics, *own])
        for row in book.rows(with_arrays=False, with_superseded=True):
            cells = [row.parameters.get(name, "") for name in parameters]
            cells += [row.metrics.get(name, "") for name in metrics]
            cells += [row.seed, row.status.code, row.status.message]
            cells += [row.seconds, row.revision, row.is_current]
            writer.writerow(["" if _is_nan(c) else c for c in cells])
    return text.getvalue().encode()
