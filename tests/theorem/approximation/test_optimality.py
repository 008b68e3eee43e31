"""Kammler's theorem and the Aigrain-Williams equations, with mpmath as the judge."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest

from recollect import approximation, targets
from recollect.models import DiagonalRNN, LinearRNN


def _power_law_cost(amplitudes, rates, p):
    """J = Σ a_i a_j/(w_i+w_j) - 2 Σ a_i L(w_i) + 1/(2p-1), L(w) = e^w E_p(w), in mpmath."""
    J = 1 / (2 * p - 1)
    for a, w in zip(amplitudes, rates, strict=True):
        J -= 2 * a * mpmath.exp(w) * mpmath.expint(p, w)
        for b, v in zip(amplitudes, rates, strict=True):
            J += a * b / (w + v)
    return J


def _true_optimum(rates, p):
    """Solves the Aigrain-Williams equations from a start, to 60 digits; returns (a, w, √J)."""
    m = len(rates)

    def transform(w, k):
        # L^(k)(w) by the recursion E_p' = -E_{p-1}.
        e = mpmath.exp(w)
        if k == 0:
            return e * mpmath.expint(p, w)
        return e * (mpmath.expint(p, w) - mpmath.expint(p - 1, w))

    def solve_amplitudes(w):
        gram = mpmath.matrix(m, m)
        right = mpmath.matrix(m, 1)
        for i in range(m):
            right[i] = transform(w[i], 0)
            for j in range(m):
                gram[i, j] = 1 / (w[i] + w[j])
        return mpmath.lu_solve(gram, right)

    def slopes(*log_w):
        w = [mpmath.exp(x) for x in log_w]
        a = solve_amplitudes(w)
        return [
            w[i]
            * (sum(-a[j] / (w[i] + w[j]) ** 2 for j in range(m)) - transform(w[i], 1))
            / transform(w[i], 0)
            for i in range(m)
        ]

    start = [mpmath.log(mpmath.mpf(float(w))) for w in rates]
    root = mpmath.findroot(slopes, start, tol=1e-45, maxsteps=60)
    w = [mpmath.exp(x) for x in root]
    a = list(solve_amplitudes(w))
    return a, w, mpmath.sqrt(_power_law_cost(a, w, p))


@pytest.mark.parametrize(
    ("exponent", "widths"), [("2", (1, 2, 3, 4, 6)), ("1.1", (1, 2, 4)), ("1.5", (2, 4))]
)
def test_l2_fits_reach_the_optimum_found_with_sixty_digits(exponent, widths):
    kernel = targets.PowerLaw(exponent=float(exponent))
    assert approximation.predict_existence(kernel).is_ok
    with mpmath.workdps(60):
        p = mpmath.mpf(exponent)
        for width in widths:
            fit = approximation.fit_exponential_sum(kernel, width=width, norm="l2")
            rates = np.sort(fit.rates.real)
            a, w, best = _true_optimum(rates, p)
            assert fit.errors["l2"] == pytest.approx(float(best), rel=1e-6)
            np.testing.assert_allclose(rates, [float(x) for x in sorted(w)], rtol=1e-3)
            # Kammler: positive amplitudes, distinct rates.
            assert all(x > 0 for x in a)
            assert np.all(fit.amplitudes.real > 0)
            assert np.all(np.diff(rates) > 0)


@pytest.mark.parametrize(("exponent", "width"), [("2", 8), ("2", 12), ("1.1", 8), ("1.5", 10)])
def test_reported_l2_errors_are_true(exponent, width):
    # The closed form cancels all but (error/norm)² of its digits: sixty are enough.
    kernel = targets.PowerLaw(exponent=float(exponent))
    fit = approximation.fit_exponential_sum(kernel, width=width, norm="l2")
    with mpmath.workdps(60):
        amplitudes = [mpmath.mpf(float(x)) for x in fit.amplitudes[:, 0, 0].real]
        rates = [mpmath.mpf(float(x)) for x in fit.rates.real]
        exact = float(mpmath.sqrt(_power_law_cost(amplitudes, rates, mpmath.mpf(exponent))))
    assert fit.errors["l2"] == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize(
    ("delay", "width"),
    [(4.0, 4), (8.0, 4), *(pytest.param(*c, marks=pytest.mark.slow) for c in ((4.0, 8), (8.0, 8)))],
)
def test_reported_l2_errors_are_true_with_complex_rates(delay, width):
    kernel = targets.SumKernel(
        (targets.exponential_sum([1.0], [1.0]), targets.Bump(delay=delay, width=1.0))
    )
    fit = approximation.fit_exponential_sum(kernel, width=width, norm="l2")
    with mpmath.workdps(60):
        mu = mpmath.mpf(delay)

        def bump(s):
            z = (s - mu) / mpmath.sqrt(2)
            return mpmath.sqrt(mpmath.pi / 2) * mpmath.exp(-s * mu + s * s / 2) * mpmath.erfc(z)

        norm = mpmath.mpf(1) / 2 + 2 * bump(mpmath.mpf(1))
        norm += mpmath.sqrt(mpmath.pi) / 2 * mpmath.erfc(-mu)
        a = [mpmath.mpc(complex(x)) for x in fit.amplitudes[:, 0, 0]]
        w = [mpmath.mpc(complex(x)) for x in fit.rates]
        J = norm
        for x, u in zip(a, w, strict=True):
            J -= 2 * (x * (1 / (1 + u) + bump(u))).real
            for y, v in zip(a, w, strict=True):
                J += (x * y / (u + v)).real
        exact = float(mpmath.sqrt(J.real))
    assert fit.errors["l2"] == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize(
    ("kernel", "width"),
    [
        (targets.PowerLaw(exponent=2.0), 4),
        (targets.PowerLaw(exponent=1.25), 6),
        (targets.Airy(scale=1.0, shift=6.0), 4),
        (targets.Bump(delay=4.0, width=1.0), 6),
    ],
)
def test_l2_fits_satisfy_the_equations(kernel, width):
    fit = approximation.fit_exponential_sum(kernel, width=width, norm="l2")
    found = approximation.measure_optimality(fit.model, kernel)
    assert found.status.is_ok
    assert np.all(found.cosines < 1e-3)
    assert found.error == pytest.approx(fit.errors["l2"], rel=1e-6)


def test_the_certificate_refuses_what_is_not_optimal():
    kernel = targets.PowerLaw(exponent=2.0)
    fit = approximation.fit_exponential_sum(kernel, width=3, norm="l2")
    order = np.argsort(fit.rates.real)
    rates, amplitudes = fit.rates.real[order], fit.amplitudes[order, 0, 0].real
    gains = []
    for shift in (0.02, 0.04, 0.08):
        moved = rates * np.array([1 + shift, 1.0, 1.0])
        model = DiagonalRNN(moved, np.ones((3, 1)), amplitudes[None, :])
        found = approximation.measure_optimality(model, kernel)
        assert found.status.code == "not_converged"
        gains.append(found.projection)
        # To first order the share of the error that can be removed is what is being lost.
        lost = 1 - (fit.errors["l2"] / found.error) ** 2
        assert found.projection**2 == pytest.approx(lost, rel=0.15, abs=1e-3)
    assert np.all(np.diff(gains) > 0)
    l1 = approximation.fit_exponential_sum(kernel, width=3, norm="l1")
    assert approximation.measure_optimality(l1.model, kernel).status.code == "not_converged"


def test_an_exact_fit_has_no_direction():
    kernel = targets.exponential_sum([1.0, 0.5], [1.0, 3.0])
    exact = LinearRNN(np.diag([-1.0, -3.0]), np.ones((2, 1)), np.array([[1.0, 0.5]]))
    assert approximation.measure_optimality(exact, kernel).status.code == "precision_limit"


def test_without_complete_monotonicity_the_minimum_may_not_exist():
    # Negative control of Kammler: t e^{-t} by two distinct real rates 1±h. The error falls like h² and
    # the amplitudes grow like 1/h: an infimum of zero that no pair attains.
    errors, sizes = [], []
    steps = np.array([0.2, 0.1, 0.05, 0.025])
    for h in steps:
        rates = np.array([1 - h, 1 + h])
        gram = 1 / np.add.outer(rates, rates)
        right = 1 / (1 + rates) ** 2
        a = np.linalg.solve(gram, right)
        J = a @ gram @ a - 2 * a @ right + 0.25
        errors.append(np.sqrt(max(J, 0)))
        sizes.append(np.abs(a).max())
    assert np.polyfit(np.log(steps), np.log(errors), 1)[0] == pytest.approx(2.0, abs=0.2)
    assert np.polyfit(np.log(steps), np.log(sizes), 1)[0] == pytest.approx(-1.0, abs=0.1)
    kernel = targets.exponential_sum([1.0], [1.0], powers=[1])
    assert not approximation.predict_existence(kernel).is_ok
    found = approximation.measure_complete_monotonicity(kernel)
    assert found.code == "no_minimiser"
    # The kernel cannot know it of itself: told so, the statement is the theorem's.
    told = approximation.predict_existence(kernel, is_completely_monotone=False)
    assert told.code == "no_minimiser"
