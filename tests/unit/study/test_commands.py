from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from recollect.study._commands import study_app

BODY = """
    def f(a, b):
        if a == 9:
            raise ValueError("nine")
        return {"v": a * b, "x": float("inf")  if a == 8 else 1.0}
    study = Study("two", f, product(a=[1, 2], b=[0.5]), units={"v": "m"},
                  claims=[Claim("grows", lambda r: float(r.v.max()), 1.0, 0.1, "exact")])
"""


def call(*arguments):
    return CliRunner().invoke(study_app, [str(a) for a in arguments], catch_exceptions=True)


def test_run_status_results_export(write_study, tmp_path):
    file = write_study(BODY)
    done = call("run", file)
    assert done.exit_code == 0, done.output
    assert "two: 2 of 2 trials run" in done.output
    assert "agrees: grows (expected 1 ± 0.1, measured 1; exact)" in done.output
    assert (tmp_path / "a_study.sqlite").exists()
    assert "2 planned, 0 missing, 0 superseded, 2 ok" in call("status", file).output
    assert "a=2  b=0.5  seed=0  v=1" in call("results", tmp_path / "a_study.sqlite").output
    assert call("export", file, "--out", tmp_path / "r.csv").exit_code == 0
    again = call("export", file, "--out", tmp_path / "r.csv")
    assert isinstance(again.exception, FileExistsError)
    assert call("export", file, "--out", tmp_path / "r.csv", "--force").exit_code == 0


def test_json_is_strict_and_named(write_study):
    file = write_study(BODY.replace("[1, 2]", "[1, 8]"))

    def refuse(constant):
        raise AssertionError(constant)

    for command in ("run", "status", "results"):
        record = json.loads(call(command, file, "--json").stdout, parse_constant=refuse)
        assert {"schema", "version", "unit"} <= record.keys()
        assert record["schema"].startswith("recollect.study_")
    trial = record["trials"][1]
    assert trial["metrics"]["x"] is None
    assert trial["status"]["code"] == "not_finite"
    assert record["units"] == {"v": "m"}


def test_failed_trials_end_with_code_1(write_study):
    file = write_study(BODY.replace("[1, 2]", "[1, 9]"))
    done = call("run", file)
    assert done.exit_code == 1
    assert "1 failed" in done.output
    assert "undecided" in done.output
    said = "failed: {'a': 9, 'b': 0.5} seed 0: ValueError: nine"
    assert said in done.output
    assert f"see `recollect study status {file}`; `run --retry` runs failed" in done.output
    assert said in call("status", file).output
    assert call("run", file, "--retry").exit_code == 1


@pytest.mark.parametrize("command", ["run", "status", "results", "export"])
def test_a_ledger_of_another_study_is_refused_and_untouched(command, write_study, tmp_path):
    call("run", write_study(BODY))
    ledger = tmp_path / "a_study.sqlite"
    before = ledger.read_bytes()
    other = write_study(BODY.replace('"two"', '"three"'), "other.py")
    more = ("--out", tmp_path / "r.nc") if command == "export" else ()
    done = call(command, other, "--ledger", ledger, *more)
    assert isinstance(done.exception, ValueError)
    assert "expected one of study 'three'" in str(done.exception)
    assert "holds study 'two' (function f); give another file (--ledger)" in str(done.exception)
    assert ledger.read_bytes() == before
    assert not list(tmp_path.glob("r.*"))
    assert "2 planned, 0 missing, 0 superseded, 2 ok" in call("status", ledger).output


def test_the_same_study_may_change_grid_and_revision(write_study, tmp_path):
    call("run", write_study(BODY))
    larger = write_study(BODY.replace("[1, 2]", "[1, 2, 3]"), "larger.py")
    ledger = tmp_path / "a_study.sqlite"
    assert "1 of 3 trials run" in call("run", larger, "--ledger", ledger).output
    revised = write_study(
        BODY.replace("f, product", "revision=2, function=f, grid=product"), "r.py"
    )
    assert "2 of 2 trials run" in call("run", revised, "--ledger", ledger).output
    assert "3 superseded" in call("status", revised, "--ledger", ledger).output


def test_a_table_says_which_arrays_it_leaves_out(write_study, tmp_path):
    body = BODY.replace('{"v"', '{"n": [1.0, 2.0], "long": [0.5] * 10_000, "v"')
    file = write_study(body)
    call("run", file)
    done = call("export", file, "--out", tmp_path / "r.csv")
    assert done.stderr == "note: n, long: arrays are left out of a .csv; export to .nc for them\n"
    assert done.stdout == f"{tmp_path / 'r.csv'}\n"
    assert call("export", file, "--out", tmp_path / "r.nc").stderr == ""


def test_a_claim_that_raises_ends_with_code_1(write_study):
    done = call("run", write_study(BODY.replace("float(r.v.max())", "1 / 0")))
    assert done.exit_code == 1
    assert "undecided: grows" in done.output
    assert "ZeroDivisionError: division by zero" in done.output
    assert call("run", write_study(BODY.replace("float(r.v.max())", "None"))).exit_code == 0


@pytest.mark.parametrize("command", ["run", "status", "results"])
def test_wrong_input_raises_for_the_command_line_to_print(command, tmp_path):
    done = call(command, tmp_path / "none.py")
    assert isinstance(done.exception, FileNotFoundError)
    assert not list(tmp_path.iterdir())


def test_importing_the_commands_is_light():
    code = (
        "import sys, recollect.study._commands; "
        "print([m for m in ('jax', 'scipy', 'xarray', 'pandas', 'dask', 'matplotlib') if m in sys.modules])"
    )
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
    assert (
        time.perf_counter() - started < 10
    )  # loaded machines; the half second is measured in benchmarks
