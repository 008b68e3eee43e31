"""Largest errors: published minimax tables, alternation, an independent exchange in 50 digits."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest

from recollect import targets
from recollect.approximation._fit import _source
from recollect.approximation._linf import fit_linf, fit_linf_widths, fit_minimax_sum
from recollect.approximation._problem import evaluate_sum


def reciprocal(t):
    return 1 / t


# Hackbusch's tables of 1/x on [1, R].
PUBLISHED = {
    (10, 2): 8.7523e-3,
    (10, 4): 5.5769e-5,
    (10, 6): 3.1729e-7,
    (10, 8): 1.7164e-9,
    (100, 2): 1.7850e-2,
    (100, 4): 1.0660e-3,
    (100, 6): 4.7596e-5,
    (100, 8): 2.0164e-6,
}


@pytest.mark.parametrize(("end", "width"), PUBLISHED)
def test_published_minimax_tables_to_their_last_digit(end, width):
    fit = fit_minimax_sum(reciprocal, width=width, start=1, stop=end)
    assert fit.error == pytest.approx(PUBLISHED[end, width], rel=6e-5)
    assert fit.status.is_ok
    assert fit.bound <= fit.error <= fit.bound * (1 + 1e-6)


@pytest.mark.parametrize("end", [10, 100, 1000])
@pytest.mark.parametrize("width", [1, 3, 5, 7, 9, 10])
def test_certificate_holds_on_lags_the_fit_never_saw(end, width):
    fit = fit_minimax_sum(reciprocal, width=width, start=1, stop=end)
    rng = np.random.default_rng(width)
    t = np.concatenate([1 + (end - 1) * rng.random(20_000) ** 3, np.linspace(1, end, 20_000)])
    error = np.abs(1 / t - fit.values(t)).max()
    rounding = 2e-15
    assert error <= fit.error * (1 + 1e-6) + rounding
    assert fit.error <= fit.bound * (1 + 1e-4)
    assert np.all(fit.rates > 0)
    assert np.all(fit.start_amplitudes > 0)
    signs = np.sign(1 / fit.alternation - fit.values(fit.alternation))
    assert len(fit.alternation) == 2 * width + 1
    if fit.error > 1e-12:
        assert np.all(signs[1:] == -signs[:-1])


@pytest.mark.parametrize(
    ("exponent", "width", "best_found"),
    [
        (1.1, 2, 1.568e-2), (1.1, 4, 1.365e-3), (1.1, 8, 3.751e-5), (1.1, 16, 2.047e-7),
        (2.0, 2, 6.457e-3), (2.0, 4, 2.946e-4), (2.0, 8, 2.884e-6), (2.0, 16, 3.219e-9),
    ],
)  # fmt: skip
def test_power_laws_reach_the_best_errors_known(exponent, width, best_found):
    fit = fit_minimax_sum(lambda t: (1 + t) ** -exponent, width=width)
    assert fit.error <= 1.001 * best_found
    assert fit.error <= fit.bound * (1 + 1e-4)


@pytest.mark.parametrize("width", [2, 5, 9])
@pytest.mark.parametrize(
    "kernel",
    [
        lambda t: (1 + t) ** -0.3,
        lambda t: np.exp(-np.sqrt(t)),
        lambda t: np.log1p(t) / np.where(t > 0, t, 1) + (t == 0),
        lambda t: np.exp(-t) / (1 + t),
    ],
)
def test_other_monotone_kernels_are_certified_too(kernel, width):
    with np.errstate(all="ignore"):
        fit = fit_minimax_sum(kernel, width=width)
    assert fit.error <= fit.bound * (1 + 1e-4)
    assert fit.status.is_ok


def test_no_random_sum_of_real_exponentials_beats_the_bound():
    fit = fit_minimax_sum(lambda t: (1 + t) ** -2.0, width=2)
    rng, t = np.random.default_rng(0), np.concatenate([[0], np.geomspace(1e-3, 1e3, 600)])
    for _ in range(200):
        rates = fit.rates * np.exp(0.3 * rng.standard_normal(2))
        basis = np.exp(-np.outer(t, rates))
        c = np.linalg.lstsq(basis, (1 + t) ** -2.0, rcond=None)[0]
        assert np.abs((1 + t) ** -2.0 - basis @ c).max() >= fit.bound * (1 - 1e-9)


def test_scaling_lags_and_kernel_scales_the_answer():
    fit = fit_minimax_sum(lambda t: (1 + t) ** -1.5, width=5)
    scaled = fit_minimax_sum(lambda t: 7 * (1 + t / 1e4) ** -1.5, width=5)
    assert scaled.error == pytest.approx(7 * fit.error, rel=1e-6)
    np.testing.assert_allclose(scaled.rates, fit.rates / 1e4, rtol=1e-4)


def test_an_exact_sum_is_recovered_and_more_width_is_refused():
    def kernel(t):
        return np.exp(-t) + 0.3 * np.exp(-4 * t)

    fit = fit_minimax_sum(kernel, width=2)
    np.testing.assert_allclose(fit.rates, [4, 1], rtol=1e-9)
    assert fit.error < 1e-14
    wide = fit_minimax_sum(kernel, width=6)
    assert wide.status.code == "width_beyond_rank"
    assert len(wide.rates) == 2


def test_relative_weights_level_the_relative_error():
    fit = fit_minimax_sum(reciprocal, width=6, start=1, stop=1000, weights="relative")
    t = np.geomspace(1, 1000, 5001)
    assert np.abs(1 - fit.values(t) * t).max() <= fit.error * (1 + 1e-6)
    assert fit.error <= fit.bound * (1 + 1e-6)


@pytest.mark.parametrize(
    ("kernel", "arguments", "word"),
    [
        (lambda t: np.exp(-t) + 1e-3 * t, {}, "decreasing"),
        (lambda t: np.sin(t), {}, "kernel"),
        (lambda t: 1 + np.exp(-t), {}, "decays"),
        (reciprocal, {"start": 1, "weights": "relative"}, "stop"),
        (reciprocal, {"start": 2, "stop": 1}, "start"),
    ],
)
def test_kernels_without_a_best_sum_are_refused(kernel, arguments, word):
    with pytest.raises(ValueError, match=word), np.errstate(all="ignore"):
        fit_minimax_sum(kernel, width=3, **arguments)


KERNELS = {
    "airy": targets.Airy(scale=1.0, shift=6.0),
    "bump4": targets.exponential_sum([1.0], [1.0]) + targets.Bump(delay=4.0, width=1.0, height=1.0),
    "bump8": targets.exponential_sum([1.0], [1.0]) + targets.Bump(delay=8.0, width=1.0, height=1.0),
}
BEST_FOUND = [
    ("airy", 2, 0.3236), ("airy", 4, 0.1050), ("airy", 8, 2.198e-5),
    ("bump4", 2, 0.4029), ("bump4", 4, 6.644e-2), ("bump4", 8, 5.997e-4),
    pytest.param("bump8", 2, 0.4966, marks=pytest.mark.slow),
    ("bump8", 4, 0.2252),
    pytest.param("bump8", 8, 2.326e-2, marks=pytest.mark.slow),
    pytest.param("bump4", 16, 3.5e-8, marks=pytest.mark.slow),
    pytest.param("bump8", 16, 5.5e-5, marks=pytest.mark.slow),
]  # fmt: skip


def _largest_error(kernel, fit):
    t = np.concatenate([[0], np.linspace(1e-6, 60, 60_001), np.geomspace(60, 1e5, 2000)])
    return np.abs(
        kernel.kernel(t)[:, 0, 0] - evaluate_sum(fit.rates, fit.amplitudes, t)[:, 0, 0]
    ).max()


@pytest.mark.parametrize(("name", "width", "best_found"), BEST_FOUND)
def test_kernels_that_are_not_monotone_reach_the_best_errors_known(name, width, best_found):
    kernel = KERNELS[name]
    fit = fit_linf(_source(kernel, norm="l2", constant=False).grid, width)
    error = _largest_error(kernel, fit)
    assert error <= 1.01 * best_found
    assert error == pytest.approx(fit.error, rel=1e-2)
    assert np.all(fit.rates.real > 0)
    assert fit.bound is None
    assert fit.stats["certificate"].startswith("none")


@pytest.mark.parametrize("width", [3, pytest.param(6, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "kernel",
    [
        targets.Airy(scale=1.0, shift=4.0),
        pytest.param(targets.Box(0.0, 2.0), marks=pytest.mark.slow),
        targets.Box(1.0, 2.0),
    ],
)
def test_descent_never_ends_above_least_squares(kernel, width):
    grid = _source(kernel, norm="l2", constant=False).grid
    fit = fit_linf(grid, width)
    from recollect.approximation import fit_exponential_sum

    squares = fit_exponential_sum(kernel, width=width, norm="l2")
    assert fit.error <= squares.errors["linf"] * (1 + 1e-6)


def test_a_jump_leaves_half_its_height():
    kernel = targets.Box(0.0, 2.0)
    fit = fit_linf(_source(kernel, norm="l2", constant=False).grid, 6)
    assert 0.5 * (1 - 1e-9) <= fit.error <= 0.52


def test_widths_of_one_call_agree_with_single_calls():
    grid = _source(targets.PowerLaw(exponent=1.5, scale=1.0), norm="linf", constant=False).grid
    both = fit_linf_widths(grid, [3, 7])
    assert both[7].error == pytest.approx(fit_linf(grid, 7).error, rel=1e-9)
    assert both[3].bound <= both[3].error <= both[3].bound * (1 + 1e-6)


# --- the independent oracle -------------------------------------------------------------------


def _exchange_in_50_digits(kernel, derivative, rates, amplitudes, points, end):
    """Remez's exchange with mpmath: Newton on the level equations, extrema by bisection of e'."""
    mp = mpmath.mp
    m = len(rates)
    a = [mpmath.log(mpmath.mpf(float(x))) for x in amplitudes]
    b = [mpmath.log(mpmath.mpf(float(x))) for x in rates]
    points = [mpmath.mpf(float(p)) for p in points]

    def error(t):
        return kernel(t) - sum(mp.exp(x - mp.exp(y) * t) for x, y in zip(a, b, strict=True))

    def slope(t):
        terms = zip(a, b, strict=True)
        return derivative(t) + sum(mp.exp(y) * mp.exp(x - mp.exp(y) * t) for x, y in terms)

    for _ in range(6):
        sign = mp.sign(error(points[0]))
        level = abs(error(points[0]))
        for _ in range(12):
            rows, right = [], []
            for k, t in enumerate(points):
                terms = [mp.exp(x - mp.exp(y) * t) for x, y in zip(a, b, strict=True)]
                bends = [-v * mp.exp(y) * t for v, y in zip(terms, b, strict=True)]
                rows.append(terms + bends + [sign * (-1) ** k])
                right.append(error(t) - sign * (-1) ** k * level)
            move = mp.lu_solve(mp.matrix(rows), mp.matrix(right))
            a = [x + move[i] for i, x in enumerate(a)]
            b = [y + move[m + i] for i, y in enumerate(b)]
            level += move[2 * m]
            if max(abs(x) for x in move) < mp.mpf(10) ** -35:
                break
        moved = []
        for k, t in enumerate(points):
            if t == points[0] or (math.isfinite(end) and k == 2 * m and slope(t) * error(t) > 0):
                moved.append(t)
                continue
            try:
                root = mp.findroot(slope, t, tol=1e-30)
            except ValueError:
                root = t
            left = points[k - 1]
            right_end = points[k + 1] if k < 2 * m else mp.mpf(end)
            moved.append(root if left < root < right_end else t)
        points = moved
    heights = [abs(error(t)) for t in points]
    return min(heights), max(heights)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "width"), [(10, 5), (10, 9), (10, 10), (100, 10), (1000, 7), (1000, 10)]
)
def test_exchange_in_50_digits_agrees(end, width):
    with mpmath.workdps(50):
        fit = fit_minimax_sum(reciprocal, width=width, start=1, stop=end)
        low, high = _exchange_in_50_digits(
            lambda t: 1 / t, lambda t: -1 / t**2, fit.rates, fit.amplitudes, fit.alternation, end
        )
        assert low <= high <= low * (1 + mpmath.mpf(10) ** -12)
    assert fit.error == pytest.approx(float(high), rel=5e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("exponent", "width"), [("1.1", 8), ("2", 10), ("0.5", 6)])
def test_exchange_in_50_digits_agrees_on_the_half_line(exponent, width):
    power = float(exponent)
    fit = fit_minimax_sum(lambda t: (1 + t) ** -power, width=width)
    with mpmath.workdps(50):
        p = mpmath.mpf(exponent)
        low, high = _exchange_in_50_digits(
            lambda t: (1 + t) ** -p,
            lambda t: -p * (1 + t) ** (-p - 1),
            fit.rates,
            fit.amplitudes,
            fit.alternation,
            math.inf,
        )
        assert high <= low * (1 + mpmath.mpf(10) ** -10)
    assert fit.error == pytest.approx(float(high), rel=1e-6)
