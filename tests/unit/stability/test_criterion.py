"""The criterion searched: known maps, known counterexamples, and where float64 ends."""

from __future__ import annotations

import math

import numpy as np
import pytest

from recollect import models, stability

PROVED = [
    models.Exponential(),
    models.Softplus(),
    models.InverseSquare(),
    models.InverseSquare(3.0, 0.1),
    models.DiscreteInverseSquare(0.5, 1.0, 1.2),
]


@pytest.mark.parametrize("reparam", PROVED, ids=lambda r: type(r).__name__)
@pytest.mark.parametrize("radius", [0.01, 0.5])
def test_the_search_comes_up_to_the_closed_form_from_below(reparam, radius):
    exact = stability.predict_criterion(reparam, radius)
    found = stability.measure_criterion(reparam, radius)
    # What rounds is the quotient of two rates near one.
    assert found.value <= exact + 1e-12
    assert found.value >= exact * (1 - 1e-5)
    assert found.is_stable is True
    assert found.status.is_ok
    assert list(found.values) == sorted(found.values, reverse=True)
    here, there = (float(reparam.forward(np.array(v))) for v in (found.weight, found.moved))
    if not isinstance(reparam, models.DiscreteInverseSquare):
        assert abs(here / there - 1) == pytest.approx(found.value, rel=1e-9)


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("direct", models.Direct()),
        ("relu", models.Relu()),
        ("one step", models.DiscreteDirect(0.1)),
        ("square", lambda v: v * v),
        ("absolute", np.abs),
        ("root", np.sqrt),
        ("pole", lambda v: 1 / np.abs(v)),
        ("rescaled", lambda v: v / 1000),
        ("hard sigmoid", lambda v: np.clip(0.5 + v, 0, 1)),
    ],
)
def test_maps_that_fail_are_refuted_by_a_pair(name, rate):
    found = stability.measure_criterion(rate, 0.05)
    assert found.is_stable is False
    assert found.value == math.inf
    assert found.status.code == "infinite"
    assert abs(found.moved - found.weight) <= 0.05 * (1 + 1e-12)
    # The pair is shown, not asserted: a rate that decays beside one that does not.
    forward = rate.forward if hasattr(rate, "forward") else rate
    if name == "one step":
        forward = lambda v: 1 - v  # noqa: E731
    with np.errstate(all="ignore"):
        here, there = (float(forward(np.array(v))) for v in (found.weight, found.moved))
    assert 0 < here < math.inf
    assert not 0 < there < math.inf


@pytest.mark.parametrize(
    "rate",
    [
        np.exp,
        lambda v: np.log1p(np.exp(v)),
        lambda v: np.exp(30 * v),
        lambda v: 1 / (1 + np.exp(-v)),
    ],
)
def test_underflow_refutes_nothing(rate):
    found = stability.measure_criterion(rate, 0.1)
    assert found.is_stable is None
    assert found.status.code == "precision_limit"
    assert found.largest < 1000
    slope = 30 if found.value > 1 else 1
    assert found.value == pytest.approx(math.expm1(0.1 * slope), rel=1e-9)


def test_growth_without_end_and_jumps_are_left_undecided():
    growing = stability.measure_criterion(lambda v: np.exp(v * v), 0.1)
    assert growing.is_stable is None
    assert growing.status.code == "undecided"
    assert "growing" in growing.status.message
    jump = stability.measure_criterion(lambda v: 1.0 + (v > 0), 0.1)
    assert jump.is_stable is None
    assert "jumps" in jump.status.message
    assert jump.values == (1.0, 1.0, 1.0)


def test_a_search_never_calls_an_unknown_map_stable():
    found = stability.measure_criterion(lambda v: 1 / (v * v + 1), 0.1)
    assert found.status.is_ok
    assert found.is_stable is None
    with pytest.raises(TypeError, match="map"):
        stability.measure_criterion(3.0, 0.1)  # type: ignore[arg-type]


def test_a_map_onto_multipliers_is_judged_by_its_distance_from_one():
    inverse = models.InverseSquare(1.0, 1.5)
    found = stability.measure_criterion(
        lambda v: 1 - np.asarray(inverse.forward(v)), 0.2, time="discrete"
    )
    assert found.value == pytest.approx(stability.predict_criterion(inverse, 0.2), rel=1e-5)
    # At b = 1/2 the multiplier starts at -1: stable by this ratio, unstable as a network.
    assert 1 - float(models.InverseSquare(1.0, 0.5).forward(np.array(0.0))) == -1.0


def test_gradient_scales_of_any_map():
    v = np.array([[-3.0, 0.2], [1.5, 30.0]])
    for reparam in PROVED:
        exact = stability.predict_gradient_scale(reparam, v)
        found = stability.measure_gradient_scale(reparam, v)
        assert found.shape == v.shape
        assert found == pytest.approx(exact, rel=1e-8)
    cubic = stability.measure_gradient_scale(lambda x: x**2 + 1, v)
    assert cubic == pytest.approx(2 * np.abs(v) / (v**2 + 1) ** 2, rel=1e-8)
    assert np.isnan(stability.measure_gradient_scale(lambda x: x, -1.0))
