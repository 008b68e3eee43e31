"""Distilling loses nothing against the best fit, and never claims more than can be."""

from __future__ import annotations

import time

import numpy as np
import pytest

from recollect import approximation, models, training
from recollect.training._mode_reduction import (
    Modes,
    bound_reduction,
    close_conjugates,
    measure_difference,
    measure_modes,
    project_modes,
    reduce_modes,
    to_half_plane,
    triangular_factor,
)

NORMS = ("l1", "l2", "linf")


def s4d(width, seed, timescale=20.0, **options):
    return models.initialise_s4d_lin(width, timescale=timescale, key=seed, **options)


def trained_layer(width, seed, n_steps):
    rng = np.random.default_rng(seed)
    start = models.StateSpaceLayer(s4d(width, seed), rng.standard_normal((1, 1)), activation="gelu")
    x = rng.standard_normal((4, 150, 1))
    lag = np.arange(150)
    kernel = np.exp(-lag / 8) * np.cos(lag / 4) * (lag > 5)
    y = np.stack([np.convolve(r[:, 0], kernel)[:150] for r in x])[:, :, None]
    return training.train_model(
        start, x, np.maximum(y, 0), dt=1.0, key=seed, n_steps=n_steps, learning_rate=5e-3
    ).model


def random_modes(n_pairs, rng, n_channels=1):
    upper = np.exp(rng.uniform(-3, 0, n_pairs)) + 1j * rng.uniform(0.05, 2, n_pairs)
    residues = rng.standard_normal((n_pairs, n_channels, 2)) @ np.array([1, 1j])
    return Modes(np.concatenate([upper, upper.conj()]), np.concatenate([residues, residues.conj()]))


def test_the_triangular_factor_is_the_root_of_the_cauchy_matrix():
    v = random_modes(6, np.random.default_rng(0)).rates
    factor = triangular_factor(v)
    gram = 1 / (v[:, None].conj() + v)
    np.testing.assert_allclose(factor.conj().T @ factor, gram, rtol=1e-10, atol=1e-12)
    # Nearly equal rates: the smallest pivot is right where a Cholesky factor would fail.
    close = np.array([1.0, 1.0 + 1e-9, 1.0 + 2e-9])
    d = 1e-9
    smallest = abs(triangular_factor(close)[2, 2])
    assert smallest == pytest.approx(np.sqrt(2) * (2 * d) * d / 2**3, rel=1e-6)
    try:
        rounded = np.linalg.cholesky(1 / (close[:, None] + close))[2, 2]
    except np.linalg.LinAlgError:
        rounded = np.nan
    assert not abs(rounded / smallest - 1) < 0.5


@pytest.mark.parametrize("n_channels", [1, 3])
def test_the_error_left_is_that_of_a_dense_projection(n_channels):
    rng = np.random.default_rng(1)
    modes = random_modes(5, rng, n_channels)
    rates, left, _ = reduce_modes(modes, 4)
    lags = np.linspace(0, 400, 400_001)
    wave = np.exp(-np.multiply.outer(lags, modes.rates))
    kernel = (wave @ modes.residues).real
    upper = rates[rates.imag >= 0]
    own = np.exp(-np.multiply.outer(lags, upper))
    basis = np.concatenate([own.real, own.imag[:, upper.imag > 0]], axis=1)
    residual = kernel - basis @ np.linalg.lstsq(basis, kernel, rcond=None)[0]
    dense = np.sqrt(np.sum(residual**2) * (lags[1] - lags[0]))
    assert left == pytest.approx(dense, rel=1e-3)
    # Negative control: other rates leave more, and the formula says how much.
    moved = rates * 1.3
    amplitudes = project_modes(modes, moved)
    assert measure_difference(modes, Modes(moved, amplitudes)) > 1.05 * left
    best = project_modes(modes, rates)
    assert measure_difference(modes, Modes(rates, best)) == pytest.approx(left, rel=1e-9)


def test_the_half_plane_keeps_norms_of_sequences():
    rng = np.random.default_rng(2)
    z = 0.9 * np.sqrt(rng.uniform(size=4)) * np.exp(1j * rng.uniform(0.1, 3, 4))
    a = rng.standard_normal((4, 1)) + 1j * rng.standard_normal((4, 1))
    closed = close_conjugates(z, a)
    sequence = (closed.rates ** np.arange(2000)[:, None] @ closed.residues).real
    flat = to_half_plane(closed.rates, closed.residues)
    assert measure_modes(flat) == pytest.approx(np.linalg.norm(sequence), rel=1e-12)


