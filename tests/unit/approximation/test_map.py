"""The map of the curse: every count ordered, every claim of the page measured."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from recollect import approximation

_EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "curse_map.py"


@pytest.fixture(scope="module")
def small_map():
    return approximation.measure_curse_map((1.0, 0.5, 0.25), (0.3, 0.03), max_width=24)


def test_counts_are_ordered(small_map):
    m = small_map
    assert m.width.shape == (3, 2)
    assert np.all(m.width_bound_below <= m.width)
    assert np.all(m.width <= m.width_bound)
    assert np.all(m.log10_fixed_width <= m.log10_theorem_width)
    # Fixed rates are rates: no fewer units than the Hankel spectrum demands.
    assert np.all(10**m.log10_fixed_width >= m.width_bound_below - 0.5)
    assert np.all(m.stats["fit_error"] <= m.errors * (1 + 1e-12))
    assert m.status.is_ok


def test_smaller_errors_and_heavier_tails_need_more(small_map):
    for field in ("width", "width_bound", "log10_fixed_width", "log10_theorem_width"):
        values = getattr(small_map, field)
        assert np.all(np.diff(values, axis=0) >= 0)
        assert np.all(np.diff(values, axis=1) > 0)
    assert np.all(np.diff(small_map.slowest_rate, axis=0) < 0)


def test_widths_of_the_quadrature_are_those_known():
    # Measured before for ε = 0.01 with a sinc quadrature: 8, 15. A free fit needs fewer.
    m = approximation.measure_curse_map((1.0, 0.5), (0.01,), max_width=40)
    assert np.all(m.width[:, 0] <= [8, 15])
    assert np.all(m.width[:, 0] >= m.width_bound_below[:, 0])


def test_what_does_not_fit_is_said(small_map):
    m = approximation.measure_curse_map((0.125,), (0.01,), max_width=8)
    assert m.width[0, 0] == -1
    assert m.status.code == "width_beyond_rank"
    record = m.record()
    text = json.dumps(record, allow_nan=False)
    assert '"slowest_rate": [[null]]' in text
    assert record["schema"] == "recollect.curse_map"


def test_errors_above_the_norm_need_nothing():
    m = approximation.measure_curse_map((1.0,), (2.0,), max_width=2)
    assert m.width[0, 0] == 0
    assert m.width_bound_below[0, 0] == 0


@pytest.mark.parametrize(
    "bad", [((2.0,), (0.1,)), ((0.01,), (0.1,)), ((), (0.1,)), ((1.0,), (0.0,))]
)
def test_bad_input_is_refused(bad):
    with pytest.raises(ValueError, match="expected"):
        approximation.measure_curse_map(*bad)


def test_the_example_runs_and_draws(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location("curse_map_example", _EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    path = tmp_path / "map.svg"
    module.main(quick=True, out=str(path))
    assert capsys.readouterr().out.strip()
    text = path.read_text("utf-8")
    assert "Theorem 4.2" in text
    assert "stability boundary" in text
