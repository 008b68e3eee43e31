"""Training, gradients, initialisation: against autodiff, brute force and refusals."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recollect import convergence as c
from recollect._core._precision import in_float64


def case(width=8, n=3, horizon=5, d=2, seed=0, activation="tanh"):
    network = c.initialise_paired(width, d, alpha=0.4, seed=seed, activation=activation)
    signals = c.draw_sequences(n, horizon, d, seed=seed)
    targets = 0.3 * np.random.default_rng(seed).standard_normal((n, horizon))
    return network, signals, targets


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "erf", "softplus", "smooth_hardtanh"])
def test_the_start_answers_exactly_zero(activation):
    network, signals, _ = case(width=34, activation=activation)
    assert network.is_paired
    assert np.all(network(signals) == 0)


def test_outputs_are_those_of_the_model():
    network, signals, targets = case()
    trained = c.train_paired(network, signals, targets, n_steps=50, step_size=0.1, method="plain")
    outputs = [np.asarray(trained.network.model()(x, dt=1.0))[:, 0] for x in signals]
    np.testing.assert_allclose(trained.network(signals), outputs, atol=1e-6)


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "erf", "softplus", "smooth_hardtanh"])
def test_gradients_by_hand_are_those_of_autodiff(activation):
    network, signals, targets = case(activation=activation)
    rng = np.random.default_rng(1)
    from dataclasses import replace

    network = replace(
        network,
        weights=network.weights + rng.standard_normal(8),
        U=network.U + rng.standard_normal((8, 2)),
    )
    value = {
        "tanh": jnp.tanh,
        "sigmoid": jax.nn.sigmoid,
        "erf": jax.lax.erf,
        "softplus": jax.nn.softplus,
        "smooth_hardtanh": lambda z: (
            (jax.nn.softplus(4 * (z + 1)) - jax.nn.softplus(4 * (z - 1))) / 4 - 1
        ),
    }[activation]

    def risk(w, u):
        h, total = jnp.zeros((len(signals), len(w))), 0.0
        for t in range(signals.shape[1]):
            h = value(w * h + signals[:, t] @ u.T)
            total += jnp.sum((h @ network.signs / math.sqrt(len(w)) - targets[:, t]) ** 2)
        return total / len(signals)

    expected = in_float64(jax.jit(jax.value_and_grad(risk, argnums=(0, 1))))(
        network.weights, network.U
    )
    found = c.measure_gradient(network, signals, targets)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-12)
    for a, b in zip(found[1:], expected[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_projection_is_onto_the_balls():
    network, signals, targets = case()
    trained = c.train_paired(
        network,
        signals,
        5 + targets,
        n_steps=60,
        step_size=0.5,
        radius_w=0.2,
        radius_u=0.3,
        dtype="float64",
    )
    root = math.sqrt(network.width)
    moved_w = root * abs(trained.network.weights - network.weights)
    moved_u = root * np.linalg.norm(trained.network.U - network.U, axis=1)
    assert moved_w.max() <= 0.2 * (1 + 1e-12)
    assert moved_u.max() == pytest.approx(0.3)
    assert trained.drift[-1] == pytest.approx(np.hypot(moved_w, moved_u).max())


def test_averages_and_records_are_those_of_single_steps():
    network, signals, targets = case()
    options = {"step_size": 0.2, "radius_w": 1.0, "radius_u": 1.0, "dtype": "float64"}
    whole = c.train_paired(network, signals, targets, n_steps=6, record_every=2, **options)
    weights, current = [], network
    for _ in range(6):
        weights.append(current.weights)
        _, gw, gu = c.measure_gradient(current, signals, targets)
        from dataclasses import replace

        current = replace(current, weights=current.weights - 0.2 * gw, U=current.U - 0.2 * gu)
    np.testing.assert_allclose(whole.network.weights, current.weights, atol=1e-12)
    np.testing.assert_allclose(whole.average_network.weights, np.mean(weights, axis=0), atol=1e-12)
    assert whole.steps.tolist() == [0, 2, 4, 6]
    fine = c.train_paired(network, signals, targets, n_steps=6, **options)
    np.testing.assert_allclose(whole.risk, fine.risk[::2], rtol=1e-12)
    residual = whole.average_network(signals) - targets
    assert whole.average_risk[-1] == pytest.approx(np.sum(residual**2) / 3, rel=1e-10)


def test_a_wide_step_ends_with_a_status():
    network, signals, targets = case(activation="softplus")
    trained = c.train_paired(network, signals, targets, n_steps=50, step_size=1e30, method="plain")
    assert trained.status.code == "diverged"


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "erf", "softplus", "smooth_hardtanh"])
def test_bounds_of_activations_are_attained_and_not_exceeded(activation):
    from recollect.convergence._activation import require_smooth

    smooth = require_smooth(activation)
    z = np.linspace(-12, 12, 48001)
    for bound, values in (
        (smooth.value_bound, smooth.value(z)),
        (smooth.slope_bound, smooth.slope(z)),
        (smooth.curvature_bound, smooth.curvature(z)),
        (smooth.third_bound, np.gradient(smooth.curvature(z), z)),
    ):
        assert abs(values).max() <= bound * (1 + 1e-9)
    assert abs(smooth.slope(z)).max() >= smooth.slope_bound * (1 - 1e-3)
    assert abs(smooth.curvature(z)).max() >= smooth.curvature_bound * (1 - 1e-3)
    np.testing.assert_allclose(np.gradient(smooth.value(z), z), smooth.slope(z), atol=1e-5)
    np.testing.assert_allclose(np.gradient(smooth.slope(z), z), smooth.curvature(z), atol=1e-5)
    # Suprema over an interval, by enumeration.
    for centre in (-1.3, -0.4, 0.0, 0.2, 0.9, 3.0):
        for reach in (0.0, 0.1, 1.0, 4.0):
            inside = z[abs(z - centre) <= reach + 1e-12]
            near, far = np.array(centre), np.array(reach)
            found = smooth.largest_slope(near, far), smooth.largest_curvature(near, far)
            if len(inside):
                assert found[0] >= abs(smooth.slope(inside)).max() * (1 - 1e-9)
                assert found[1] >= abs(smooth.curvature(inside)).max() * (1 - 1e-9)


def test_an_activation_of_ones_own_is_tried():
    own = c.smooth_activation(jnp.sin, value_bound=1, slope_bound=1, curvature_bound=1, name="sin")
    network, signals, _ = case(activation=own)
    assert np.all(network(signals) == 0)
    bounds = {"value_bound": 1, "slope_bound": 1, "curvature_bound": 1, "third_bound": 1}
    for name in bounds:
        with pytest.raises(ValueError, match=f"{name}: expected at least"):
            c.smooth_activation(jnp.sin, **(bounds | {name: 0.5}))
    # A third bound lets twins cancel: the certificate is the tighter for it.
    signals = c.draw_sequences(3, 2, 2, seed=0)
    targets = 0.1 * np.ones((3, 2))

    def certificate(activation):
        start = c.initialise_paired(256, 2, alpha=0.3, seed=0, activation=activation)
        return c.bound_risk_on_data(
            start, signals, targets, n_steps=20, radius_w=0.5, radius_u=0.5
        ).bound

    assert certificate(c.smooth_activation(jnp.sin, **bounds)) < 0.7 * certificate(own)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"width": 7}, "width: expected an even number, got 7"),
        ({"activation": "relu"}, "second derivative is not bounded at 0"),
        ({"activation": "gelu"}, "value is not bounded"),
        ({"activation": "tan"}, "did you mean 'tanh'"),
        ({"alpha": -1.0}, "alpha: expected a finite number not below zero"),
    ],
)
def test_a_start_that_cannot_be_made_says_why(change, words):
    arguments = {"width": 8, "alpha": 0.3, "activation": "tanh"} | change
    with pytest.raises(ValueError, match=words):
        c.initialise_paired(arguments.pop("width"), 2, seed=0, **arguments)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"radius_w": 0.0}, "radius_w: expected a positive finite number"),
        ({"radius_u": -1.0}, "radius_u: expected a positive finite number"),
        ({"radius_u": None}, "radius_u: expected a positive radius"),
        ({"scale": 2.0}, "inputs of Euclidean norm at most 1"),
        ({"record_every": 4}, "record_every: expected a divisor"),
        ({"method": "adam"}, "method: expected one of"),
    ],
)
def test_training_that_the_theory_does_not_cover_is_refused(change, words):
    network, signals, targets = case()
    options = {"n_steps": 10, "radius_w": 1.0, "radius_u": 1.0} | change
    signals = signals * options.pop("scale", 1.0)
    with pytest.raises(ValueError, match=words):
        c.train_paired(network, signals, targets, **options)
