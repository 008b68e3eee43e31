from __future__ import annotations

import importlib
import json
import sys
import types

import numpy as np
import pytest

from recollect.study import Claim, Study, _reproduce, product, reproduce
from recollect.study.catalogue import ENTRIES

CALLS: list[float] = []


def line(slope):
    CALLS.append(slope)
    return {"y": np.arange(3) * slope}


def build_study(*, quick):
    slopes = [1.0] if quick else [1.0, 2.0]
    claim = Claim("steep", lambda r: float(r.y.max()), 2.0, 1e-9, "exact", "at_least")
    return Study("line", line, product(slope=slopes), claims=[claim], figure="0", paper="T")


def draw(figure, results):
    figure.subplots().plot(results.y.values.T)


@pytest.fixture
def small_catalogue(monkeypatch):
    module = types.ModuleType("a_small_entry")
    module.build_study, module.draw = build_study, draw  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "a_small_entry", module)
    monkeypatch.setattr(_reproduce, "ENTRIES", {"line": "a_small_entry"})
    CALLS.clear()


def test_an_entry_leaves_figure_data_and_verdicts(small_catalogue, tmp_path):
    (done,) = reproduce(out=tmp_path, quick=True)
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


def test_unknown_names_are_refused_before_anything_is_made(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'curse-map'"):
        reproduce(["curse_map"], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


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
    (done,) = reproduce(out=tmp_path, quick=True)
    assert done.status.code == "failed"
    assert "no such variable" in done.status.message
    assert [v.verdict for v in done.verdicts] == ["agrees"]
