"""What the entries on paper B are made of: networks whose memory is known, and their curves."""

from __future__ import annotations

import equinox as eqx
import numpy as np
import pytest

from recollect import models, targets
from recollect.study.catalogue._perturbed_networks import (
    KERNELS,
    DecayingRNN,
    crossing,
    draw_paths,
    rest_rate,
    start_network,
    train_network,
)

DT = 0.2


def test_outputs_are_what_the_kernel_says():
    inputs, outputs = draw_paths(KERNELS["polynomial"], 3, 10.0, dt=DT, seed=0)
    kernel = targets.parse_kernel(KERNELS["polynomial"])
    for path, said in zip(inputs, outputs, strict=True):
        np.testing.assert_allclose(kernel(path, dt=DT), said, atol=1e-12)
    assert np.abs(inputs).max() <= 1


def test_two_relu_units_carry_one_linear_mode():
    network = start_network("dense", "relu", 6, 0.3, dt=DT, seed=0)
    network = eqx.tree_at(lambda m: m.C, network, np.array([[1.0, -1, 1, -1, 1, -1]]))
    signal = np.random.default_rng(0).standard_normal((50, 1))
    rates = np.geomspace(0.3, 2.0, 3)
    state, wanted = np.zeros(3), []
    for value in signal[:, 0]:
        # z, with relu(z) and relu(-z) its two units.
        state = (1 - DT * rates) * state + np.asarray(network.U)[::2, 0] * value
        wanted.append(state.sum())
    np.testing.assert_allclose(np.asarray(network(signal, dt=DT))[:, 0], wanted, atol=1e-12)
    assert rest_rate(network, DT) == pytest.approx(0.3)


@pytest.mark.parametrize("readin", ["plain", "normalised"])
def test_a_decaying_network_is_a_diagonal_one_where_tanh_is_linear(readin):
    rates = np.array([0.5, 2.0])
    reparam = models.Exponential()
    network = DecayingRNN(
        np.asarray(reparam.inverse(rates)),
        1e-4 * np.ones((2, 1)),
        1e4 * np.ones((1, 2)),
        np.zeros(2),
        reparam=reparam,
        activation="tanh",
        readin=readin,
    )
    diagonal = models.DiagonalRNN(rates, np.ones((2, 1)), np.ones((1, 2)), readin=readin)
    signal = np.ones((4000, 1))
    # After a long step both have come to rest, at Σ c u / w or Σ c u.
    rest = float(np.sum(diagonal.amplitudes[:, 0, 0] / rates))
    assert float(np.asarray(network(signal, dt=0.01))[-1, 0]) == pytest.approx(rest, rel=1e-5)
    assert rest_rate(network, 0.01) == pytest.approx(0.5)
    state = network.initial_state()
    for value in signal[:5]:
        state = network.step(state, value, dt=0.01)
    np.testing.assert_allclose(network.readout(state), np.asarray(network(signal, dt=0.01))[4])


def test_least_squares_and_descent_make_it_remember():
    kernel = KERNELS["exponential"]
    inputs, outputs = draw_paths(kernel, 32, 12.8, dt=DT, seed=0)
    judged, said = draw_paths(kernel, 8, 12.8, dt=DT, seed=1)

    def misfit(network):
        own = np.stack([np.asarray(network(path, dt=DT)) for path in judged])
        return float(np.mean((own - said) ** 2) / np.mean(said**2))

    for n_steps in (0, 3):
        network = start_network("dense", "tanh", 4, 0.9, dt=DT, seed=0)
        assert misfit(network) == 1
        network = train_network(network, inputs, outputs, dt=DT, n_steps=n_steps, batch=8, seed=0)
        assert misfit(network) < 0.05
    amplitudes = np.asarray(network.C)[0] * np.asarray(network.U)[:, 0]
    assert amplitudes.max() > 0


def test_a_curve_crosses_where_it_does():
    radii = np.array([0.01, 0.1, 1.0])
    assert crossing(radii, 3 * radii, 0.09) == pytest.approx(0.03)
    assert crossing(radii, np.zeros(3), 0.1) == 1.0
    assert crossing(radii, np.array([0.0, np.inf, np.inf]), 0.1) == 0.1
    assert crossing(radii, np.array([1.0, 2.0, 3.0]), 0.1) == 0.01
