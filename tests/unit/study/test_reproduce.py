from __future__ import annotations

import dataclasses
import importlib
import json
import sys
import types

import numpy as np
import pytest

from recollect.study import (
    Claim,
    Ledger,
    Study,
    _reproduce,
    product,
    read_reproductions,
    reproduce,
)
from recollect.study.catalogue import ENTRIES, QUICK_SECONDS

CALLS: list[float] = []
STOPS: set[float] = set()


def line(slope):
    if slope in STOPS:
        raise KeyboardInterrupt
    CALLS.append(slope)
    return {"y": np.arange(3) * slope}


def build_study(*, quick):
    slopes = [1.0] if quick else [1.0, 2.0]
    claim = Claim("steep", lambda r: float(r.y.max()), 2.0, 1e-9, "exact", "at_least")
    return Study("line", line, product(slope=slopes), claims=(claim,), figure="0", paper="T")


def draw(figure, results):
    figure.subplots().plot(results.y.values.T)


@pytest.fixture
def small_catalogue(monkeypatch):
    module = types.ModuleType("a_small_entry")
    module.build_study, module.draw = build_study, draw  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "a_small_entry", module)
    entries = {"line": "a_small_entry", "another": "a_small_entry"}
    monkeypatch.setattr(_reproduce, "ENTRIES", entries)
    CALLS.clear()


def test_an_entry_leaves_figure_data_and_verdicts(small_catalogue, tmp_path):
    (done,) = reproduce(["line"], out=tmp_path, quick=True)
    assert [v.verdict for v in done.verdicts] == ["agrees"]
    names = {p.name for p in (tmp_path / "line").iterdir()}
    assert names == {"ledger.sqlite", "data.nc", "data.csv", "figure.svg"}
    record = json.loads((tmp_path / "verdicts.json").read_text())
    assert record["schema"] == "recollect.verdicts"
    (verdict,) = record["verdicts"]
    wanted = {"figure", "paper", "claim", "expected", "measured", "tolerance", "verdict", "seconds"}
    assert wanted <= verdict.keys()
    before = (tmp_path / "line" / "figure.svg").read_bytes()
    reproduce(["line"], out=tmp_path, quick=True)
    assert CALLS == [1.0]
    assert (tmp_path / "line" / "figure.svg").read_bytes() == before
    # The full grid runs what quick left out.
    reproduce(["line"], out=tmp_path)
    assert CALLS == [1.0, 2.0]


def test_the_budgets_of_all_entries_add_up_to_less_than_ten_minutes_on_two_cores():
    assert len(ENTRIES) * QUICK_SECONDS / 2 < 600


def test_unknown_names_are_refused_before_anything_is_made(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'curse-map'"):
        reproduce(["curse_map"], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scheduler": "foo"}, "scheduler: expected an address"),
        ({"scheduler": "tcp://x:1", "n_workers": 1}, "either n_workers or scheduler"),
        ({"n_workers": -1}, "n_workers"),
    ],
)
def test_executors_that_cannot_be_used_are_refused_once(small_catalogue, tmp_path, options, words):
    with pytest.raises(ValueError, match=words):
        reproduce(out=tmp_path / "out", quick=True, **options)
    assert not (tmp_path / "out").exists()


def test_a_claim_that_cannot_be_computed_fails_its_entry_alone(
    small_catalogue, tmp_path, monkeypatch
):
    def build_broken(*, quick):
        broken = Claim("steep", lambda r: r.nothing, 2.0, 0, "exact")
        return dataclasses.replace(build_study(quick=quick), claims=(broken,))

    another = types.ModuleType("another")
    another.build_study, another.draw = build_broken, draw  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "another", another)
    monkeypatch.setitem(_reproduce.ENTRIES, "another", "another")
    good, bad = reproduce(out=tmp_path, quick=True)
    assert good.status.is_ok
    assert bad.status.code == "failed"
    assert "a claim cannot be computed: AttributeError" in bad.status.message
    assert (tmp_path / "another" / "figure.svg").exists()


