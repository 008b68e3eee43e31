from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from recollect import training
from recollect.study.catalogue import _stall_runs as runs


def convolve(signals, kernel):
    return np.array([np.convolve(x, kernel)[: len(x)] for x in signals])


@pytest.mark.parametrize("inputs", ["white", "coloured"])
def test_the_quadratic_form_is_the_error_on_the_paths(inputs):
    race = runs.build_race("bump 2", inputs, n_paths=3)
    rng = np.random.default_rng(0)
    for n_lags in (race.n_time, 20):
        root, wanted = runs.quadratic_form(*runs.as_records(race), n_lags)
        constant = np.mean(race.outputs**2) - wanted @ wanted
        kernel = rng.standard_normal(n_lags) / n_lags
        simulated = np.mean((convolve(race.signals, kernel) - race.outputs) ** 2)
        np.testing.assert_allclose(np.sum((root @ kernel - wanted) ** 2) + constant, simulated)
    # All lags: nothing is left over, because the outputs have no noise.
    root, wanted = runs.training_root(race)
    np.testing.assert_allclose(wanted @ wanted, np.mean(race.outputs**2), rtol=1e-12)


@pytest.mark.parametrize("inputs", ["white", "coloured"])
def test_the_error_is_what_fresh_paths_show_in_the_mean(inputs):
    race = runs.build_race("bump 2", inputs, n_paths=2)
    rng = np.random.default_rng(1)
    wrong = race.kernel * rng.uniform(0.5, 1.5, race.n_time)
    n, decay = race.n_time, math.exp(-race.dt / runs.CORRELATION_TIME)
    apart = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    covariance = np.where(apart == 0, 1.0, 0.0) if inputs == "white" else decay**apart

    def power(kernel):
        # Σ_k over the path of the variance of what the first k+1 lags make of the input.
        cut = [np.where(np.arange(n) <= k, kernel, 0.0) for k in range(n)]
        return sum(k @ covariance @ k for k in cut)

    expected = math.sqrt(power(wrong - race.kernel) / power(race.kernel))
    assert race.error(wrong) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("inputs", "target"), [("white", "bump 4"), ("coloured", "power 2")])
def test_from_the_data_the_best_error_of_the_width_is_reached(inputs, target):
    race = runs.build_race(target, inputs, n_paths=16)
    found = runs.run_ours(race, 8)
    best = runs.find_best(race, 8, found["poles"])
    assert best <= found["error"] <= 1.1 * best


def test_an_estimated_kernel_leads_there_too():
    race = runs.build_race("bump 4", "white", n_paths=8)
    found = runs.run_ours(race, 8, is_noise_free=False)
    assert found["error"] <= 1.1 * runs.find_best(race, 8)


def test_more_width_never_has_a_larger_best_error():
    race = runs.build_race("bump 8", "white")
    errors = [runs.find_best(race, width) for width in (3, 6, 12)]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("start", runs.STARTS)
def test_starts_are_real_networks_that_forget(start):
    race = runs.build_race("bump 4", "white", n_paths=2)
    network = runs.build_start(race, 8, start)
    rates = np.asarray(network.rates)
    assert (rates.real > 0).all()
    np.testing.assert_allclose(np.sort_complex(rates), np.sort_complex(rates.conj()))
    impulse = np.zeros((race.n_time, 1))
    impulse[0] = 1.0
    assert np.isfinite(network(impulse, dt=race.dt)).all()


@pytest.mark.parametrize("start", ["softplus", "s4d"])
def test_descent_takes_the_steps_that_simulation_takes(start):
    race = runs.build_race("bump 2", "white", n_paths=4)
    # In units of unit mean square, which are those the trainer works in.
    x, y = (math.sqrt(np.mean(signal**2)) for signal in (race.signals, race.outputs))
    race = dataclasses.replace(
        race, signals=race.signals / x, outputs=race.outputs / y, kernel=race.kernel * x / y
    )
    found = runs.run_descent(
        race, 4, start, rates=(1e-3,), bar=0.0, tune=0.0, budget=math.inf, max_steps=250
    )
    simulated = training.train_model(
        runs.build_start(race, 4, start),
        race.signals[:, :, None],
        race.outputs[:, :, None],
        key=0,
        dt=race.dt,
        n_steps=250,
        learning_rate=1e-3,
        steps_per_call=250,
    )
    lags = race.dt * np.arange(race.n_time)
    kernel = np.asarray(simulated.model.kernel(lags))[:, 0, 0] * race.dt
    assert found["steps"] == 250
    assert found["error"] == pytest.approx(race.error(kernel), rel=1e-5)


def test_the_best_rate_goes_on_and_the_clock_is_its_own():
    race = runs.build_race("bump 2", "white", n_paths=4)
    found = runs.run_descent(
        race, 4, "lru", rates=(1e-6, 1e-2), bar=0.0, tune=1e-6, budget=1e-6, max_steps=250
    )
    assert found["rate"] == 1e-2
    assert found["steps"] == 250
    assert not found["is_reached"]
    easy = runs.run_descent(race, 4, "lru", rates=(1e-2,), bar=10.0, tune=1.0, budget=1.0)
    assert easy["is_reached"]
    assert easy["steps"] == 250
