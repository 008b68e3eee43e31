"""Columns out of files, and measurements out of columns."""

from __future__ import annotations

import numpy as np
import pytest

from recollect.diagnosis import Measurements, read_measurements
from recollect.diagnosis._table import Table, parse_step


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("4s", 4, "s"),
        ("15 min", 15, "min"),
        ("0.5", 0.5, "step"),
        ("1day", 1, "d"),
        ("2.5e-3 ms", 2.5e-3, "ms"),
    ],
)
def test_steps(text, value, unit):
    step = parse_step(text)
    assert (step.value, step.unit) == (value, unit)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiters_are_sniffed(tmp_path, delimiter):
    path = tmp_path / "a.csv"
    path.write_text(
        delimiter.join("xy") + "\n" + "\n".join(f"{i}{delimiter}{-i}" for i in range(9))
    )
    table = Table(path)
    assert table.names == ["x", "y"]
    np.testing.assert_array_equal(table.column("y").values, -np.arange(9.0))


def test_a_comma_is_a_decimal_point_where_a_semicolon_separates(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("x;y\n1,5;2,25\n2,5;3\n")
    np.testing.assert_array_equal(Table(path).column("x").values, [1.5, 2.5])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings(tmp_path, encoding):
    path = tmp_path / "a.csv"
    path.write_text("x,größe\n1,2\n3,4\n", encoding=encoding)
    assert Table(path).names == ["x", "größe"]


@pytest.mark.parametrize(
    "head",
    ["# logger 7, exported 2024\n# site B\n\nx,y\n", "# logger 7\n# x,y\n", "#x, y\n"],
)
def test_comments_above_the_table_are_no_rows(tmp_path, head):
    x, y = signals()
    rows = [f"{a},{b}" for a, b in zip(x, y, strict=True)]
    (tmp_path / "a.csv").write_text(head + "\n".join(rows))
    data = read_measurements(tmp_path / "a.csv", inputs=["x"], outputs=["y"], dt="1s")
    np.testing.assert_array_equal(data.inputs[:, 0], x)
    rows[3] = "oops,1"
    (tmp_path / "a.csv").write_text(head + "\n".join(rows))
    with pytest.raises(ValueError, match=rf"'oops' \(row {head.count(chr(10)) + 4}\)"):
        read_measurements(tmp_path / "a.csv", inputs=["x"], outputs=["y"], dt="1s")


def test_nothing_but_comments_is_no_table(tmp_path):
    (tmp_path / "a.csv").write_text("# x,y\n# 1,2\n")
    with pytest.raises(ValueError, match="DATA: expected column names in the first row"):
        read_measurements(tmp_path / "a.csv", inputs=["x"], outputs=["y"], dt="1s")


def test_a_row_of_units_is_skipped(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("t,E\ns, MPa\n1,2\n3,4\n")
    np.testing.assert_array_equal(Table(path).column("E").values, [2.0, 4.0])


def signals(n=60, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal(n), rng.standard_normal(n)


@pytest.mark.parametrize("kind", ["csv", "npz", "parquet"])
def test_every_format_gives_the_same_measurements(tmp_path, kind):
    x, y = signals()
    path = tmp_path / f"data.{kind}"
    if kind == "csv":
        np.savetxt(
            path, np.column_stack([x, y]), delimiter=",", header="x,y", comments="", fmt="%.17g"
        )
    elif kind == "npz":
        np.savez(path, x=x, y=y)
    else:
        import pandas as pd

        pd.DataFrame({"x": x, "y": y}).to_parquet(path)
    data = read_measurements(path, inputs=["x"], outputs=["y"], dt="2s")
    np.testing.assert_array_equal(data.inputs[:, 0], x)
    np.testing.assert_array_equal(data.outputs[:, 0], y)
    assert (data.dt, data.unit) == (2.0, "s")


def test_pickled_arrays_are_refused(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, x=np.array([{"evil": 1}] * 20, dtype=object))
    with pytest.raises(ValueError, match="x"):
        read_measurements(path, inputs=["x"], outputs=["x "], dt="1s")


def test_columns_of_other_files_and_irregular_outputs(tmp_path):
    x, _ = signals(100)
    days = np.datetime64("2020-01-01") + np.arange(100)
    (tmp_path / "rain.csv").write_text(
        "date,rain\n" + "\n".join(f"{d},{v}" for d, v in zip(days, x, strict=True))
    )
    picked = np.arange(3, 100, 5)
    (tmp_path / "head.csv").write_text(
        "date,head\n" + "\n".join(f"{days[i]},{i * 0.5}" for i in picked)
    )
    data = read_measurements(
        tmp_path / "head.csv", inputs=["rain.csv:rain"], outputs=["head"], time="date"
    )
    assert (data.dt, data.unit, data.origin[:10]) == (1.0, "d", "2020-01-01")
    np.testing.assert_allclose(data.inputs[:, 0], x[: len(data.inputs)])
    seen = np.flatnonzero(np.isfinite(data.outputs[:, 0]))
    np.testing.assert_array_equal(seen, picked)
    np.testing.assert_array_equal(data.outputs[seen, 0], picked * 0.5)


def test_a_column_of_the_table_wins_over_a_file(tmp_path):
    x, y = signals()
    (tmp_path / "a").write_text("b\n1\n2\n")
    np.savez(tmp_path / "data.npz", **{"a:b": x, "y": y})
    data = read_measurements(tmp_path / "data.npz", inputs=["a:b"], outputs=["y"], dt="1s")
    np.testing.assert_array_equal(data.inputs[:, 0], x)


def test_gaps_can_be_filled_or_kept(tmp_path):
    x, y = signals()
    cells = [f"{a},{b}" for a, b in zip(x, y, strict=True)]
    cells[10] = f",{y[10]}"
    (tmp_path / "a.csv").write_text("x,y\n" + "\n".join(cells))
    read = {
        gaps: read_measurements(tmp_path / "a.csv", inputs=["x"], outputs=["y"], dt="1s", gaps=gaps)
        for gaps in ("interpolate", "split")
    }
    assert read["interpolate"].inputs[10, 0] == pytest.approx((x[9] + x[11]) / 2)
    assert np.isnan(read["split"].inputs[10, 0])
    assert "1 empty cell of x interpolated" in read["interpolate"].notes


@pytest.mark.parametrize("clock", ["time", "dt"])
def test_an_output_that_was_not_measured_is_not_invented(tmp_path, clock):
    x, y = signals()
    rows = [f"{k},{a},{b}" for k, (a, b) in enumerate(zip(x, y, strict=True))]
    rows[10] = f"10,{x[10]},"
    (tmp_path / "a.csv").write_text("t,x,y\n" + "\n".join(rows))
    options = {"time": "t"} if clock == "time" else {"dt": "1s"}
    data = read_measurements(
        tmp_path / "a.csv", inputs=["x"], outputs=["y"], gaps="interpolate", **options
    )
    assert np.isnan(data.outputs[10, 0])
    assert data.n_observed == len(x) - 1


def test_a_record_ends_where_an_input_ends(tmp_path):
    path = tmp_path / "short.csv"
    rows = [f"{k},{np.sin(k) if k < 60 else ''},{np.cos(k)}" for k in range(100)]
    path.write_text("t,u,v\n" + "\n".join(rows) + "\n", "utf-8")
    data = read_measurements(path, inputs=["u"], outputs=["v"], time="t")
    assert len(data.inputs) == 60
    assert any("40 samples of v lie outside" in note for note in data.notes)


def test_irregular_inputs_are_held_on_a_grid(tmp_path):
    rng = np.random.default_rng(1)
    stamps = np.cumsum(rng.uniform(0.5, 1.5, 80))
    x, y = signals(80)
    np.savez(tmp_path / "a.npz", t=stamps, x=x, y=y)
    data = read_measurements(tmp_path / "a.npz", inputs=["x"], outputs=["y"], time="t", dt="0.25")
    grid = stamps[0] + 0.25 * np.arange(len(data.inputs))
    held = x[np.searchsorted(stamps, grid + 1e-9, side="right") - 1]
    np.testing.assert_array_equal(data.inputs[:, 0], held)
    assert any("held" in note for note in data.notes)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dt": 0.0}, "dt"),
        ({"outputs": np.zeros((5, 1))}, "rows"),
        ({"test_inputs": np.ones((5, 1))}, "both or neither"),
        ({"test_fraction": 0.9}, "test_fraction"),
        ({"test_start": "somewhere"}, "test_start"),
        ({"inputs": np.zeros((2, 3, 4))}, "shape"),
    ],
)
def test_measurements_refuse_what_cannot_be(change, words):
    x, y = signals()
    with pytest.raises(ValueError, match=words):
        Measurements(**({"inputs": x, "outputs": y, "dt": 1.0} | change))


def dated(tmp_path, form, n=60, step="15min", keep=None):
    import pandas as pd

    x, y = signals(n)
    stamps = pd.date_range("2024-03-01 08:00", periods=n, freq=step)
    rows = [
        f"{t:{form}};{a};{b}".replace(".", ",", 0) for t, a, b in zip(stamps, x, y, strict=True)
    ]
    rows = rows if keep is None else [row for row, kept in zip(rows, keep, strict=True) if kept]
    (tmp_path / "a.csv").write_text("when;x;y\n" + "\n".join(rows))
    return x, y


def read_dated(tmp_path, **options):
    return read_measurements(
        tmp_path / "a.csv", inputs=["x"], outputs=["y"], time="when", **options
    )


@pytest.mark.parametrize(
    "form", ["%d.%m.%Y %H:%M", "%d/%m/%Y %H:%M", "%m/%d/%Y %H:%M", "%Y-%m-%d %H:%M"]
)
@pytest.mark.parametrize(
    ("step", "dt", "unit"), [("15min", 15, "min"), ("6h", 6, "h"), ("1D", 1, "d")]
)
def test_a_date_is_read_as_the_column_means_it(tmp_path, form, step, dt, unit):
    # With 6h the days pass the 12th: one reading of 1/3 to 15/3 must not turn into another.
    x, _ = dated(tmp_path, form, step=step)
    data = read_dated(tmp_path)
    assert (data.dt, data.unit) == (pytest.approx(dt), unit)
    assert data.origin.startswith("2024-03-01" if step != "15min" or "/" not in form else "2024-0")
    np.testing.assert_array_equal(data.inputs[:, 0], x)


def test_days_and_months_in_both_orders_are_refused(tmp_path):
    x, y = signals(20)
    stamps = [f"{k + 1:02d}/01/2024" for k in range(19)] + ["01/20/2024"]
    rows = [f"{t},{a},{b}" for t, a, b in zip(stamps, x, y, strict=True)]
    (tmp_path / "a.csv").write_text("when,x,y\n" + "\n".join(rows))
    with pytest.raises(ValueError, match="one order"):
        read_dated(tmp_path)


def test_missing_rows_of_a_regular_record_are_gaps(tmp_path):
    keep = np.ones(60, bool)
    keep[[10, 30, 31]] = False
    x, y = dated(tmp_path, "%Y-%m-%d %H:%M", keep=keep)
    with pytest.raises(ValueError, match=r"3 missing.*rows 11, 30.*--gaps"):
        read_dated(tmp_path)
    split = read_dated(tmp_path, gaps="split")
    np.testing.assert_array_equal(np.isnan(split.inputs[:, 0]), ~keep)
    np.testing.assert_array_equal(split.outputs[keep, 0], y[keep])
    filled = read_dated(tmp_path, gaps="interpolate")
    assert filled.inputs[10, 0] == pytest.approx((x[9] + x[11]) / 2)
    held = read_dated(tmp_path, dt="15min")
    assert held.inputs[10, 0] == x[9]
    for data, word in ((split, "cut"), (filled, "interpolated"), (held, "held")):
        assert any(word in note for note in data.notes)


@pytest.mark.parametrize(
    ("head", "unit"),
    [
        ("t;x\n[s];[V]\n", "s"),
        ("t [min];x\n", "min"),
        ("time (h);x\n", "h"),
        ("t;x\n", "time unit"),
    ],
)
def test_the_unit_of_time_is_what_the_header_states(tmp_path, head, unit):
    x, y = signals(40)
    names, *below = head.splitlines()
    lines = [f"{names};y", *(f"{row};[m]" for row in below)]
    lines += [
        f"{0.5 * k};{a};{b}".replace(".", ",") for k, (a, b) in enumerate(zip(x, y, strict=True))
    ]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    data = read_measurements(
        tmp_path / "a.csv", inputs=["x"], outputs=["y"], time=names.split(";")[0]
    )
    assert (data.dt, data.unit) == (0.5, unit)
    np.testing.assert_allclose(data.inputs[:, 0], x)


def test_a_header_of_a_spreadsheet_keeps_its_degrees(tmp_path):
    x, y = signals(40)
    rows = [f"{a};{b}" for a, b in zip(x, y, strict=True)]
    (tmp_path / "a.csv").write_bytes(("Wärme [°C];y\n" + "\n".join(rows)).encode("cp1252"))
    data = read_measurements(tmp_path / "a.csv", inputs=["Wärme [°C]"], outputs=["y"], dt="1s")
    assert data.input_names == ("Wärme [°C]",)
