"""Rows of text tables and arrays of NPZ files, whoever wrote them."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from recollect._core._check import did_you_mean, invalid

LARGEST_FILE = 4 * 2**30
KINDS = {"CSV": b"", "NPZ": b"PK", "Parquet": b"PAR1"}
# What people write where there is no number.
EMPTY = {"nan", "na", "n/a", "null", "none", "-", "missing"}


def kind_of(
    path: Path, *, argument: str, kinds: Sequence[str] = tuple(KINDS), remedy: str = ""
) -> str:
    """Returns which of `kinds` a file is, by its first bytes; raises if it cannot be read.

    Args:
        path: the file.
        argument: what the caller's user knows the file as.
        kinds: the kinds the caller reads.
        remedy: what to do about a file that is too large.

    Raises:
        ValueError: if there is no such file, or it is empty, too large or of another kind.
    """
    if not path.exists():
        raise missing_file(argument, path)
    if path.is_dir():
        raise invalid(argument, "a file", f"the directory {str(path)!r}")
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            head = stream.read(4096)
    except OSError as error:
        raise invalid(argument, "a readable file", f"{path.name} ({error.strerror})") from None
    if size == 0:
        raise invalid(argument, "a table", f"{path.name}, which is empty")
    if size > LARGEST_FILE:
        raise invalid(
            argument,
            "a file of at most 4 GiB",
            f"{path.name} of {size / 2**30:.1f} GiB",
            remedy,
        )
    for kind in kinds:
        if KINDS[kind] and head.startswith(KINDS[kind]):
            return kind
    if b"\0" in head and not head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        known = f"{', '.join(kinds[:-1])} or {kinds[-1]}"
        raise invalid(argument, known, f"{path.name}, a binary file of another kind")
    return "CSV"


def missing_file(argument: str, path: Path) -> ValueError:
    """Returns the error for a file that is not there, with the nearest name that is."""
    folder = path.parent if path.parent.is_dir() else Path()
    near = did_you_mean(path.name, [p.name for p in folder.iterdir()])
    return invalid(argument, "a file that exists", repr(str(path)), near)


def first_lines(path: Path, n_lines: int, *, comment: str = "") -> list[str]:
    """Returns the first lines of a text file, without blank ones and comments if there are any.

    Args:
        path: the file.
        n_lines: how many, at most.
        comment: what a line to skip starts with; then blank lines are skipped too.
    """
    kept: list[str] = []
    with _open_text(path) as lines:
        while len(kept) < n_lines and (line := lines.readline(1 << 20)):
            if not comment or _says_something(line, comment):
                kept.append(line)
    return kept


def split_comments(lines: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns the comments and blank lines above a table, and the lines from its first on."""
    n_above = 0
    while n_above < len(lines) and not _says_something(lines[n_above], "#"):
        n_above += 1
    return list(lines[:n_above]), list(lines[n_above:])


def names_in_comment(line: str, delimiter: str) -> list[str]:
    """Returns the names in a comment above numbers, as `numpy.savetxt` writes them."""
    said = line.strip().lstrip("#").strip()
    parts = said.split() if delimiter == " " else said.split(delimiter)
    return [part.strip() for part in parts]


def find_delimiter(lines: Sequence[str]) -> str:
    """Returns the delimiter of a table, given its first lines; a comma if none fits.

    One that splits the lines into the same number of cells, at least two: of these the one that
    leaves the most numbers below the first line, then the one that makes the most cells. In
    `0,5;1,5` both the comma and the semicolon split; only the semicolon leaves numbers.
    """
    lines = [line for line in lines if line.strip()]
    best, most = ",", (-1.0, 1)
    for delimiter in (",", ";", "\t", "|", " "):
        rows = list(csv.reader(_unpadded(lines, delimiter), delimiter=delimiter))
        counts = [len(row) for row in rows]
        if not counts or counts[0] < 2 or max(counts[1:] or counts) < counts[0]:
            continue
        if min(counts) < counts[0] - 1:
            continue
        below = [cell.strip() for row in rows[1:] or rows for cell in row]
        plain = [decimal_points([cell], delimiter)[0] for cell in below]
        fit = (sum(map(is_number, plain)) / max(len(plain), 1), counts[0])
        if fit > most:
            best, most = delimiter, fit
    return best


