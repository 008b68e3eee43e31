"""Appendix D over random targets and widths: counting, criticality, rank, signs, existence."""

from __future__ import annotations

import math

import numpy as np
import pytest

from recollect import targets, training


def positive_sum(seed, n_modes):
    rng = np.random.default_rng(seed)
    rates = np.cumprod(rng.uniform(2.0, 4.0, n_modes)) * 0.3
    return targets.exponential_sum(rng.uniform(0.5, 2.0, n_modes), rates)


def mixed_sum(seed):
    """Two exponentials of opposite sign, dominated by the slow one so that a minimiser exists."""
    rng = np.random.default_rng(seed)
    return targets.exponential_sum(
        [rng.uniform(1.5, 3.0), -rng.uniform(0.2, 1.0)], [1.0, rng.uniform(1.5, 4.0)]
    )


def test_critical_spaces_outnumber_the_minima():
    """Theorem D.2: their ratio exceeds a quadratic in m, and grows faster than that."""
    widths = list(range(2, 60))
    counts = [training.count_critical_spaces(m) for m in widths]
    for count in counts:
        assert count.ratio >= count.ratio_bound
    # Fubini numbers grow like m!/(2 (log 2)^{m+1}): the ratio is exponential in m.
    growth = np.diff([math.log(c.ratio) for c in counts[30:]])
    # The m! of d = m is left out of the sum: a relative 2 (log 2)^33 = 1e-5 at the first.
    assert growth == pytest.approx(np.full(len(growth), -math.log(math.log(2))), abs=1e-5)
    # m = 2 has one line for two minima.
    assert (counts[0].total, counts[0].minima, counts[0].ratio_bound) == (1, 2, 0.5)


def cases(n_seeds):
    return [(seed, width, d) for seed in range(n_seeds) for width, d in ((3, 1), (3, 2), (5, 2))]


@pytest.mark.parametrize(
    ("seed", "width", "d"),
    cases(1)
    + [pytest.param(*case, marks=pytest.mark.slow) for case in cases(6)[3:]]
    + [pytest.param(0, 6, 4, marks=pytest.mark.slow)],
)
def test_spaces_are_critical_with_the_rank_of_theorem_d3(seed, width, d):
    target = positive_sum(seed, max(4, d + 1))
    loss = training.exact_loss(target)
    best = training.find_minimiser(target, d, n_starts=3, key=seed)
    # Theorems D.4 and D.5: a nondegenerate minimiser exists, with positive amplitudes.
    assert best.existence.is_ok
    assert best.status.is_ok
    assert (best.amplitudes > 0).all()
    assert np.abs(best.residuals).max() < 1e-12
    rng = np.random.default_rng(seed)
    spaces = list(training.list_critical_spaces(best, width))
    for index in rng.choice(len(spaces), min(len(spaces), 4), replace=False):
        space = spaces[index]
        a, w = space.point(2 * rng.standard_normal(space.dimension))
        found = training.classify_point(loss, a, w, rtol=1e-10)
        assert found.gradient_norm < 1e-13
        assert found.rank <= found.rank_bound == width + d
        # The sign rule for every width (ours) at every eigenvalue above the rounding of H.
        certain = np.abs(found.curvature) > 1e-12 * found.curvature[-1]
        negative, zero, positive = training.predict_inertia(space, a)
        if certain.sum() == negative + positive:
            assert found.inertia == (negative, zero, positive)
        assert (found.curvature < -1e-12 * found.curvature[-1]).sum() <= negative


def test_off_the_spaces_the_gradient_is_not_zero():
    """Negative control: the same rates with amplitudes that sum to something else."""
    target = positive_sum(0, 4)
    loss = training.exact_loss(target)
    best = training.find_minimiser(target, 2, n_starts=2)
    space = next(training.list_critical_spaces(best, 4))
    a, w = space.point()
    a = a.copy()
    a[0] += 0.01
    found = training.classify_point(loss, a, w)
    assert found.kind == "regular"
    # D.3 and the rule of signs are about critical points: here the Hessian has full rank.
    assert found.rank == 8 > found.rank_bound == 6
    assert found.inertia != training.predict_inertia(space, a)


@pytest.mark.parametrize("seed", range(5))
def test_two_positive_exponentials_have_saddles_between_and_stable_points_outside(seed):
    """Proposition D.1 (i): B < 0 for every positive target of two exponentials."""
    target = positive_sum(seed, 2)
    loss = training.exact_loss(target)
    line = training.predict_two_unit_line(loss)
    assert line.bend < 0
    assert line.stable == "outside"
    for share, kind in ((-0.4, "stable"), (0.05, "saddle"), (0.6, "saddle"), (1.3, "stable")):
        a = [share * line.amplitude, (1 - share) * line.amplitude]
        found = training.classify_point(loss, a, [line.rate] * 2, rtol=1e-9)
        assert found.kind == kind
        # None of them is a global minimum: the target itself has two exponentials.
        assert line.minimiser.loss > 0
    for edge in (0.0, line.amplitude):
        inertia = training.classify_point(
            loss, [edge, line.amplitude - edge], [line.rate] * 2
        ).inertia
        assert inertia == (0, 2, 2)


@pytest.mark.parametrize("seed", range(5))
def test_the_sign_of_the_bend_decides_for_mixed_signs(seed):
    """Proposition D.1 (ii): the rule follows B, whatever the target."""
    target = mixed_sum(seed)
    loss = training.exact_loss(target)
    line = training.predict_two_unit_line(loss)
    between, beyond = (
        training.classify_point(
            loss, [s * line.amplitude, (1 - s) * line.amplitude], [line.rate] * 2, rtol=1e-9
        ).kind
        for s in (0.5, 1.4)
    )
    assert line.bend * line.amplitude > 0
    assert (between, beyond) == ("stable", "saddle")


def test_gradient_flow_leaves_the_saddles_and_stays_at_the_stable_points():
    target = targets.exponential_sum([1.0, 1.0], [1.0, 3.0])
    loss = training.exact_loss(target)
    line = training.predict_two_unit_line(loss)
    for share, leaves in ((0.3, True), (0.5, True), (-0.3, False), (1.5, False)):
        a = np.array([share, 1 - share]) * line.amplitude
        path = training.solve_momentum_flow(
            loss, a, line.rate + np.array([0.01, -0.01]), friction=None, flow_time=1e6
        )
        # Beside a saddle the flow finds the exact fit; beside a stable point it falls back.
        assert (path.losses[-1] < 1e-6 * line.minimiser.loss) == leaves
        if not leaves:
            assert path.losses[-1] == pytest.approx(line.minimiser.loss, rel=1e-6)


@pytest.mark.parametrize("width", [1, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_completely_monotone_kernels_have_nondegenerate_minimisers(width):
    """Theorem D.5 beyond sums: (1+t)^-2 has them at every width, with positive amplitudes."""
    found = training.find_minimiser(targets.PowerLaw(exponent=2.0), width, n_starts=2)
    assert found.existence.is_ok
    assert found.status.is_ok
    assert (found.amplitudes > 0).all()
    assert np.abs(found.residuals).max() < 1e-10


def test_without_complete_monotonicity_there_may_be_none():
    """Negative control of theorem D.5: t e^{-t} at width two."""
    found = training.find_minimiser(
        targets.exponential_sum([1.0], [1.0], powers=[1]), 2, n_starts=3
    )
    assert not found.existence.is_ok
    assert found.status.code == "no_minimiser"
