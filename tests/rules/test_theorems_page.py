"""The page of theorems is complete: every proved function has a row, every row tests that exist."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "theorems.md"
N_CLAIMS = 68
ROOMS = ("memory", "approximation", "training", "stability", "convergence")


def rows():
    lines = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| ")]
    cells = [[c.strip() for c in line.strip("|").split(" | ")] for line in lines]
    return [row for row in cells if row[0] != "claim"]


def test_every_proved_function_has_a_row():
    named = {name for row in rows() for name in re.findall(r"`([a-z_.]+)`", row[2])}
    missing = []
    for room in ROOMS:
        names = getattr(importlib.import_module(f"recollect.{room}"), "__all__", ())
        proved = [n for n in names if n.startswith(("bound_", "predict_"))]
        missing += [f"{room}.{n}" for n in proved if f"{room}.{n}" not in named]
    assert not missing, f"docs/theorems.md has no row for {', '.join(missing)}"


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0][:60])
def test_every_row_names_a_function_and_a_test_that_exist(row):
    assert len(row) == 5, "claim, assumptions, function, test, source"
    for name in re.findall(r"`([\w.]+)`", row[2]):
        room, _, attribute = name.partition(".")
        found = importlib.import_module(f"recollect.{room}")
        for part in attribute.split("."):
            found = getattr(found, part)
    places = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row[3])
    assert places, f"no test in {row[3]!r}"
    for path, test in places:
        source = (ROOT / path).read_text("utf-8")
        assert re.search(rf"def {test}\(", source), f"{path} has no {test}"


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0][:60])
def test_every_row_that_assumes_something_has_a_control(row):
    claim, assumptions, _, _, source = row
    if assumptions not in ("–", ""):
        assert "; control: " in claim, "say what becomes of the claim where the assumption fails"
    assert assumptions, "a dash where nothing is assumed"
    assert claim[0] == claim[0].upper(), "claims are sentences"
    assert source


def test_no_claim_is_lost():
    # A function may have several rows: the count sees what the names above cannot.
    assert len(rows()) >= N_CLAIMS
