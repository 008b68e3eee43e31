"""Theorem 4.1 and Theorem 4.2 of Li et al. 2021: constructions, constants, ladders, failures."""

from __future__ import annotations

import math

import numpy as np
import pytest

from recollect import approximation, targets
from recollect.models import LinearRNN

_TWO_RATES = targets.exponential_sum([1.0, 0.5], [1.0, 2.7])
_MIXED_SIGNS = targets.exponential_sum([2.0, -1.5, 0.3], [0.8, 1.1, 6.0])
_WAVE = targets.exponential_sum([0.5 - 1j, 0.5 + 1j], [0.3 + 2j, 0.3 - 2j])
_JORDAN = targets.exponential_sum([1.0], [1.0], powers=[1])
_BUMP = targets.Bump(delay=4.0, width=1.0)
_AIRY = targets.Airy(scale=1.0, shift=3.0)


@pytest.mark.parametrize(
    "order", [1, 3, *(pytest.param(k, marks=pytest.mark.slow) for k in (2, 4))]
)
@pytest.mark.parametrize(
    "kernel",
    [_TWO_RATES, _MIXED_SIGNS, _WAVE, _JORDAN, _BUMP, _AIRY],
    ids=lambda k: type(k).__name__,
)
def test_bound_is_above_the_error_of_the_construction(kernel, order):
    smooth = approximation.measure_smoothness(kernel, order=order)
    assert smooth.status.is_ok
    for width in (order, 2 * order, 8, 16, 32):
        if width < order:
            continue
        fit = approximation.fit_fixed_rates(kernel, width=width, spacing=smooth.beta / (order + 1))
        bound = approximation.bound_width_error(
            width, gamma=smooth.gamma, beta=smooth.beta, order=order
        )
        floor = 1e-11  # what float64 leaves of a kernel of norm about one
        assert fit.error <= bound
        assert fit.bound_below <= fit.error * (1 + 1e-6) + floor


def test_the_network_is_the_sum_it_claims_to_be():
    smooth = approximation.measure_smoothness(_BUMP, order=2)
    fit = approximation.fit_fixed_rates(_BUMP, width=24, spacing=smooth.beta / 3)
    lags = np.linspace(0, 40, 8001)
    difference = np.asarray(fit.model.kernel(lags)) - np.asarray(_BUMP.kernel(lags))
    inside = np.sum(np.abs(difference[:, 0, 0])) * 0.005
    assert inside == pytest.approx(fit.error, rel=1e-2)
    rates = np.sort(-np.linalg.eigvals(np.asarray(fit.model.A)).real)
    np.testing.assert_allclose(rates, smooth.beta / 3 * np.arange(1, 25), rtol=1e-6)


def test_inputs_add_up():
    # d = 3 inputs share one state of width m: the error is the sum, the bound has the factor d.
    A = np.diag([-1.0, -2.0])
    B = np.array([[1.0, -0.5, 2.0], [0.3, 1.0, -1.0]])
    kernel = LinearRNN(A, B, np.ones((1, 2)))
    smooth = approximation.measure_smoothness(kernel, order=1)
    together = approximation.fit_fixed_rates(kernel, width=3, spacing=smooth.beta / 2.5)
    alone = [
        approximation.fit_fixed_rates(
            LinearRNN(A, B[:, [i]], np.ones((1, 2))), width=3, spacing=smooth.beta / 2.5
        ).error
        for i in range(3)
    ]
    assert together.model.width == 3
    assert together.model.n_inputs == 3
    assert together.error == pytest.approx(sum(alone), rel=1e-6)
    assert together.error <= approximation.bound_width_error(
        3, gamma=smooth.gamma, beta=smooth.beta, order=1, n_inputs=3
    )


def test_rate_of_a_kernel_that_is_no_smoother_than_assumed():
    # A tent: ρ' jumps, so q is in W^{1,∞} and no more: order 1 holds and the rate is between m^-1
    # (the theorem) and m^-2 (L1 gains one order at an isolated kink), never geometric.
    tent = _Tent()
    spacing = 0.5
    widths = np.array([8, 16, 32, 64])
    errors = [
        approximation.fit_fixed_rates(tent, width=int(m), spacing=spacing).error for m in widths
    ]
    slope = np.polyfit(np.log(widths), np.log(errors), 1)[0]
    assert -2.4 < slope < -1.0
    # q' = -(N ρ' + ρ) s^-2 with N = 2, |ρ| ≤ 1, |ρ'| = 1, s ≥ e^{-3/2} on the support.
    derivative = (2.0 + 1.0) * math.exp(3.0)
    for m, error in zip(widths, errors, strict=True):
        bound = 2.0 * approximation.bound_polynomial_error(m - 1, order=1, derivative=derivative)
        assert error <= bound


class _Tent(targets.AbstractKernel):
    n_inputs = 1
    n_outputs = 1
    support = 3.0
    breakpoints = (1.0, 2.0, 3.0)
    timescale = 1.0
    is_completely_monotone = False

    def __init__(self):
        pass

    def kernel(self, lags):
        values = np.maximum(0.0, 1.0 - np.abs(np.asarray(lags, dtype=np.float64) - 2.0))
        return values[:, None, None]

    def step_response(self, lags):
        t = np.clip(np.asarray(lags, dtype=np.float64), 1.0, 3.0)
        up = np.where(t < 2, (t - 1) ** 2 / 2, 1 - (3 - t) ** 2 / 2)
        return up[:, None, None]

    def exact_norm(self, norm):
        return None

    def laplace(self, s, *, derivative=0):
        assert derivative == 0
        assert np.all(np.asarray(s) == 0)
        return np.ones((len(s), 1, 1))


