"""Variable projection on second-order sections."""

from __future__ import annotations

import numpy as np
import pytest

from recollect.approximation._l2 import (
    Sections,
    project,
    refine_sections,
    section_averages,
    section_basis,
    section_modes,
    sections_of,
    sum_of_sections,
)

NODES, WEIGHTS = np.polynomial.legendre.leggauss(400)
NODES, WEIGHTS = 15 * (NODES + 1), 15 * WEIGHTS
ROWS = np.sqrt(WEIGHTS)


def test_sections_hold_their_rates():
    rates = np.array([0.2, 1.0, 5.0, 0.3 + 2j, 0.3 - 2j])
    assert np.sort_complex(sections_of(rates, real=False).rates()) == pytest.approx(
        np.sort_complex(rates), rel=1e-13
    )
    assert np.sort(sections_of(rates, real=True).rates().real)[-1] == pytest.approx(5.0)


@pytest.mark.parametrize(
    "pair", [(1.0, 0.2), (1.0, 0.25), (1.0, 0.25 + 1e-9), (1.0, 0.25 - 1e-5), (0.5, 3.0)]
)
def test_derivatives_of_the_basis_against_differences(pair):
    """Through the double rate b = a²/4 as well."""
    here = Sections(np.log([0.7]), np.log([pair]))
    _, slopes = section_basis(here, NODES, ROWS)
    h = 1e-5
    for column, (index, basis_columns) in enumerate([(0, [0]), (1, [1, 2]), (2, [1, 2])]):
        step = np.zeros(3)
        step[index] = h
        plus, _ = section_basis(here.moved(here.vector + step), NODES, ROWS)
        minus, _ = section_basis(here.moved(here.vector - step), NODES, ROWS)
        expected = ((plus - minus) / (2 * h))[:, basis_columns]
        start = 0 if column == 0 else 1 + 2 * (index - 1)
        found = slopes[:, start : start + len(basis_columns)]
        assert found == pytest.approx(expected, abs=2e-8)


def test_gradient_of_the_projected_cost():
    """The Golub-Pereyra Jacobian gives the slope of the projected cost."""
    from recollect.approximation._l2 import _jacobian

    target = (np.exp(-NODES) * np.cos(NODES) + 1 / (1 + NODES))[:, None] * ROWS[:, None]
    target = np.hstack([target, ROWS[:, None] / (1 + NODES[:, None]) ** 2])
    here = Sections(np.log([0.7]), np.log([(1.0, 0.8), (3.0, 1.0)]))
    at = project(here, NODES, ROWS, target)
    jacobian = _jacobian(here, at)
    slope = 2 * jacobian[: at.residual.size].T @ at.residual.ravel()
    for k in range(5):
        step = np.zeros(5)
        step[k] = 1e-5
        plus = project(here.moved(here.vector + step), NODES, ROWS, target).cost
        minus = project(here.moved(here.vector - step), NODES, ROWS, target).cost
        assert slope[k] == pytest.approx((plus - minus) / 2e-5, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize(
    ("rates", "amplitudes"),
    [
        ([0.2, 1.0, 5.0], [1.0, -1.0, 2.0]),
        ([0.3 + 2j, 0.3 - 2j, 1.0], [1 - 1j, 1 + 1j, 0.5]),
    ],
)
def test_recovers_a_sum_from_a_nearby_start(rates, amplitudes):
    rates, amplitudes = np.array(rates, complex), np.array(amplitudes, complex)
    values = (np.exp(-np.multiply.outer(NODES, rates)) @ amplitudes).real
    start = sections_of(rates * np.where(rates.imag == 0, [1.3, 1.3, 0.8], 1.2), real=False)
    found = refine_sections(start, NODES, ROWS, (values * ROWS)[:, None])
    assert found.cost < 1e-24
    found_rates, found_amplitudes = section_modes(found.sections, found.amplitudes)
    order, wanted = np.argsort(found_rates), np.argsort(rates)
    assert found_rates[order] == pytest.approx(rates[wanted], rel=1e-8)
    assert found_amplitudes[order, 0] == pytest.approx(amplitudes[wanted], rel=1e-7)


def test_a_real_pair_becomes_complex_without_a_decision():
    values = np.exp(-NODES / 2) * np.cos(NODES)
    found = refine_sections(
        sections_of(np.array([0.5, 2.0]), real=False), NODES, ROWS, (values * ROWS)[:, None]
    )
    assert found.sections.rates().imag.max() == pytest.approx(1.0, rel=1e-8)


def test_a_repeated_rate_is_no_special_case():
    values = NODES * np.exp(-NODES)
    found = refine_sections(
        sections_of(np.array([0.5, 2.0]), real=False), NODES, ROWS, (values * ROWS)[:, None]
    )
    assert found.cost < 1e-20
    fitted = sum_of_sections(found.sections, found.amplitudes, np.array([0.0, 1.0, 3.0]))
    assert fitted[:, 0] == pytest.approx([0, np.exp(-1), 3 * np.exp(-3)], abs=1e-9)


@pytest.mark.parametrize("gap", [0.6, 0.0, -1.3])
def test_bin_means_and_their_slopes(gap):
    # The second section's rates are real, repeated or a pair.
    sections = Sections(np.array([-0.3]), np.log([[2.0, 1.0 - gap], [1.0, 3.0]]))
    edges, shift = np.concatenate([[0.0], np.geomspace(0.1, 20.0, 12)]), 0.05
    means, slopes = section_averages(sections, edges, shift)
    x, w = np.polynomial.legendre.leggauss(60)
    for i in range(len(edges) - 1):
        half = (edges[i + 1] - edges[i]) / 2
        t = edges[i] + half * (1 + x)
        values, _ = section_basis(sections, t, np.exp(-shift * t), derivatives=False)
        np.testing.assert_allclose(means[i], w @ values / 2, atol=1e-13)
    step = 1e-6
    for i, columns in enumerate(([0], [1, 2], [1, 2], [3, 4], [3, 4])):
        move = step * np.eye(5)[i]
        up, _ = section_averages(sections.moved(sections.vector + move), edges, shift)
        down, _ = section_averages(sections.moved(sections.vector - move), edges, shift)
        at = [0] if i == 0 else [2 * i - 1, 2 * i]
        expected = (up - down)[:, columns] / (2 * step)
        np.testing.assert_allclose(slopes[:, at], expected, atol=1e-8)
