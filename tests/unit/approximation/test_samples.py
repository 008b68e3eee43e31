"""Fits to samples, against a matrix pencil and a non-negative least-squares oracle."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from recollect.approximation._problem import evaluate_sum
from recollect.approximation._samples import fit_samples

RATES = np.array([0.3, 1.0, 0.4 + 2j, 0.4 - 2j])
AMPLITUDES = np.array([1.0, -0.7, 0.3 - 0.2j, 0.3 + 0.2j])
LAGS = 0.1 * np.arange(200)


def truth(lags):
    return (np.exp(-np.outer(lags, RATES)) @ AMPLITUDES).real


def pencil_oracle(values, step, width):
    """Matrix pencil (ESPRIT): signal subspace of the Hankel matrix, then least squares."""
    n = len(values)
    rows = n // 2
    hankel = np.array([values[k : k + n - rows + 1] for k in range(rows)])
    u = np.linalg.svd(hankel)[0][:, :width]
    z = np.linalg.eigvals(np.linalg.pinv(u[:-1]) @ u[1:])
    z = np.where(np.abs(z) > 1, 1 / np.conj(z), z)
    rates = -np.log(z.astype(complex)) / step
    basis = np.exp(-np.outer(step * np.arange(n), rates))
    c = np.linalg.lstsq(basis, values.astype(complex), rcond=None)[0]
    return (basis @ c).real


def kernel_error(fit, lags=LAGS):
    return float(
        np.sqrt(
            np.mean((evaluate_sum(fit.rates, fit.amplitudes, lags)[:, 0, 0] - truth(lags)) ** 2)
        )
    )


@pytest.mark.parametrize("noise", [1e-2, pytest.param(1e-5, marks=pytest.mark.slow), 1e-8])
def test_as_robust_as_the_matrix_pencil_and_as_sharp_as_least_squares(noise):
    ours, theirs = [], []
    for seed in range(8):
        y = truth(LAGS) + noise * np.random.default_rng(seed).standard_normal(len(LAGS))
        ours.append(kernel_error(fit_samples(LAGS, y, width=4)))
        theirs.append(np.sqrt(np.mean((pencil_oracle(y, 0.1, 4) - truth(LAGS)) ** 2)))
    assert np.median(ours) <= 1.02 * np.median(theirs)
    assert np.max(ours) <= 1.1 * np.max(theirs)
    # Eight parameters in 200 samples: the efficient error is noise · √(8/200).
    assert np.median(ours) <= 1.3 * noise * np.sqrt(8 / 200)


@pytest.mark.parametrize("is_known", [True, False])
@pytest.mark.parametrize("noise", [1e-2, pytest.param(1e-5, marks=pytest.mark.slow)])
def test_width_is_what_the_noise_allows(noise, is_known):
    widths = []
    for seed in range(5):
        y = truth(LAGS) + noise * np.random.default_rng(seed).standard_normal(len(LAGS))
        fit = fit_samples(LAGS, y, noise=noise if is_known else None)
        widths.append(fit.width)
        assert fit.stats["noise"] == pytest.approx(noise, rel=0.25)
    assert widths.count(4) >= 4


def test_pure_noise_and_heavy_noise_give_few_exponentials():
    y = truth(LAGS) + 0.5 * np.random.default_rng(0).standard_normal(len(LAGS))
    assert fit_samples(LAGS, y).width <= 3


def noisy_table(values, seed):
    return values + 0.02 * np.random.default_rng(seed).standard_normal(len(values))


ONE = np.exp(-0.05 * np.arange(200))
TWO = ONE + 0.3 * np.exp(-0.25 * np.arange(200))


@pytest.mark.parametrize("is_known", [True, False])
def test_a_second_exponential_is_found_though_it_hides_in_the_spectrum_of_the_noise(is_known):
    lags, y = 0.5 * np.arange(200), noisy_table(TWO, 0)
    fit = fit_samples(lags, y, noise=0.02 if is_known else None)
    assert fit.width == 2
    assert fit.stats["rms"] == pytest.approx(0.02, rel=0.1)
    asked = fit_samples(lags, y, width=2, noise=0.02 if is_known else None)
    assert asked.status.is_ok


@pytest.mark.slow
@pytest.mark.parametrize("is_known", [True, False])
def test_noise_is_rarely_taken_for_an_exponential(is_known):
    noise, lags = 0.02 if is_known else None, 0.5 * np.arange(200)
    found = [fit_samples(lags, noisy_table(TWO, seed), noise=noise).width for seed in range(20)]
    assert found.count(2) >= 19
    one = [fit_samples(lags, noisy_table(ONE, seed), noise=noise).width for seed in range(40)]
    assert one.count(1) >= 38
    few = np.sort(50 * np.random.default_rng(1).random(20))
    for lags in (np.linspace(0, 50, 12), few):
        one = [
            fit_samples(lags, noisy_table(np.exp(-0.1 * lags), seed), noise=noise).width
            for seed in range(60)
        ]
        assert one.count(1) >= 56


@pytest.mark.parametrize(
    ("values", "most"),
    [
        (np.exp(-np.sqrt(np.arange(40))), 8),
        pytest.param(1 - np.arange(40) / 40, 11, marks=pytest.mark.slow),
    ],
)
def test_samples_without_noise_are_fitted_to_eight_digits_and_no_further(values, most):
    fit = fit_samples(np.arange(40.0), values)
    assert fit.width <= most
    assert 1e-11 < fit.stats["rms"] <= 1e-8


@pytest.mark.slow
def test_the_error_said_is_that_of_the_sum_handed_out():
    # Columns nearly coincide here, and half the rate of the samples is in reach.
    lags, box = np.arange(60.0), np.where(np.arange(60) < 8, 1.0, 0.0)
    fit = fit_samples(lags, box, width=10)
    values = evaluate_sum(fit.rates, fit.amplitudes, lags)[:, 0, 0]
    assert np.sqrt(np.mean((values - box) ** 2)) == pytest.approx(fit.error, rel=1e-3, abs=1e-8)
    path = [fit.stats["path"][k] for k in sorted(fit.stats["path"])]
    assert path == sorted(path, reverse=True)


def test_exact_samples_give_the_sum_back_from_any_order_and_spacing():
    rng = np.random.default_rng(3)
    lags = rng.permutation(np.concatenate([[0.0], np.sort(20 * rng.random(150) ** 1.5)]))
    fit = fit_samples(lags, truth(lags), width=4)
    order = np.lexsort((RATES.imag, RATES.real))
    got = np.lexsort((fit.rates.imag, fit.rates.real.round(6)))
    np.testing.assert_allclose(fit.rates[got], RATES[order], rtol=1e-6)
    assert kernel_error(fit) < 1e-9


def test_channels_share_their_rates():
    rates = np.array([0.2, 1.5])
    amplitudes = np.array([[[1.0, 2.0]], [[-1.0, 0.5]]])
    lags = np.linspace(0, 20, 120)
    values = evaluate_sum(rates, amplitudes, lags)
    fit = fit_samples(lags, values, width=2)
    assert fit.amplitudes.shape == (2, 1, 2)
    np.testing.assert_allclose(np.sort(fit.rates.real), rates, rtol=1e-8)
    np.testing.assert_allclose(evaluate_sum(fit.rates, fit.amplitudes, lags), values, atol=1e-10)


def test_slow_rates_beyond_the_window_are_refused_unless_asked_for():
    lags = np.linspace(0, 2, 80)
    values = np.exp(-3 * lags) + np.exp(-0.01 * lags)
    refused = fit_samples(lags, values, width=2)
    assert refused.rates.real.min() >= 0.5 * (1 - 1e-9)
    allowed = fit_samples(lags, values, width=2, slow_rates=True)
    np.testing.assert_allclose(np.sort(allowed.rates.real), [0.01, 3], rtol=1e-5)
    with_constant = fit_samples(lags, values, width=2, constant=True)
    assert with_constant.rates.real.min() >= 0.5 * (1 - 1e-9)
    assert with_constant.error < 0.1 * refused.error


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    width=st.integers(1, 5),
    positive=st.booleans(),
    constant=st.booleans(),
    scale=st.sampled_from([1e-9, 1.0, 1e12]),
)
def test_no_rate_is_ever_zero_or_negative(seed, width, positive, constant, scale):
    rng = np.random.default_rng(seed)
    lags = np.sort(rng.random(30)) * scale
    fit = fit_samples(
        lags, rng.standard_normal(30), width=width, positive=positive, constant=constant
    )
    assert np.all(fit.rates.real > 0)
    assert np.all(np.isfinite(fit.amplitudes))
    if positive:
        assert np.all(fit.rates.imag == 0)
        assert np.all(fit.amplitudes.real > 0)
        assert np.all(fit.constant >= 0)


def test_scaling_lags_and_values_scales_the_answer():
    rng = np.random.default_rng(5)
    y = truth(LAGS) + 1e-3 * rng.standard_normal(len(LAGS))
    one, other = fit_samples(LAGS, y, width=4), fit_samples(1e6 * LAGS, 1e-4 * y, width=4)
    np.testing.assert_allclose(np.sort(other.rates.real), np.sort(one.rates.real) / 1e6, rtol=1e-4)
    assert other.error == pytest.approx(1e-4 * one.error, rel=1e-6)


@pytest.mark.parametrize("norm", ["l1", "linf"])
def test_other_norms_lower_their_own_error(norm):
    y = truth(LAGS)
    squares = fit_samples(LAGS, y, width=3)
    other = fit_samples(LAGS, y, width=3, norm=norm)
    residual = np.abs(evaluate_sum(squares.rates, squares.amplitudes, LAGS)[:, 0, 0] - y)
    before = residual.mean() if norm == "l1" else residual.max()
    assert other.error < before


def test_error_gives_the_smallest_width_that_reaches_it():
    fit = fit_samples(LAGS, truth(LAGS), error=1e-6)
    assert fit.width == 4
    out_of_reach = fit_samples(
        LAGS, truth(LAGS) + 1e-2 * np.sin(37 * LAGS**2), error=1e-7, max_width=5
    )
    assert out_of_reach.status.code == "noise_limited"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"lags": [0, 1, 2], "values": [1, 2, 3]}, "lags"),
        ({"lags": [0, 1, 2, 3], "values": [1, 2, 3]}, "values"),
        ({"lags": [-1, 1, 2, 3], "values": [1, 2, 3, 4]}, "lags"),
        ({"lags": [0, 1, 2, 3], "values": [1, np.nan, 3, 4]}, "values"),
        ({"lags": [0, 1, 2, 3], "values": [1, 0, 3, 4], "weights": "relative"}, "values"),
        ({"lags": [0, 1, 2, 3], "values": [1, 2, 3, 4], "width": 1, "error": 1.0}, "width"),
        ({"lags": [0, 1, 2, 3], "values": [1, 2, 3, 4], "weights": "relativ"}, "relative"),
    ],
)
def test_wrong_samples_are_named(arguments, word):
    with pytest.raises(ValueError, match=word):
        fit_samples(**arguments)


# --- a master curve over 31 decades -----------------------------------------------------------


def nonnegative_oracle(t, y, width):
    """Log-spaced relaxation times and a constant by non-negative least squares; best of ranges."""
    best = np.inf
    for low in np.linspace(0, 3, 7):
        for high in np.linspace(0, 3, 7):
            tau = np.geomspace(t[0] * 10**low, t[-1] / 10**high, width)
            basis = np.concatenate([np.exp(-t[:, None] / tau), np.ones((len(t), 1))], axis=1)
            residual = scipy.optimize.nnls(basis / y[:, None], np.ones(len(t)), maxiter=5000)[1]
            best = min(best, residual / np.sqrt(len(t)))
    return best


@pytest.fixture(scope="module")
def master_curve(measured_data):
    t, y = np.genfromtxt(
        measured_data / "pyvisco" / "time_user_master.csv", delimiter=",", skip_header=2
    ).T
    return t, y


@pytest.fixture(scope="module")
def master_fit(master_curve):
    return fit_samples(*master_curve, width=24, positive=True, constant=True, weights="relative")


@pytest.mark.data
@pytest.mark.parametrize(
    ("width", "bar"), [(8, 0.049), (12, 0.023), (16, 0.012), (20, 0.0061), (24, 0.0029)]
)
def test_master_curve_beats_log_spaced_rates_at_every_width(master_curve, master_fit, width, bar):
    error = master_fit.stats["path"][width]
    assert error < bar
    assert error < nonnegative_oracle(*master_curve, width)


@pytest.mark.data
def test_master_curve_needs_fewer_terms_than_the_published_series(
    measured_data, master_curve, master_fit
):
    t, y = master_curve
    g, tau = np.genfromtxt(
        measured_data / "pyvisco" / "verification_prony_terms_KPf_MD.csv",
        delimiter=",",
        skip_header=2,
    ).T
    modulus = 1739.03
    series = modulus * (1 - g.sum() + np.exp(-t[:, None] / tau) @ g)
    published = np.sqrt(np.mean((series / y - 1) ** 2))
    assert len(g) == 31
    enough = min(k for k, error in master_fit.stats["path"].items() if error <= published)
    assert enough <= 24


@pytest.mark.data
def test_master_curve_fit_is_physical(master_curve, master_fit):
    t, y = master_curve
    assert np.all(master_fit.amplitudes.real > 0)
    assert np.all(master_fit.rates.real >= 1 / t[-1] * (1 - 1e-12))
    assert 0 < master_fit.constant[0, 0] < y.min()
    model = (
        evaluate_sum(master_fit.rates, master_fit.amplitudes, t)[:, 0, 0]
        + master_fit.constant[0, 0]
    )
    assert np.sqrt(np.mean((model / y - 1) ** 2)) == pytest.approx(master_fit.error, rel=1e-9)
