"""`recollect budget`: one screen, one JSON object, plain refusals."""

from __future__ import annotations

import json

import pytest

from recollect import cli

ASKED = ["budget", "--risk", "0.1", "--samples", "4", "--length", "3", "--nu", "1"]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    from recollect.diagnosis import _budget_command

    monkeypatch.setattr(_budget_command, "_LARGEST_WIDTH", 64)
    monkeypatch.setattr(_budget_command, "_LARGEST_STEPS", 60)


def run(arguments, capsys):
    with pytest.raises(SystemExit) as done:
        cli.main(arguments)
    captured = capsys.readouterr()
    return done.value.code, captured.out, captured.err


def test_json_holds_the_promised_keys(capsys):
    code, out, _ = run([*ASKED, "--json"], capsys)
    record = json.loads(out)
    assert code == 0
    assert (record["schema"], record["version"], record["unit"]) == ("recollect.budget", 1, "1")
    for key in ("width", "steps", "learning_rate", "bound", "measured", "vacuous", "status"):
        assert key in record
    assert record["guaranteed_risk"] <= 0.1
    assert record["measured"] <= record["bound"]
    assert record["vacuous"] == (record["bound"] >= record["initial_risk"] * (1 - 1e-9))
    # A guarantee that the answer zero already keeps is said to be one.
    assert record["guarantee_vacuous"] == (record["initial_risk"] <= 0.1)
    assert record["run"]["paper_learning_rate"] == pytest.approx(1 / (3 * 60**0.5))
    assert record["measured"] <= record["run"]["paper_bound"]


def test_text_fits_one_screen_and_shows_the_risk_of_zero(capsys):
    code, out, _ = run(ASKED, capsys)
    assert code == 0
    assert len(out.splitlines()) <= 24
    assert "risk of the answer zero" in out
    assert "bound / measured" in out
    assert "with C's step and rate" in out
    assert "smaller problem" not in out


def test_a_smaller_problem_than_was_asked_for_is_said_to_be_one(monkeypatch):
    from recollect.diagnosis import _budget_command

    monkeypatch.setattr(_budget_command, "_LARGEST_SAMPLES", 2)
    report = _budget_command.plan_budget(risk=0.1, n_samples=4, horizon=3, nu=1.0)
    note = "note: 4 sequences of 3 samples would take too long here: the run and its bound are"
    assert note in "\n".join(report.summary())
    assert "2 sequences of 3 samples" in "\n".join(report.summary())
    record = report.record()
    assert (record["samples"], record["length"], record["run"]["samples"]) == (4, 3, 2)


def test_no_budget_beyond_the_cutoff_is_null(capsys):
    long = [*ASKED[:5], "--length", "2000", "--nu", "1", "--alpha", "3", "--json"]
    from recollect.diagnosis import _budget_command

    _budget_command._LARGEST_HORIZON = 4
    code, out, _ = run(long, capsys)
    record = json.loads(out)
    assert code == 0
    assert record["width"] is None
    assert record["status"]["code"] == "infinite"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--risk", "-1"], "--risk: expected a positive finite number"),
        (["--delta", "2"], "--delta: expected a number between 0 and 1"),
        (["--method", "adam"], "--method: expected one of"),
    ],
)
def test_wrong_numbers_are_refused_in_one_line(change, words, capsys):
    code, out, err = run([*ASKED, *change], capsys)
    assert code == 2
    assert out == ""
    assert words in err
    assert len(err.splitlines()) == 1
