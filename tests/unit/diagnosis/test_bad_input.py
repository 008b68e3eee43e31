"""Bad input: one clear line, exit code 2, nothing written."""

from __future__ import annotations

import json
import os
import pathlib

import numpy as np
import pytest

from recollect import cli


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    time = np.arange(200)
    x = rng.standard_normal(200)
    y = np.convolve(x, np.exp(-time / 5))[:200]
    table = np.column_stack([time, x, y])
    np.savetxt("good.csv", table, delimiter=",", header="time,pump,level", comments="")
    return tmp_path


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as done:
        cli.main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return done.value.code, captured.out, captured.err


def refused(capsys, folder, *arguments, saying=()):
    before = sorted(folder.rglob("*"))
    code, out, err = run(capsys, *arguments)
    assert code == 2, err
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    for words in saying:
        assert words in err
    assert sorted(folder.rglob("*")) == before
    return err


def rows(folder, name, edit):
    lines = (folder / "good.csv").read_text().splitlines()
    edit(lines)
    (folder / name).write_text("\n".join(lines) + "\n")


GOOD = ("--input", "pump", "--output", "level", "--dt", "4s")


def test_a_misspelt_column_gets_a_suggestion(capsys, folder):
    refused(
        capsys,
        folder,
        "diagnose",
        "good.csv",
        "--input",
        "pumpe",
        "--output",
        "level",
        "--dt",
        "4s",
        saying=["'pumpe'", "did you mean 'pump'?"],
    )


def test_a_missing_column_lists_what_there_is(capsys, folder):
    refused(
        capsys,
        folder,
        "diagnose",
        "good.csv",
        "--input",
        "voltage",
        "--output",
        "level",
        saying=["time, pump, level"],
    )


def test_a_missing_file_gets_a_suggestion(capsys, folder):
    refused(capsys, folder, "diagnose", "god.csv", *GOOD, saying=["did you mean 'good.csv'?"])


@pytest.mark.parametrize(
    ("cell", "saying"),
    [
        ("broken", ["'broken'", "row 12", "--gaps"]),
        ("", ["row 12", "--gaps interpolate"]),
        ("nan", ["row 12", "--gaps split"]),
        ("inf", ["infinity", "row 12"]),
        ("-1e999", ["infinity", "row 12"]),
    ],
)
def test_a_bad_cell_is_named_by_its_row(capsys, folder, cell, saying):
    def edit(lines):
        first, _, last = lines[11].split(",")
        lines[11] = f"{first},{cell},{last}"

    rows(folder, "bad.csv", edit)
    refused(capsys, folder, "diagnose", "bad.csv", *GOOD, saying=[*saying, "'pump'"])


@pytest.mark.parametrize(("place", "word"), [(1, "input 'pump'"), (2, "output 'level'")])
def test_a_constant_signal_is_refused(capsys, folder, place, word):
    def edit(lines):
        for i in range(1, len(lines)):
            cells = lines[i].split(",")
            cells[place] = "3.5"
            lines[i] = ",".join(cells)

    rows(folder, "flat.csv", edit)
    refused(capsys, folder, "diagnose", "flat.csv", *GOOD, saying=[word, "constant 3.5"])


def test_too_few_samples(capsys, folder):
    rows(folder, "short.csv", lambda lines: lines.__delitem__(slice(9, None)))
    refused(capsys, folder, "diagnose", "short.csv", *GOOD, saying=["at least 16"])


@pytest.mark.parametrize(
    ("edit", "saying"),
    [
        (lambda lines: lines.insert(20, lines.pop(30)), ["backwards", "row 22"]),
        (lambda lines: lines.insert(20, lines[20]), ["twice", "row 22"]),
        (
            lambda lines: lines.__setitem__(-1, "," + lines[-1].split(",", 1)[1]),
            ["one for each of its 200 rows", "got 199"],
        ),
    ],
)
def test_time_must_increase(capsys, folder, edit, saying):
    rows(folder, "time.csv", edit)
    refused(
        capsys,
        folder,
        "diagnose",
        "time.csv",
        "--input",
        "pump",
        "--output",
        "level",
        "--time",
        "time",
        saying=saying,
    )


