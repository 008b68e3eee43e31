"""The curves of trained networks: random starts, Adam, and what both searches find."""

from __future__ import annotations

import equinox as eqx
import numpy as np
import pytest

from recollect import models
from recollect.study.catalogue._perturbed_networks import (
    KERNELS,
    DecayingRNN,
    descend,
    respond,
    run_network,
)
from recollect.study.catalogue._trained_curves import (
    SETTINGS,
    build_study,
    draw_network,
    perturb,
)

DT = 0.1


def random_network(decay, activation="tanh", width=3):
    return draw_network(decay, activation, width, np.random.default_rng(0))


@pytest.mark.parametrize("decay", ["direct", "discrete", "softplus"])
def test_a_batch_with_time_first_is_each_path_alone(decay):
    network = random_network(decay)
    signals = np.random.default_rng(1).standard_normal((12, 4, 1))
    batch = np.asarray(run_network(network, signals, dt=DT))
    for k in range(4):
        alone = np.asarray(network(signals[:, k], dt=DT))
        np.testing.assert_allclose(batch[:, k], alone, rtol=1e-5, atol=1e-6)


def test_the_first_step_of_descent_is_adams():
    # Adam's first step is its rate against the sign of the slope, here by differences.
    network = random_network("exponential")
    rng = np.random.default_rng(1)
    inputs = rng.standard_normal((6, 10, 1))
    outputs = respond(KERNELS["polynomial"], inputs, dt=DT)
    order = np.array([[0, 2, 5]])
    moved = descend(network, inputs, outputs, dt=DT, order=order, rate=1e-3)

    def misfit(C):
        changed = eqx.tree_at(lambda m: m.C, network, C)
        gaps = []
        for k in order[0]:
            state = np.zeros(changed.width)
            for value, wanted in zip(inputs[k], outputs[k], strict=True):
                state = np.asarray(changed.step(state, value, dt=DT))
                gaps.append(changed.readout(state) - wanted)
        return np.mean(np.square(gaps))

    C = np.asarray(network.C)
    for place in range(C.shape[1]):
        shift = 1e-2 * np.eye(C.shape[1])[place]
        slope = misfit(C + shift) - misfit(C - shift)
        assert moved.C[0, place] - C[0, place] == pytest.approx(-1e-3 * np.sign(slope), rel=1e-3)


def test_random_starts_are_stable():
    for decay, kind in (("direct", models.ResidualRNN), ("softplus", DecayingRNN)):
        network = random_network(decay, width=6)
        assert isinstance(network, kind)
    W = np.asarray(random_network("direct", width=6).W)
    np.testing.assert_allclose(W, W.T, atol=1e-12)
    assert np.linalg.eigvalsh(W).max() <= 0
    discrete = np.asarray(random_network("discrete", width=6).W)
    np.testing.assert_allclose(discrete, np.eye(6) + DT * W, atol=1e-12)


def test_training_reduces_the_misfit_and_sampling_stays_below_the_search():
    few, more = (
        perturb(
            "linear, exponential decay", 4, n_epochs=n, n_radii=3, n_steps=3, n_paths=128, seed=0
        )
        for n in (1, 100)
    )
    assert more["misfit_trained"] < 0.2 * few["misfit_trained"]
    assert (more["sampled"] <= more["errors"]).all()
    assert (np.diff(more["errors"]) >= 0).all()
    assert more["radius"] <= more["radius_sampled"]


def test_the_full_grid_is_the_papers():
    study = build_study(quick=False)
    points = list(study.grid)
    assert {p["width"] for p in points} == {4, 8, 16, 64}
    assert {p["setting"] for p in points} == set(SETTINGS)
    # 1000 epochs of 12,800 paths in batches of 128 are 100,000 steps; β is doubled 35 times.
    assert {(p["n_epochs"], p["n_paths"], p["n_radii"]) for p in points} == {(1000, 12_800, 36)}
