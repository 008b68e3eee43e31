"""Kernels out of files."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from recollect._core._check import did_you_mean, invalid
from recollect._core._table import (
    array_names,
    decimal_points,
    find_delimiter,
    first_lines,
    is_number,
    is_units_row,
    kind_of,
    names_in_comment,
    read_arrays,
    read_rows,
    split_comments,
)
from recollect.targets._shapes import SampledKernel

_MOST_ROWS = 2_000_000
_MOST_LINES_ABOVE = 100


def read_kernel(
    path: str | os.PathLike[str], *, lag: str | None = None, value: str | None = None
) -> SampledKernel:
    """Returns the kernel in a table of (t, ρ), as a `SampledKernel`.

    CSV, or NPZ of arrays: the lags, then the kernel. Of more than two columns say which.

    The delimiter (comma, semicolon, tab, bar or blanks) is found, and except between commas a
    decimal comma; a header line, and a line of units below it, are optional; lines starting with #
    are skipped, but the one above the numbers may name the columns, as `numpy.savetxt` writes it.

    Args:
        path: the file.
        lag: column of the lags, by name; default the first.
        value: column of ρ, by name; default the second of two.

    Returns:
        The kernel.

    Raises:
        ValueError: if the file cannot be read as such a table; the message names file and line.
    """
    path = Path(path)
    if kind_of(path, argument="path", kinds=("CSV", "NPZ"), remedy="thin the table") == "NPZ":
        names = array_names(path, argument="path")
        _require_choice_of(value, len(names), names, path.name)
        chosen = [names[place] for place in _places((lag, value), names, path.name)]
        arrays = read_arrays(path, chosen, argument="path")
        return SampledKernel(*(arrays[name] for name in chosen))
    return _read_text(path, (lag, value))


def _read_text(path: Path, wanted: Sequence[str | None]) -> SampledKernel:
    name = path.name
    delimiter = find_delimiter(first_lines(path, 6, comment="#"))
    found = read_rows(path, delimiter=delimiter, argument="path", comment="#")
    rows = list(itertools.islice(found, _MOST_ROWS + 1))
    if len(rows) > _MOST_ROWS:
        raise invalid(name, "at most two million rows", "more", "thin the table")
    if not rows:
        raise invalid(name, "a table of lags and kernel values", "no rows")
    plain = [decimal_points([cell], delimiter)[0] for cell in rows[0][1]]
    is_named = not all(map(is_number, plain))
    header = rows.pop(0)[1] if is_named else _names_in_comment(path, delimiter)
    if len(rows) < 2:
        raise invalid(name, "at least two rows", len(rows))
    # A table may end its lines with the delimiter: what is empty all the way down is no column.
    filled = max(k + 1 for _, cells in rows for k, cell in enumerate(cells) if cell or k < 2)
    _require_choice_of(wanted[1], filled, header, name)
    places = _places(wanted, header, name)
    for line, cells in rows:
        if len(cells) <= max(places):
            expected = f"at least {max(places) + 1} columns"
            raise invalid(f"{name}, line {line}", expected, len(cells))
    columns = [decimal_points([row[place] for _, row in rows], delimiter) for place in places]
    lines = [line for line, _ in rows]
    if is_named and len(rows) > 1 and is_units_row(*zip(*(c[:2] for c in columns), strict=True)):
        columns, lines = [column[1:] for column in columns], lines[1:]
    lags, values = (_finite(column, lines, name) for column in columns)
    if len(lags) < 2:
        raise invalid(name, "at least two rows", len(lags))
    falling = np.flatnonzero(np.diff(lags) <= 0)
    if len(falling):
        at = int(falling[0]) + 1
        raise invalid(
            f"{name}, line {lines[at]}",
            "increasing lags",
            f"{lags[at]:g} after {lags[at - 1]:g}",
            "sort the table by lag and remove duplicates",
        )
    if lags[0] < 0:
        raise invalid(f"{name}, line {lines[0]}", "lags not below zero", f"{lags[0]:g}")
    return SampledKernel(lags, values)


def _names_in_comment(path: Path, delimiter: str) -> list[str] | None:
    above, below = split_comments(first_lines(path, _MOST_LINES_ABOVE))
    if not above or not below:
        return None
    names = names_in_comment(above[-1], delimiter)
    cells = below[0].split() if delimiter == " " else below[0].split(delimiter)
    is_one_each = len(names) == len(cells) and all(names)
    return names if is_one_each and not any(map(is_number, names)) else None


def _require_choice_of(
    value: str | None, n_columns: int, names: list[str] | None, origin: str
) -> None:
    """Raises where it is not said, nor clear, which column is the kernel."""
    if n_columns < 2 or (n_columns > 2 and value is None):
        got = f"{n_columns} ({', '.join(names)})" if names else f"{n_columns} without a header"
        remedy = "name the columns in a first line, or leave two"
        if names:
            remedy = "say which is the kernel: --value NAME, in Python value="
        raise invalid(origin, "two columns, the lags and the kernel", got, remedy)


def _places(wanted: Sequence[str | None], names: list[str] | None, origin: str) -> list[int]:
    places = []
    for default, name in enumerate(wanted):
        if name is not None and name not in (names or []):
            got = "columns " + ", ".join(names) if names else "a table without a header"
            raise invalid(origin, f"a column {name!r}", got, did_you_mean(name, names or []))
        places.append(default if name is None or names is None else names.index(name))
    if places[0] == places[1]:
        got = repr((names or [])[places[0]])
        raise invalid(origin, "the lags and the kernel in different columns", f"{got} for both")
    return places


def _finite(cells: list[str], lines: list[int], origin: str) -> list[float]:
    numbers = []
    for line, cell in zip(lines, cells, strict=True):
        try:
            number = float(cell)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            got = repr(cell[:40]) if cell else "a gap"
            raise invalid(f"{origin}, line {line}", "a finite number", got)
        numbers.append(number)
    return numbers
