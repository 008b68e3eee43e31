"""Newton's method for the L1 error."""

from __future__ import annotations

import numpy as np
import pytest

from recollect.approximation._grid import build_grid
from recollect.approximation._l1 import (
    Modes,
    _curvature,
    _gradients,
    _SignedError,
    modes_of,
    refine_modes,
    reweighted_sections,
)
from recollect.approximation._l2 import section_modes, sections_of

MODES = Modes(
    np.array([0.8, -0.3]), np.log([0.4, 2.0]), np.array([0.2 - 0.1j]), np.log([0.5 + 1.5j])
)


def test_modes_survive_the_round_trip():
    again = modes_of(MODES.rates(), MODES.all_amplitudes())
    lags = np.linspace(0, 5, 20)
    assert again.values(lags) == pytest.approx(MODES.values(lags), rel=1e-14)


def test_derivatives_against_differences():
    lags = np.linspace(0, 6, 40)
    slopes = _gradients(MODES, lags)
    for k in range(8):
        step = np.zeros(8)
        step[k] = 1e-6
        expected = (MODES.stepped(step).values(lags) - MODES.stepped(-step).values(lags)) / 2e-6
        assert slopes[:, k] == pytest.approx(expected, abs=1e-8)


def test_curvature_against_differences():
    grid = build_grid(lambda t: np.exp(-t)[:, None, None], norm="l1")
    at = _SignedError(grid, MODES.values)
    load = at.signs * at.weights
    found = _curvature(MODES, at)
    h = 1e-4

    def moment(step):
        return load @ MODES.stepped(step).values(at.nodes)

    for i in range(8):
        for j in range(8):
            a, b = np.zeros(8), np.zeros(8)
            a[i], b[j] = h, h
            mixed = moment(a + b) - moment(a - b) - moment(b - a) + moment(-a - b)
            assert found[i, j] == pytest.approx(mixed / (4 * h * h), abs=2e-5)


def test_single_exponential_for_a_power_law():
    """At the optimum ∫ sgn(e) e^{-wt} = ∫ sgn(e) t e^{-wt} = 0: two canonical lags."""
    grid = build_grid(
        lambda t: ((1 + t) ** -2.0)[:, None, None], norm="l1", is_completely_monotone=True
    )
    found = refine_modes(modes_of(np.array([1.0 + 0j]), np.array([0.8 + 0j])), grid)
    assert found.is_converged
    w = np.exp(found.modes.real_log_rates[0])
    z = _SignedError(grid, found.modes.values).crossings
    assert len(z) == 2
    decay = np.exp(-w * z)
    assert 1 - 2 * decay[0] + 2 * decay[1] == pytest.approx(0, abs=1e-7)
    first = (1 + w * z) * decay
    assert 1 - 2 * first[0] + 2 * first[1] == pytest.approx(0, abs=1e-7)
    assert found.error == pytest.approx(0.29097, rel=1e-4)


def test_never_worse_than_its_start():
    grid = build_grid(
        lambda t: (np.exp(-t) + np.exp(-((t - 4) ** 2) / 2))[:, None, None], norm="l1"
    )
    start = sections_of(np.array([0.4 + 0.4j, 0.4 - 0.4j, 0.3 + 1.3j, 0.3 - 1.3j]), real=False)
    reweighted = reweighted_sections(start, grid)
    rates, amplitudes = section_modes(reweighted.sections, reweighted.amplitudes)
    found = refine_modes(modes_of(rates, amplitudes[:, 0]), grid)
    assert found.error <= reweighted.cost * (1 + 1e-3)
    assert found.error == pytest.approx(0.4403, rel=2e-3)
    assert np.all(found.modes.rates().real > 0)