@pytest.mark.parametrize("name", ENTRIES)
@pytest.mark.parametrize("quick", [True, False])
def test_every_entry_builds(name, quick):
    entry = importlib.import_module(ENTRIES[name])
    study = entry.build_study(quick=quick)
    assert study.name == name
    assert study.claims
    assert study.paper
    assert study.figure
    assert callable(entry.draw)


@pytest.mark.slow
@pytest.mark.parametrize("name", ENTRIES)
def test_the_claims_hold(name, tmp_path):
    (done,) = reproduce([name], out=tmp_path, quick=True)
    assert done.status.is_ok, done.status
    for claim, verdict in zip(done.study.claims, done.verdicts, strict=True):
        assert verdict.verdict == ("disagrees" if claim.refuted else "agrees"), verdict


def test_a_figure_that_cannot_be_drawn_does_not_stop_the_rest(
    small_catalogue, tmp_path, monkeypatch
):
    def fail(figure, results):
        raise KeyError("no such variable")

    monkeypatch.setattr(sys.modules["a_small_entry"], "draw", fail)
    done, other = reproduce(out=tmp_path, quick=True)
    assert done.status.code == other.status.code == "failed"
    assert "no such variable" in done.status.message
    assert [v.verdict for v in done.verdicts] == ["agrees"]


def test_naming_an_entry_keeps_what_is_known_of_the_others(small_catalogue, tmp_path):
    reproduce(out=tmp_path)
    (again,) = reproduce(["another"], out=tmp_path, quick=True)
    assert again.name == "another"
    kept = read_reproductions(tmp_path, fresh=[again])
    assert [(entry.name, entry.quick) for entry in kept] == [("line", False), ("another", True)]
    assert kept[1] is again
    assert [v.verdict for entry in kept for v in entry.verdicts] == ["agrees", "agrees"]
    record = json.loads((tmp_path / "verdicts.json").read_text())
    found = [(verdict["entry"], verdict["quick"]) for verdict in record["verdicts"]]
    assert found == [("line", False), ("another", True)]


def test_an_entry_that_stopped_halfway_is_read_as_undecided(small_catalogue, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "STOPS", {2.0})
    reproduce(["line"], out=tmp_path, quick=True)
    with pytest.raises(KeyboardInterrupt):
        reproduce(["line"], out=tmp_path)
    (kept,) = read_reproductions(tmp_path)
    assert not kept.quick
    (verdict,) = kept.verdicts
    assert verdict.verdict == "undecided"
    assert verdict.reason == "of 2 trials 1 missing"


@pytest.mark.parametrize("trouble", ["damaged", "taken"])
def test_an_entry_whose_ledger_cannot_be_used_does_not_stop_the_rest(
    small_catalogue, tmp_path, trouble
):
    reproduce(["line"], out=tmp_path, quick=True)
    ledger = tmp_path / "line" / "ledger.sqlite"
    if trouble == "damaged":
        ledger.write_bytes(b"no ledger")
        bad, good = reproduce(out=tmp_path, quick=True)
        assert ledger.read_bytes() == b"no ledger"
    else:
        with Ledger(ledger) as other:
            other.acquire()
            bad, good = reproduce(out=tmp_path, quick=True)
    assert bad.status.code == "failed"
    assert [v.verdict for v in bad.verdicts] == ["undecided"]
    assert good.status.is_ok
    assert [v.verdict for v in good.verdicts] == ["agrees"]


def test_what_a_folder_holds_is_read_without_what_cannot_be_judged(small_catalogue, tmp_path):
    assert read_reproductions(tmp_path) == ()
    reproduce(out=tmp_path, quick=True)
    (tmp_path / "line" / "ledger.sqlite").write_bytes(b"no ledger")
    with pytest.warns(UserWarning, match="line is left out: expected a ledger"):
        (kept,) = read_reproductions(tmp_path)
    assert kept.name == "another"