@pytest.mark.parametrize("dt", [None, pytest.param(0.5, marks=pytest.mark.slow)])
def test_bounds_stay_below_what_is_reached_at_every_width(dt):
    layer = s4d(16, 3)
    layer = layer if dt is None else models.rediscretise(layer, dt)
    for width in (1, 2, 5, 8, 12, 14):
        reached = {norm: np.inf for norm in NORMS}
        bounds = {}
        for norm in ("l1", "l2"):
            found = training.distil(layer, width=width, norm=norm)
            bounds = found.bounds
            assert found.width <= width
            for name in NORMS:
                reached[name] = min(reached[name], found.errors[name])
        for name in NORMS:
            assert bounds[name] <= reached[name]
            # Not idle: within a factor that a loose inequality would not meet.
            assert bounds[name] > 0.02 * reached[name]


def test_a_bound_is_met_where_it_can_be():
    # One unit, one Hankel value: the best width 0 is zero itself, and its L2 error the norm.
    one = bound_reduction(np.array([0.7 + 0j]), np.array([[2.0 + 0j]]), 0, dt=None, n_outputs=1)
    assert one["l1"] == pytest.approx(2 / 1.4, rel=1e-9)
    assert one["l2"] == pytest.approx(2 / np.sqrt(1.4), rel=1e-6)
    # Kernels of m modes leave nothing at width m, and rounding must not raise the bound.
    modes = random_modes(3, np.random.default_rng(4))
    none = bound_reduction(modes.rates, modes.residues, 6, dt=None, n_outputs=1)
    assert none == {"l1": 0.0, "l2": 0.0, "linf": 0.0}
    double = np.concatenate([modes.rates, modes.rates * (1 + 1e-12)])
    halves = np.concatenate([modes.residues, modes.residues]) / 2
    almost = bound_reduction(double, halves, 6, dt=None, n_outputs=1)
    assert almost["l1"] < 1e-9
    assert almost["l2"] < 1e-4


def test_the_linear_part_as_such_and_in_its_layer_are_the_same():
    rng = np.random.default_rng(5)
    recurrence = s4d(12, 5)
    for norm in NORMS:
        alone = training.distil(recurrence, width=6, norm=norm)
        layer = models.StateSpaceLayer(recurrence, rng.standard_normal((2, 1)), activation="tanh")
        inside = training.distil(layer, width=6, norm=norm)
        assert inside.error == alone.error
        np.testing.assert_array_equal(inside.model.recurrence.C, alone.model.C)


def test_half_the_states_cost_what_the_best_fit_costs():
    layer = s4d(12, 6)
    found = training.distil(layer, width=6)
    best = approximation.fit_exponential_sum(layer, width=6, norm="l2")
    assert found.error <= 1.05 * best.error
    assert found.bound <= best.error


@pytest.mark.slow
@pytest.mark.parametrize("is_trained", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_random_and_trained_layers_in_every_norm(norm, is_trained):
    for seed in (0, 1) if norm == "l2" else (0,):
        layer = trained_layer(16, seed, 40) if is_trained else s4d(16, seed)
        recurrence = layer.recurrence if is_trained else layer
        found = training.distil(layer, width=8, norm=norm)
        best = approximation.fit_exponential_sum(recurrence, width=8, norm=norm)
        assert found.error <= 1.05 * best.error
        assert found.bound <= min(found.error, best.error)


@pytest.mark.slow
def test_sixty_four_states_to_half():
    layer = s4d(64, 0, timescale=100.0)
    found = training.distil(layer, width=32)
    best = approximation.fit_exponential_sum(layer, width=32, norm="l2")
    assert found.error <= 1.05 * best.error
    assert found.bound <= found.error


@pytest.mark.slow
def test_the_cost_is_linear_in_the_lags():
    rng = np.random.default_rng(7)
    seconds = []
    for n in (2048, 16_384):
        lag = np.arange(n)
        kernel = sum(np.exp(-lag / (n / 40 * k)) * np.cos(lag * k / n * 30) for k in (1, 2, 3))
        kernel = kernel + 1e-3 * rng.standard_normal(n) * np.exp(-lag / (n / 10))
        training.distil(kernel[None], width=6)
        began = time.process_time()
        found = training.distil(kernel[None], width=6)
        seconds.append(time.process_time() - began)
        assert found.relative_error < 0.02
    # Eight times the lags: at most eight times the work, with room for the timer.
    assert seconds[1] < 16 * seconds[0]
