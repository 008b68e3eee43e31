"""Memories that rise first, and structure too small to matter."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.signal
import scipy.special

from recollect import memory
from recollect.memory._evidence import NormalEquations, maximise_evidence
from recollect.memory._law import LagInterval, _stretched
from recollect.memory._law_families import families
from recollect.memory._prior import mixture_components
from recollect.memory._sums import RunningSums


def estimate(step, *, seed, ratio=10.0, n=2000):
    rng = np.random.default_rng(seed)
    integrals = np.diff(step(np.arange(2001.0)))
    x = rng.standard_normal(n + 2000)
    y = scipy.signal.oaconvolve(x, integrals)[2000 : n + 2000]
    return memory.estimate_kernel(x[2000:], y + rng.standard_normal(n) * y.std() / ratio, dt=1.0)


@pytest.mark.parametrize(
    ("step", "law"),
    [
        (lambda t: scipy.special.gammainc(2.0, t / 20), "exponential"),
        (lambda t: -np.expm1(-np.maximum(t - 6, 0) / 30), "exponential"),
        (lambda t: -np.expm1(-np.maximum(t - 60, 0) / 15), "delayed"),
    ],
    ids=["two tanks", "dead time", "delay"],
)
def test_the_law_is_that_of_the_tail(step, law):
    found = memory.estimate_law(estimate(step, seed=1), record=2000.0)
    assert found.law == law
    t95 = np.interp(0.95, step(np.arange(2000.0)), np.arange(2000.0))
    assert found.t95.value == pytest.approx(t95, rel=0.1)


@pytest.mark.parametrize("shape", families(500.0, 2000.0), ids=lambda shape: shape.name)
def test_a_step_response_is_the_integral_of_its_density(shape):
    rng = np.random.default_rng(0)
    theta = shape.low + rng.random((40, shape.n_parameters)) * (shape.high - shape.low)
    # smooth draws only: a delay or a rate within the first steps needs a finer grid
    times = np.linspace(50.0, 60.0, 4001)
    density = shape.density(theta, 0.5 * (times[1:] + times[:-1]))
    grown = np.diff(shape.step(theta, times), axis=-1) / np.diff(times)
    usable = np.isfinite(density).all(axis=(1, 2)) & np.isfinite(grown).all(axis=(1, 2))
    if shape.delay is not None:
        usable &= np.abs(np.exp(theta[:, shape.delay]) - 55) > 6
        usable &= (theta[:, 1] > 0) | (shape.name != "delayed bump")
    if usable.any() and shape.n_linear:
        np.testing.assert_allclose(grown[usable], density[usable], rtol=2e-3, atol=1e-6)


def test_intervals_are_stretched_about_their_value():
    span = _stretched(LagInterval(10.0, 5.0, 40.0, 0.9), 1.5)
    assert span.lower == pytest.approx(10 * 0.5**1.5)
    assert span.upper == pytest.approx(10 * 4**1.5)
    zero = LagInterval(0.0, 0.0, 0.0, 0.9)
    assert _stretched(zero, 2.0) == zero


def test_both_forms_of_the_evidence_agree(monkeypatch):
    rng = np.random.default_rng(2)
    rows = rng.standard_normal((500, 40)) @ np.diag(np.geomspace(1, 20, 40))
    y = rows @ (np.exp(-np.arange(40) / 10) / np.geomspace(1, 20, 40)) + rng.standard_normal(500)
    equations = NormalEquations(rows.T @ rows, rows.T @ y, float(y @ y), 500)
    components = mixture_components(np.arange(41))
    monkeypatch.setattr("recollect.memory._evidence._FEWEST_BLOCKED", 10)
    fast = maximise_evidence(equations, components, max_iterations=25)
    monkeypatch.setattr("recollect.memory._evidence._safe_inverse", lambda gram, n: None)
    monkeypatch.setattr("recollect.memory._evidence._FEWEST_BLOCKED", 1000)
    slow = maximise_evidence(equations, components, max_iterations=25)
    assert fast.log_evidence == pytest.approx(slow.log_evidence, rel=1e-7)
    np.testing.assert_allclose(fast.mean, slow.mean, atol=1e-4 * np.abs(slow.mean).max())
    np.testing.assert_allclose(
        np.diag(fast.covariance), np.diag(slow.covariance), atol=1e-4 * slow.covariance.max()
    )


def test_rows_are_combined_without_being_made():
    rng = np.random.default_rng(3)
    sums = RunningSums(40, np.array([2.0, 20.0]), 2)
    for _ in range(3):
        sums.add(rng.standard_normal((100, 2)), rng.standard_normal(100))
    edges = np.array([0, 1, 2, 5, 11, 40])
    direction = rng.standard_normal(2 * 5 + sums.n_extra)
    numbers = np.arange(40)
    np.testing.assert_allclose(
        sums.combine(numbers, edges, direction), sums.rows(numbers, edges) @ direction, atol=1e-12
    )


def test_long_even_records_are_whitened_by_their_sums(monkeypatch):
    from recollect.memory import _rows
    from recollect.memory._records import read_records

    rng = np.random.default_rng(4)
    x = rng.standard_normal((_rows._FEWEST_SUMMED + 10, 1))
    y = scipy.signal.lfilter([1], [1, -0.8], x[:, 0])[:, None]
    records = read_records(x, y + 0.1, None, dt=1.0, owner="test")
    data = _rows.ExplicitRows(records, 0, np.zeros(1), np.array([1.0, 7.0, 50.0]))
    edges = np.array([0, 1, 2, 3, 5, 8, 20])
    for correlation in (0.0, 4.0):
        summed = data.equations(edges, correlation)
        monkeypatch.setattr(_rows.ExplicitRows, "_is_even", property(lambda self: False))
        direct = data.equations(edges, correlation)
        monkeypatch.undo()
        np.testing.assert_allclose(summed.gram, direct.gram, rtol=1e-9, atol=1e-7)
        np.testing.assert_allclose(summed.cross, direct.cross, rtol=1e-9, atol=1e-7)
        assert summed.log_jacobian == pytest.approx(direct.log_jacobian, rel=1e-10)
        assert summed.n_samples == direct.n_samples