@pytest.mark.parametrize("dt", ["4 parsecs", "zero", "-4s", "0s", "nan", "4s4s"])
def test_an_unreadable_step(capsys, folder, dt):
    arguments = ("--input", "pump", "--output", "level", f"--dt={dt}")
    refused(capsys, folder, "diagnose", "good.csv", *arguments, saying=["--dt"])


@pytest.mark.parametrize(
    ("content", "saying"),
    [
        (b"", ["empty"]),
        (b"\x7fELF\x00\x01\x02\x00binary", ["binary"]),
        (b"time,pump,level\n", ["single row"]),
        (b"1,2,3\n4,5,6\n", ["column names"]),
        (b"a,a\n1,2\n3,4\n", ["twice"]),
        (b"PK\x03\x04 not an archive", ["NPZ"]),
        (b"PAR1 not parquet", ["Parquet"]),
    ],
)
def test_an_unreadable_file(capsys, folder, content, saying):
    (folder / "odd.csv").write_bytes(content)
    refused(capsys, folder, "diagnose", "odd.csv", *GOOD, saying=saying)


def test_a_huge_file_is_not_read(capsys, folder):
    with open(folder / "huge.csv", "wb") as stream:
        stream.write(b"pump,level\n1,2\n")
        stream.truncate(5 * 2**30)
    refused(capsys, folder, "diagnose", "huge.csv", *GOOD, saying=["4 GiB"])


