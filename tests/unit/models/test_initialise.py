"""Starts: the time scales asked for, and what each construction promises."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from recollect import models


def test_time_scales_asked_for_are_there():
    model = models.initialise_from_timescales([1.0, 1e4], width=32, key=0)
    times = 1 / model.rates
    np.testing.assert_allclose([times.min(), times.max()], [1.0, 1e4], rtol=1e-10)
    np.testing.assert_allclose(np.diff(np.log(times)), np.log(1e4) / 31, rtol=1e-8)
    # It still sees the input after ten thousand steps, where a random network sees nothing.
    assert np.abs(model.kernel(np.array([1e4]))).max() > 1e-3 * np.abs(model.C).max() / 1e2
    assert models.stability_margin(model, dt=1.0).status.is_ok


def test_s4d_lin_and_ring():
    s4d = models.initialise_s4d_lin(16, timescale=50.0, key=1)
    np.testing.assert_allclose(s4d.rates.real, 0.5 / 50)
    np.testing.assert_allclose(np.sort(abs(s4d.rates.imag))[::2] * 50, np.pi * np.arange(8))
    ring = models.initialise_lru_ring(64, smallest=0.8, largest=0.95, dt=0.5, key=2)
    radius = np.abs(np.exp(-ring.rates * 0.5))
    assert radius.min() >= 0.8
    assert radius.max() <= 0.95
    assert models.stability_margin(ring).margin == pytest.approx(1 - radius.max(), rel=1e-9)


def test_symmetric_start_is_zero():
    model = models.initialise_symmetric(64, alpha=0.5, n_inputs=3, key=3)
    signal = np.random.default_rng(0).standard_normal((20, 3))
    np.testing.assert_allclose(model(signal, dt=1.0), 0.0, atol=1e-14)
    np.testing.assert_array_equal(np.abs(model.weights), 0.5)


def test_orthogonal_and_residual():
    elman = models.initialise_elman(12, key=4, spectral_radius=0.9)
    np.testing.assert_allclose(elman.W @ elman.W.T, 0.81 * np.eye(12), atol=1e-13)
    residual = models.initialise_residual(12, timescale=10.0, key=4)
    reals = np.linalg.eigvals(residual.W).real * 10
    assert reals.min() >= -1.5 - 1e-12
    assert reals.max() <= -0.5 + 1e-12


@pytest.mark.parametrize("key", [7, jax.random.key(7), jax.random.PRNGKey(7)])
def test_keys_are_reproducible(key: object):
    first, second = (models.initialise_gru(4, key=key) for _ in range(2))
    np.testing.assert_array_equal(first.state_weights, second.state_weights)
    assert np.abs(first.state_weights).max() <= 0.5


def test_bad_requests():
    with pytest.raises(ValueError, match="even number"):
        models.initialise_s4d_lin(5, timescale=1.0, key=0)
    with pytest.raises(ValueError, match="positive times"):
        models.initialise_from_timescales([1.0, -1.0], key=0)
    with pytest.raises(ValueError, match="key: expected"):
        models.initialise_gru(4, key="seed")
    with pytest.raises(ValueError, match="largest"):
        models.initialise_lru_ring(4, largest=1.0, key=0)
