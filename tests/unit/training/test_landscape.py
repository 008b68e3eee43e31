"""Minimisers and critical spaces against dense Hessians, known values and brute force."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import mpmath
import numpy as np
import pytest

from recollect import models, targets, training

TWO = targets.exponential_sum([1.0, 1.0], [1.0, 3.0])


@pytest.fixture(scope="module")
def line():
    return training.predict_two_unit_line(TWO)


@pytest.fixture(scope="module")
def loss():
    return training.exact_loss(TWO)


def test_the_best_single_exponential(line, loss):
    assert line.amplitude == pytest.approx(1.846432429524244, rel=1e-14)
    assert line.rate == pytest.approx(1.467503857056518, rel=1e-14)
    assert np.abs(line.minimiser.residuals).max() < 1e-15
    assert line.minimiser.status.is_ok
    assert line.minimiser.existence.is_ok
    with mpmath.workdps(30):
        # L̂ = L and L̂' = L' at w̃, solved independently.
        w = mpmath.findroot(
            lambda w: (
                sum(1 / (w + r) for r in (1, 3)) - 2 * w * sum(1 / (w + r) ** 2 for r in (1, 3))
            ),
            1.5,
        )
        a = 2 * w * sum(1 / (w + r) for r in (1, 3))
        assert line.rate == pytest.approx(float(w), rel=1e-14)
        assert line.amplitude == pytest.approx(float(a), rel=1e-14)
        bend = a / (4 * w**3) - sum(2 / (w + r) ** 3 for r in (1, 3))
        assert line.bend == pytest.approx(float(bend), rel=1e-12)


@pytest.mark.parametrize(
    ("first", "kind"),
    [(-2.0, "stable"), (-1e-2, "stable"), (0.0, "flat"), (1e-2, "saddle"), (0.9, "saddle"),
     (1.83, "saddle"), (1.86, "stable"), (5.0, "stable")],
)  # fmt: skip
def test_the_line_of_two_units_changes_sign_at_its_ends(line, loss, first, kind):
    found = training.classify_point(loss, [first, line.amplitude - first], [line.rate] * 2)
    assert found.kind == kind
    assert found.gradient_norm < 1e-15
    assert found.rank <= found.rank_bound == 3
    matrix = np.linalg.eigvalsh(line.matrix(first))
    # The Hessian's inertia is {+, 0} and that of M.
    assert found.inertia[0] == (matrix < -1e-14).sum()
    assert line.determinant(first) == pytest.approx(np.linalg.det(line.matrix(first)), abs=1e-15)


def test_the_rule_reverses_with_the_sign_of_the_bend():
    target = targets.exponential_sum([2.0, -1.0], [1.0, 2.0])
    line = training.predict_two_unit_line(target)
    assert line.stable == "inside"
    assert line.bend > 0
    loss = training.exact_loss(target)
    inside, outside = (
        training.classify_point(
            loss, [f * line.amplitude, (1 - f) * line.amplitude], [line.rate] * 2
        )
        for f in (0.3, 1.2)
    )
    assert (inside.kind, outside.kind) == ("stable", "saddle")
    assert outside.escape_rate > 0
    power = training.predict_two_unit_line(targets.PowerLaw(exponent=2.0))
    assert power.stable == "outside"


@pytest.mark.parametrize(("width", "d"), [(2, 1), (3, 1), (3, 2), (4, 2)])
def test_critical_spaces_are_critical_and_their_inertia_is_predicted(width, d):
    target = targets.exponential_sum([1.0, 1.0, 1.0], [0.5, 2.0, 8.0])
    loss = training.exact_loss(target)
    best = training.find_minimiser(target, d, n_starts=2)
    assert best.status.is_ok
    assert (best.amplitudes > 0).all()
    rng = np.random.default_rng(0)
    spaces = list(training.list_critical_spaces(best, width))
    assert len(spaces) == math.factorial(d) * _stirling(width, d)
    for space in spaces:
        assert space.dimension == width - d
        for _ in range(3):
            a, w = space.point(3 * rng.standard_normal(space.dimension))
            found = training.classify_point(loss, a, w)
            assert found.gradient_norm < 1e-14
            assert found.inertia == training.predict_inertia(space, a)
            # Attained generically; the fit is not exact for d = 1, 2.
            assert found.rank == width + d
            along = loss.hessian(a, w) @ space.directions().T
            assert np.abs(along).max() < 1e-12 * np.abs(found.curvature).max()


def test_the_rule_holds_for_coloured_inputs_too():
    loss = training.exact_loss(TWO, spectrum=training.ou_spectrum(rate=2.0))
    best = training.find_minimiser(loss, 1)
    # Other weights are best where the input has little power at high frequencies.
    assert best.rates[0] < 1.4
    assert np.abs(best.residuals).max() < 1e-14
    for space in training.list_critical_spaces(best, 3):
        for free, kind in (
            ([0.3, 0.2], "saddle"),
            ([-0.5, 0.4], "saddle"),
            ([3.0, -0.5], "stable"),
        ):
            a, w = space.point(free)
            found = training.classify_point(loss, a, w)
            assert found.kind == kind
            assert found.inertia == training.predict_inertia(space, a)


def _stirling(n, k):
    return sum((-1) ** j * math.comb(k, j) * (k - j) ** n for j in range(k + 1)) // math.factorial(
        k
    )


def test_an_exact_fit_has_rank_two_per_mode(loss):
    best = training.find_minimiser(TWO, 2, n_starts=0)
    assert best.rates == pytest.approx([1.0, 3.0], rel=1e-10)
    assert (best.bend == 0).all()
    for space in training.list_critical_spaces(best, 4):
        a, w = space.point([0.3] * space.dimension)
        found = training.classify_point(loss, a, w)
        assert found.kind == "minimum"
        assert found.rank == 4
        assert found.inertia == training.predict_inertia(space, a)


@pytest.mark.parametrize("width", [2, 3, 5, 8, 30])
def test_counts_are_exact(width):
    found = training.count_critical_spaces(width)
    assert found.spaces == tuple(math.factorial(d) * _stirling(width, d) for d in range(1, width))
    assert found.minima == math.factorial(width)
    assert found.ratio >= found.ratio_bound
    assert training.count_critical_spaces(width, n_modes=1).spaces == (1,)


def test_a_width_beyond_the_target_is_said():
    found = training.find_minimiser(TWO, 3, n_starts=2)
    assert found.status.code in {"width_beyond_rank", "no_minimiser"}
    assert found.loss < 1e-12


@pytest.mark.parametrize(
    ("target", "code"),
    [
        (targets.Bump(delay=8.0), "no_minimiser"),
        (targets.Airy(scale=2.0, shift=3.0), "no_minimiser"),
        (targets.StretchedExponential(exponent=0.5), "ok"),
        (targets.PowerLaw(exponent=1.2), "ok"),
        (targets.SampledKernel([0.0, 1.0, 2.0, 4.0], [1.0, 0.4, 0.2, 0.0]), "ok"),
        (models.LinearRNN([[0.5]], [[1.0]], [[1.0]], dt=1.0), "ok"),
        (targets.exponential_sum([1.0], [1.0]) + targets.Bump(delay=10.0), "ok"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else value,
)
def test_every_kind_of_target_gets_an_answer(target, code):
    found = training.find_minimiser(target, 2, n_starts=6)
    assert found.status.code == code
    if code == "ok":
        assert np.abs(found.residuals).max() < 1e-12
        assert found.curvature[0] > 0
        # Nothing nearby is better, by the loss itself.
        loss = training.exact_loss(target)
        rng = np.random.default_rng(0)
        for _ in range(5):
            a = found.amplitudes * (1 + 1e-3 * rng.standard_normal(2))
            w = found.rates * (1 + 1e-3 * rng.standard_normal(2))
            assert loss(a, w) > found.loss


def test_a_kernel_whose_rates_run_together_has_no_minimiser():
    # t e^{-t} is approached by two exponentials ever closer, with ever larger amplitudes.
    target = targets.exponential_sum([1.0], [1.0], powers=[1])
    found = training.find_minimiser(target, 2, n_starts=4)
    assert not found.status.is_ok
    assert found.loss < 1e-6


def test_permuted_and_rescaled_targets_have_permuted_and_rescaled_minimisers():
    slow = training.find_minimiser(targets.exponential_sum([1.0, 1.0], [0.1, 0.3]), 1, n_starts=2)
    fast = training.find_minimiser(TWO, 1, n_starts=2)
    assert slow.rates[0] == pytest.approx(0.1 * fast.rates[0], rel=1e-12)
    assert slow.amplitudes[0] == pytest.approx(fast.amplitudes[0], rel=1e-12)
    assert slow.loss == pytest.approx(10 * fast.loss, rel=1e-10)


def test_the_plane_of_the_loss(line, loss):
    directions = [[1, -1, 0, 0], [0, 0, 1, -1]]
    a, w = [line.amplitude / 2] * 2, [line.rate] * 2
    values = training.measure_plane(loss, a, w, directions, [-1.0, 0.0, 1.0], [-0.2, 0.0, 0.2, 2.0])
    assert values.shape == (4, 3)
    # Along the line nothing changes; beyond w̃ a rate would be negative.
    assert values[1] == pytest.approx(np.full(3, line.minimiser.loss), rel=1e-10)
    assert np.isnan(values[3]).all()


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (lambda: training.find_minimiser(TWO, 0), "width"),
        (lambda: training.classify_point(training.exact_loss(TWO), [1.0], [-1.0]), "rates"),
        (lambda: training.classify_point(training.exact_loss(TWO), [1.0], [1.0, 2.0]), "rates"),
        (lambda: training.find_minimiser(TWO, 1, n_starts=-1), "n_starts"),
        (lambda: training.count_critical_spaces(0), "width"),
    ],
)
def test_bad_input_is_named(call, names):
    with pytest.raises((ValueError, TypeError), match=names):
        call()


@pytest.mark.parametrize(
    ("target", "stable"),
    [("exp(-t)+exp(-3*t)", "outside"), ("2*exp(-t)-exp(-2*t)", "inside")],
)
def test_the_example_takes_any_target(tmp_path, capsys, target, stable):
    path = Path(__file__).resolve().parents[3] / "examples" / "landscape_of_two_units.py"
    spec = importlib.util.spec_from_file_location("landscape_example", path)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    out = tmp_path / "landscape.svg"
    found = example.main(target, quick=True, out=str(out) if stable == "outside" else None)
    assert found.stable == stable
    assert out.exists() == (stable == "outside")
    assert "critical spaces" in capsys.readouterr().out
