"""One reader for measurements and kernels, whatever a spreadsheet or logger wrote."""

from __future__ import annotations

import numpy as np
import pytest

from recollect._core._table import find_delimiter
from recollect.diagnosis._table import Table, numbers
from recollect.targets import read_kernel

GAP = float("nan")


def written(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "table.csv"
    path.write_text(text, encoding=encoding)
    return path


@pytest.mark.parametrize("empty", ["", "NA", "n/a", "-", "NaN"])
def test_decimal_commas_are_read_beside_empty_cells(tmp_path, empty):
    path = written(tmp_path, f"t;x\n0;-0,132\n1;{empty}\n2;1,5e-1\n")
    np.testing.assert_array_equal(Table(path).column("x").values, [-0.132, GAP, 0.15])


def test_the_cell_that_is_no_number_is_blamed_not_the_decimal_comma_above(tmp_path):
    path = written(tmp_path, "t;x\n0;-0,132\n1;broken\n2;1,5\n")
    with pytest.raises(ValueError, match=r"got 'broken' \(row 3\)"):
        numbers(Table(path).column("x"))


@pytest.mark.parametrize("cells", [("1,234", "1,234.5"), ("1,234", "1,234,567")])
def test_a_comma_between_thousands_is_no_decimal_comma(tmp_path, cells):
    path = written(tmp_path, "t;x\n" + "".join(f"{k};{c}\n" for k, c in enumerate(cells)))
    with pytest.raises(ValueError, match="expected numbers"):
        numbers(Table(path).column("x"))


@pytest.mark.parametrize(
    ("lines", "delimiter"),
    [
        (["Datum;Regen, mm;Pegel, m", "1.1.2020;0,5;1,25", "2.1.2020;0,5;1,25"], ";"),
        (["0,0;1,0", "1,0;0,5"], ";"),
        (["0 1,5", "1 0,5"], " "),
        (["t, x", "1, 2"], ","),
        (["time,a;b,c", "1,2,3"], ","),
        (["date,x", "2020-01-01 10:00,1.5"], ","),
        (["a\tb c", "1\t2"], "\t"),
        (["x", "1"], ","),
        (["flow rate", "1", "2"], ","),
    ],
)
def test_the_delimiter_is_the_one_that_leaves_numbers(lines, delimiter):
    assert find_delimiter(lines) == delimiter


def test_columns_aligned_by_blanks(tmp_path):
    path = written(tmp_path, "  t     x\n  0  1.50\n 10 -2.25\n")
    np.testing.assert_array_equal(Table(path).column("x").values, [1.5, -2.25])


@pytest.mark.parametrize("encoding", ["utf-16", "cp1252", "utf-8-sig"])
def test_kernels_are_read_in_the_encodings_of_measurements(tmp_path, encoding):
    path = written(tmp_path, "Größe;µ\n0;1\n1,5;0,25\n", encoding)
    kernel = read_kernel(path, lag="Größe", value="µ")
    np.testing.assert_array_equal(kernel.lags, [0, 1.5])


@pytest.mark.parametrize("none", ["", "-"])
def test_a_quantity_without_a_unit_may_stand_beside_one(tmp_path, none):
    path = written(tmp_path, f"t,phi\ns,{none}\n0,1\n1,0.5\n")
    np.testing.assert_array_equal(read_kernel(path).values.ravel(), [1, 0.5])
    table = Table(path)
    table.read(["t", "phi"])
    np.testing.assert_array_equal(table.column("phi").values, [1, 0.5])
    assert table.column("t").unit == "s"


def test_the_line_of_a_fault_counts_comments_and_blank_lines(tmp_path):
    path = written(tmp_path, "# made\n\nt,rho\n0,1\n\n# half\n1,x\n")
    with pytest.raises(ValueError, match=r"table\.csv, line 7: .*'x'"):
        read_kernel(path)


def test_a_parquet_file_is_no_kernel(tmp_path):
    (tmp_path / "k.parquet").write_bytes(b"PAR1\0\0 and more")
    with pytest.raises(ValueError, match="CSV or NPZ"):
        read_kernel(tmp_path / "k.parquet")


def test_a_file_that_holds_only_a_byte_order_mark_is_refused(tmp_path):
    (tmp_path / "table.csv").write_bytes(b"\xef\xbb\xbf")
    with pytest.raises(ValueError, match="column names"):
        Table(tmp_path / "table.csv")
    with pytest.raises(ValueError, match="lags and kernel values"):
        read_kernel(tmp_path / "table.csv")
