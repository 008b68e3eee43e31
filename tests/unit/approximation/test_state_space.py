"""The orthonormal state space."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

from recollect.approximation._state_space import (
    assemble,
    coordinates_from_modes,
    project_on_states,
    propagate,
    takenaka_malmquist,
)

SETS = [
    [1.0],
    [2.0, 2.0, 2.0],
    [0.5 + 2j, 0.5 - 2j, 1.0],
    [1e-6, 1e-3, 1.0, 1e3],
    [0.3 + 1j, 0.3 - 1j, 0.3 + 1j, 0.3 - 1j, 4.0],
]


@pytest.mark.parametrize("rates", SETS)
def test_states_are_orthonormal_whatever_the_rates(rates):
    A, b = takenaka_malmquist(np.array(rates))
    scale = np.abs(rates).max()
    assert (A + A.T + np.outer(b, b)) / scale == pytest.approx(0 * A, abs=1e-15)
    # Repeated rates split by the root of rounding in any eigenvalue solver: compare polynomials.
    found, wanted = np.poly(A), np.poly(-np.array(rates)).real
    assert found == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("rates", SETS[:3])
def test_propagation_is_the_matrix_exponential(rates):
    A, b = takenaka_malmquist(np.array(rates))
    lags = np.array([0.0, 1e-4, 0.3, 2.0, 11.7])
    expected = np.array([scipy.linalg.expm(A * t) @ b for t in lags])
    assert propagate(A, b, lags) == pytest.approx(expected, abs=1e-13)


def test_coordinates_give_the_modes_back():
    rates = np.array([0.5 + 2j, 0.5 - 2j, 1.0, 3.0])
    amplitudes = np.array([1 - 1j, 1 + 1j, 0.5, -2.0])[:, None]
    A, b = takenaka_malmquist(rates)
    c, cancelled = coordinates_from_modes(A, b, rates, amplitudes)
    lags = np.linspace(0, 8, 30)
    expected = (np.exp(-np.multiply.outer(lags, rates)) @ amplitudes).real
    assert propagate(A, b, lags) @ c == pytest.approx(expected, abs=1e-12)
    assert cancelled > 0
    x, w = np.polynomial.legendre.leggauss(200)
    t, rows = 25 * (x + 1), np.sqrt(25 * w)
    target = (np.exp(-np.multiply.outer(t, rates)) @ amplitudes).real * rows[:, None]
    assert project_on_states(A, b, t, rows, target) == pytest.approx(c, abs=1e-10)


@pytest.mark.parametrize(("n_outputs", "n_inputs"), [(1, 1), (3, 1), (1, 3), (2, 3), (3, 2)])
def test_assembled_networks_have_the_kernel(n_outputs, n_inputs):
    rng = np.random.default_rng(n_outputs * 10 + n_inputs)
    A, b = takenaka_malmquist(np.array([0.5 + 1j, 0.5 - 1j, 2.0]))
    c = rng.normal(size=(3, n_outputs, n_inputs))
    big_a, big_b, big_c = assemble(A, b, c.reshape(3, -1), n_outputs, n_inputs)
    assert len(big_a) == 3 * min(n_outputs, n_inputs)
    for t in (0.0, 0.7, 3.0):
        expected = np.tensordot(scipy.linalg.expm(A * t) @ b, c, axes=1)
        assert big_c @ scipy.linalg.expm(big_a * t) @ big_b == pytest.approx(expected, abs=1e-12)


def test_an_unpaired_complex_rate_is_refused():
    with pytest.raises(ValueError, match="conjugation"):
        takenaka_malmquist(np.array([1.0 + 1j, 2.0]))
