"""The curse of memory in approximation: where it is, and where it is not."""

from __future__ import annotations

import numpy as np
import pytest

from recollect import approximation, targets
from recollect.approximation._coneigenvalue import hankel_decomposition
from recollect.approximation._sinc import power_law_sum

_EXPONENTS = np.array([1.0, 0.5, 0.25, 0.125])


@pytest.fixture(scope="module")
def curse():
    return approximation.measure_curse_map(tuple(_EXPONENTS), (0.1,), max_width=60)


def test_the_theorem_has_no_curse_for_an_exponential_memory():
    # Negative control: e^{-t/10} (1+t)^{-1-ω} has a β, and the theorem's width stays as ω falls.
    damped = []
    for exponent in _EXPONENTS:
        kernel = targets.parse_kernel(f"exp(-0.1*t)*(1+t)**-{1 + exponent}")
        smooth = approximation.measure_smoothness(kernel, order=2)
        assert smooth.status.is_ok
        damped.append(float(approximation.bound_width(0.1, gamma=smooth.gamma, order=2)))
    assert max(damped) < 1.2 * min(damped)
    power = [approximation.bound_power_law_width(0.1, x, order=2).log10_width for x in _EXPONENTS]
    # The power law itself: 10^4.4 units at ω = 1, 10^26 at 1/8.
    assert power[-1] > 5 * power[0]


def test_free_width_is_linear_in_the_inverse_exponent(curse):
    free, proved = curse.width[:, 0], curse.width_bound[:, 0]
    for widths in (free, proved):
        slope = np.polyfit(np.log(1 / _EXPONENTS), np.log(widths), 1)[0]
        # Linear up to the logarithm log(1/(ωε)), which adds 0.1 to 0.4 on this ladder.
        assert 0.9 < slope < 1.45


def test_fixed_width_and_the_theorem_are_exponential(curse):
    for logs, low, high in (
        # m^{-2ω} = ωε: log10 m ≈ log10(1/(ωε))/(2ω); the theorem (1+1/α)/ω log10(1/(ωε)).
        (curse.log10_fixed_width[:, 0], 0.45, 0.7),
        (curse.log10_theorem_width[:, 0], 1.0, 2.6),
    ):
        law = np.log10(1 / (_EXPONENTS * 0.1)) / _EXPONENTS
        local = np.diff(logs) / np.diff(law)
        assert np.all((local > low * 0.9) & (local < high))


def test_the_slowest_rate_pays(curse):
    # log10 of the slowest free rate is linear in log10(1/(ωε))/ω too: distance from the boundary.
    law = np.log10(1 / (_EXPONENTS * 0.1)) / _EXPONENTS
    local = np.diff(-np.log10(curse.slowest_rate[:, 0])) / np.diff(law)
    assert np.all((local > 0.8) & (local < 2.2))


def test_an_exponential_memory_has_no_curse():
    # Negative control: the same count for e^{-δt} (1+t)^{-1-ω}, δ fixed, stays bounded as ω falls.
    widths = []
    for exponent in _EXPONENTS:
        amplitudes, rates = power_law_sum(1 + exponent, rtol=1e-8)
        amplitudes, rates = amplitudes[rates > 1e-12], rates[rates > 1e-12]
        values, _ = hankel_decomposition(amplitudes, rates + 0.1, n_values=20)
        widths.append(int(np.count_nonzero(values > 1e-3)))
    assert max(widths) <= min(widths) + 1


@pytest.mark.parametrize("exponent", [2.0, pytest.param(1.5, marks=pytest.mark.slow), 1.25])
def test_no_fit_beats_the_hankel_bound(exponent):
    kernel = targets.PowerLaw(exponent=exponent)
    amplitudes, rates = power_law_sum(exponent, rtol=1e-10)
    values, _ = hankel_decomposition(amplitudes, rates, n_values=12)
    curve = approximation.fit_widths(kernel, range(1, 9), norm="l1")
    for width, error, bound in zip(curve.widths, curve.errors, curve.bounds, strict=True):
        below = approximation.bound_error_below(values, int(width))
        assert error > below
        # Two independent computations of the same bound (quadrature, Cauchy factors).
        assert bound == pytest.approx(below, rel=1e-5)


def test_a_wrong_rank_would_be_caught():
    # Negative control of the bound: with σ_m in the place of σ_{m+1} some optimal fit is below it.
    amplitudes, rates = np.array([1.0, 0.3]), np.array([1.0, 5.0])
    values, _ = hankel_decomposition(amplitudes, rates, n_values=2)
    exact = approximation.fit_exponential_sum(
        targets.exponential_sum(amplitudes, rates), width=2, norm="l1"
    )
    assert exact.errors["l1"] < values[1]
    assert approximation.bound_error_below(values, 2) == 0.0


def test_sinc_bound_fails_without_enough_slow_rates():
    # Negative control: cut the slow end early and the bound, like the error, is the tail.
    full = approximation.bound_sinc_error(0.5, step=0.9, lowest=1e-8, highest=10.0)
    cut = approximation.bound_sinc_error(0.5, step=0.9, lowest=1e-2, highest=10.0)
    assert full < 0.02 < 0.1 < cut
