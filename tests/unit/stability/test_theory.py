"""Closed forms and bounds of moving weights, against mpmath, numeric suprema and brute force."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import scipy.optimize

from recollect import memory, models, stability

STABLE = {
    "exponential": models.Exponential(),
    "softplus": models.Softplus(),
    "inverse": models.InverseSquare(0.7, 0.4),
    "inverse_wide": models.InverseSquare(2.0, 1.5),
}
MPMATH = {
    "exponential": mpmath.exp,
    "softplus": lambda v: mpmath.log1p(mpmath.exp(v)),
    "inverse": lambda v: 1 / (mpmath.mpf("0.7") * v**2 + mpmath.mpf("0.4")),
    "inverse_wide": lambda v: 1 / (2 * v**2 + mpmath.mpf("1.5")),
}


def supremum(f, radius):
    """sup |f(v)/f(ṽ) - 1| in 30 digits, by a grid refined around its best point."""
    with mpmath.workdps(30):

        def worst(v):
            moved = [v + radius * mpmath.mpf(k) / 4 for k in (-4, -2, 2, 4)]
            return max(abs(f(v) / f(other) - 1) for other in moved)

        grid = [mpmath.mpf(k) / 2 for k in range(-120, 121)]
        step = mpmath.mpf(1) / 2
        best = max(grid, key=worst)
        for _ in range(50):
            best = max([best - step, best, best + step], key=worst)
            step *= mpmath.mpf("0.6")
        return float(worst(best))


@pytest.mark.parametrize("name", sorted(STABLE))
@pytest.mark.parametrize("radius", [0.05, 0.7])
def test_criteria_are_the_suprema_they_stand_for(name, radius):
    found = stability.predict_criterion(STABLE[name], radius)
    assert found == pytest.approx(supremum(MPMATH[name], mpmath.mpf(radius)), rel=1e-9)


def test_the_discrete_criterion_is_that_of_the_multiplier():
    reparam = models.DiscreteInverseSquare(1.0, scale=0.8, offset=1.3)
    v = np.linspace(-6, 6, 4001)

    def gap(x):
        return -np.expm1(-np.asarray(reparam.forward(x)))

    ratio = max(np.abs(gap(v) / gap(v + move) - 1).max() for move in np.linspace(-0.3, 0.3, 41))
    assert stability.predict_criterion(reparam, 0.3) == pytest.approx(ratio, rel=1e-5)
    # The same supremum of the continuous rates is another number.
    rates = np.asarray(reparam.forward(v))
    moved = np.asarray(reparam.forward(v + 0.3))
    assert np.abs(rates / moved - 1).max() > 1.1 * ratio


@pytest.mark.parametrize(
    "reparam",
    [models.Direct(), models.Relu(), models.DiscreteDirect(0.5)],
    ids=lambda r: str(type(r)),
)
def test_maps_that_fail_have_an_infinite_criterion(reparam):
    assert stability.predict_criterion(reparam, 1e-9) == math.inf
    assert stability.predict_criterion(reparam, 0.0) == 0.0


@pytest.mark.parametrize("name", sorted(STABLE))
def test_gradient_scales_against_mpmath(name):
    f = MPMATH[name]
    with mpmath.workdps(40):
        for v in (-35.0, -3.0, -0.2, 0.4, 2.5, 20.0):
            exact = abs(mpmath.diff(f, v)) / f(mpmath.mpf(v)) ** 2
            found = stability.predict_gradient_scale(STABLE[name], v)
            assert float(found) == pytest.approx(float(exact), rel=1e-9)


def test_gradient_scales_of_the_other_maps():
    assert stability.predict_gradient_scale(models.Direct(), [0.5, -2.0]) == pytest.approx(
        [4, 0.25]
    )
    assert stability.predict_gradient_scale(models.Relu(), [-1.0, 0.5]) == pytest.approx(
        [math.inf, 4]
    )
    # Those of one step: |α'|/(1-α)².
    discrete = models.DiscreteInverseSquare(0.1, scale=0.8, offset=1.3)
    v, h = np.array([0.3, 2.0, 40.0]), 1e-6

    def memory_of_unit(x):
        return 1 / -np.expm1(-np.asarray(discrete.forward(x)) * 0.1)

    slope = (memory_of_unit(v + h) - memory_of_unit(v - h)) / (2 * h)
    assert stability.predict_gradient_scale(discrete, v) == pytest.approx(slope, rel=1e-6)
    direct = stability.predict_gradient_scale(models.DiscreteDirect(0.1), [0.5, 0.9])
    assert direct == pytest.approx([4, 100])
    with pytest.raises(TypeError, match="measure_gradient_scale"):
        stability.predict_gradient_scale(lambda v: v, 1.0)  # type: ignore[arg-type]


def test_gradient_scales_are_powers_of_the_time_scale():
    weights = {
        models.Direct(): np.geomspace(1e-6, 1e-3, 4),
        models.Exponential(): np.log(np.geomspace(1e-6, 1e-3, 4)),
        models.Softplus(): np.log(np.geomspace(1e-6, 1e-3, 4)),
        models.InverseSquare(0.7, 0.4): np.geomspace(30, 1000, 4),
    }
    powers = []
    for reparam, v in weights.items():
        timescale = 1 / np.asarray(reparam.forward(v), float)
        scale = stability.predict_gradient_scale(reparam, v)
        powers.append(np.polyfit(np.log(timescale), np.log(scale), 1)[0])
    np.testing.assert_allclose(powers, [2, 1, 1, 0.5], atol=1e-3)


def test_a_larger_move_than_was_asked_for_exceeds_the_bound():
    # Negative control: one unit, all its weights in the worst direction, by twice the radius.
    model = models.DiagonalRNN([0.3], [[1.0]], [[1.0]], reparam=models.Exponential())
    radius = 0.1
    bound = stability.bound_perturbation_error(model, radius)
    moved = [
        models.DiagonalRNN(model.rates * np.exp(-b), model.B + b, model.C + b)
        for b in (radius, 2 * radius)
    ]
    assert distance(model, moved[0]) <= bound < distance(model, moved[1])


def network(rng, width, reparam, readin="plain"):
    rates = np.exp(rng.uniform(-2, -0.5, width))
    u, c = rng.standard_normal((width, 1)), rng.standard_normal((1, width))
    return models.DiagonalRNN(rates, u, c, reparam=reparam, readin=readin)


def distance(first, second):
    """∫|ρ₁-ρ₂| from the primitive between the sign changes on a fine grid."""
    a = np.concatenate([first.amplitudes[:, 0, 0], -second.amplitudes[:, 0, 0]])
    w = np.concatenate([first.rates, second.rates])
    t = np.concatenate([[0], np.geomspace(1e-4, 60 / w.min(), 4000)])
    decay = np.exp(-t[:, None] * w)
    rising = np.sign(decay @ a)
    turns = np.flatnonzero(rising[1:] != rising[:-1]) + 1
    primitive = -(decay @ (a / w))[np.concatenate([[0], turns, [-1]])]
    return np.abs(np.diff(primitive)).sum()


@pytest.mark.parametrize("readin", ["plain", "normalised"])
@pytest.mark.parametrize("name", [*sorted(STABLE), "direct"])
def test_bounds_hold_for_random_perturbations(name, readin):
    rng = np.random.default_rng(3)
    reparam = STABLE.get(name, models.Direct())
    for radius in (0.01, 0.1, 0.6):
        for _ in range(4):
            model = network(rng, 3, reparam, readin)
            bounds = {of: stability.bound_perturbation_error(model, radius, of=of) for of in MOVES}
            assert bounds["rates"] <= bounds["fixed_readin"] <= bounds["all"]
            uniform = stability.bound_normalised_error(model, radius)
            assert readin == "plain" or bounds["all"] <= uniform * (1 + 1e-12)
            for _ in range(3):
                v, b, c = (rng.standard_normal(n) for n in ((3,), (3, 1), (1, 3)))
                v, b, c = (radius * x / max(1e-9, n(x)) for x, n in ((v, top), (b, two), (c, two)))
                for of, (dv, db, dc) in {
                    "rates": (v, 0, 0),
                    "fixed_readin": (v, 0, c),
                    "all": (v, b, c),
                }.items():
                    rates = np.asarray(reparam.forward(model.weights + dv))
                    if (rates <= 0).any():
                        assert bounds[of] == math.inf
                        continue
                    other = models.DiagonalRNN(rates, model.B + db, model.C + dc, readin=readin)
                    assert distance(model, other) <= bounds[of] * (1 + 1e-9)


MOVES = ("rates", "fixed_readin", "all")


def top(x):
    return np.abs(x).max()


def two(x):
    return np.linalg.norm(x)


def test_the_plain_bound_grows_with_the_slowness_and_the_normalised_one_does_not():
    plain, normalised = [], []
    slow = 10.0 ** -np.arange(1, 7)
    for rate in slow:
        model = models.DiagonalRNN(
            [1.0, rate], [[1.0], [rate]], [[1.0, 1.0]], reparam=STABLE["softplus"]
        )
        plain.append(stability.bound_perturbation_error(model, 0.1))
        other = models.reparameterise(model, readin="normalised")
        normalised.append(stability.bound_normalised_error(other, 0.1))
        assert stability.bound_normalised_error(model, 0.1) == pytest.approx(
            normalised[-1], rel=1e-9
        )
    slope = np.polyfit(np.log(slow[2:]), np.log(plain[2:]), 1)[0]
    assert slope == pytest.approx(-1, abs=0.01)
    assert np.ptp(normalised) < 1e-12


def test_direct_error_of_one_unit_is_the_maximum_over_the_disc():
    c, w = 0.7, 0.4
    for radius in (0.05, 0.2, 0.39):
        found = scipy.optimize.minimize_scalar(
            lambda a, r=radius: -((c + r * math.cos(a)) / (w - r * math.sin(a)) - c / w),
            bounds=(0, math.pi / 2),
            method="bounded",
            options={"xatol": 1e-12},
        )
        value = stability.predict_direct_error([c], [w], radius)
        assert value == pytest.approx(-found.fun, rel=1e-9)
    assert stability.predict_direct_error([c], [w], 0.4) == math.inf
    assert stability.predict_direct_error([c], [w], 0.0) == pytest.approx(0, abs=1e-15)


def test_direct_error_in_the_papers_ball_is_the_maximum_over_it():
    rng = np.random.default_rng(1)
    c, w, radius = rng.uniform(0.2, 1, 4), rng.uniform(0.5, 2, 4), 0.3
    value = stability.predict_direct_error(c, w, radius, ball="paper")
    x = rng.standard_normal((20000, 4))
    x *= radius / np.linalg.norm(x, axis=1, keepdims=True)
    y = radius * rng.uniform(-1, 1, (20000, 4))
    drawn = ((c + x) / (w + y)).sum(axis=1) - (c / w).sum()
    best = 1 / (w - radius)
    at_best = ((c + radius * best / np.linalg.norm(best)) * best).sum() - (c / w).sum()
    assert drawn.max() <= value
    assert value == pytest.approx(at_best, rel=1e-12)
    assert stability.predict_direct_error(c, w, float(w.min()), ball="paper") == math.inf


def test_direct_error_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match="positive"):
        stability.predict_direct_error([-1.0], [1.0], 0.1)
    with pytest.raises(ValueError, match="one unit"):
        stability.predict_direct_error([1.0, 1.0], [1.0, 2.0], 0.1)


def law(name, **values):
    interval = memory.LagInterval
    return memory.MemoryLaw(
        law=name,
        t50=interval(1.0, 1.0, 1.0, 0.9),
        t90=interval(2.0, 2.0, 2.0, 0.9),
        t95=interval(3.0, 3.0, 3.0, 0.9),
        probabilities={name: 1.0},
        family=name,
        parameters={key: interval(value, value, value, 0.9) for key, value in values.items()},
        log_evidences={name: 0.0},
        misfit=0.5,
    )


def test_the_stable_radius_is_bounded_by_the_order_of_the_memory():
    assert stability.bound_stable_radius(law("exponential", rate=0.3)) == pytest.approx(0.3)
    assert stability.bound_stable_radius(law("delayed", rate=0.2, delay=4.0)) == pytest.approx(0.2)
    # Families of several parameters end like their slowest rate; a bump alone ends at once.
    swinging = law("exponential", rate=0.1, frequency=2.0)
    assert stability.bound_stable_radius(swinging) == pytest.approx(0.1)
    two = law("delayed", rate=0.2, second_rate=1.0, delay=4.0)
    assert stability.bound_stable_radius(two) == pytest.approx(0.2)
    assert stability.bound_stable_radius(law("delayed", delay=4.0, spread=1.0)) == math.inf
    assert stability.bound_stable_radius(law("power", exponent=1.5)) == 0.0
    assert stability.bound_stable_radius(law("stretched", exponent=0.5, scale=1.0)) == 0.0
    assert math.isnan(stability.bound_stable_radius(law("exponential")))
    assert stability.bound_stable_radius(law("stretched", exponent=1.0, scale=2.0)) == 0.5
    assert stability.bound_stable_radius(law("none")) == math.inf
    assert math.isnan(stability.bound_stable_radius(law("undecided")))