def test_a_directory_is_not_a_table(capsys, folder):
    refused(capsys, folder, "diagnose", folder, *GOOD, saying=["directory"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_cannot_be_written(capsys, folder):
    locked = folder / "locked"
    locked.mkdir(mode=0o500)
    refused(capsys, folder, "diagnose", "good.csv", *GOOD, "--out", locked / "report")


def test_a_file_stands_where_the_report_should_go(capsys, folder):
    refused(
        capsys,
        folder,
        "diagnose",
        "good.csv",
        *GOOD,
        "--out",
        "good.csv",
        "--force",
        saying=["--out"],
    )


def test_an_earlier_result_is_never_overwritten(capsys, folder):
    (folder / "kept").mkdir()
    (folder / "kept" / "diagnosis.json").write_text("{}")
    refused(capsys, folder, "diagnose", "good.csv", *GOOD, "--out", "kept", saying=["--force"])
    assert (folder / "kept" / "diagnosis.json").read_text() == "{}"


def test_force_does_not_destroy_what_is_not_ours(capsys, folder):
    (folder / "thesis").mkdir()
    (folder / "thesis" / "chapter.txt").write_text("precious")
    refused(
        capsys,
        folder,
        "diagnose",
        "good.csv",
        *GOOD,
        "--out",
        "thesis",
        "--force",
        saying=["other files"],
    )


def test_the_same_column_twice(capsys, folder):
    refused(
        capsys,
        folder,
        "diagnose",
        "good.csv",
        "--input",
        "pump",
        "--output",
        "pump",
        saying=["'pump'"],
    )


def test_half_a_test_record(capsys, folder):
    refused(
        capsys,
        folder,
        "diagnose",
        "good.csv",
        *GOOD,
        "--test-input",
        "pump",
        saying=["both or neither"],
    )


@pytest.mark.parametrize(
    ("arguments", "saying"),
    [
        (("fit", "1+t", "--width", 4), ["decay"]),
        (("fit", "1/(1+t)", "--width", 4), ["l1"]),
        (("fit", "__import__('os').system('ls')", "--width", 4), []),
        (("fit", "open('good.csv')", "--width", 4), ["open"]),
        (("fit", "exp(-t", "--width", 4), []),
        (("fit", "exp(-t)"), ["--width, --error"]),
        (("fit", "exp(-t)", "--width", 4, "--error", 0.1), ["exactly one"]),
        (("fit", "exp(-t)", "--width", 0), ["width"]),
        (("fit", "exp(-t)", "--width", 4, "--norm", "l7"), ["norm"]),
        (("fit", "good.csv:level", "--width", 4), []),
        (("fit", "god.csv", "--width", 4), ["did you mean 'good.csv'?"]),
        (("fit", "cos(2t)*exp(-t)", "--width", 4), ["2*t"]),
        (("fit", "exp(-t)", "--width", 4, "--value", "k"), ["--lag, --value", "a file"]),
        (("fit", "-exp(-t)", "--width", 4), ["comes last, after --"]),
        (("fit", "+".join(["exp(-t)"] * 60)), ["--width, --error", "neither"]),
        (("measure", "m" * 300), ["module:attribute"]),
        (("diagnose", "good.csv"), ["--input", "time, pump, level"]),
        (("diagnose", "good.csv", "--input", "pump"), ["--output", "time, pump, level"]),
        (("diagnoze", "good.csv"), []),
        (("diagnose", "good.csv", *GOOD, "--inptu", "pump"), ["--inptu"]),
    ],
)
def test_command_lines_that_cannot_be_meant(capsys, folder, arguments, saying):
    refused(capsys, folder, *arguments, saying=saying)


@pytest.mark.parametrize("arguments", [(), ("study",)])
def test_a_command_alone_shows_its_commands(capsys, arguments):
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert err.startswith("Usage: ")
    assert "..." not in err.split("Commands:")[1], "a sentence is cut off"


def test_a_column_named_without_its_unit_gets_a_suggestion(capsys, folder):
    rows(folder, "units.csv", lambda lines: lines.__setitem__(0, "time,pump [m3/h],level"))
    words = ["did you mean 'pump [m3/h]'?"]
    refused(capsys, folder, "diagnose", "units.csv", *GOOD, saying=words)


def test_a_cell_of_text_is_quoted_as_it_stands(capsys, folder):
    rows(folder, "text.csv", lambda lines: lines.__setitem__(3, "2,broken,1"))
    err = refused(capsys, folder, "diagnose", "text.csv", *GOOD, saying=["got 'broken' (row 4)"])
    assert "np." not in err


def test_a_file_of_models_asks_for_the_model(capsys, folder):
    (folder / "nets.py").write_text("network = 1\n")
    refused(capsys, folder, "measure", "nets.py", saying=["nets.py:name"])


def test_a_fit_is_saved_as_a_model_and_replaces_none(capsys, folder, monkeypatch):
    import recollect

    arguments = ("fit", "exp(-t)", "--width", "1", "--out", "net")
    code, out, err = run(capsys, *arguments)
    assert code == 0, err
    assert "network: net.safetensors\n" in out
    assert "in l1, integral of its size over all lags;" in out
    network = recollect.load(folder / "net")
    np.testing.assert_allclose(np.ravel(network.kernel(np.array([1.0]))), np.exp(-1), rtol=1e-6)
    code, out, err = run(capsys, *arguments, "--force", "--json")
    assert json.loads(out)["file"] == "net.safetensors"

    from recollect.diagnosis import _fit_command

    monkeypatch.setattr(_fit_command, "fit_text", lambda *_, **__: pytest.fail("fitted first"))
    (folder / "net.json").unlink()
    refused(capsys, folder, *arguments, saying=["--out", "net.safetensors", "--force"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--norm", "l1"), "in l1, mean over the 9 samples;"),
        (("--norm", "l2"), "in l2, root mean square over the 9 samples;"),
        (("--weights", "relative"), "in l1, relative, mean over the 9 samples;"),
    ],
)
def test_a_fit_says_what_its_error_is(capsys, folder, options, words):
    lags = np.arange(9.0)
    np.savetxt("kernel.csv", np.c_[lags, 2 + np.exp(-lags), lags], delimiter=",", header="t,k,no")
    arguments = ("fit", "kernel.csv", "--width", "1", "--constant", *options)
    refused(capsys, folder, *arguments, saying=["got 3 (t, k, no)", "--value NAME"])
    np.savetxt("kernel.csv", np.c_[lags, 2 + np.exp(-lags)], delimiter=",")
    code, out, err = run(capsys, *arguments)
    assert code == 0, err
    assert words in out
    constant = next(line for line in out.splitlines() if "constant" in line)
    assert float(constant.split()[1]) == pytest.approx(2)
    code, out, err = run(capsys, *arguments, "--json")
    assert f"in {json.loads(out)['norm']}, {json.loads(out)['error_is']};".endswith(words)


def test_an_existing_table_is_refused_before_the_fit(capsys, folder, monkeypatch):
    from recollect.diagnosis import _fit_command

    monkeypatch.setattr(_fit_command, "fit_text", lambda *_, **__: pytest.fail("fitted first"))
    arguments = ("fit", "exp(-t)", "--width", "1", "--table", "good.csv")
    refused(capsys, folder, *arguments, saying=["--table", "which exists"])


def test_a_fit_is_shown_even_if_it_makes_no_table(capsys, folder):
    code, out, err = run(
        capsys, "fit", "exp(-t)-0.5*exp(-2*t)", "--width", "2", "--table", "prony.csv"
    )
    assert code == 2
    assert out.startswith("width:")
    assert "--table: expected positive amplitudes" in err
    assert "--positive" in err
    assert not (folder / "prony.csv").exists()


def test_an_expression_may_be_longer_than_a_file_name(capsys, folder):
    code, out, err = run(capsys, "fit", "+".join(["exp(-t)"] * 60), "--width", "1")
    assert code == 0, err
    assert out.startswith("width:   1")


def test_a_directory_that_cannot_be_replaced_comes_back(folder, monkeypatch):
    from recollect.diagnosis import _outputs

    kept = folder / "kept"
    kept.mkdir()
    (kept / "diagnosis.json").write_text("{}")
    replace = os.replace

    def refuse(source, target):
        if pathlib.Path(target) == kept and "-old-" not in str(source):
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(_outputs.os, "replace", refuse)
    before = sorted(folder.iterdir())
    with pytest.raises(OSError, match="No space"), _outputs.whole_directory(kept, force=True):
        pass
    assert (kept / "diagnosis.json").read_text() == "{}"
    assert sorted(folder.iterdir()) == before


def test_a_place_where_nobody_can_write_is_refused_at_once(capsys, folder, monkeypatch):
    from recollect.diagnosis import _outputs

    def refuse(**_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(_outputs.tempfile, "mkdtemp", refuse)
    refused(capsys, folder, "diagnose", "good.csv", *GOOD, saying=["--out", "can be written"])


@pytest.mark.parametrize(
    ("raised", "code", "words"),
    [
        (KeyboardInterrupt(), 130, "error: interrupted; results already written are kept"),
        (OSError(28, "No space left on device"), 2, "the system refused: No space left on device"),
        (
            OSError(13, "Permission denied", "a.csv"),
            2,
            "the system refused: Permission denied ('a.csv')",
        ),
        (np.linalg.LinAlgError("Singular matrix"), 1, "error: Singular matrix"),
    ],
)
def test_what_stops_a_command_is_said_in_one_line(capsys, folder, monkeypatch, raised, code, words):
    from recollect.diagnosis import _table

    def stop(_):
        raise raised

    monkeypatch.setattr(_table, "require_file", stop)
    found, out, err = run(capsys, "diagnose", "good.csv", *GOOD)
    assert (found, out) == (code, "")
    assert err.count("\n") == 1
    assert words in err
