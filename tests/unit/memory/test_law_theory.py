"""Closed forms of how far back a law reaches, against quadrature in 30 digits."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest

from recollect import memory

_LAWS = [
    ("exponential", {"rate": 0.3}),
    ("power", {"scale": 2.0, "exponent": 1.2}),
    ("power", {"scale": 0.5, "exponent": 3.0}),
    ("stretched", {"scale": 4.0, "exponent": 0.3}),
    ("stretched", {"scale": 4.0, "exponent": 0.8}),
    ("delayed", {"delay": 7.0, "rate": 0.3}),
]


def _seen_fraction(law: str, parameters: dict[str, float], lag: float) -> float:
    """Integrates the definition of the law itself, not the closed form under test."""
    p = {name: mpmath.mpf(value) for name, value in parameters.items()}
    kernels = {
        "exponential": lambda t: mpmath.exp(-p["rate"] * t),
        "power": lambda t: (1 + t / p["scale"]) ** (-p["exponent"]),
        "stretched": lambda t: mpmath.exp(-((t / p["scale"]) ** p["exponent"])),
        "delayed": lambda t: mpmath.exp(-p["rate"] * (t - p["delay"])),
    }
    start = p.get("delay", mpmath.mpf(0))
    # t = start + c (e^u - 1)² tames both the stretched start and the power tail
    c = mpmath.mpf(lag) - start
    with mpmath.workdps(20):

        def integrand(u):
            grown = mpmath.expm1(u)
            return 2 * c * grown * (1 + grown) * kernels[law](start + c * grown**2)

        middle = mpmath.log(2)
        seen = mpmath.quad(integrand, [0, middle / 4, middle])
        beyond = mpmath.quad(integrand, [middle, 2, 4, 8, 16, 32, 80])
        return float(seen / (seen + beyond))


@pytest.mark.parametrize(("law", "parameters"), _LAWS)
@pytest.mark.parametrize("fraction", [0.05, 0.5, 0.95])
def test_quantile_lags_match_the_integral_they_invert(law, parameters, fraction):
    lag = float(memory.predict_quantile_lag(law, fraction, **parameters))
    assert _seen_fraction(law, parameters, lag) == pytest.approx(fraction, rel=1e-9)


def test_a_power_of_at_most_one_is_never_seen_to_a_fraction():
    lags = memory.predict_quantile_lag("power", [0.0, 0.5], scale=1.0, exponent=1.0)
    np.testing.assert_array_equal(lags, [0.0, math.inf])


def test_quantile_lags_keep_their_digits_at_small_and_large_fractions():
    fraction = 1e-12
    lag = float(memory.predict_quantile_lag("power", fraction, scale=1.0, exponent=2.0))
    assert lag == pytest.approx(1e-12, rel=1e-10)
    left = 2.0**-40
    lag = float(memory.predict_quantile_lag("stretched", 1 - left, scale=1.0, exponent=0.5))
    oracle = mpmath.findroot(lambda x: (1 + x) * mpmath.exp(-x) - left, 30.0) ** 2
    assert lag == pytest.approx(float(oracle), rel=1e-10)


@pytest.mark.parametrize(("law", "parameters"), _LAWS)
def test_the_exponential_order_separates_vanishing_from_growth(law, parameters):
    order = memory.predict_exponential_order(law, **parameters)
    lags = np.array([1e2, 1e3, 1e4, 1e5, 1e6, 1e8])
    with np.errstate(divide="ignore"):
        log_memory = np.log(memory.predict_memory(law, lags, **parameters))
    log_memory = np.where(np.isfinite(log_memory), log_memory, -order * lags)
    above = 1e-3 * lags + order * lags + log_memory
    assert above[-1] > 0, "a rate above the order must make the weighted memory grow"
    if order > 0:
        assert np.all((order - 1e-2) * lags + log_memory < 0.5 * order * 10)


def test_memory_of_the_laws():
    lags = np.array([0.0, 1.0, 8.0])
    power = memory.predict_memory("power", lags, scale=2.0, exponent=1.5)
    np.testing.assert_allclose(power, (1 + lags / 2) ** -1.5, rtol=1e-14)
    delayed = memory.predict_memory("delayed", lags, delay=2.0, rate=0.5)
    np.testing.assert_allclose(delayed, [0.0, 0.0, math.exp(-3.0)], rtol=1e-14)
    assert np.all(memory.predict_memory("none", lags) == 0)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="did you mean 'power'"):
        memory.predict_quantile_lag("pover", 0.5)
    with pytest.raises(ValueError, match="rate for the law 'exponential'"):
        memory.predict_quantile_lag("exponential", 0.5, scale=1.0)
    with pytest.raises(ValueError, match=r"fraction: expected numbers in \[0, 1\)"):
        memory.predict_quantile_lag("exponential", 1.0, rate=1.0)
    with pytest.raises(ValueError, match="lags"):
        memory.predict_memory("exponential", [-1.0], rate=1.0)
