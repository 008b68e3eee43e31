"""Hitting times: reference values, reasons for never, steps of optimisers, the linear forecast."""

from __future__ import annotations

import numpy as np
import pytest

from recollect import targets, training

ONE = targets.exponential_sum([1.0], [1.0])


def bumped(delay):
    return training.exact_loss(ONE + targets.Bump(delay=delay, width=1.0, height=1.0))


# Found by two other integrators (Radau and LSODA, tolerances 1e-11), to the digits they agreed in.
REFERENCE = {8: 30.248, 10: 557.33, 12: 5589.5, 14: 149823.0, 16: 7.954e6, 18: 5.168e8}


def test_reference_values():
    losses = [bumped(delay) for delay in REFERENCE]
    n = len(losses)
    found = training.measure_hitting_times(
        losses, np.tile([0.3, 0.7], (n, 1)), np.ones((n, 2)), delta=0.5, of="parameters"
    )
    values = np.array([hit.value for hit in found])
    np.testing.assert_allclose(values, list(REFERENCE.values()), rtol=1e-4)
    tighter = training.measure_hitting_times(
        losses, np.tile([0.3, 0.7], (n, 1)), np.ones((n, 2)), delta=0.5, of="parameters", rtol=1e-10
    )
    np.testing.assert_allclose(values, [hit.value for hit in tighter], rtol=1e-6)


def test_where_float64_ends_the_answer_says_so():
    hit = training.measure_hitting_time(
        bumped(22.0), [0.3, 0.7], [1.0, 1.0], delta=0.5, of="parameters"
    )
    assert hit.status.code == "precision_limit"
    assert hit.relative_error > 1e-6


@pytest.mark.parametrize(
    ("a", "w", "delta", "words"),
    [
        ([0.5, 0.5], [1.0, 1.0], 0.5, "equal"),
        ([1.3, -0.3], [1.0, 1.0], 0.5, "degenerate stable"),
        ([1.0], [1.0], 0.5, "strict local minimum"),
        ([0.3, 0.7], [1.0, 1.0], 1.7, "loss drop of"),
    ],
)
def test_never_has_a_reason(a, w, delta, words):
    hit = training.measure_hitting_time(bumped(10.0), a, w, delta=delta)
    assert hit.value == np.inf
    assert hit.status.code == "infinite"
    assert words in hit.reason


def test_without_time_enough_the_status_says_so():
    hit = training.measure_hitting_time(
        bumped(12.0), [0.3, 0.7], [1.0, 1.0], delta=0.5, flow_time=10.0
    )
    assert hit.status.code == "not_converged"
    assert hit.value == 10.0


@pytest.mark.parametrize("optimiser", ["gd", "momentum"])
def test_steps_are_flow_time_over_speed(optimiser):
    loss, start = bumped(8.0), ([0.3, 0.7], [1.0, 1.0])
    time = training.measure_hitting_time(loss, *start, delta=0.2).value
    steps, status = training.measure_steps(
        loss, *start, delta=0.2, learning_rate=0.01, optimiser=optimiser
    )
    assert status.is_ok
    forecast = training.predict_steps(time, learning_rate=0.01, optimiser=optimiser)
    # Momentum needs 1/(1-ρ) = 10 steps to get up to speed, and lags by as much at the exit.
    assert steps == pytest.approx(forecast, rel=0.01 if optimiser == "gd" else 0.2)


def test_adam_follows_no_flow():
    loss, start = bumped(8.0), ([0.3, 0.7], [1.0, 1.0])
    adam, _ = training.measure_steps(loss, *start, delta=0.2, learning_rate=0.01, optimiser="adam")
    plain, _ = training.measure_steps(loss, *start, delta=0.2, learning_rate=0.01)
    assert adam < plain / 10


def test_too_long_steps_diverge():
    steps, status = training.measure_steps(
        bumped(8.0), [0.3, 0.7], [1.0, 1.0], delta=1e9, learning_rate=0.5
    )
    assert steps == np.inf
    assert status.code == "diverged"


def test_the_linear_forecast_knows_its_region():
    loss, start = bumped(10.0), ([0.3, 0.7], [1.0, 1.0])
    for delta, valid in ((1e-4, True), (1e-3, True), (0.5, False)):
        forecast = training.predict_linear_escape(loss, *start, delta=delta)
        true = training.measure_hitting_time(loss, *start, delta=delta, of="parameters").value
        assert forecast.is_valid is valid
        if valid:
            assert 1 / 1.5 < forecast.value / true < 1.5
    # Negative control: for a fixed gap it falls ever further behind the law, and says so.
    far = training.predict_linear_escape(bumped(18.0), *start, delta=0.5)
    assert not far.is_valid
    assert far.value < 0.01 * REFERENCE[18]


@pytest.mark.parametrize(
    ("change", "words"),
    [({"delta": 0.0}, "delta"), ({"of": "weights"}, "of"), ({"rtol": -1.0}, "rtol")],
)
def test_bad_input_is_named(change, words):
    options = {"delta": 0.5} | change
    with pytest.raises(ValueError, match=words):
        training.measure_hitting_time(bumped(8.0), [0.3, 0.7], [1.0, 1.0], **options)
