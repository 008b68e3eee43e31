"""The page of a measured model: it stands alone, and says what the summary says."""

from __future__ import annotations

import re

import numpy as np
import pytest

from recollect import models
from recollect.cli import main
from recollect.diagnosis import measure_model
from recollect.report import model_page, write_model_page


@pytest.fixture(scope="module")
def report():
    rates = np.array([0.05, 0.5])
    return measure_model(models.DiagonalRNN(rates, np.ones((2, 1)), np.ones((1, 2))), unit="s")


def test_the_page_stands_alone(report):
    text = model_page(report)
    assert not re.search(r"(?:src|href)=\"(?!#)", text)
    assert "<script" not in text
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert not re.findall(r"#0[1-7]0[1-7]0[1-7]", text)


def test_it_says_what_was_found(report):
    text = model_page(report)
    margin = report.whole.margin
    assert f"{margin.radius:.2g} (direct, plain)" in text
    assert margin.cure in text
    assert "weights may move by" in text


def test_a_memory_cut_at_the_horizon_is_marked():
    model = models.LinearRNN([[-1e-2]], [[1.0]], [[1.0]])
    text = model_page(measure_model(model, horizon=64.0))
    assert "<b>≥ 59.6 steps" in text
    assert "horizon too short" in text


def test_it_is_written_once(report, tmp_path):
    path = tmp_path / "model.html"
    write_model_page(report, path)
    before = path.read_text("utf-8")
    assert before == model_page(report)
    with pytest.raises(ValueError, match="which exists"):
        write_model_page(report, path)
    assert path.read_text("utf-8") == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.html"]
    path.write_text("older")
    write_model_page(report, path, force=True)
    assert path.read_text("utf-8") == before
    with pytest.raises(ValueError, match="which exists"):
        write_model_page(report, tmp_path, force=True)


def test_the_command_refuses_a_page_that_exists_before_it_measures(tmp_path, capsys, monkeypatch):
    model = models.DiagonalRNN([0.1], [[1.0]], [[1.0]])
    models.save(model, tmp_path / "net")
    page = tmp_path / "page.html"
    page.write_text("mine")
    with pytest.raises(SystemExit) as exit_:
        main(["measure", str(tmp_path / "net"), "--page", str(page)])
    assert exit_.value.code != 0
    assert "which exists" in capsys.readouterr().err
    assert page.read_text() == "mine"
    with pytest.raises(SystemExit) as exit_:
        main(["measure", str(tmp_path / "net"), "--page", str(page), "--force"])
    assert exit_.value.code == 0
    assert "DiagonalRNN" in page.read_text("utf-8")
    with pytest.raises(SystemExit) as exit_:
        main(["measure", str(tmp_path / "net"), "--page", str(tmp_path / "new.html")])
    assert exit_.value.code == 0
    assert "DiagonalRNN" in (tmp_path / "new.html").read_text("utf-8")
