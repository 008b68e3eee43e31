"""The Hankel spectra: bounds that hold, rank, starts."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

from recollect.approximation._grid import build_grid
from recollect.approximation._hankel import bound_largest_error, hankel_spectrum


def kernel_of(rates, amplitudes):
    rates, amplitudes = np.asarray(rates), np.asarray(amplitudes)
    return lambda t: (np.exp(-np.multiply.outer(t, rates)) @ amplitudes).real[:, None, None]


def power_law(exponent):
    return lambda t: ((1 + t) ** -exponent)[:, None, None]


def gramian_values(rates, amplitudes):
    """Hankel singular values of a sum of exponentials from its Gramians."""
    rates, amplitudes = np.asarray(rates, float), np.asarray(amplitudes, float)
    pair = rates[:, None] + rates
    reach, see = 1 / pair, np.outer(amplitudes, amplitudes) / pair
    return np.sort(np.sqrt(np.abs(np.linalg.eigvals(reach @ see))))[::-1]


def test_singular_values_are_those_of_the_gramians():
    rates, amplitudes = [0.3, 1.0, 4.0], [1.0, -2.0, 3.0]
    grid = build_grid(kernel_of(rates, amplitudes), norm="l1")
    found = hankel_spectrum(grid).singular_values
    assert found[:3] == pytest.approx(gramian_values(rates, amplitudes), rel=1e-10)
    assert found[3] < 1e-12 * found[0]


def test_rates_of_an_exact_sum_are_recovered():
    rates = np.array([0.3, 1.0 + 2j, 1.0 - 2j, 4.0])
    amplitudes = np.array([1.0, 0.5 - 1j, 0.5 + 1j, 2.0])
    spectrum = hankel_spectrum(build_grid(kernel_of(rates, amplitudes), norm="l1"))
    assert spectrum.usable_width() == 4
    assert np.sort_complex(spectrum.rates(4)) == pytest.approx(np.sort_complex(rates), rel=1e-7)


@pytest.mark.parametrize("exponent", [1.1, 2.0, 3.5])
def test_the_weighted_operator_has_the_l2_norm(exponent):
    """∫∫ e(t+s)² (ts)^-½/π dt ds = ∫ e²: the weight's self-convolution is one."""
    grid = build_grid(power_law(exponent), norm="l2", is_completely_monotone=True)
    spectrum = hankel_spectrum(grid, power=0.5)
    assert spectrum.tail(0) == pytest.approx((2 * exponent - 1) ** -0.5, rel=2e-3)
    assert spectrum.tail(0) <= (2 * exponent - 1) ** -0.5 * (1 + 1e-10)


def test_zeros_of_the_transform_are_the_best_hankel_rates():
    """Against the Gramian of a sum with the same rates: σ_{m+1} is attained."""
    grid = build_grid(power_law(2.0), norm="l1", is_completely_monotone=True)
    spectrum = hankel_spectrum(grid)
    for width in (1, 3, 8):
        rates = spectrum.positive_rates(width)
        assert len(rates) == width
        assert np.all(rates > 0)
    # Rates 60 decades apart are found in float64.
    heavy = hankel_spectrum(build_grid(power_law(1.05), norm="l1", is_completely_monotone=True))
    rates = heavy.positive_rates(24)
    assert len(rates) == 24
    assert rates.max() / rates.min() > 1e20


def test_largest_error_bound_is_below_a_known_optimum():
    """(1+t)^-2 with real rates has the minimax error 2.946e-4 at width 4."""
    grid = build_grid(power_law(2.0), norm="linf", is_completely_monotone=True)
    spectra = [hankel_spectrum(grid, power=0.5, reach=r) for r in np.geomspace(0.5, 50, 5)]
    bound = bound_largest_error(spectra, 4)
    assert 2e-5 < bound < 2.946e-4


def test_block_values_are_those_of_a_dense_realisation():
    rng = np.random.default_rng(4)
    A = np.diag([-0.5, -1.5, -3.0])
    B, C = rng.normal(size=(3, 2)), rng.normal(size=(2, 3))

    def kernel(t):
        return np.einsum("oi,ti,ij->toj", C, np.exp(np.multiply.outer(t, np.diag(A))), B)

    reach = scipy.linalg.solve_continuous_lyapunov(A, -B @ B.T)
    see = scipy.linalg.solve_continuous_lyapunov(A.T, -C.T @ C)
    expected = np.sort(np.sqrt(np.abs(np.linalg.eigvals(reach @ see))))[::-1]
    found = hankel_spectrum(build_grid(kernel, norm="l1")).singular_values
    assert found[:3] == pytest.approx(expected, rel=1e-9)
