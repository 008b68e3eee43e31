"""The front: the limit in three norms, bounds, recovery, scaling, refusals."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest

from recollect import models, targets
from recollect.approximation import fit_exponential_sum, fit_widths

TEXT = {
    "heavy": "(1+t)**-1.1",
    "power": "(1+t)**-2",
    "airy": "airy(t-6)",
    "bump": "exp(-t)+exp(-(t-4)**2/2)",
    "late": "exp(-t)+exp(-(t-8)**2/2)",
}
# The best errors known before this was written: (kernel, norm) -> {width: error}.
KNOWN = {
    ("heavy", "l1"): {2: 6.378, 4: 4.340, 8: 2.227, 16: 0.7346},
    ("heavy", "l2"): {2: 9.686e-2, 4: 2.026e-2, 8: 1.823e-3, 16: 4.979e-5},
    ("heavy", "linf"): {2: 1.568e-2, 4: 1.365e-3, 8: 3.751e-5, 16: 2.047e-7},
    ("power", "l1"): {2: 0.1029, 4: 1.802e-2, 8: 1.105e-3, 16: 1.513e-5},
    ("power", "l2"): {2: 1.781e-2, 4: 1.565e-3, 8: 3.671e-5, 16: 1.319e-7},
    ("power", "linf"): {2: 6.457e-3, 4: 2.946e-4, 8: 2.884e-6, 16: 3.219e-9},
    ("airy", "l1"): {2: 1.532, 4: 0.5377, 8: 1.478e-4, 16: 1.3e-12},
    ("airy", "l2"): {2: 0.6703, 4: 0.1993, 8: 4.413e-5, 16: 5.3e-13},
    ("airy", "linf"): {2: 0.3236, 4: 0.1050, 8: 2.198e-5, 16: 8.5e-13},
    ("bump", "l1"): {2: 2.039, 4: 0.4403, 8: 4.412e-3, 16: 1.59e-7},
    ("bump", "l2"): {2: 0.7842, 4: 0.1486, 8: 1.412e-3, 16: 4.30e-8},
    ("bump", "linf"): {2: 0.4029, 4: 6.644e-2, 8: 5.997e-4, 16: 3.5e-8},
    ("late", "l1"): {2: 2.502, 4: 1.885, 8: 0.2479, 16: 2.809e-4},
    ("late", "l2"): {2: 1.158, 4: 0.5828, 8: 6.571e-2, 16: 7.001e-5},
    ("late", "linf"): {2: 0.4966, 4: 0.2252, 8: 2.326e-2, 16: 5.5e-5},
}
MONOTONE = ("heavy", "power")


def ratios(name, norm, widths):
    curve = fit_widths(targets.parse_kernel(TEXT[name]), widths, norm=norm)
    known = KNOWN[name, norm]
    for fit, error, bound in zip(curve.fits, curve.errors, curve.bounds, strict=True):
        assert np.all(fit.rates.real > 0)
        assert bound <= error * (1 + 1e-9)
    assert np.all(np.diff(curve.errors) <= 0)
    for width, error in zip(curve.widths, curve.errors, strict=True):
        best = known[int(width)]
        loose = best < 1e-6 or (norm == "linf" and name not in MONOTONE)
        assert error <= (1.15 if loose else 1.05) * best, (name, norm, width, error / best)


@pytest.mark.parametrize("name", sorted(TEXT))
def test_errors_at_the_limit_in_l2(name):
    ratios(name, "l2", (2, 4, 8))


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        ("power", "linf"),
        ("bump", "l1"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("power", "l1"), ("bump", "linf"))
        ),
    ],
)
def test_errors_at_the_limit_in_other_norms(name, norm):
    ratios(name, norm, (2, 4))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "norm"), sorted(KNOWN))
def test_errors_at_the_limit_up_to_width_16(name, norm):
    ratios(name, norm, (2, 4, 8, 16))


@pytest.mark.slow
def test_heavy_tail_at_large_width():
    kernel = targets.PowerLaw(exponent=1.1)
    narrow = fit_exponential_sum(kernel, width=32, norm="l1")
    assert narrow.error <= 0.16
    assert narrow.slowest_rate > 0
    wide = fit_exponential_sum(kernel, width=64, norm="l1")
    assert wide.error <= 0.01
    assert wide.rates.real.max() / wide.slowest_rate > 1e30


def exact_l2(exponent, rates, amplitudes):
    """‖(1+t)^-p - Σ a e^-wt‖ with 60 digits."""
    with mpmath.workdps(60):
        p = mpmath.mpf(exponent)
        w = [mpmath.mpf(float(x)) for x in rates]
        a = [mpmath.mpf(float(x)) for x in amplitudes]
        # ∫ e^{-wt} (1+t)^-p = e^w E_p(w)
        cross = sum(x * mpmath.e**y * mpmath.expint(p, y) for x, y in zip(a, w, strict=True))
        gram = sum(
            x * u / (y + v) for x, y in zip(a, w, strict=True) for u, v in zip(a, w, strict=True)
        )
        return float(mpmath.sqrt(1 / (2 * p - 1) - 2 * cross + gram))


@pytest.mark.parametrize(("exponent", "width"), [(2.0, 3), (2.0, 8), (1.1, 6), (3.5, 12)])
def test_l2_error_is_what_sixty_digits_say(exponent, width):
    fit = fit_exponential_sum(targets.PowerLaw(exponent=exponent), width=width)
    exact = exact_l2(exponent, fit.rates.real, fit.amplitudes[:, 0, 0].real)
    assert fit.error == pytest.approx(exact, rel=1e-6)


def test_the_network_has_the_kernel_it_reports():
    fit = fit_exponential_sum(targets.parse_kernel(TEXT["bump"]), width=6)
    lags = np.linspace(0, 15, 200)
    modal = np.exp(-np.multiply.outer(lags, fit.rates)) @ fit.amplitudes[:, 0, 0]
    assert np.abs(fit.model.kernel(lags)[:, 0, 0] - modal.real).max() < 1e-12
    A, b = np.asarray(fit.model.A), np.asarray(fit.model.B)[:, 0]
    assert np.abs(A + A.T + np.outer(b, b)).max() < 1e-14


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_scaling_lag_and_kernel_scales_the_answer(norm):
    one = fit_exponential_sum(targets.PowerLaw(exponent=1.7), width=4, norm=norm)
    other = fit_exponential_sum(
        3.0 * targets.PowerLaw(exponent=1.7, scale=100.0), width=4, norm=norm
    )
    factor = {"l1": 300.0, "l2": 30.0}[norm]
    assert other.error == pytest.approx(factor * one.error, rel=1e-4)
    assert np.sort(other.rates.real) * 100 == pytest.approx(np.sort(one.rates.real), rel=2e-2)
    assert other.bound == pytest.approx(factor * one.bound, rel=1e-3)


@pytest.mark.parametrize(
    "order", [2, 6, *(pytest.param(order, marks=pytest.mark.slow) for order in (1, 4))]
)
def test_random_stable_systems_are_recovered_by_their_order(order):
    rng = np.random.default_rng(order)
    A = rng.normal(size=(order, order))
    A -= np.eye(order) * (np.linalg.eigvals(A).real.max() + 0.3)
    system = models.LinearRNN(A, rng.normal(size=(order, 1)), rng.normal(size=(1, order)))
    fit = fit_exponential_sum(system, width=order)
    size = fit.stats["kernel_norms"]["l2"]
    assert fit.error < 1e-13 * size
    assert fit.width == order
    if order > 2:
        return
    wider = fit_exponential_sum(system, width=order + 3)
    assert wider.error <= 1e-13 * size
    if wider.width < order + 3:
        assert wider.status.code == "width_beyond_rank"


def test_repeated_rates_are_recovered():
    fit = fit_exponential_sum(targets.parse_kernel("t**2*exp(-t)"), width=3)
    assert fit.error < 1e-12


@pytest.mark.parametrize(("n_outputs", "n_inputs"), [(1, 3), (2, 1), (2, 2)])
def test_several_channels_share_one_state(n_outputs, n_inputs):
    rng = np.random.default_rng(7)
    system = models.LinearRNN(
        np.diag([-0.5, -1.5, -4.0]),
        rng.normal(size=(3, n_inputs)),
        rng.normal(size=(n_outputs, 3)),
    )
    width = 3 * min(n_outputs, n_inputs)
    fit = fit_exponential_sum(system, width=width)
    assert fit.width == width
    assert fit.error < 1e-12
    lags = np.linspace(0, 5, 30)
    assert np.abs(fit.model.kernel(lags) - system.kernel(lags)).max() < 1e-12


def test_smallest_width_for_an_error():
    kernel = targets.PowerLaw(exponent=2.0)
    fit = fit_exponential_sum(kernel, error=1e-2, norm="l1")
    assert fit.error <= 1e-2
    assert fit.status.is_ok
    assert fit_exponential_sum(kernel, width=fit.width - 1, norm="l1").error > 1e-2
    hopeless = fit_exponential_sum(targets.parse_kernel(TEXT["power"]), error=1e-9, max_width=5)
    assert hopeless.status.code == "not_converged"
    assert hopeless.width == 5


def test_real_rates_only():
    fit = fit_exponential_sum(targets.parse_kernel(TEXT["airy"]), width=5, poles="real")
    assert np.all(fit.rates.imag == 0)
    free = fit_exponential_sum(targets.parse_kernel(TEXT["airy"]), width=5)
    assert free.error < fit.error


def test_positive_amplitudes_and_constant():
    fit = fit_exponential_sum(targets.parse_kernel(TEXT["power"]), width=4, positive=True)
    assert np.all(fit.amplitudes.real > 0)
    raised = fit_exponential_sum(
        targets.parse_kernel("2+exp(-t)+exp(-3*t)"), width=2, constant=True
    )
    assert raised.constant[0, 0] == pytest.approx(2.0, rel=1e-14)
    assert raised.error < 1e-13


def test_samples_and_discrete_time():
    rng = np.random.default_rng(2)
    lags = np.linspace(0, 10, 300)
    noisy = np.exp(-lags) * np.cos(2 * lags) + 0.01 * rng.normal(size=300)
    fit = fit_exponential_sum((lags, noisy))
    assert fit.width == 2
    assert np.abs(fit.rates - (1 + 2j)).min() < 0.1
    delay = fit_exponential_sum(targets.Delay(4), width=5)
    assert delay.dt == 1.0
    assert delay.error == 0.0
    step = fit_exponential_sum(targets.parse_kernel("exp(-t)*cos(2*t)"), width=2, dt=0.1)
    assert np.sort_complex(step.rates) == pytest.approx([1 - 2j, 1 + 2j], rel=1e-6)


@pytest.mark.parametrize(
    ("kernel", "options", "message"),
    [
        ("(1+t)**-0.75", {"norm": "l1"}, "finite in the l1 norm"),
        ("(1+t)**-0.4", {"norm": "l2"}, "finite in the l2 norm"),
        ("cos(t)", {}, "decays"),
        ("exp(-t)", {"width": 0}, "width"),
        ("exp(-t)", {"error": 0.1}, "either width or error"),
        ("exp(-t)", {"norm": "l3"}, "norm"),
    ],
)
def test_refusals(kernel, options, message):
    with pytest.raises(ValueError, match=message):
        fit_exponential_sum(targets.parse_kernel(kernel), **{"width": 2, **options})


def test_refuses_a_complex_or_vanishing_kernel():
    with pytest.raises(TypeError, match="complex"):
        fit_exponential_sum(lambda t: np.exp((1j - 1) * t), width=2)
    with pytest.raises(ValueError, match="zero"):
        fit_exponential_sum(lambda t: 0 * t, width=2)


def test_integrability_is_judged_in_the_norm_asked_for():
    fit = fit_exponential_sum(targets.PowerLaw(exponent=0.75), width=3)
    assert np.isinf(fit.errors["l1"])
    assert fit.error < 0.3
