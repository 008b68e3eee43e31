"""Theorem 5.1: the stall is exponential in the delay; and the law that it is a bound for."""

from __future__ import annotations

import numpy as np
import pytest

from recollect import targets, training

DELAYS = np.arange(4.0, 21.0, 2.0)
BASES = {
    "one unit": ([1.0], [1.0]),
    "two modes": ([1.0, 0.5], [1.0, 2.0]),
}


def ladder(base, *, template=None):
    losses = []
    for delay in DELAYS:
        bump = (
            targets.Bump(delay=delay, width=1.0, height=1.0)
            if template is None
            else template(delay)
        )
        losses.append(training.exact_loss(targets.exponential_sum(*base) + bump))
    return losses


def times(losses, a, w, **options):
    n = len(losses)
    found = training.measure_hitting_times(
        losses, np.tile(a, (n, 1)), np.tile(w, (n, 1)), **options
    )
    return np.array([hit.value for hit in found])


STARTS = {
    "split": ("one unit", [0.3, 0.7], [1.0, 1.0]),
    "idle": ("one unit", [1.0, 0.0], [1.0, 0.7]),
    "split of two": ("two modes", [0.4, 0.6, 0.5], [1.0, 1.0, 2.0]),
}


@pytest.mark.parametrize("delta", [pytest.param(0.5, marks=pytest.mark.slow), 1e-3])
@pytest.mark.parametrize(
    "start", ["split", *(pytest.param(s, marks=pytest.mark.slow) for s in ("idle", "split of two"))]
)
def test_the_bound_holds_in_every_run(start, delta):
    base, a, w = STARTS[start]
    losses = ladder(BASES[base])[:-2]
    for of in ("parameters", "loss"):
        found = times(losses, a, w, delta=delta, of=of)
        bounds = [training.bound_hitting_time(loss, a, w, delta=delta, of=of) for loss in losses]
        # Rounding of the flow only: the bound is proved.
        assert (found >= np.array(bounds) * (1 - 1e-6)).all()


def test_the_bound_grows_as_the_theorem_says():
    # log of ω² e^{c/ω}: its slope is c - 2ω, and the bound's own r is of order ω.
    losses = ladder(BASES["one unit"])
    bounds = [
        training.bound_hitting_time(loss, [0.3, 0.7], [1.0, 1.0], delta=0.5) for loss in losses
    ]
    slopes = np.diff(np.log(bounds)) / np.diff(DELAYS)
    middle = 0.5 * (DELAYS[1:] + DELAYS[:-1])
    np.testing.assert_allclose(slopes[4:], 1 - 2 / middle[4:], atol=0.05)


def test_correlated_inputs_leave_before_the_bound():
    # Negative control: the bound is for white noise. An input that remembers carries the bump back to
    # the lags that the units see.
    delays = (8.0, 10.0, 12.0)
    found, bounds = [], []
    for delay in delays:
        target = targets.exponential_sum([1.0], [1.0]) + targets.Bump(delay=delay)
        white = training.exact_loss(target)
        coloured = training.exact_loss(target, spectrum=training.ou_spectrum(rate=0.1))
        bounds.append(training.bound_hitting_time(white, [0.3, 0.7], [1.0, 1.0], delta=0.5))
        hit = training.measure_hitting_time(
            coloured, [0.3, 0.7], [1.0, 1.0], delta=0.5, of="parameters"
        )
        found.append(hit.value)
        with pytest.raises(ValueError, match="white-noise input"):
            training.bound_hitting_time(coloured, [0.3, 0.7], [1.0, 1.0], delta=0.5)
    assert (np.array(found) < bounds).all()
    assert np.polyfit(delays, np.log(found), 1)[0] < 0.3


def exponents(delays, **options):
    """The exponents that are forecast for τ_0, one for each delay."""
    return np.array([training.predict_escape_exponent(delay=d, **options) for d in delays])


def test_for_a_fixed_gap_the_law_has_twice_the_rate():
    slopes = np.diff(
        np.log(times(ladder(BASES["one unit"]), [0.3, 0.7], [1.0, 1.0], delta=0.5, of="parameters"))
    )
    forecast = exponents(DELAYS[-3:], delta=0.5, slowest_rate=1.0)
    np.testing.assert_array_equal(forecast, 2.0)
    # The second-order escape has powers of the delay before e^{2/ω}: p/delay on top of the slope.
    excess = slopes[-2:] / 2 - forecast[1:]
    assert (excess > -0.1).all()
    assert (excess < 0.3).all()


def test_for_a_small_gap_the_law_has_the_rate_itself():
    delays = DELAYS[:5]
    found = times(
        ladder(BASES["one unit"])[:5], [0.3, 0.7], [1.0, 1.0], delta=1e-4, of="parameters"
    )
    slopes = np.diff(np.log(found)) / np.diff(delays)
    forecast = exponents(delays, delta=1e-4, slowest_rate=1.0)
    np.testing.assert_array_equal(forecast, 1.0)
    # μ e^{-μ}: the slope of the initial gradient is 1 - 1/μ.
    np.testing.assert_allclose(slopes[1:], forecast[2:] - 1 / (delays[1:-1] + 1), atol=0.06)


def test_the_forecast_crosses_over_at_the_same_gap_in_every_unit_of_time():
    for rate in (0.1, 1.0, 30.0):
        delay = 10.0 / rate
        below, above = (
            training.predict_escape_exponent(
                delta=edge * np.exp(-5.0), delay=delay, slowest_rate=rate
            )
            for edge in (0.99, 1.01)
        )
        assert (below, above) == (rate, 2 * rate)


@pytest.mark.parametrize(
    "template",
    [
        lambda delay: targets.Bump(delay=delay, width=0.5, height=2.0),
        pytest.param(lambda delay: targets.Box(delay - 1.0, delay + 1.0), marks=pytest.mark.slow),
    ],
    ids=["narrow", "box"],
)
def test_other_templates_stall_as_long(template):
    losses = ladder(BASES["one unit"], template=template)[2:7]
    found = times(losses, [0.3, 0.7], [1.0, 1.0], delta=0.3, of="parameters")
    bounds = [
        training.bound_hitting_time(loss, [0.3, 0.7], [1.0, 1.0], delta=0.3) for loss in losses
    ]
    assert (found >= np.array(bounds) * (1 - 1e-6)).all()
    assert np.polyfit(DELAYS[2:7], np.log(found), 1)[0] > 0.9


def test_without_a_bump_there_is_no_stall():
    # Negative control: a target of exponentials alone, from a start off its plateau.
    loss = training.exact_loss(targets.exponential_sum([1.0, 1.0], [1.0, 0.2]))
    hit = training.measure_hitting_time(loss, [0.5, 0.5], [1.0, 0.5], delta=0.5)
    assert hit.value < 20


def test_a_slow_unit_does_not_stall():
    # Negative control: a unit as slow as the delay sees the bump at once; the rate in e^{w/ω} is its own.
    found = times(
        ladder(BASES["one unit"])[:6], [1.0, 0.0], [1.0, 0.05], delta=0.2, of="parameters"
    )
    slope = np.polyfit(DELAYS[:6], np.log(found), 1)[0]
    # Powers of the delay add a multiple of 1/μ, which is 0.1 in the middle of the ladder.
    forecast = exponents(DELAYS[:6], delta=0.2, slowest_rate=0.05)
    np.testing.assert_array_equal(forecast, 0.05)
    assert forecast[0] < slope < 0.3
