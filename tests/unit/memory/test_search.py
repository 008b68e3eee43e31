"""The supremum over directions and magnitudes, the probes, and the map for attention."""

from __future__ import annotations

import numpy as np
import pytest

from recollect import as_functional, models, targets
from recollect.memory import estimate_law, measure_memory, measure_memory_map


def elman(width=6, n_inputs=3, seed=0, bias=0.0):
    rng = np.random.default_rng(seed)
    W = rng.standard_normal((width, width))
    W *= 0.8 / np.abs(np.linalg.eigvals(W)).max()
    return models.ElmanRNN(
        W,
        rng.standard_normal((width, n_inputs)),
        rng.standard_normal((1, width)),
        bias * rng.standard_normal(width),
    )


@pytest.fixture(scope="module")
def searched():
    return measure_memory(elman(), dt=1.0, horizon=24.0)


def test_the_search_beats_the_grid_and_says_by_how_much(searched):
    grid = measure_memory(elman(), dt=1.0, horizon=24.0, n_restarts=0)
    assert (searched.memory >= grid.memory - 1e-15).all()
    assert (np.diff(searched.convergence) >= 0).all()
    assert searched.convergence[0] == pytest.approx(grid.memory.sum(), rel=1e-12)
    assert searched.convergence[-1] == pytest.approx(searched.memory.sum(), rel=1e-12)
    assert len(grid.convergence) == 1


def test_the_search_finds_what_ten_thousand_random_steps_find(searched):
    model, rng = elman(), np.random.default_rng(5)
    best = np.zeros(24)
    for _ in range(40):
        size = np.exp(rng.uniform(np.log(1e-3), np.log(1e3), 250))
        values = size[:, None] * rng.choice([-1.0, 1.0, 0.3], (250, 3))
        outputs = _many(model, values, 24)
        gain = np.abs(np.diff(outputs, axis=1, prepend=0.0)) / np.abs(values).max(axis=1)[:, None]
        best = np.maximum(best, gain.max(axis=0))
    assert (searched.memory[:, 0] >= 0.999 * best).all()


def _many(model, values, n_time):
    """All steps at once by plain NumPy: an independent oracle."""
    state, rows = np.zeros((len(values), len(model.W))), []
    for _ in range(n_time):
        state = np.tanh(state @ model.W.T + values @ model.U.T + model.bias)
        rows.append(state @ model.C[0])
    return np.stack(rows, axis=1)


def test_the_value_is_attained_by_the_step_it_names(searched):
    model = elman()
    for lag in (0, 5, 20):
        size = searched.magnitudes[lag, 0]
        value = (size if size > 0 else 1e-5) * searched.directions[lag, 0]
        moved = np.diff(_many(model, value[None], 24), axis=1, prepend=0.0)[0, lag]
        assert abs(moved) / np.abs(value).max() == pytest.approx(
            searched.memory[lag, 0], rel=1e-6 if size > 0 else 1e-4
        )


def test_small_steps_reach_the_linear_kernel():
    """Of a contracting odd tanh network the derivative at rest is a lower bound of M."""
    model = elman(4, 1)
    kernel = [
        np.abs(model.C @ np.linalg.matrix_power(model.W, k) @ model.U).sum() for k in range(24)
    ]
    found = measure_memory(model, dt=1.0, horizon=24.0).memory[:, 0]
    assert (found >= np.array(kernel) * (1 - 1e-9)).all()


def test_permuted_units_remember_the_same(searched):
    model = elman()
    order = np.random.default_rng(1).permutation(6)
    other = models.ElmanRNN(
        model.W[np.ix_(order, order)], model.U[order], model.C[:, order], model.bias[order]
    )
    found = measure_memory(other, dt=1.0, horizon=24.0)
    np.testing.assert_allclose(found.memory, searched.memory, rtol=1e-3)
    grids = [measure_memory(m, dt=1.0, horizon=24.0, n_restarts=0) for m in (model, other)]
    np.testing.assert_allclose(grids[0].memory, grids[1].memory, atol=1e-13)


