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


def _log_memory(law: str, parameters: dict[str, float]):
    """Returns log M of the law's definition, from the delay on, as a function of the lag."""
    p = {name: mpmath.mpf(value) for name, value in parameters.items()}
    return {
        "exponential": lambda t: -p["rate"] * t,
        "power": lambda t: -p["exponent"] * mpmath.log(1 + t / p["scale"]),
        "stretched": lambda t: -((t / p["scale"]) ** p["exponent"]),
        "delayed": lambda t: -p["rate"] * (t - p["delay"]),
    }[law]


def _seen_fraction(law: str, parameters: dict[str, float], lag: float) -> float:
    """Integrates the definition of the law itself, not the closed form under test."""
    log_memory = _log_memory(law, parameters)
    start = mpmath.mpf(parameters.get("delay", 0))
    # t = start + c (e^u - 1)² tames both the stretched start and the power tail
    c = mpmath.mpf(lag) - start
    with mpmath.workdps(20):

        def integrand(u):
            grown = mpmath.expm1(u)
            return 2 * c * grown * (1 + grown) * mpmath.exp(log_memory(start + c * grown**2))

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


_BOUNDARY = [
    ("stretched", {"scale": 4.0, "exponent": 1.0}),
    ("stretched", {"scale": 4.0, "exponent": 0.95}),
    ("delayed", {"delay": 7.0, "rate": 1e-3}),
]


@pytest.mark.parametrize(("law", "parameters"), _LAWS + _BOUNDARY)
def test_the_exponential_order_separates_vanishing_from_growth(law, parameters):
    order = mpmath.mpf(memory.predict_exponential_order(law, **parameters))
    log_memory = _log_memory(law, parameters)
    # (t/4)^0.95 is below 1e-6 t from 1e119 on: far lags, which only logarithms reach.
    lags = [mpmath.mpf(10) ** k for k in (130, 140, 150)]
    with mpmath.workdps(170):
        for margin in (mpmath.mpf("1e-6"), mpmath.mpf(1)):
            above = [(order + margin) * lag + log_memory(lag) for lag in lags]
            below = [(order - margin) * lag + log_memory(lag) for lag in lags]
            # log of e^{βt} M(t) for β above and below the order.
            assert above[0] > 1e100
            assert above[0] < above[1] < above[2]
            assert below[0] < -1e100
            assert below[0] > below[1] > below[2]


def test_a_memory_that_falls_faster_than_every_exponential_has_no_order():
    parameters = {"scale": 4.0, "exponent": 1.05}
    assert memory.predict_exponential_order("stretched", **parameters) == math.inf
    log_memory = _log_memory("stretched", parameters)
    with mpmath.workdps(170):
        assert mpmath.mpf(1e6) * mpmath.mpf(10) ** 150 + log_memory(mpmath.mpf(10) ** 150) < -1e100
    assert memory.predict_exponential_order("none") == math.inf


@pytest.mark.parametrize(("law", "parameters"), _LAWS + _BOUNDARY)
def test_the_memory_of_a_law_is_its_definition(law, parameters):
    lags = np.array([8.0, 20.0, 100.0])
    log_memory = _log_memory(law, parameters)
    exact = [float(mpmath.exp(log_memory(mpmath.mpf(lag)))) for lag in lags]
    np.testing.assert_allclose(memory.predict_memory(law, lags, **parameters), exact, rtol=1e-12)


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
