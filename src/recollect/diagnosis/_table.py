"""Columns out of files: CSV, NPZ and Parquet, with errors that name the row.

Imports neither jax nor pandas at the top: a misspelt column must be answered at once.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from recollect._core._check import did_you_mean, invalid, require_choice
from recollect._core._table import (
    array_names,
    as_numbers,
    column_of,
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

GAPS = ("refuse", "interpolate", "split")
_UNITS = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "min": 60.0,
    "h": 3600.0,
    "d": 86400.0,
    "wk": 604800.0,
    "yr": 31557600.0,
}
_UNIT_NAMES = {
    "sec": "s",
    "second": "s",
    "seconds": "s",
    "m": "min",
    "minute": "min",
    "minutes": "min",
    "hr": "h",
    "hour": "h",
    "hours": "h",
    "day": "d",
    "days": "d",
    "week": "wk",
    "weeks": "wk",
    "w": "wk",
    "y": "yr",
    "year": "yr",
    "years": "yr",
}


@dataclasses.dataclass(frozen=True)
class Column:
    """One named column of a file, with its rows as text or numbers.

    Attributes:
        name: the column's name, as written in the file.
        values: numbers (float64, NaN where empty) or, for a text column, strings.
        first_row: file row of the first value (1 is the header of a CSV).
        origin: name of the file.
        unit: unit of time stated in the header or the row below it, empty if none is.
    """

    name: str
    values: np.ndarray
    first_row: int
    origin: str
    unit: str = ""

    @property
    def is_numeric(self) -> bool:
        return self.values.dtype.kind == "f"


@dataclasses.dataclass(frozen=True)
class Step:
    """A time step with its unit."""

    value: float
    unit: str


def parse_step(text: str) -> Step:
    """Returns a time step such as `4s`, `15 min` or `0.5` (unit: sample spacing's own)."""
    match = re.fullmatch(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([A-Za-zµ]*)\s*", text)
    if not match:
        raise invalid(
            "--dt", "a number with a unit", repr(text), "write it as 4s, 15min, 1d or 0.5"
        )
    value, unit = float(match.group(1)), match.group(2)
    unit = _UNIT_NAMES.get(unit.lower(), unit)
    if unit and unit not in _UNITS:
        hint = did_you_mean(unit, [*_UNITS, *_UNIT_NAMES])
        raise invalid("--dt", "a unit out of " + ", ".join(_UNITS), repr(unit), hint)
    if not (np.isfinite(value) and value > 0):
        raise invalid("--dt", "a positive step", repr(text))
    return Step(value, unit or "step")


def require_file(path: Path) -> None:
    """Raises unless `path` is a file that can be read as a table."""
    _kind_of(path)


_MOST_LINES_ABOVE = 50


class Table:
    """The columns of one file, read on demand."""

    def __init__(self, path: Path):
        self.path = path
        self._columns: dict[str, Column] = {}
        kind = _kind_of(path)
        self._read_some = {
            "CSV": self._read_csv,
            "NPZ": self._read_npz,
            "Parquet": self._read_parquet,
        }[kind]
        if kind == "CSV":
            self._delimiter, self.names, self._comments = _sniff(path)
        elif kind == "NPZ":
            self.names = array_names(path, argument="DATA")
        else:
            self.names = _parquet_names(path)

    def column(self, name: str) -> Column:
        """Returns one column by its name; suggests the nearest name otherwise."""
        if name not in self.names:
            shown = [n for n in self.names if n][:12]
            expected = f"a column of {self.path.name} ({', '.join(shown)})"
            hint = did_you_mean(name, shown) or _longer_name(name, shown)
            raise invalid("column", expected, repr(name), hint)
        if name not in self._columns:
            self.read([name])
        return self._columns[name]

    def read(self, names: Sequence[str]) -> None:
        """Reads several columns in one pass over the file."""
        missing = [n for n in names if n in self.names and n not in self._columns]
        if missing:
            self._columns.update(self._read_some(missing))

    def _read_csv(self, names: Sequence[str]) -> dict[str, Column]:
        places = {name: self.names.index(name) for name in names}
        cells: dict[str, list[str]] = {name: [] for name in names}
        first_row = 0
        mark = "#" if self._comments else ""
        rows = read_rows(self.path, delimiter=self._delimiter, argument="DATA", comment=mark)
        if self._comments != "names":
            next(rows)
        for number, row in rows:
            first_row = first_row or number
            for name, place in places.items():
                cells[name].append(row[place] if place < len(row) else "")
        stated = {name: name for name in cells}
        first_two = [
            [decimal_points([cell], self._delimiter)[0] for cell in row]
            for row in zip(*(column[:2] for column in cells.values()), strict=True)
        ]
        if len(first_two) == 2 and is_units_row(*first_two):
            first_row += 1
            stated = {name: f"[{column[0].strip('[]()')}]" for name, column in cells.items()}
            cells = {name: column[1:] for name, column in cells.items()}
        return {
            name: Column(
                name,
                as_numbers(decimal_points(column, self._delimiter)),
                first_row,
                self.path.name,
                _time_unit(stated[name]),
            )
            for name, column in cells.items()
        }

    def _read_npz(self, names: Sequence[str]) -> dict[str, Column]:
        arrays = read_arrays(self.path, names, argument="DATA")
        return {name: Column(name, arrays[name], 1, self.path.name) for name in names}

    def _read_parquet(self, names: Sequence[str]) -> dict[str, Column]:
        table = _parquet().read_table(self.path, columns=list(names))
        columns = {}
        for name in names:
            values = table.column(name).to_pandas().to_numpy()
            columns[name] = Column(name, column_of(name, values), 1, self.path.name)
        return columns


def _longer_name(name: str, names: Sequence[str]) -> str:
    # "pump" for "pump [m3/h]".
    longer = [n for n in names if n.lower().startswith(name.lower())] if name else []
    return f"did you mean {longer[0]!r}?" if len(longer) == 1 else ""


def find_column(spec: str, table: Table, others: dict[Path, Table]) -> tuple[Column, Table]:
    """Returns the column that `spec` names: one of `table`, or `FILE:COLUMN`.

    A column of the table wins over a file; the spec is split at its last colon.
    """
    if spec in table.names:
        return table.column(spec), table
    file, colon, name = spec.rpartition(":")
    if colon and file:
        path = Path(file)
        if not path.exists() and not path.is_absolute():
            path = table.path.parent / file
        if path not in others:
            others[path] = Table(path)
        return others[path].column(name), others[path]
    return table.column(spec), table


def numbers(column: Column, *, gaps: str = "refuse") -> np.ndarray:
    """Returns a column as numbers, treating gaps as asked.

    Trailing empty cells are dropped: columns of one table may have different lengths.

    Args:
        column: the column.
        gaps: `refuse` them, `interpolate` over them, or keep them as NaN to `split` there.
    """
    require_choice("--gaps", gaps, GAPS)
    if not column.is_numeric:
        bad = [(i, v) for i, v in enumerate(column.values) if not is_number(v)]
        rows = row_names([i for i, _ in bad], column.first_row)
        raise invalid(
            f"column {column.name!r} of {column.origin}",
            "numbers",
            f"{str(bad[0][1])!r} ({rows})",
            "clean these cells, or leave them empty and choose --gaps interpolate or --gaps split",
        )
    values = column.values
    present = np.flatnonzero(~np.isnan(values))
    if present.size == 0:
        raise invalid(f"column {column.name!r} of {column.origin}", "numbers", "an empty column")
    values = values[: present[-1] + 1]
    infinite = np.flatnonzero(np.isinf(values))
    if infinite.size:
        raise invalid(
            f"column {column.name!r} of {column.origin}",
            "finite numbers",
            f"infinity ({row_names(infinite, column.first_row)})",
        )
    missing = np.flatnonzero(np.isnan(values))
    if missing.size and gaps == "refuse":
        raise invalid(
            f"column {column.name!r} of {column.origin}",
            "a number in every row",
            f"{missing.size} empty or NaN ({row_names(missing, column.first_row)})",
            "choose --gaps interpolate or --gaps split",
        )
    if missing.size and gaps == "interpolate":
        whole = np.arange(len(values))
        values = np.interp(whole, whole[~np.isnan(values)], values[~np.isnan(values)])
    return values


def times(column: Column, *, unit: str = "") -> tuple[np.ndarray, str, str]:
    """Returns a time column as increasing numbers, their unit, and the origin if it was a date.

    Dates become days, hours, minutes or seconds, whichever their step is at least one of.
    """
    label = f"time column {column.name!r} of {column.origin}"
    if column.is_numeric:
        stamps, unit, origin = numbers(column), unit or column.unit or "time unit", ""
    else:
        stamps, unit, origin = _dates(column, label)
    backwards = np.flatnonzero(np.diff(stamps) <= 0)
    if backwards.size:
        row = int(backwards[0]) + 1 + column.first_row
        what = "twice" if stamps[backwards[0] + 1] == stamps[backwards[0]] else "backwards"
        raise invalid(
            label,
            "times that increase from row to row",
            f"time running {what} at row {row} ({backwards.size} such rows)",
            "sort the file by time and remove repeated stamps",
        )
    return stamps, unit, origin


def _dates(column: Column, label: str) -> tuple[np.ndarray, str, str]:
    import pandas as pd

    texts = [str(v) for v in column.values]
    while texts and not texts[-1]:
        texts.pop()
    day_first = _day_first(texts, label)
    parsed = pd.to_datetime(
        pd.Series(texts), errors="coerce", utc=True, format="mixed", dayfirst=day_first
    )
    bad = np.flatnonzero(parsed.isna().to_numpy())
    if bad.size:
        raise invalid(
            label,
            "numbers or dates such as 2024-05-31 or 2024-05-31T12:00:00",
            f"{texts[bad[0]]!r} ({row_names(bad, column.first_row)})",
        )
    seconds = (parsed - pd.Timestamp("1970-01-01", tz="UTC")) / pd.Timedelta(seconds=1)
    stamps = seconds.to_numpy(dtype=np.float64)
    step = float(np.median(np.abs(np.diff(stamps)))) if len(stamps) > 1 else 0.0
    unit = next((u for u in ("d", "h", "min") if step >= _UNITS[u] * (1 - 1e-9)), "s")
    return stamps / _UNITS[unit], unit, parsed.iloc[0].isoformat()


def _day_first(texts: list[str], label: str) -> bool:
    # 1.3.2024 has two readings; the column as a whole has one.
    found = [re.match(r"(\d{1,2})([./-])(\d{1,2})[./-]\d", text) for text in texts]
    pairs = [(int(m[1]), int(m[3]), m[2]) for m in found if m]
    if not pairs:
        return False
    first, second = max(p[0] for p in pairs), max(p[1] for p in pairs)
    if first > 12 and second > 12:
        raise invalid(label, "days and months in one order", "both orders", "write 2024-05-31")
    if first > 12 or second > 12:
        return first > 12
    # Both readings are dates: days change more often than months.
    changes = [sum(a[k] != b[k] for a, b in itertools.pairwise(pairs)) for k in (0, 1)]
    return changes[0] > changes[1] or (changes[0] == changes[1] and pairs[0][2] == ".")


def convert_unit(values: np.ndarray, unit: str, wanted: str) -> np.ndarray:
    """Returns times in another unit; both must be units of physical time, or equal."""
    unit, wanted = (_UNIT_NAMES.get(name, name) for name in (unit, wanted))
    if unit == wanted:
        return values
    if unit not in _UNITS or wanted not in _UNITS:
        raise invalid("time unit", f"{wanted!r}", repr(unit), "give all times in the same unit")
    return values * (_UNITS[unit] / _UNITS[wanted])


def _kind_of(path: Path) -> str:
    chunks = "read it in chunks with recollect.memory.estimate_kernel"
    return kind_of(path, argument="DATA", remedy=chunks)


def _sniff(path: Path) -> tuple[str, list[str], str]:
    """Returns the delimiter, the names, and what lines with # above the table are: notes, names or ''."""
    lines = first_lines(path, _MOST_LINES_ABOVE + 6)
    above, below = split_comments(lines)
    above = [line for line in above if line.strip()]
    head, *rest = (below if above else lines)[:6] or [""]
    if not head.strip():
        raise invalid("DATA", "column names in the first row", f"an empty first row in {path.name}")
    if not any(r.strip() for r in rest):
        raise invalid("DATA", "rows below the column names", f"a single row in {path.name}")
    delimiter = find_delimiter([head, *rest])
    comments = "notes" if above else ""
    _, names = next(
        read_rows(path, delimiter=delimiter, argument="DATA", comment="#" * bool(above))
    )
    if above and all(map(is_number, names)):
        said = names_in_comment(above[-1], delimiter)
        if len(said) == len(names):
            comments, names = "names", said
    if all(is_number(name) for name in names if name):
        raise invalid(
            "DATA",
            "column names in the first row",
            f"numbers in the first row of {path.name}",
            "add a header row, such as time,input,output",
        )
    repeated = sorted({n for n in names if n and names.count(n) > 1})
    if repeated:
        raise invalid("DATA", "distinct column names", f"{repeated[0]!r} twice in {path.name}")
    return delimiter, names, comments


def _parquet_names(path: Path) -> list[str]:
    parquet = _parquet()
    try:
        return list(parquet.read_schema(path).names)
    except Exception as error:
        raise invalid("DATA", "a readable Parquet file", f"{path.name} ({error})") from None


def _parquet():
    try:
        import pyarrow.parquet
    except ImportError:
        raise invalid(
            "DATA", "pyarrow, to read Parquet", "no pyarrow", "pip install 'recollect[parquet]'"
        ) from None
    return pyarrow.parquet


def _time_unit(text: str) -> str:
    # "t [s]", "time (min)": what stands in brackets, if it is a unit of time.
    match = re.search(r"[\[(]\s*([A-Za-zµ]+)\s*[\])]\s*$", text)
    unit = _UNIT_NAMES.get(match[1].lower(), match[1]) if match else ""
    return unit if unit in _UNITS else ""


def row_names(places: Sequence[int] | np.ndarray, first_row: int) -> str:
    rows = [str(int(i) + first_row) for i in list(places)[:3]]
    more = f" and {len(places) - 3} more" if len(places) > 3 else ""
    return f"row{'s' if len(places) > 1 else ''} {', '.join(rows)}{more}"
