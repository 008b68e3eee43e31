"""Errors on the grid the fit never saw."""

from __future__ import annotations

import numpy as np
import pytest

from recollect.approximation._errors import measure_deviation
from recollect.approximation._grid import build_grid
from recollect.approximation._problem import evaluate_sum


def deviation(kernel, rates, amplitudes, **options):
    grid = build_grid(kernel, norm="l1", **options)
    rates = np.asarray(rates, complex)
    amplitudes = np.asarray(amplitudes, complex)[:, None, None]
    return grid, measure_deviation(
        grid, lambda t: evaluate_sum(rates, amplitudes, t), rates=rates, amplitudes=amplitudes
    )


def test_two_exponentials_in_closed_form():
    """e^-t - e^-3t/2 has no change of sign; e^-t - 2 e^-3t has one, at log(2)/2."""
    _, found = deviation(lambda t: np.exp(-t)[:, None, None], [3.0], [2.0])
    z = np.log(2) / 2
    area = lambda t: -np.exp(-t) + 2 * np.exp(-3 * t) / 3  # noqa: E731
    assert found.l1 == pytest.approx((0 - area(z)) - (area(z) - area(0)), rel=1e-12)
    assert found.l2 == pytest.approx(np.sqrt(1 / 2 - 4 / 4 + 4 / 6), rel=1e-12)
    assert found.linf == pytest.approx(1.0, rel=1e-12)
    assert found.crossings == pytest.approx([z], rel=1e-12)


def test_the_largest_error_between_nodes_is_found():
    _, found = deviation(lambda t: (t * np.exp(-t))[:, None, None], [1.0], [1e-30])
    assert found.linf == pytest.approx(np.exp(-1), rel=1e-6)


def test_a_slow_rate_cannot_hide_beyond_the_grid():
    grid, found = deviation(lambda t: np.exp(-t)[:, None, None], [1.0, 1e-9], [1.0, 1e-6])
    assert grid.check_nodes[-1] < 1e9
    assert found.l1 == pytest.approx(1e-6 / 1e-9, rel=1e-6)
    assert found.l2 == pytest.approx(1e-6 / np.sqrt(2e-9), rel=1e-6)


def test_a_heavy_tail_is_counted_to_its_end():
    _, found = deviation(lambda t: ((1 + t) ** -1.1)[:, None, None], [1.0], [1e-30])
    assert found.l1 == pytest.approx(10.0, rel=1e-9)
    assert found.l2 == pytest.approx(1.2**-0.5, rel=1e-9)


def test_a_jump_shows_both_sides():
    _, found = deviation(
        lambda t: ((t >= 1) & (t < 2)).astype(float)[:, None, None],
        [1.0],
        [1.0],
        support=2.0,
        breakpoints=(1.0, 2.0),
    )
    assert found.linf == pytest.approx(1.0, rel=1e-9)
    expected = (1 - np.exp(-1)) + (1 - np.exp(-1) + np.exp(-2)) + np.exp(-2)
    assert found.l1 == pytest.approx(expected, rel=1e-10)


def test_the_norm_of_a_matrix_kernel_takes_the_worst_output():
    rows = np.array([[1.0, -2.0], [0.5, 0.5]])
    _, found = deviation_matrix(lambda t: np.exp(-t)[:, None, None] * rows)
    assert found.l1 == pytest.approx(3.0, rel=1e-12)
    assert found.linf == pytest.approx(3.0, rel=1e-12)
    assert found.l2 == pytest.approx(np.sqrt((rows**2).sum() / 2), rel=1e-12)


def deviation_matrix(kernel):
    grid = build_grid(kernel, norm="l1")
    rates, amplitudes = np.array([1.0 + 0j]), np.zeros((1, 2, 2), complex)
    return grid, measure_deviation(
        grid, lambda t: evaluate_sum(rates, amplitudes, t), rates=rates, amplitudes=amplitudes
    )
