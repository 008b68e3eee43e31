"""Escape from quadratics, against closed forms and mpmath; orders as fitted slopes."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest

from recollect import training


def slope(x, y):
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def test_gradient_flow_escapes_at_the_closed_form():
    eps, theta, gap = 1e-3, 1e-2, 0.5
    found = training.predict_quadratic_escape([-eps], [theta], gap=gap, quantity="distance")
    assert found.time == pytest.approx(math.log(1 + gap / theta) / eps, rel=1e-12)
    by_loss = training.predict_quadratic_escape([-eps], [theta], gap=1e-4)
    exact = math.log(1 + 2 * 1e-4 / (eps * theta**2)) / (2 * eps)
    assert by_loss.time == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("friction", [0.0, 0.02, 0.3, 2.0, 2.5])
def test_heavy_ball_agrees_with_mpmath(friction):
    eigenvalues, start, gap = [1.0, 0.01, -1e-3], [0.0, 0.1, 1e-3], 0.4
    found = training.predict_quadratic_escape(
        eigenvalues, start, gap=gap, friction=friction, quantity="distance"
    )
    with mpmath.workdps(40):

        def distance(t):
            total = mpmath.mpf(0)
            for lam, x0 in zip(eigenvalues, start, strict=True):
                lam, x0, g = mpmath.mpf(lam), mpmath.mpf(x0), mpmath.mpf(friction)
                d = mpmath.sqrt(g**2 / 4 - lam + 0j)
                factor = mpmath.exp(-g * t / 2)
                odd = t if d == 0 else mpmath.sinh(d * t) / d
                x = x0 * factor * (mpmath.cosh(d * t) + g / 2 * odd)
                total += mpmath.re(x - x0) ** 2
            return mpmath.sqrt(total)

        assert float(distance(found.time)) == pytest.approx(gap, rel=1e-10)
        earlier = [distance(found.time * k / 400) for k in range(400)]
        assert max(earlier) < gap


def test_orders_of_escape_and_the_loss_of_the_gain_at_fixed_friction():
    curvatures = np.geomspace(1e-8, 1e-4, 4)

    def times(friction):
        # The start scales so that the logarithm of the gap over the start stays the same.
        return [
            training.predict_quadratic_escape(
                [1.0, -eps], [0.0, 1e-3], gap=0.5, friction=friction(eps), quantity="distance"
            ).time
            for eps in curvatures
        ]

    flow = times(lambda eps: None)
    assert slope(curvatures, flow) == pytest.approx(-1, abs=1e-9)
    tuned = times(lambda eps: math.sqrt(eps))
    assert slope(curvatures, tuned) == pytest.approx(-0.5, abs=1e-9)
    free = times(lambda eps: 0.0)
    assert slope(curvatures, free) == pytest.approx(-0.5, abs=1e-9)
    fixed = times(lambda eps: 1.0)
    # θ'' + γθ' - εθ = 0 differs from γθ' = εθ by O(ε/γ²).
    assert slope(curvatures, fixed) == pytest.approx(-1, abs=1e-4)
    assert np.array(fixed) / np.array(flow) == pytest.approx(1.0, rel=1e-3)


def test_nothing_escapes_without_negative_curvature():
    found = training.predict_quadratic_escape([1.0, 0.0], [0.1, 1.0], gap=0.5)
    assert found.time == math.inf
    assert found.status.code == "infinite"
    still = training.predict_quadratic_escape([1.0, -1e-3], [0.1, 0.0], gap=0.5, friction=0.1)
    assert still.time == math.inf
    assert "excited" in still.status.message
    # A distance can be covered downhill without any negative curvature.
    down = training.predict_quadratic_escape([1.0], [1.0], gap=0.5, quantity="distance")
    assert down.time == pytest.approx(math.log(2), rel=1e-12)


def test_momentum_gain_against_the_iteration():
    eps, eta, rho = 1e-4, 0.1, 0.9
    gain, best = training.predict_momentum_gain(eps, step_size=eta, momentum=rho)
    z, previous = 1e-3, 1e-3
    logs = []
    for _ in range(200_000):
        z, previous = z + eta * eps * z + rho * (z - previous), z
        if z > 1e200:
            break
        logs.append(math.log(z))
    per_step = (logs[-1] - logs[len(logs) // 2]) / (len(logs) - 1 - len(logs) // 2)
    assert gain == pytest.approx(per_step / math.log1p(eta * eps), rel=1e-8)
    assert gain == pytest.approx(1 / (1 - rho), rel=1e-2)
    assert best == pytest.approx(1 / math.sqrt(eta * eps), rel=1e-2)
    # Negative control: where ηε is far above (1-ρ)² the gain is the best one, not 1/(1-ρ) = 1000.
    gain, best = training.predict_momentum_gain(1e-2, step_size=eta, momentum=0.999)
    assert gain == pytest.approx(best, rel=0.02)
    assert gain < 0.05 / (1 - 0.999)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (dict(eigenvalues=[1.0], start=[1.0, 2.0], gap=1.0), "start"),
        (dict(eigenvalues=[1.0], start=[1.0], gap=0.0), "gap"),
        (dict(eigenvalues=[1.0], start=[1.0], gap=1.0, friction=-1.0), "friction"),
        (dict(eigenvalues=[1.0], start=[1.0], gap=1.0, quantity="los"), "quantity"),
    ],
)
def test_bad_input_is_named(arguments, names):
    with pytest.raises(ValueError, match=names):
        training.predict_quadratic_escape(**arguments)


def delayed(delay):
    from recollect import targets

    return training.exact_loss(targets.exponential_sum([1.0], [1.0]) + targets.Bump(delay=delay))


@pytest.mark.parametrize(("delay", "time"), [(8.0, 30.248), (10.0, 557.33)])
def test_escape_from_a_plateau_takes_the_known_times(delay, time):
    found = training.solve_momentum_flow(
        delayed(delay), [0.3, 0.7], [1.0, 1.0], friction=None, flow_time=1e6, gap=0.5
    )
    assert found.escape_time == pytest.approx(time, rel=2e-4)
    assert (np.diff(found.losses) <= 1e-12).all()


def test_fixed_friction_gains_nothing_on_a_plateau_and_little_friction_much():
    flow, damped, light = (
        training.solve_momentum_flow(
            delayed(10.0), [0.3, 0.7], [1.0, 1.0], friction=f, flow_time=1e6, gap=0.5, rtol=1e-6
        ).escape_time
        for f in (None, 1.0, 0.04)
    )
    # γ θ' = -∇J up to θ'': the same path at γ = 1, delayed by the inertia's 1/γ and little more.
    assert damped == pytest.approx(flow, rel=0.02)
    assert light < flow / 5


def test_the_flow_permutes_with_its_units_and_gives_up_in_words():
    one = training.solve_momentum_flow(
        delayed(8.0), [0.3, 0.7], [1.0, 0.9], friction=0.5, flow_time=10.0
    )
    two = training.solve_momentum_flow(
        delayed(8.0), [0.7, 0.3], [0.9, 1.0], friction=0.5, flow_time=10.0
    )
    assert one.amplitudes[-1] == pytest.approx(two.amplitudes[-1, ::-1], abs=1e-6)
    short = training.solve_momentum_flow(
        delayed(8.0), [0.3, 0.7], [1.0, 1.0], friction=None, flow_time=1.0, gap=0.5
    )
    assert short.escape_time == math.inf
    assert short.status.code == "infinite"
    with pytest.raises(ValueError, match="rates"):
        training.solve_momentum_flow(delayed(8.0), [1.0], [-1.0], friction=None, flow_time=1.0)
