"""The perturbation error: closed forms, order of sampling, search and bound, invariances, controls."""

from __future__ import annotations

import itertools
import math

import equinox as eqx
import jax
import numpy as np
import pytest

import recollect
from recollect import models, stability, targets
from recollect.stability._weights import moving_weights

REPARAMS = {
    "direct": models.Direct(),
    "exponential": models.Exponential(),
    "softplus": models.Softplus(),
    "inverse": models.InverseSquare(1.0, 0.5),
}


def diagonal(seed=0, width=3, reparam="direct", is_positive=False, readin="plain", **options):
    rng = np.random.default_rng(seed)
    rates = np.exp(rng.uniform(-1.5, 0.3, width))
    c = rng.standard_normal((1, width))
    model = models.DiagonalRNN(
        rates,
        np.ones((width, 1)),
        np.abs(c) if is_positive else c,
        reparam=REPARAMS[reparam],
        **options,
    )
    return models.reparameterise(model, readin=readin)


def residual(width=4, seed=0, activation="tanh", shift=0.6):
    rng = np.random.default_rng(seed)
    W = -shift * np.eye(width) + 0.3 * rng.standard_normal((width, width)) / math.sqrt(width)
    return models.ResidualRNN(
        W,
        rng.standard_normal((width, 1)),
        rng.standard_normal((1, width)) / width,
        activation=activation,
    )


PATHS = np.random.default_rng(9).standard_normal((24, 20, 1))
QUICK = {"n_starts": 6, "n_steps": 12}
DEFAULT = (("plain", "direct"), ("normalised", "softplus"))


def test_the_search_equals_the_closed_form_in_the_papers_ball_up_to_infinity():
    model = diagonal(width=4, is_positive=True)
    w_min = float(model.rates.min())
    radii = w_min * np.array([0, 0.05, 0.3, 0.8, 1.0, 1.5])
    curve = stability.measure_perturbation_error(model, radii, of="fixed_readin")
    exact = [
        stability.predict_direct_error(model.C[0], model.rates, b, ball="paper") for b in radii
    ]
    assert curve.errors[0][:4] == pytest.approx(exact[:4], rel=1e-5, abs=1e-12)
    assert np.isinf(curve.errors[0][4:]).all()
    assert np.isinf(exact[4:]).all()
    assert curve.status.code == "infinite"
    assert f"{radii[4]:.3g}" in curve.status.message
    # For positive amplitudes the bound is that closed form.
    assert curve.bounds[0] == pytest.approx(exact, rel=1e-9, abs=1e-12)


def test_the_search_equals_the_closed_form_of_rates_alone():
    model = diagonal(width=4, is_positive=True)
    beta = 0.5 * float(model.rates.min())
    for ball in ("paper", "euclidean"):
        curve = stability.measure_perturbation_error(model, [beta], of="rates", ball=ball)
        if ball == "paper":
            exact = np.sum(model.C[0] * (1 / (model.rates - beta) - 1 / model.rates))
            assert curve.errors[0, 0] == pytest.approx(exact, rel=1e-8)
        else:
            assert curve.errors[0, 0] == pytest.approx(
                split_budget(model, beta, of="rates"), rel=1e-3
            )


def split_budget(model, beta, of):
    """The best split of β² over the units, by dynamic programming on a grid: an upper estimate to 1e-3."""
    n = 2000
    share = beta * np.sqrt(np.arange(n + 1) / n)
    best = np.zeros(n + 1)
    for c, w in zip(model.C[0], model.rates, strict=True):
        if of == "rates":
            gain = c * (1 / (w - share) - 1 / w)
        else:
            gain = [stability.predict_direct_error([c], [w], b) for b in share]
        gain = np.asarray(gain)
        best = np.array([np.max(best[: k + 1] + gain[k::-1]) for k in range(n + 1)])
    return best[-1]


