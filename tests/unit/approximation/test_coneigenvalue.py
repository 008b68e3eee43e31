"""The reduction of long exponential sums, against mpmath and against its own bounds."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest

from recollect.approximation._coneigenvalue import (
    completely_monotone_sum,
    hankel_decomposition,
    reduce_exponential_sum,
    reduce_exponential_sums,
)
from recollect.approximation._sinc import measure_power_law_error, power_law_sum


def _exact_spectrum(amplitudes, rates, digits=60):
    with mpmath.workdps(digits):
        n = len(rates)
        c = [mpmath.mpf(float(x)) for x in amplitudes]
        w = [mpmath.mpf(float(x)) for x in rates]
        matrix = mpmath.matrix(n, n)
        for i in range(n):
            for j in range(n):
                matrix[i, j] = mpmath.sqrt(c[i] * c[j]) / (w[i] + w[j])
        values, vectors = mpmath.eigsy(matrix)
        order = sorted(range(n), key=lambda i: -values[i])
        return (
            np.array([float(values[i]) for i in order]),
            np.array([[float(vectors[r, i]) for i in order] for r in range(n)]),
        )


def test_singular_values_keep_relative_accuracy_below_eps():
    rates = np.geomspace(1e-1, 1e1, 26)
    amplitudes = rates**1.2 * np.exp(-rates / 5)
    exact, _ = _exact_spectrum(amplitudes, rates)
    found, _ = hankel_decomposition(amplitudes, rates, n_values=26)
    assert exact[-1] < 1e-12 * exact[0]
    np.testing.assert_allclose(found, exact, rtol=1e-11)
    # The plain eigenvalue solver keeps no digit of the last ones: the test can tell.
    plain = np.linalg.eigvalsh(
        np.sqrt(np.outer(amplitudes, amplitudes)) / np.add.outer(rates, rates)
    )[::-1]
    assert abs(plain[-1] / exact[-1] - 1) > 1e-8


def test_eigenvectors_are_right_entry_by_entry():
    rates = np.geomspace(1e-12, 10.0, 16)
    amplitudes = rates**1.1
    _, exact = _exact_spectrum(amplitudes, rates)
    _, found = hankel_decomposition(amplitudes, rates, n_values=16)
    for k in (0, 3, 8):
        sign = np.sign(found[:, k] @ exact[:, k])
        strong = np.abs(exact[:, k]) > 1e-15
        np.testing.assert_allclose(sign * found[strong, k], exact[strong, k], rtol=1e-6)
        signs = np.sign(exact[strong, k])
        assert np.count_nonzero(np.diff(signs)) == k


@pytest.mark.parametrize("exponent", [0.1, 0.25, 1.0])
def test_long_sum_is_the_power_law(exponent):
    amplitudes, rates = power_law_sum(1 + exponent, rtol=1e-12 if exponent > 0.2 else 1e-8)
    agreement = 1e-10 if exponent > 0.2 else 1e-8
    lags = np.concatenate([[0.0], np.geomspace(1e-3, 1e6, 30)])
    values = np.exp(-np.outer(lags, rates)) @ amplitudes
    np.testing.assert_allclose(values, (1 + lags) ** -(1 + exponent), rtol=agreement)


def test_heavy_tail_at_large_width():
    # Table of best known values: 0.1552 at 32; the bar is 0.16.
    amplitudes, rates = power_law_sum(1.1, rtol=1e-7)
    narrow, wide = reduce_exponential_sums(amplitudes, rates, (32, 64))
    errors = [measure_power_law_error(r.amplitudes, r.rates, 0.1) for r in (narrow, wide)]
    assert errors[0] < 0.152
    assert errors[1] < 0.011
    assert narrow.rates.min() < 1e-27  # far below eps, and positive
    assert all(np.all(r.rates > 0) and np.all(r.amplitudes > 0) for r in (narrow, wide))
    assert all(e > r.bound for e, r in zip(errors, (narrow, wide), strict=True))
    assert narrow.bound == pytest.approx(2.38e-3, rel=2e-3)


@pytest.mark.parametrize(
    ("exponent", "best"),
    [
        (0.1, {2: 6.378, 4: 4.340, 8: 2.227, 16: 0.7346}),
        (1.0, {2: 0.1029, 4: 1.802e-2, 8: 1.105e-3, 16: 1.513e-5, 32: 2.39e-8}),
    ],
)
def test_reduction_is_a_good_start_in_every_regime(exponent, best):
    amplitudes, rates = power_law_sum(1 + exponent, rtol=1e-13 if exponent == 1 else 1e-7)
    for fit, (width, value) in zip(
        reduce_exponential_sums(amplitudes, rates, best), best.items(), strict=True
    ):
        assert fit.width == width
        assert measure_power_law_error(fit.amplitudes, fit.rates, exponent) < 1.2 * value


def test_error_falls_with_width_down_to_the_floor():
    amplitudes, rates = power_law_sum(2.0)
    errors = [
        measure_power_law_error(fit.amplitudes, fit.rates, 1.0)
        for fit in reduce_exponential_sums(amplitudes, rates, range(1, 49))
    ]
    errors = np.array(errors)
    assert np.all(np.diff(errors)[errors[1:] > 1e-11] < 0)
    assert errors[-1] < 1e-9


def test_scaling_time_scales_the_rates():
    amplitudes, rates = power_law_sum(1.5, rtol=1e-10)
    fit = reduce_exponential_sum(amplitudes, rates, 7)
    stretched = reduce_exponential_sum(3.0 * amplitudes, rates / 1e4, 7)
    np.testing.assert_allclose(stretched.rates, fit.rates / 1e4, rtol=1e-8)
    np.testing.assert_allclose(stretched.amplitudes, 3.0 * fit.amplitudes, rtol=1e-7)


def test_full_width_returns_the_sum_and_more_says_so():
    amplitudes, rates = np.array([1.0, 0.5, 2.0]), np.array([3.0, 0.1, 1.0])
    same = reduce_exponential_sum(amplitudes, rates, 3)
    np.testing.assert_array_equal(same.rates, [0.1, 1.0, 3.0])
    np.testing.assert_array_equal(same.amplitudes, [0.5, 2.0, 1.0])
    assert same.status.is_ok
    more = reduce_exponential_sum(amplitudes, rates, 5)
    assert more.width == 3
    assert more.status.code == "width_beyond_rank"


def test_a_kernel_known_by_values_becomes_a_positive_sum():
    lags = np.geomspace(1e-4, 1e8, 300)
    amplitudes, rates, error = completely_monotone_sum(lags, (1 + lags) ** -1.5)
    assert np.all(amplitudes > 0)
    assert error < 1e-4
    fit = reduce_exponential_sum(amplitudes, rates, 8)
    assert fit.width == 8
    exact = reduce_exponential_sum(*power_law_sum(1.5, rtol=1e-10), 8)
    found = measure_power_law_error(fit.amplitudes, fit.rates, 0.5)
    best = measure_power_law_error(exact.amplitudes, exact.rates, 0.5)
    assert found < 1.3 * best


@pytest.mark.parametrize(
    ("amplitudes", "rates"),
    [([1.0, -1.0], [1.0, 2.0]), ([1.0], [-1.0]), ([1.0, 1.0], [2.0, 2.0]), ([1.0], [1.0, 2.0])],
)
def test_sums_that_are_not_completely_monotone_are_refused(amplitudes, rates):
    with pytest.raises(ValueError, match="expected"):
        reduce_exponential_sum(np.array(amplitudes), np.array(rates), 1)


def test_every_width_is_delivered_for_the_heaviest_tails():
    amplitudes, rates = power_law_sum(1 + 1 / 16, rtol=1e-9)
    for fit in reduce_exponential_sums(amplitudes, rates, range(4, 60, 9)):
        assert fit.status.is_ok
        assert np.all(np.diff(fit.rates) > 0)