def test_rescaled_states_remember_the_same():
    model = models.LinearRNN(np.diag([-0.5, -2.0]), np.ones((2, 1)), np.ones((1, 2)))
    scale = np.array([1e-4, 1e5])
    other = models.LinearRNN(model.A, model.B * scale[:, None], model.C / scale)
    profiles = [measure_memory(m, dt=0.1, horizon=5.0) for m in (model, other)]
    np.testing.assert_allclose(profiles[0].memory, profiles[1].memory, rtol=1e-12)


def test_the_initial_state_is_told_from_the_input():
    """With a bias the state moves by itself; M must not contain that."""
    model = elman(4, 1, bias=0.5)
    found = measure_memory(model, dt=1.0, horizon=24.0, settle=60.0)
    started = measure_memory(model, dt=1.0, horizon=24.0)
    np.testing.assert_allclose(
        started.rest[:, 0], _many(model, np.zeros((1, 1)), 24)[0], atol=1e-14
    )
    assert np.ptp(started.rest) > 0.1
    assert np.ptp(found.rest) < 1e-4
    state = np.zeros(4)
    for _ in range(400):
        state = np.tanh(model.W @ state + model.bias)
    slopes = model.W * (1 - state**2)[:, None]
    drive = model.U * (1 - state**2)[:, None]
    kernel = [np.abs(model.C @ np.linalg.matrix_power(slopes, k) @ drive).sum() for k in range(24)]
    assert (found.memory[:, 0] >= np.array(kernel) * (1 - 1e-3)).all()


def test_the_derivative_away_from_rest_is_no_lower_bound():
    """Negative control: a unit that its bias holds at 0.97; at zero its derivative is 2^-k."""
    model = models.ElmanRNN(np.array([[0.5]]), np.ones((1, 1)), np.ones((1, 1)), np.array([1.5]))
    found = measure_memory(model, dt=1.0, horizon=8.0, settle=60.0).memory[:, 0]
    state = 0.0
    for _ in range(100):
        state = np.tanh(0.5 * state + 1.5)
    slope = 1 - state**2
    assert (found >= slope * (0.5 * slope) ** np.arange(8)).all()
    assert (found < 0.7 * 0.5 ** np.arange(8)).all()


def test_a_black_box_is_searched_without_gradients():
    # |d/dt| at lag 0 is x^3/(1+x^2)^1.5/x: largest at sqrt(2), off the coarse grid.
    found = measure_memory(lambda u: u**3 / (1 + u**2) ** 1.5, dt=1.0, horizon=3.0)
    assert found.memory[0, 0] == pytest.approx(2 / 3**1.5, rel=1e-3)


@pytest.mark.parametrize("probe", ["impulse", "reversed"])
def test_probes_of_a_linear_network_are_exact(probe):
    model = models.LinearRNN(np.array([[-0.5]]), np.ones((1, 1)), np.ones((1, 1)))
    exact = measure_memory(model, dt=0.1, horizon=10.0, probe=probe)
    asked = measure_memory(
        as_functional(lambda u: model(u, dt=0.1)), dt=0.1, horizon=10.0, probe=probe
    )
    if probe == "impulse":
        expected = (np.exp(-0.5 * (exact.lags - 0.05)) * (1 - np.exp(-0.05))) / 0.05
    else:
        expected = np.exp(-0.5 * exact.lags) * (1 - np.exp(-0.5 * 10.0)) / 0.5
    np.testing.assert_allclose(exact.memory[:, 0], expected, rtol=1e-10)
    np.testing.assert_allclose(asked.memory[:, 0], expected, rtol=1e-9)
    np.testing.assert_allclose(asked.lags, exact.lags)
    assert not exact.is_lower_estimate


def test_the_bounded_version_of_a_linear_memory_is_its_supremum():
    kernel = targets.PowerLaw(exponent=1.5)
    gain = measure_memory(kernel, dt=0.1, horizon=5.0)
    bounded = measure_memory(kernel, dt=0.1, horizon=5.0, normalisation="bounded")
    np.testing.assert_allclose(bounded.memory, gain.memory, rtol=1e-15)
    assert np.isinf(bounded.magnitudes).all()
    tried = measure_memory(kernel, dt=0.1, horizon=5.0, normalisation="bounded", magnitudes=[1, 3])
    np.testing.assert_allclose(tried.memory, 0.75 * gain.memory, rtol=1e-15)


