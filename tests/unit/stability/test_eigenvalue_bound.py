"""The eigenvalue bound behind Theorem 3.9: finite differences, the matrix of Appendix J, decay."""

from __future__ import annotations

import math

import numpy as np
import pytest

from recollect import models, stability


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gru(seed=0, width=5, **biases):
    rng = np.random.default_rng(seed)
    return models.GRU(
        rng.standard_normal((3 * width, 2)),
        0.4 * rng.standard_normal((3 * width, width)),
        biases.get("input_bias"),
        biases.get("state_bias"),
    )


def slope_at(function, state, h=1e-6):
    eye = np.eye(len(state))
    return np.array([(function(state + h * e) - function(state - h * e)) / (2 * h) for e in eye]).T


def slowest(matrix):
    return -np.linalg.eigvals(matrix).real.max()


def test_a_gru_has_the_matrix_of_appendix_j():
    rng = np.random.default_rng(4)
    gates = np.concatenate([rng.standard_normal(10), np.zeros(5)])
    model = gru(input_bias=gates)
    b_r, b_z = gates[:5], gates[5:10]
    U = model.state_weights[10:]
    # The paper's update gate is one minus torch's.
    paper = np.diag(sigmoid(-b_z)) @ (U @ np.diag(sigmoid(b_r)) - np.eye(5))
    found = stability.measure_eigenvalue_bound(model)
    assert found == pytest.approx(slowest(paper), rel=1e-9)
    zero = np.zeros(2)
    numeric = slope_at(lambda h: np.asarray(model.step(h, zero, dt=1.0)) - h, np.zeros(5))
    assert found == pytest.approx(slowest(numeric), rel=1e-6)
    # The rate of the iterated map is another number.
    assert abs(found + math.log(abs(np.linalg.eigvals(paper + np.eye(5))).max())) > 1e-3


def test_a_gru_with_a_candidate_bias_is_linearised_where_it_rests():
    bias = np.random.default_rng(2).standard_normal(15)
    model = gru(1, input_bias=bias)
    zero, h = np.zeros(2), np.zeros(5)
    for _ in range(3000):
        h = np.asarray(model.step(h, zero, dt=1.0))
    numeric = slope_at(lambda x: np.asarray(model.step(x, zero, dt=1.0)) - x, h)
    assert np.abs(h).max() > 0.1
    found = stability.measure_eigenvalue_bound(model)
    assert found == pytest.approx(slowest(numeric), rel=1e-6)
    # Negative control: Appendix J's matrix is that of h = 0, where this network does not rest.
    b_r, b_z = bias[:5], bias[5:10]
    paper = np.diag(sigmoid(-b_z)) @ (model.state_weights[10:] @ np.diag(sigmoid(b_r)) - np.eye(5))
    assert abs(found - slowest(paper)) > 1e-2


@pytest.mark.parametrize("activation", ["linear", "tanh", "hardtanh"])
def test_a_residual_network_has_the_matrix_of_its_right_hand_side(activation):
    rng = np.random.default_rng(5)
    W = -np.eye(4) + 0.5 * rng.standard_normal((4, 4))
    b = 0.3 * rng.standard_normal(4)
    model = models.ResidualRNN(W, np.ones((4, 1)), np.ones((1, 4)), b, activation=activation)
    found = stability.measure_eigenvalue_bound(model)
    rest, dt = -np.linalg.solve(W, b), 1e-3

    def speed(h):
        return (np.asarray(model.step(h, np.zeros(1), dt=dt)) - h) / dt

    assert np.abs(speed(rest)).max() < 1e-12
    assert found == pytest.approx(slowest(slope_at(speed, rest, 1e-5)), rel=1e-5)
    # W + βI lies in the ball of β, and is unstable from that rate on.
    moved = models.ResidualRNN(W + found * np.eye(4), model.U, model.C, activation=activation)
    assert stability.measure_eigenvalue_bound(moved) == pytest.approx(0, abs=1e-12)


def test_a_perturbation_decays_at_that_rate():
    W = np.array([[-0.5, 1.0], [-1.0, -0.8]])
    model = models.ResidualRNN(W, np.ones((2, 1)), np.ones((1, 2)))
    h, dt, sizes = np.array([1e-3, 0.0]), 1e-2, []
    for k in range(3000):
        h = np.asarray(model.step(h, np.zeros(1), dt=dt))
        if k % 1000 == 999:
            sizes.append(np.log(np.linalg.norm(h)))
    rate = -(sizes[2] - sizes[0]) / 20
    assert stability.measure_eigenvalue_bound(model) == pytest.approx(rate, rel=0.05)


def test_linear_networks_and_networks_of_steps():
    diagonal = models.DiagonalRNN([0.2, 1.0], [[1.0], [1.0]], [[1.0, 1.0]])
    assert stability.measure_eigenvalue_bound(diagonal) == pytest.approx(0.2)
    for dt in (None, 0.25):
        stepped = models.to_dense(models.rediscretise(diagonal, dt))
        assert stability.measure_eigenvalue_bound(stepped) == pytest.approx(0.2, rel=1e-12)
    elman = models.ElmanRNN(np.diag([0.5, -0.9]), np.ones((2, 1)), np.ones((1, 2)))
    assert stability.measure_eigenvalue_bound(elman) == pytest.approx(-math.log(0.9), rel=1e-12)


def test_a_rest_that_repels_has_a_negative_rate_and_the_uncovered_is_refused():
    W = -np.eye(2)
    with pytest.raises(ValueError, match="slope one"):
        stability.measure_eigenvalue_bound(
            models.ResidualRNN(W, np.ones((2, 1)), np.ones((1, 2)), activation="relu")
        )
    turning = models.ElmanRNN(
        3 * np.array([[0.0, 1.0], [-1.0, 0.0]]), np.ones((2, 1)), np.ones((1, 2))
    )
    assert stability.measure_eigenvalue_bound(turning) == pytest.approx(-math.log(3))
    with pytest.raises(TypeError, match="recurrent"):
        stability.measure_eigenvalue_bound(lambda x: x)