def test_order_beyond_the_theorem_is_twice_the_slowest_rate_over_the_spacing():
    # In s the kernel e^{-wt} is s^{w/r}: a power at the end of the interval, of L1 order 2w/r. It is
    # algebraic however smooth the kernel, and above every α ≤ w/r - 1 that the theorem allows.
    kernel = targets.exponential_sum([1.0], [1.0])
    for spacing in (0.45, 0.8, 1.6):
        widths = np.array([8, 16, 32])
        errors = [
            approximation.fit_fixed_rates(kernel, width=int(m), spacing=spacing).error
            for m in widths
        ]
        slope = np.polyfit(np.log(widths + 1), np.log(errors), 1)[0]
        assert slope == pytest.approx(-2.0 / spacing, rel=0.06)


def test_the_printed_form_depends_on_the_unit_of_time():
    # ρ -> cρ(ct) is the same memory in another unit: the same L1 error. γ is invariant, β is not.
    bounds, printed, errors = [], [], []
    for c in (1.0, 10.0, 1e4, 1e12):
        kernel = targets.exponential_sum([1.0 * c, 0.5 * c], [1.0 * c, 2.7 * c])
        smooth = approximation.measure_smoothness(kernel, order=1)
        errors.append(approximation.fit_fixed_rates(kernel, width=4, spacing=smooth.beta / 2).error)
        common = {"gamma": smooth.gamma, "beta": smooth.beta, "order": 1}
        bounds.append(approximation.bound_width_error(4, **common))
        printed.append(approximation.bound_width_error(4, form="printed", **common))
    np.testing.assert_allclose(errors, errors[0], rtol=1e-6)
    np.testing.assert_allclose(bounds, bounds[0], rtol=1e-6)
    assert printed[-1] / printed[0] == pytest.approx(1e-12, rel=1e-6)
    assert printed[-1] < errors[-1]  # the printed form is violated
    assert np.all(np.array(bounds) > errors)


def test_without_exponential_decay_no_width_reaches_the_rate():
    # Negative control for 4.2: a power law; the least error of fixed rates, over all spacings, falls
    # like m^{-2ω}, slower than the theorem's m^{-α} for any α ≥ 1 when ω < 1/2.
    kernel = targets.PowerLaw(exponent=1.25)
    assert not math.isfinite(approximation.measure_smoothness(kernel, order=1).gamma)
    widths = np.array([8, 16, 32, 64])
    least = [
        min(
            approximation.bound_fixed_rate_error(kernel, width=int(m), spacing=c / m**2)
            for c in np.geomspace(0.3, 60, 40)
        )
        for m in widths
    ]
    slope = np.polyfit(np.log(widths), np.log(least), 1)[0]
    assert -0.55 < slope < -0.35  # -2ω = -0.5, reached from above


def test_fixed_rate_bound_is_attained_for_power_laws():
    # The lower bound by duality and the error of the construction meet: the bound is not loose.
    kernel = targets.PowerLaw(exponent=1.5)
    for width in (4, 16, 64):
        fit = approximation.fit_fixed_rates(kernel, width=width, spacing=8.0 / width**2)
        assert fit.bound_below * (1 - 1e-9) <= fit.error <= 1.05 * fit.bound_below
    # Negative control: rates that are free to move go below what equispaced ones of any spacing reach.
    free = approximation.fit_exponential_sum(kernel, width=4, norm="l2").errors["l1"]
    least = min(
        approximation.bound_fixed_rate_error(kernel, width=4, spacing=r)
        for r in np.geomspace(0.01, 4, 60)
    )
    assert free < 0.5 * least


@pytest.mark.parametrize(
    "kernel",
    [targets.Box(1.0, 2.0), targets.PowerLaw(exponent=1.6), _BUMP, _TWO_RATES],
    ids=lambda k: type(k).__name__,
)
def test_chains_of_equal_units_approximate_every_memory(kernel):
    # Theorem 4.1: width to infinity with the horizon growing more slowly.
    widths = np.array([16, 64, 256])
    errors, bounds = [], []
    for width in widths:
        fit = approximation.fit_erlang(kernel, width=int(width), horizon=1.8 * float(width) ** 0.5)
        errors.append(fit.error)
        bounds.append(fit.bound)
    assert np.all(np.array(errors) <= bounds)
    assert np.all(np.diff(errors) < 0)


def test_rate_of_the_chain_is_one_half_for_a_jump():
    widths = np.array([40, 160, 640])
    fits = [
        approximation.fit_erlang(targets.Box(1.0, 2.0), width=int(m), horizon=4.0) for m in widths
    ]
    errors = np.array([f.error for f in fits])
    slope = np.polyfit(np.log(widths), np.log(errors), 1)[0]
    assert slope == pytest.approx(-0.5, abs=0.03)
    # Each jump at t costs E|S - t| ≈ √(2t/(πλ)): the bound is √(π/2) above, no more.
    ratio = np.array([f.bound for f in fits]) / errors
    assert np.all((ratio > 1.0) & (ratio < 2.2))
    # Negative control: without a jump the first-order smoothing cancels, and the rate is one.
    smooth = [
        approximation.fit_erlang(_TWO_RATES, width=int(m), horizon=12.0).error for m in widths
    ]
    assert np.polyfit(np.log(widths), np.log(smooth), 1)[0] == pytest.approx(-1.0, abs=0.05)


def test_a_memory_that_is_not_integrable_is_not_approximated():
    # Negative control for 4.1: 1/(1+t) is no functional on bounded inputs; the error beyond any
    # horizon is infinite, and the chain says so instead of returning a number.
    kernel = targets.PowerLaw(exponent=1.0)
    with pytest.raises(ValueError, match=r"integrable|finite|L1|norm|diverg"):
        approximation.fit_erlang(kernel, width=16, horizon=8.0)
