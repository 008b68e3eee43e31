from __future__ import annotations

import math

import pytest

from recollect.study import judge, run


def verdict_of(make_study, tmp_path, claim: str, body: str = "return {'v': float(a)}"):
    study = make_study(
        f"""
        def f(a):
            {body}
        study = Study("s", f, product(a=[1, 2, 3]), figure="2", paper="A", claims=[{claim}])
        """
    )
    run(study, tmp_path / "s.sqlite")
    return judge(study, tmp_path / "s.sqlite")[0]


@pytest.mark.parametrize(
    ("measure", "relation", "verdict"),
    [
        ("float(r.v.max())", "equal", "agrees"),
        ("float(r.v.max()) + 0.6", "equal", "disagrees"),
        ("2.0", "at_most", "agrees"),
        ("3.4", "at_most", "agrees"),
        ("3.6", "at_most", "disagrees"),
        ("3.6", "at_least", "agrees"),
        ("2.4", "at_least", "disagrees"),
        ("(3.6, 0.2)", "equal", "undecided"),
        ("(3.0, 0.1)", "equal", "agrees"),
        ("(4.0, 0.1)", "equal", "disagrees"),
        ("(3.0, float('nan'))", "equal", "undecided"),
        ("(3.0, float('inf'))", "equal", "undecided"),
        ("(4.0, -0.1)", "equal", "undecided"),
        ("None", "equal", "undecided"),
        ("float('nan')", "equal", "undecided"),
        ("r.nothing", "equal", "undecided"),
    ],
)
def test_verdicts(make_study, tmp_path, measure, relation, verdict):
    claim = f"Claim('c', lambda r: {measure}, 3, 0.5, 'half a step', {relation!r})"
    found = verdict_of(make_study, tmp_path, claim)
    assert found.verdict == verdict
    record = found.record()
    assert {
        "figure",
        "paper",
        "claim",
        "expected",
        "measured",
        "tolerance",
        "verdict",
        "seconds",
    } <= set(record)
    assert (record["figure"], record["paper"]) == ("2", "A")
    assert verdict != "undecided" or record["reason"]


@pytest.mark.parametrize(
    "body", ["return {'v': 1 / (a - 2)}", "return {'v': float('inf') if a == 2 else 1.0}"]
)
def test_nothing_is_claimed_on_incomplete_results(make_study, tmp_path, body):
    found = verdict_of(make_study, tmp_path, "Claim('c', lambda r: 1.0, 1, 0, 'exact')", body)
    assert found.verdict == "undecided"
    assert "of 3 trials 1" in found.reason


def test_an_infinite_measurement_is_null_in_the_record(make_study, tmp_path):
    found = verdict_of(
        make_study, tmp_path, "Claim('c', lambda r: float('inf'), 1, 0, 'exact', 'at_least')"
    )
    assert found.verdict == "agrees"
    assert found.measured == math.inf
    assert found.record()["measured"] is None


def test_an_error_that_is_no_number_decides_nothing(make_study, tmp_path):
    found = verdict_of(
        make_study, tmp_path, "Claim('c', lambda r: (1.0, float('nan')), 1, 0, 'exact')"
    )
    assert found.reason == "its error is not known"
    assert found.status.is_ok
    assert found.record()["measured_stderr"] is None


def test_a_claim_that_raises_has_failed(make_study, tmp_path):
    found = verdict_of(make_study, tmp_path, "Claim('c', lambda r: r.nothing, 1, 0, 'exact')")
    assert found.verdict == "undecided"
    assert found.status.code == "failed"
    assert "AttributeError: 'Dataset' object has no attribute 'nothing'" in found.status.message
    assert found.record()["status"]["code"] == "failed"