def test_the_search_equals_the_closed_form_in_the_euclidean_ball():
    one = models.DiagonalRNN([0.4], [[1.0]], [[0.7]])
    radii = [0.05, 0.2, 0.35, 0.4, 0.5]
    curve = stability.measure_perturbation_error(
        one, radii, ball="euclidean", of="fixed_readin", n_steps=60
    )
    exact = [stability.predict_direct_error([0.7], [0.4], b) for b in radii]
    assert curve.errors[0][:3] == pytest.approx(exact[:3], rel=1e-4)
    assert np.isinf(curve.errors[0][3:]).all()
    assert np.isinf(exact[3:]).all()
    several = diagonal(width=3, is_positive=True)
    beta = 0.6 * float(several.rates.min())
    curve = stability.measure_perturbation_error(
        several, [beta], ball="euclidean", of="fixed_readin", n_steps=60
    )
    exact = split_budget(several, beta, of="fixed_readin")
    assert curve.errors[0, 0] == pytest.approx(exact, rel=2e-3)


@pytest.mark.parametrize(
    ("readin", "reparam"),
    [
        pytest.param(readin, reparam, marks=() if pair in DEFAULT else pytest.mark.slow)
        for readin, reparam in itertools.product(("plain", "normalised"), sorted(REPARAMS))
        for pair in [(readin, reparam)]
    ],
)
def test_sampling_is_below_the_search_and_the_search_below_the_bound(reparam, readin):
    cases = [("all", "paper"), ("rates", "paper"), ("all", "euclidean")]
    for seed, (of, ball) in itertools.product(range(2), cases):
        network = diagonal(seed, 3, reparam, readin=readin)
        curve = stability.measure_perturbation_error(
            network, [0.0, 0.01, 0.3], ball=ball, of=of, key=seed, **QUICK
        )
        check_order(curve)
        assert curve.errors[0, 0] == pytest.approx(0, abs=1e-9)
        assert curve.sizes[0] == pytest.approx(targets.measure_norm(network), rel=1e-6)


@pytest.mark.slow
def test_the_order_holds_in_many_random_networks():
    for seed in range(40):
        reparam = sorted(REPARAMS)[seed % 4]
        network = diagonal(100 + seed, 3, reparam, readin=("plain", "normalised")[seed % 2])
        radii = 10.0 ** np.random.default_rng(seed).uniform([-4, -2, -1], [-2, -1, 0.3])
        curve = stability.measure_perturbation_error(network, radii, key=seed, **QUICK)
        check_order(curve)


def test_distances_of_sums_are_those_of_quadrature():
    rng = np.random.default_rng(0)
    for seed in range(6):
        first, second = diagonal(seed, 4), diagonal(seed + 10, 4)
        if seed > 3:
            B, C = rng.standard_normal((4, 2)), rng.standard_normal((2, 4))
            first = models.DiagonalRNN(first.rates, B, C)
            second = models.DiagonalRNN(1.1 * first.rates, B, C)
        found = stability.measure_perturbation_error(first, [0.0], target=second).errors[0, 0]
        gap = targets.SumKernel((first, second), (1.0, -1.0))
        assert found == pytest.approx(targets.measure_norm(gap), rel=1e-9)


def check_order(curve):
    assert not np.isnan(curve.errors).any()
    assert (curve.sampled <= curve.errors).all()
    assert (curve.errors <= curve.bounds * (1 + 1e-6) + 1e-9).all()
    assert (np.diff(curve.errors, axis=1) >= 0).all() or np.isinf(curve.errors).any()
    assert (np.diff(np.where(np.isinf(curve.errors), 1e300, curve.errors), axis=1) >= 0).all()