def read_rows(
    path: Path, *, delimiter: str, argument: str, comment: str = ""
) -> Iterator[tuple[int, list[str]]]:
    """Yields the number of a row's last line and its cells, stripped; empty lines are left out.

    Args:
        path: the file.
        delimiter: as `find_delimiter` returns it; a blank stands for any run of blanks.
        argument: what the caller's user knows the file as.
        comment: what a line to skip starts with; default none is skipped.

    Raises:
        ValueError: if this is no text table.
    """
    number = 0

    def kept(lines: io.TextIOWrapper) -> Iterator[str]:
        nonlocal number
        for line in lines:
            number += 1
            if not comment or _says_something(line, comment):
                yield line

    with _open_text(path) as lines:
        reader = csv.reader(_unpadded(kept(lines), delimiter), delimiter=delimiter)
        try:
            for row in reader:
                if row:
                    yield number, [cell.strip() for cell in row]
        except (csv.Error, UnicodeDecodeError) as error:
            raise invalid(argument, "a text table", f"{path.name} ({error})") from None


def array_names(path: Path, *, argument: str) -> list[str]:
    """Returns the names of the arrays in an NPZ file."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return list(archive.files)
    except Exception as error:  # a damaged archive fails in a dozen ways
        raise invalid(argument, "a readable NPZ file", f"{path.name} ({_said(error)})") from None


def read_arrays(path: Path, names: Sequence[str], *, argument: str) -> dict[str, np.ndarray]:
    """Returns vectors of an NPZ file: float64, or strings where they are no numbers.

    Raises:
        ValueError: if an array is damaged, complex, or not a vector up to axes of length one.
    """
    columns = {}
    with np.load(path, allow_pickle=False) as archive:
        for name in names:
            try:
                values = np.squeeze(archive[name])
            except Exception as error:
                got = f"{name!r} in {path.name} ({_said(error)})"
                raise invalid(argument, "arrays of numbers", got) from None
            if values.ndim != 1:
                got = f"{name!r} of shape {values.shape}"
                raise invalid("column", "a one-dimensional array", got)
            columns[name] = column_of(name, values)
    return columns


def column_of(name: str, values: np.ndarray) -> np.ndarray:
    """Returns a vector of any type as float64, or as strings where it holds no numbers."""
    if values.dtype.kind in "fiub":
        return values.astype(np.float64)
    if values.dtype.kind == "M":
        return np.array(np.datetime_as_string(values))
    if values.dtype.kind == "c":
        raise invalid(f"column {name!r}", "real numbers", f"dtype {values.dtype}")
    return as_numbers(["" if v is None else str(v) for v in values.tolist()])


def as_numbers(cells: Sequence[str]) -> np.ndarray:
    """Returns cells as float64, NaN where empty; as they stand if one of them is no number."""
    try:
        return np.array([float(c) if c and c.lower() not in EMPTY else np.nan for c in cells])
    except ValueError:
        return np.array(cells, dtype=str)


def is_number(cell: object) -> bool:
    """Says whether a cell is a number, or empty in one of the ways people write that."""
    text = str(cell)
    return not text or text.lower() in EMPTY or _is_float(text)


def decimal_points(cells: list[str], delimiter: str) -> list[str]:
    """Returns a column with points for decimal commas, where its table can have them.

    Where something else separates the columns, 1,5 is a number; unless the column has decimal
    points as well: then a comma separates thousands, and stays.
    """
    if delimiter == "," or any(re.search(r"\d\.\d", c) and _is_plain(c) for c in cells):
        return cells
    return [c.replace(",", ".") if _DECIMAL_COMMA.fullmatch(c) else c for c in cells]


_DECIMAL_COMMA = re.compile(r"[+-]?(?:\d+,\d*|,\d+)(?:[eE][+-]?\d+)?")


def _is_plain(cell: str) -> bool:
    return _is_float(cell.replace(",", ""))


def is_units_row(first: Sequence[str], second: Sequence[str]) -> bool:
    """Says whether the first row under a header holds units: no number, with numbers below."""
    return (
        any(cell and not is_number(cell) for cell in first)
        and not any(map(_is_float, first))
        and all(cell and is_number(cell) for cell in second)
    )


def _open_text(path: Path) -> io.TextIOWrapper:
    with path.open("rb") as stream:
        head = stream.read(1 << 16)
    is_wide = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    encoding = "utf-16" if is_wide else "utf-8-sig"
    try:
        codecs.getincrementaldecoder(encoding)().decode(head)
    except UnicodeDecodeError:
        encoding = "cp1252"  # what spreadsheets write where they do not write UTF-8
    return path.open(encoding=encoding, errors="replace", newline="")


def _unpadded(lines, delimiter: str) -> Iterator[str]:
    # Columns aligned by blanks: a run of them is one delimiter.
    if delimiter != " ":
        return iter(lines)
    return (re.sub(" +", " ", line.strip(" \r\n")) for line in lines)


def _says_something(line: str, comment: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith(comment)


def _is_float(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
