"""Parameterisations: inverse of each other, and stable for any weight and any step."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recollect
from recollect import models

STABLE = [models.Exponential(), models.Softplus(), models.InverseSquare()]
ALL = [
    *STABLE,
    models.Direct(),
    models.Relu(),
    models.DiscreteDirect(),
    models.DiscreteInverseSquare(),
]
name = lambda reparam: type(reparam).__name__  # noqa: E731


@pytest.mark.parametrize("reparam", ALL, ids=name)
def test_inverse(reparam: recollect.AbstractReparam):
    rates = np.geomspace(1e-6, 1.9, 50)
    np.testing.assert_allclose(reparam.forward(reparam.inverse(rates)), rates, rtol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("reparam", [*STABLE, None], ids=lambda r: name(r) if r else "Discrete")
def test_every_weight_and_step_is_inside_the_unit_disc(reparam: object, dtype: type):
    rng = np.random.default_rng(0)
    weights = rng.standard_normal(100_000) * 10.0 ** rng.uniform(-3, 6, 100_000)
    weights = np.concatenate([weights, [0.0, 1e30, -1e30]]).astype(dtype)
    for dt in 10.0 ** np.linspace(-4, 4, 9):
        rule = models.DiscreteInverseSquare(dt) if reparam is None else reparam
        with jax.enable_x64(dtype is np.float64):
            multipliers = _multipliers(rule, jnp.asarray(weights), float(dt))
        assert multipliers.dtype == dtype
        assert np.isfinite(multipliers).all()
        assert (np.abs(multipliers) < 1).all()


def _multipliers(rule: object, weights: jax.Array, dt: float) -> np.ndarray:
    width = len(weights)
    read = jnp.ones((width, 1), weights.dtype), jnp.ones((1, width), weights.dtype)
    trained = models.DiagonalRNN(1e-6 * jnp.ones(width, weights.dtype), *read, reparam=rule)
    object.__setattr__(trained, "weights", weights)
    # From the state of ones and no input, one step leaves the multipliers themselves.
    state = jnp.ones(width, weights.dtype)
    return np.asarray(trained.step(state, jnp.zeros(1, weights.dtype), dt=dt))


def test_unreachable_rates_are_refused_in_words():
    with pytest.raises(ValueError, match="rates: expected positive rates"):
        models.reparameterise(models.DiagonalRNN([-0.1], [[1.0]], [[1.0]]), models.Exponential())
    with pytest.raises(ValueError, match="lower the offset"):
        models.InverseSquare(offset=0.5).inverse(np.array([3.0]))
    with pytest.raises(ValueError, match="offset: expected a number above 1"):
        models.DiscreteInverseSquare(offset=0.5)


def test_direct_and_relu_say_that_they_are_not_stable():
    assert not models.Direct().is_stable
    assert not models.Relu().is_stable
    assert not models.DiscreteDirect().is_stable
    assert all(reparam.is_stable for reparam in [*STABLE, models.DiscreteInverseSquare()])