def test_the_order_holds_against_a_target_too():
    target = targets.PowerLaw(exponent=2.0, scale=1.0)
    network = diagonal(1, 3, "exponential")
    curve = stability.measure_perturbation_error(network, [0.0, 0.05, 0.3], target=target, **QUICK)
    check_order(curve)
    apart = targets.SumKernel((target, network), (1.0, -1.0))
    assert curve.errors[0, 0] == pytest.approx(targets.measure_norm(apart), rel=1e-6)
    assert curve.sizes[0] == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: models.to_dense(diagonal(2, 3)), id="dense", marks=pytest.mark.slow),
        pytest.param(lambda: models.rediscretise(diagonal(2, 3, "exponential"), 0.5), id="steps"),
        pytest.param(
            lambda: models.to_dense(models.rediscretise(diagonal(2, 3), 0.5)),
            id="dense steps",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            lambda: models.DiagonalRNN(
                [0.3 + 1j, 0.3 - 1j], [[0.5 + 0.2j], [0.5 - 0.2j]], [[1 + 1j, 1 - 1j]]
            ),
            id="complex",
        ),
        pytest.param(
            lambda: models.DiagonalRNN(
                [0.3, 1.0], [[1.0, 0.2], [0.3, 1.0]], [[1.0, 0.5], [0.2, 1.0]]
            ),
            id="two channels",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_every_linear_network_has_its_exact_norm(make):
    model = make()
    curve = stability.measure_perturbation_error(model, [0.0, 0.02, 0.05, 5.0], **QUICK)
    check_order(curve)
    assert curve.errors[0, 0] == pytest.approx(0, abs=1e-9)
    assert 0 < curve.errors[0, 1] < curve.errors[0, 2] < math.inf
    # Weights drawn by hand in the same ball never exceed it.
    weights = moving_weights(model, "all")
    rng = np.random.default_rng(0)
    for _ in range(20):
        with jax.enable_x64(True):
            shift = weights.layout.surface(rng.standard_normal(len(weights.flat)), 0.05, "paper")
        moved = weights.restore(weights.flat + np.asarray(shift))
        assert on_a_grid(model, moved) <= curve.errors[0, 2] * (1 + 1e-6)


def on_a_grid(first, second):
    """max_o ∫Σ_i|ρ-ρ̃| by the trapezoid rule, or by the sum over steps."""
    dt = first.dt or 0.01
    t = dt * np.arange(400 if first.dt else 8001) + (0.5 * dt if first.dt else 0)
    gap = np.abs(first.kernel(t) - second.kernel(t)).sum(axis=2).max(axis=1)
    return dt * gap.sum() if first.dt else np.trapezoid(gap, t)


@pytest.mark.slow
def test_the_dense_search_finds_the_normal_matrix_that_diverges_first():
    dense = models.LinearRNN(np.diag([-0.5, -2.0]), np.ones((2, 1)), np.ones((1, 2)))
    curve = stability.measure_perturbation_error(dense, [0.4, 0.49, 0.5, 0.6], **QUICK)
    assert np.isfinite(curve.errors[0, :2]).all()
    assert np.isinf(curve.errors[0, 2:]).all()


def test_balls_are_what_their_names_say():
    model = eqx.tree_at(lambda m: m.bias, residual(3), np.array([0.1, -0.2, 0.3]))
    weights = moving_weights(model, "all")
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        for function in (weights.layout.surface, weights.layout.furthest):
            for _ in range(5):
                g = rng.standard_normal(len(weights.flat))
                shift = np.asarray(function(g, 0.3, "euclidean"))
                assert np.linalg.norm(shift) == pytest.approx(0.3, rel=1e-12)
                moved = weights.restore(np.asarray(function(g, 0.3, "paper")))
                for part in (moved.W, moved.U, moved.C):
                    assert np.linalg.norm(np.asarray(part), 2) == pytest.approx(0.3, rel=1e-9)
                assert np.linalg.norm(np.asarray(moved.bias)) == pytest.approx(0.3, rel=1e-9)
        # No point of the ball lies further along a slope than the one aimed at.
        aim = np.asarray(weights.layout.furthest(g, 0.3, "paper")) @ g
        drawn = [
            weights.layout.surface(rng.standard_normal(len(g)), 0.3, "paper") @ g
            for _ in range(200)
        ]
        assert max(float(d) for d in drawn) < aim
    rates = moving_weights(diagonal(), "rates")
    with jax.enable_x64(True):
        shift = np.asarray(rates.layout.furthest(np.array([0.1, -3.0, 0.5]), 0.3, "paper"))
    assert shift == pytest.approx([0.3, -0.3, 0.3])


def test_the_read_in_stays_where_it_is_asked_to():
    for model, name in ((diagonal(), "B"), (residual(), "U")):
        weights = moving_weights(model, "fixed_readin")
        moved = weights.restore(weights.flat + 0.1)
        assert getattr(moved, name) == pytest.approx(getattr(model, name))
        assert np.abs(np.asarray(moved.C) - model.C).max() == pytest.approx(0.1)


@pytest.mark.parametrize("norm", ["mse", pytest.param("w1", marks=pytest.mark.slow)])
def test_sampling_is_below_the_search_on_paths(norm):
    for seed in (1,):
        curve = stability.measure_perturbation_error(
            [residual(3, seed), residual(4, seed)],
            [0.0, 0.05, 0.2],
            paths=PATHS,
            dt=0.2,
            norm=norm,
            key=seed,
            **QUICK,
        )
        check_order(curve)
        assert curve.errors[:, 0] == pytest.approx(0, abs=1e-14)
        assert (curve.errors[:, 1:] > 1.1 * curve.sampled[:, 1:]).all()
        assert list(curve.widths) == [3, 4]


def test_every_value_is_that_of_all_paths():
    model = residual(3)
    curve = stability.measure_perturbation_error(
        model, [0.1], paths=PATHS, dt=0.2, n_search_paths=4, target=residual(3, 1), **QUICK
    )
    # Of a subset the search may find less, but what is reported is the mean over all.
    more = stability.measure_perturbation_error(
        model, [0.1], paths=PATHS, dt=0.2, n_search_paths=24, target=residual(3, 1), **QUICK
    )
    assert curve.errors[0, 0] == pytest.approx(more.errors[0, 0], rel=0.3)
    zero = stability.measure_perturbation_error(
        model, [0.0], paths=PATHS, dt=0.2, target=residual(3, 1), **QUICK
    )
    gaps = [model(x, dt=0.2) - residual(3, 1)(x, dt=0.2) for x in PATHS]
    assert zero.errors[0, 0] == pytest.approx(np.mean(np.square(gaps)), rel=1e-9)


def test_the_w1_norm_is_that_of_definition_3_7():
    first, second = residual(3), residual(3, 1)
    found = stability.measure_perturbation_error(
        first, [0.0], paths=PATHS, dt=0.2, norm="w1", target=second
    ).errors[0, 0]
    values, speeds = [], []
    for x in PATHS:
        gap = np.concatenate([[0.0], (first(x, dt=0.2) - second(x, dt=0.2))[:, 0]])
        values.append(np.abs(gap[1:]) / np.abs(x).max())
        speeds.append(np.abs(np.diff(gap)) / 0.2 / np.abs(x).max())
    exact = (np.max(values, axis=0) + np.max(speeds, axis=0)).max()
    assert found == pytest.approx(exact, rel=1e-9)
    # Of linear networks it is a lower estimate of |Δρ(0)| + ∫|Δρ'| + ∫|Δρ|.
    one, two = (models.DiagonalRNN([w], [[1.0]], [[1.0]]) for w in (0.5, 0.6))
    found = stability.measure_perturbation_error(
        one, [0.0], paths=PATHS, dt=0.2, norm="w1", target=two
    ).errors[0, 0]
    t = np.linspace(0, 60, 60001)
    gap = np.exp(-0.5 * t) - np.exp(-0.6 * t)
    exact = np.trapezoid(np.abs(gap), t) + np.abs(np.diff(gap)).sum()
    assert 0.05 * exact < found < exact
    without = stability.measure_perturbation_error(one, [0.0], norm="w1", target=two)
    assert without.errors[0, 0] == pytest.approx(exact, rel=1e-6)
    assert without.sizes[0] == pytest.approx(1 / 0.6 + 2, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("is_dense", [False, True])
def test_the_exact_w1_norm_is_searched_too(is_dense):
    model = diagonal(2, 3, "direct" if is_dense else "softplus", readin="normalised")
    model = models.to_dense(model) if is_dense else model
    exact = stability.measure_perturbation_error(model, [0.0, 0.05, 0.1], norm="w1", **QUICK)
    check_order(exact)
    assert exact.errors[0, 0] == pytest.approx(0, abs=1e-9)
    simple = stability.measure_perturbation_error(model, [0.05, 0.1], **QUICK)
    paths = stability.measure_perturbation_error(
        model, [0.05, 0.1], norm="w1", paths=PATHS, dt=0.2, **QUICK
    )
    assert (exact.errors[0, 1:] > simple.errors[0]).all()
    assert (exact.errors[0, 1:] > paths.errors[0]).all()


def permuted(model, order):
    if isinstance(model, models.DiagonalRNN):
        return models.DiagonalRNN(model.rates[order], model.B[order], model.C[:, order])
    return models.ResidualRNN(
        model.W[np.ix_(order, order)],
        model.U[order],
        model.C[:, order],
        activation=model.activation,
    )


@pytest.mark.parametrize("kind", ["linear", "nonlinear"])
@pytest.mark.parametrize("ball", ["paper", pytest.param("euclidean", marks=pytest.mark.slow)])
def test_the_order_of_the_units_changes_nothing(kind, ball):
    model = diagonal(0, 4) if kind == "linear" else residual(4)
    options = {} if kind == "linear" else {"paths": PATHS, "dt": 0.2}
    radii, order = [0.02, 0.1], [2, 0, 3, 1]
    options.update(n_starts=16, n_steps=40, ball=ball)
    first = stability.measure_perturbation_error(model, radii, **options)
    second = stability.measure_perturbation_error(permuted(model, order), radii, **options)
    # Other starts, the same supremum.
    assert first.errors == pytest.approx(second.errors, rel=0.01)
    assert first.bounds == pytest.approx(second.bounds)


def test_signs_of_states_change_nothing_and_their_scale_does_what_it_should():
    model = residual(3)
    flip = np.diag([1.0, -1.0, -1.0])
    flipped = models.ResidualRNN(flip @ model.W @ flip, flip @ model.U, model.C @ flip)
    options = {"paths": PATHS, "dt": 0.2, "n_starts": 12, "n_steps": 40}
    first, second = (
        stability.measure_perturbation_error(m, [0.1], **options) for m in (model, flipped)
    )
    assert first.errors == pytest.approx(second.errors, rel=0.01)
    # Scaling the states of a linear network keeps the function and its error under moving rates, but
    # not that under moving all weights: the ball is not invariant, and no norm of weights is.
    plain = diagonal(1, 3)
    scaled = models.DiagonalRNN(plain.rates, 10 * plain.B, plain.C / 10)
    pairs = {
        of: [
            stability.measure_perturbation_error(m, [0.05], of=of).errors[0, 0]
            for m in (plain, scaled)
        ]
        for of in ("rates", "all")
    }
    assert pairs["rates"][0] == pytest.approx(pairs["rates"][1], rel=1e-6)
    assert pairs["all"][1] > 2 * pairs["all"][0]


def test_an_unstable_network_is_infinitely_far_at_every_radius():
    unstable = models.DiagonalRNN([-0.1, 1.0], [[1.0], [1.0]], [[1.0, 1.0]])
    for network in (unstable, models.to_dense(unstable)):
        target = diagonal(0, 2)
        curve = stability.measure_perturbation_error(network, [0.0, 0.1], target=target, **QUICK)
        assert np.isinf(curve.errors).all()
        assert np.isinf(curve.sampled).all()
        assert curve.status.code == "infinite"
    exploding = residual(4, activation="linear", shift=-400.0)
    curve = stability.measure_perturbation_error(
        exploding,
        [0.0, 0.1],
        paths=np.tile(PATHS[:4], (1, 10, 1)),
        dt=1.0,
        target=residual(4),
        **QUICK,
    )
    assert np.isinf(curve.errors).all()


def test_a_network_that_diverges_within_the_ball_is_not_dropped():
    linear = residual(4, activation="linear")
    paths = np.tile(PATHS[:4], (1, 10, 1))
    few = {"n_starts": 2, "n_steps": 2}
    curve = stability.measure_perturbation_error(linear, [0.1, 300.0], paths=paths, dt=1.0, **few)
    assert np.isfinite(curve.errors[0, 0])
    assert np.isinf(curve.errors[0, 1])


@pytest.mark.slow
def test_a_linear_network_that_may_be_unstable_is_infinitely_far_in_w1():
    few = {"n_starts": 2, "n_steps": 2}
    diagonal_network = diagonal(0, 2)
    curve = stability.measure_perturbation_error(
        diagonal_network, [0.01, 10.0], paths=PATHS, norm="w1", **few
    )
    assert np.isinf(curve.errors[0, 1])


def gru():
    rng = np.random.default_rng(0)
    return models.GRU(
        rng.standard_normal((9, 1)),
        0.3 * rng.standard_normal((9, 3)),
        C=rng.standard_normal((1, 3)),
    )


def stack():
    unit = diagonal(0, 3, "exponential")
    rng = np.random.default_rng(1)
    layers = [
        models.StateSpaceLayer(
            unit, skip=rng.standard_normal((1, 1)), mix=rng.standard_normal((1, 1))
        )
        for _ in range(2)
    ]
    return models.Stack(layers)


@pytest.mark.slow
@pytest.mark.parametrize("make", [gru, stack])
def test_any_recurrent_model_can_be_moved(make):
    model = make()
    curve = stability.measure_perturbation_error(
        model, [0.0, 0.01, 0.1], paths=PATHS, dt=1.0, **QUICK
    )
    check_order(curve)
    assert curve.errors[0, 0] == pytest.approx(0, abs=1e-20)
    assert curve.errors[0, 2] > 20 * curve.errors[0, 1] > 0


def test_weights_that_are_not_numbers_are_refused():
    broken = eqx.tree_at(lambda m: m.W, residual(3), np.full((3, 3), np.nan))
    with pytest.raises(ValueError, match="W"):
        stability.measure_perturbation_error(broken, [0.1], paths=PATHS)
    with pytest.raises(ValueError, match="paths"):
        stability.measure_perturbation_error(residual(3), [0.1], paths=np.nan * PATHS)


def test_what_does_not_fit_is_refused():
    measure = stability.measure_perturbation_error
    with pytest.raises(ValueError, match="give paths"):
        measure(residual(3), [0.1], norm="l1")
    with pytest.raises(ValueError, match="paths"):
        measure(residual(3), [0.1])
    with pytest.raises(ValueError, match="rates"):
        measure(residual(3), [0.1], of="rates", paths=PATHS)
    with pytest.raises(ValueError, match="increasing"):
        measure(diagonal(), [0.2, 0.1])
    with pytest.raises(TypeError, match="models"):
        measure(lambda x: x, [0.1])
    with pytest.raises(TypeError, match="weights"):
        measure(recollect.as_functional(lambda x: x), [0.1], paths=PATHS)
    with pytest.raises(ValueError, match="ball"):
        measure(diagonal(), [0.1], ball="paper's")


def test_a_seed_gives_the_same_curve():
    first, second = (
        stability.measure_perturbation_error(diagonal(), [0.1], key=5, **QUICK) for _ in range(2)
    )
    assert first.errors.tolist() == second.errors.tolist()
    assert first.stats["n_evaluations"] > 0
