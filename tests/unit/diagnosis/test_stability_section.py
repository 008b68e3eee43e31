"""The advice on parameterisation: what a law forbids, and radii that hold when weights do move."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from recollect import memory, models, targets
from recollect._core._json import finite_or_null
from recollect.diagnosis import recommend_parameterisation
from recollect.diagnosis._stability import _balanced, largest_radius

RATES, AMPLITUDES = np.array([0.02, 0.3]), np.array([0.02, -0.1])


def law_of(kernel):
    profile = memory.measure_memory(kernel, dt=1.0, horizon=400.0)
    return memory.estimate_law(profile)


@pytest.fixture(scope="module")
def exponential():
    return law_of(targets.parse_kernel("exp(-0.1*t)"))


@pytest.fixture(scope="module")
def power():
    return law_of(targets.PowerLaw(exponent=1.5, scale=1.0))


def network(rates=RATES, amplitudes=AMPLITUDES):
    return models.DiagonalRNN(rates, np.ones((len(rates), 1)), amplitudes[None, :])


def test_no_direct_network_holds_a_power_law(power):
    advice = recommend_parameterisation(power, network(), dt=1.0, unit="s")
    assert advice.radius_bound == 0
    assert advice.recommended.reparam != "direct"
    finding, remedy = advice.summary()
    assert "no directly trained network holds it stably, however wide" in finding
    assert "no change makes it unstable" in remedy


def test_an_exponential_memory_bounds_the_radius_by_its_rate(exponential):
    advice = recommend_parameterisation(exponential, network(), dt=1.0, unit="s")
    assert advice.radius_bound == pytest.approx(0.1, rel=0.05)
    assert advice.slowest_rate == pytest.approx(0.02)
    assert advice.direct.unstable_from == pytest.approx(0.02)
    assert "per s" in advice.summary()[0]


def test_fast_rates_need_no_cure(exponential):
    fast = network(np.array([3.0]), np.array([1.0]))
    advice = recommend_parameterisation(exponential, fast, dt=1.0)
    assert advice.recommended is advice.direct


@pytest.mark.parametrize("readin", ["plain", "normalised"])
def test_no_move_within_the_radius_changes_more_than_it_says(exponential, readin):
    advice = recommend_parameterisation(exponential, network(), dt=1.0)
    units = network()
    # What was moved: the standardised network, whose kernel is a multiple of this one's.
    power = np.sum(np.outer(AMPLITUDES, AMPLITUDES) / np.add.outer(RATES, RATES))
    units = network(RATES, AMPLITUDES / math.sqrt(power))
    size = targets.measure_norm(units, norm="l1")
    rng = np.random.default_rng(0)
    maps = {"direct": models.Direct(), "exponential": models.Exponential()}
    for margin in advice.margins:
        if margin.readin != readin or margin.reparam not in maps:
            continue
        own = models.reparameterise(_balanced(units, readin), maps[margin.reparam])
        for _ in range(20):
            moved = own
            for name in ("weights", "B", "C"):
                step = rng.standard_normal(getattr(own, name).shape)
                step *= margin.radius / np.linalg.norm(step)
                moved = _with(moved, name, step)
            error = targets.measure_norm(targets.SumKernel((own, moved), (1.0, -1.0)), norm="l1")
            assert error <= 0.1 * size * (1 + 1e-6)


def _with(model, name, step):
    import equinox as eqx

    return eqx.tree_at(lambda m: getattr(m, name), model, getattr(model, name) + step)


def test_the_advice_does_not_depend_on_units(exponential):
    one = recommend_parameterisation(exponential, network(), dt=1.0)
    other = recommend_parameterisation(
        exponential, network(10 * RATES, 30 * AMPLITUDES), dt=0.1, unit="min"
    )
    for first, second in zip(one.margins, other.margins, strict=True):
        assert second.radius == pytest.approx(first.radius, rel=1e-5)


def test_an_oscillating_network_is_judged_by_its_moduli(exponential):
    swinging = models.LinearRNN([[-0.05, 0.4], [-0.4, -0.05]], [[1.0], [0.0]], [[1.0, 0.0]])
    advice = recommend_parameterisation(exponential, swinging, dt=1.0)
    assert advice.slowest_rate == pytest.approx(0.05)
    assert advice.direct.unstable_from == pytest.approx(0.05)


def test_what_cannot_be_said_is_said_so(exponential):
    nothing = dataclasses.replace(exponential, law="none")
    advice = recommend_parameterisation(nothing, network(), dt=1.0)
    assert advice.recommended is None
    assert len(advice.summary()) == 2
    unstable = models.LinearRNN([[0.1]], [[1.0]], [[1.0]])
    advice = recommend_parameterisation(exponential, unstable, dt=1.0)
    assert advice.status.code == "undecided"
    assert "it does not forget" in advice.summary()[1]
    defective = models.LinearRNN([[-0.1, 1.0], [0.0, -0.1]], [[0.0], [1.0]], [[1.0, 0.0]])
    advice = recommend_parameterisation(exponential, defective, dt=1.0)
    assert "rates repeated" in advice.summary()[1]
    undecided = dataclasses.replace(exponential, law="undecided")
    advice = recommend_parameterisation(undecided, network(), dt=1.0)
    assert advice.status.code == "undecided"
    assert math.isnan(advice.radius_bound)
    text = json.dumps(finite_or_null(advice.record()), allow_nan=False)
    assert json.loads(text)["radius_bound"] is None
    with pytest.raises(TypeError, match="law"):
        recommend_parameterisation("power", network(), dt=1.0)
    with pytest.raises(TypeError, match="network"):
        recommend_parameterisation(exponential, "network", dt=1.0)


def test_the_radius_inverts_the_bound():
    assert largest_radius(lambda b: 3 * b, 0.6) == pytest.approx(0.2, rel=1e-6)
    assert largest_radius(lambda b: 0.0, 0.1) == math.inf
    assert largest_radius(lambda b: 1.0, 0.1) == 0
