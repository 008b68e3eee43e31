"""The table of parameterisations: one function, several coordinates, what each costs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from recollect import models, stability


def network():
    return models.DiagonalRNN([0.05, 1.0], [[0.2], [0.7]], [[0.2, 0.7]])


def check(found):
    # What is proved to hold is below what a search found to break.
    assert (found.proved_radius <= found.radius_of_rates * (1 + 1e-9)).all()
    assert (found.proved_radius <= found.radius_of_all * (1 + 1e-9)).all()
    assert (found.radius_of_all <= found.radius_of_rates * 1.15).all()
    assert (found.learning_rate <= found.largest_learning_rate * (1 + 1e-9)).all()
    assert found.status.is_ok
    assert len(found.summary()) == len(found.names) + 1


@pytest.mark.slow
def test_the_table_is_that_of_its_parts():
    model = network()
    maps = {"direct": models.Direct(), "exponential": models.Exponential()}
    found = stability.measure_trade_off(model, maps, readins=("plain",), n_starts=4, n_steps=400)
    check(found)
    assert found.names == ("direct", "exponential")
    size = 0.04 / 0.05 + 0.49
    assert found.rise == pytest.approx(0.1 * size, rel=1e-6)
    assert found.gradient_scale == pytest.approx([400.0, 20.0])
    # Positive amplitudes, rates alone: every unit slows down by β.
    a, w = np.array([0.04, 0.49]), np.array([0.05, 1.0])
    direct = next(b for b in np.geomspace(1e-4, 0.05, 4000) if (a / (w - b) - a / w).sum() > 0.129)
    assert found.radius_of_rates[0] == pytest.approx(direct, rel=0.05)
    assert found.radius_of_rates[1] == pytest.approx(math.log(1.1), rel=0.05)
    for name, radius in zip(maps, found.proved_radius, strict=True):
        variant = models.reparameterise(model, maps[name])
        bound = stability.bound_perturbation_error(variant, radius)
        assert bound == pytest.approx(found.rise, rel=1e-6)
    # A steeper map bears smaller steps.
    assert found.largest_learning_rate[0] < found.largest_learning_rate[1]


def test_what_has_no_trade_off_is_refused():
    with pytest.raises(ValueError, match="real rates"):
        stability.measure_trade_off(
            models.DiagonalRNN([1 + 1j, 1 - 1j], [[1.0], [1.0]], [[1.0, 1.0]])
        )
    with pytest.raises(ValueError, match="positive"):
        stability.measure_trade_off(models.DiagonalRNN([-1.0], [[1.0]], [[1.0]]))
    with pytest.raises(ValueError, match="optimiser"):
        stability.measure_trade_off(network(), optimiser="adamw")


@pytest.mark.slow
def test_the_normalised_read_in_holds_further_and_direct_weights_least():
    found = stability.measure_trade_off(network(), optimiser="gradient_descent")
    check(found)
    assert len(found.names) == 8
    radius = dict(zip(found.names, found.radius_of_all, strict=True))
    assert all(radius[n] > radius["direct"] for n in found.names[2:])
    for name in ("exponential", "softplus", "inverse square"):
        assert radius[f"{name}, normalised"] > 1.5 * radius[name]
    assert np.isfinite(found.n_steps).all()