def test_lags_laws_and_horizon_of_an_exponential():
    profile = measure_memory(
        models.LinearRNN(np.array([[-0.5]]), np.eye(1), np.eye(1)), dt=0.05, horizon=60.0
    )
    assert profile.t50 == pytest.approx(np.log(2) / 0.5, rel=1e-3)
    assert profile.t95 == pytest.approx(np.log(20) / 0.5, rel=1e-3)
    assert profile.horizon == pytest.approx(np.log(1000) / 0.5, abs=0.06)
    assert estimate_law(profile).law == "exponential"
    slow = measure_memory(targets.PowerLaw(exponent=1.2), dt=0.5, horizon=20.0)
    assert np.isinf(slow.horizon)


def test_what_does_not_fade_is_said():
    held = measure_memory(lambda u: np.cumsum(u, axis=0), dt=1.0, horizon=64.0)
    assert held.warnings[0].code == "record_too_short"
    cube = measure_memory(lambda u: u**3, dt=1.0, horizon=9.0)
    assert "largest magnitude" in cube.warnings[0].message


def attention(window=None, slopes=(0.0, 0.0)):
    rng = np.random.default_rng(2)
    query, key, value = rng.standard_normal((3, 4, 2))
    return models.CausalAttention(
        query, key, value, rng.standard_normal((1, 4)), slopes, window=window
    )


def test_attention_needs_a_map_and_a_window_does_not():
    whole = measure_memory_map(attention(), dt=1.0, horizon=32.0, n_starts=4)
    assert not whole.is_time_homogeneous
    assert whole.before == 0
    assert whole.memory.shape == (4, 32, 1)
    # A step that comes later is diluted by what was seen before.
    assert whole.memory[0, 0, 0] > 3 * whole.memory[-1, 0, 0]
    near = measure_memory_map(attention(window=8), dt=1.0, horizon=32.0, n_starts=4)
    assert near.is_time_homogeneous
    np.testing.assert_allclose(near.memory[:, 8:], 0, atol=1e-12)


def test_the_map_agrees_with_the_memory_function():
    model = elman(4, 1)
    sizes = [0.1, 1.0]
    profile = measure_memory(model, dt=1.0, horizon=16.0, magnitudes=sizes, n_restarts=0)
    found = measure_memory_map(model, dt=1.0, horizon=16.0, starts=[0, 3, 16], magnitudes=sizes)
    for row in found.memory:
        np.testing.assert_allclose(row, profile.memory, atol=1e-12)
    assert found.is_time_homogeneous


@pytest.mark.slow
def test_long_probes_keep_no_states_and_change_nothing():
    rates = np.geomspace(1e-3, 1, 6)
    layer = models.StateSpaceLayer(
        models.DiagonalRNN(rates, rates[:, None], np.ones((1, 6)) / 6), [[1.0]], activation="tanh"
    )
    stack = models.Stack([layer, models.LinearRNN([[-0.1]], [[1.0]], [[1.0]])])
    short, long = (
        measure_memory(stack, dt=1.0, horizon=horizon, n_restarts=0) for horizon in (4000.0, 4200.0)
    )
    np.testing.assert_allclose(long.memory[:4000], short.memory, atol=1e-13)


@pytest.mark.slow
def test_a_hundred_thousand_steps():
    rates = np.geomspace(1e-4, 1, 8)
    layer = models.StateSpaceLayer(
        models.DiagonalRNN(rates, rates[:, None], np.ones((1, 8)) / 8), [[1.0]], activation="tanh"
    )
    profile = measure_memory(layer, dt=1.0, horizon=1e5, n_restarts=1)
    kernel = (rates * np.exp(-rates * profile.lags[:, None])).sum(axis=1) / 8
    early = profile.lags < 5e4
    assert (profile.memory[early, 0] >= kernel[early] * 0.9).all()
    assert 5e3 < profile.t95 < 1e5
