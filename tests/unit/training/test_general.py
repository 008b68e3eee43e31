"""General settings: the loss against the network's own output, the optimisers, plateau lengths."""

from __future__ import annotations

import math

import numpy as np
import pytest

from recollect import models, targets, training

SETTING = dict(width=3, dt=0.1, horizon=2.0, n_paths=4)


def ensemble(target=None, **changed):
    target = targets.exponential_sum([1.0], [1.0]) + targets.Bump(delay=1.0, width=0.2)
    return training.train_ensemble(target, **{**SETTING, **changed}), target


@pytest.mark.parametrize("activation", ["linear", "tanh"])
def test_the_loss_is_that_of_the_network_on_the_paths(activation):
    found, target = ensemble(activation=activation, step_size=0.05, n_steps=2, seeds=[5])
    start = models.initialise_residual(3, timescale=1.0, key=5)
    network = models.ResidualRNN(start.W, start.U, start.C, activation=activation)
    paths = np.random.default_rng(0).standard_normal((4, 20, 1)) / math.sqrt(0.1)
    errors = [np.asarray(network(p, dt=0.1)) - target(p, dt=0.1) for p in paths]
    assert found.losses[0, 0] == pytest.approx(np.mean(np.square(errors)), rel=1e-12)
    assert found.power == pytest.approx(np.mean([target(p, dt=0.1) ** 2 for p in paths]), rel=1e-12)
    assert found.status.is_ok


def test_a_step_goes_down_the_gradient():
    one, _ = ensemble(step_size=1e-6, n_steps=1, seeds=[2])
    two, _ = ensemble(step_size=1e-6, n_steps=2, seeds=[2])
    start = models.initialise_residual(3, timescale=1.0, key=2)
    moved = sum(
        float(np.sum((np.asarray(a) - b[0]) ** 2))
        for a, b in zip((start.W, start.U, start.C), (one.W, one.U, one.C), strict=True)
    )
    # A small step of length η|∇L| lowers the loss by η|∇L|².
    assert two.losses[0, 0] - two.losses[0, 1] == pytest.approx(moved / 1e-6, rel=1e-4)


def test_a_curve_does_not_depend_on_its_neighbours():
    together, _ = ensemble(step_size=0.05, n_steps=20, seeds=[0, 1, 2])
    alone, _ = ensemble(step_size=0.05, n_steps=20, seeds=[1])
    assert np.array_equal(together.losses[1], alone.losses[0])
    assert not np.array_equal(together.losses[1], together.losses[0])


@pytest.mark.parametrize(
    "optimiser",
    [
        pytest.param("gradient_descent", marks=pytest.mark.slow),
        pytest.param("momentum", marks=pytest.mark.slow),
        "adam",
    ],
)
def test_every_optimiser_learns_a_short_memory(optimiser):
    target = targets.exponential_sum([1.0], [1.0])
    step = 0.01 if optimiser == "adam" else 0.05
    found = training.train_ensemble(
        target, **SETTING, optimiser=optimiser, step_size=step, n_steps=600
    )
    assert found.losses[0, -1] < 0.02 * found.power


def test_a_step_size_too_large_is_said():
    found, _ = ensemble(step_size=1e3, n_steps=30, seeds=[0, 1])
    assert found.status.code == "diverged"
    assert len(found.plateaus()) == 2


def test_several_outputs_of_a_nonlinear_system():
    system = targets.LorenzNinetySix(n_slow=4, n_fast=4)
    found = training.train_ensemble(
        system, **SETTING, activation="tanh", optimiser="adam", step_size=0.01, n_steps=3,
        outputs=[0, 1],
    )  # fmt: skip
    assert found.C.shape == (1, 2, 3)
    assert np.isfinite(found.losses).all()


def test_the_length_of_a_plateau():
    steps = np.arange(1000.0)
    # Falls at once, stands at 0.5 from step 10 to 600, falls again, and stays at the end.
    curve = np.where(steps < 10, 2.0, np.where(steps <= 600, 0.5, 0.01))
    found = training.measure_plateau_length(curve, floor=0.02)
    assert (found.length, found.start, found.level, found.is_over) == (590.0, 10.0, 0.5, True)
    slower = training.measure_plateau_length(curve, steps * 7, floor=0.02)
    assert slower.length == 7 * found.length
    assert training.measure_plateau_length(curve).length == 590
    # A flat stretch at the end is not known to end.
    flat = training.measure_plateau_length(curve[:500])
    assert not flat.is_over
    assert flat.status.code == "undecided"
    assert flat.length == 489


def test_a_steady_fall_is_no_plateau():
    steps = np.arange(2000.0)
    found = training.measure_plateau_length(np.exp(-0.01 * steps))
    # 10 % of an exponential takes log(1/0.9) of its time constant.
    assert found.length <= math.log(1 / 0.9) / 0.01
    # A fall by a power of the step stands still ever longer, but never drops after standing.
    slow = training.measure_plateau_length((1 + steps) ** -0.1, floor=(1 + steps[-1]) ** -0.1)
    assert slow.length == 0


@pytest.mark.parametrize(
    ("changed", "names"),
    [
        (dict(optimiser="adamm"), "adam"),
        (dict(activation="relu"), "activation"),
        (dict(step_size=-1.0), "step_size"),
        (dict(horizon=0.1), "horizon"),
        (dict(momentum=1.0), "momentum"),
        (dict(seeds=[]), "seeds"),
    ],
)
def test_bad_input_is_named(changed, names):
    with pytest.raises(ValueError, match=names):
        ensemble(**{"step_size": 0.1, "n_steps": 1, **changed})
    with pytest.raises(ValueError, match="losses"):
        training.measure_plateau_length([])
