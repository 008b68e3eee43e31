"""Bounds: their constants by enumeration, their inverse, their refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest

from recollect import convergence as c

CLASS = {"nu_w": 0.5, "nu_u": 0.5, "alpha": 0.3, "horizon": 5, "n_samples": 8}


def derivatives(w, u, x):
    """H, its gradient and Hessian in (w, u) for scalar inputs, forward."""
    h, g, hess = 0.0, np.zeros(2), np.zeros((2, 2))
    for value in x:
        dz = np.array([h, value]) + w * g
        d2z = w * hess
        d2z[0] += g
        d2z[:, 0] += g
        h = math.tanh(w * h + u * value)
        s = 1 - h * h
        g, hess = s * dz, -2 * h * s * np.outer(dz, dz) + s * d2z
        yield h, g, hess


def test_recursions_bound_every_unit_by_enumeration():
    found = c.predict_recursions(horizon=5, alpha=0.9, radius_w=0.4, width=16)
    widest = 0.9 + 0.1
    worst = np.zeros((5, 2))
    for w in np.linspace(-widest, widest, 9):
        for u in np.linspace(-3, 3, 15):
            for signs in np.ndindex(*(2,) * 5):
                x = 2.0 * np.array(signs) - 1
                for t, (_, g, hess) in enumerate(derivatives(w, u, x)):
                    worst[t] = np.maximum(
                        worst[t], [np.linalg.norm(g), np.linalg.norm(hess, ord=2)]
                    )
    assert np.all(worst[:, 0] <= found.gradient)
    assert np.all(worst[:, 1] <= found.curvature)
    assert found.gain == pytest.approx(1.0)
    # Negative control: a unit that has left the ball, too faint to saturate, exceeds both.
    outside = [
        [np.linalg.norm(g), np.linalg.norm(hess, ord=2)]
        for _, g, hess in derivatives(3 * widest, 0.01, [1, 0, 0, 0, 0])
    ]
    assert outside[-1][0] > 3 * found.gradient[-1]
    assert outside[-1][1] > 3 * found.curvature[-1]


def test_recursions_turn_at_the_cutoff():
    def growth(alpha, name):
        values = getattr(c.predict_recursions(horizon=200, alpha=alpha), name)
        return np.log(values[-1] / values[-51]) / 50

    assert growth(0.8, "gradient") == pytest.approx(0, abs=1e-6)
    assert growth(1.25, "gradient") == pytest.approx(math.log(1.25), rel=1e-3)
    assert growth(1.25, "curvature") == pytest.approx(2 * math.log(1.25), rel=1e-3)


@pytest.mark.parametrize("method", ["projected", "average", "sgd", "plain"])
def test_a_budget_buys_the_risk_it_was_asked_for(method):
    budget = c.predict_budget(0.02, method=method, **CLASS)
    assert budget.width is not None
    options = {"method": method, "n_steps": budget.n_steps, **CLASS}
    assert c.bound_risk(width=budget.width, **options).bound == pytest.approx(budget.bound)
    assert budget.bound <= 0.02
    assert c.bound_risk(width=budget.width // 16 // 2 * 2, **options).bound > 0.02
    fewer = dict(options, n_steps=budget.n_steps // 2)
    assert c.bound_risk(width=budget.width, **fewer).bound > 0.02


def test_width_is_logarithmic_in_the_samples():
    widths = [
        c.predict_budget(0.02, **CLASS | {"n_samples": n}).width for n in (10, 10**3, 10**5, 10**7)
    ]
    steps = np.diff(widths)
    # √m is affine in √ln n: at most logarithmic, at least half of it.
    assert np.all(steps > 0)
    assert np.all(np.diff(steps) < 0)
    assert steps.max() / steps.min() < 2


def test_beyond_the_cutoff_no_number_is_invented():
    budget = c.predict_budget(0.02, **CLASS | {"horizon": 3000, "alpha": 3.0})
    assert budget.width is None
    assert budget.status.code == "infinite"
    bound = c.bound_risk(
        width=64, n_steps=10, initial_risk=1.0, **CLASS | {"horizon": 3000, "alpha": 3.0}
    )
    assert bound.is_vacuous
    assert bound.risk == 1.0


def test_the_smaller_of_bound_and_zero_is_returned():
    bound = c.bound_risk(width=64, n_steps=100, initial_risk=0.1, **CLASS)
    assert bound.bound > 0.1
    assert bound.risk == 0.1
    assert bound.status.code == "vacuous"
    wide = c.bound_risk(width=10**8, n_steps=10**5, initial_risk=0.1, **CLASS)
    assert wide.risk == wide.bound < 0.1
    assert wide.status.is_ok
    paper = c.bound_risk(width=10**12, n_steps=10**8, step_size="paper", **CLASS)
    later = c.bound_risk(width=10**12, n_steps=10**10, step_size="paper", **CLASS)
    # C's rate 1/√τ: a hundred times the steps, a tenth of the optimisation part.
    assert later.optimisation / paper.optimisation == pytest.approx(0.1, rel=0.2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"width": 65}, "width: expected an even number"),
        ({"radius_w": 0.1}, "at least ν"),
        ({"radius_u": 0.0}, "positive"),
        ({"delta": 1.5}, "between 0 and 1"),
        ({"activation": "softplus"}, "one of bounded value"),
        ({"activation": "relu"}, "bounded derivatives"),
        ({"method": "plain", "radius_w": 1.0}, "none for plain"),
    ],
)
def test_what_no_theorem_covers_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        c.bound_risk(**{"width": 64, "n_steps": 10, **CLASS, **change})


def test_the_certificate_asks_for_a_paired_start():
    from dataclasses import replace

    network = c.initialise_paired(8, 2, alpha=0.3, seed=0)
    signals = c.draw_sequences(2, 2, 2, seed=0)
    odd = replace(network, weights=network.weights + np.arange(8))
    with pytest.raises(ValueError, match="paired start"):
        c.bound_risk_on_data(odd, signals, np.ones((2, 2)), n_steps=5, radius_w=1.0, radius_u=1.0)
    with pytest.raises(ValueError, match="radius_u: expected a positive radius"):
        c.bound_risk_on_data(network, signals, np.ones((2, 2)), n_steps=5, radius_w=1.0)


def test_suprema_hold_on_sampled_balls():
    from recollect.convergence._certificate import _Case

    network = c.initialise_paired(6, 1, alpha=0.7, seed=2)
    signals = c.draw_sequences(3, 4, 1, seed=2)
    case = _Case(network, signals, np.ones((3, 4)), (1.0, 1.0), 10, "projected", 0.1, None)
    reach = np.full(3, 0.2)
    p, q, a, x, b, s, third = case.suprema(slice(0, 3), reach, reach)
    rng = np.random.default_rng(0)
    for _ in range(300):
        shift = rng.uniform(-0.2, 0.2, (3, 2))
        shift[rng.integers(3)] = 0.2 * rng.choice([-1, 1], 2)
        for k in range(3):
            w, u = network.weights[k] + shift[k, 0], network.U[k, 0] + shift[k, 1]
            for j in range(3):
                step = 1e-4 * rng.standard_normal(2)
                away = list(derivatives(w + step[0], u + step[1], signals[j, :, 0]))
                for t, (_, g, hess) in enumerate(derivatives(w, u, signals[j, :, 0])):
                    at = (j, t, k)
                    assert abs(g[0]) <= p[at] * (1 + 1e-9)
                    assert abs(g[1]) <= q[at] * (1 + 1e-9)
                    assert abs(hess[0, 0]) <= a[at] * (1 + 1e-9)
                    assert abs(hess[0, 1]) <= x[at] * (1 + 1e-9)
                    assert abs(hess[1, 1]) <= b[at] * (1 + 1e-9)
                    assert np.linalg.norm(hess, 2) <= s[at] * (1 + 1e-9)
                    change = np.linalg.norm(away[t][2] - hess, 2) / np.linalg.norm(step)
                    assert change <= third[at] * 1.01 + 1e-6


def sampled():
    target = c.draw_transport_target(2, nu_w=0.5, nu_u=0.5, alpha=0.3, seed=1)
    signals = c.draw_sequences(4, 3, 2, seed=1)
    values, _ = target(signals, n_points=256, n_replicates=2)
    return c.initialise_paired(64, 2, alpha=0.3, seed=1), signals, values


@pytest.mark.parametrize("method", ["projected", "average", "sgd", "plain"])
def test_what_is_left_out_could_not_win(method, monkeypatch):
    from recollect.convergence._certificate import _Case

    network, signals, values = sampled()
    radii = {} if method == "plain" else {"radius_w": 0.5, "radius_u": 0.5}
    found = c.bound_risk_on_data(network, signals, values, n_steps=60, method=method, **radii)
    close = _Case.close
    monkeypatch.setattr(_Case, "least_bound", lambda self, displacement: -math.inf)
    monkeypatch.setattr(_Case, "close", lambda self, d, known: close(self, d, math.inf))
    whole = c.bound_risk_on_data(network, signals, values, n_steps=60, method=method, **radii)
    assert found.bound == pytest.approx(whole.bound, rel=1e-12)


def test_no_step_sees_a_risk_above_the_largest_allowed(monkeypatch):
    from recollect.convergence._certificate import _Case

    network, signals, values = sampled()
    allowed = []
    finish = _Case.finish
    monkeypatch.setattr(
        _Case, "finish", lambda self, x, bent, m: allowed.append(m) or finish(self, x, bent, m)
    )
    options = {"n_steps": 60, "radius_w": 0.5, "radius_u": 0.5, "method": "sgd"}
    bound = c.bound_risk_on_data(network, signals, values, **options)
    run = c.train_paired(network, signals, values, step_size=bound.step_size, **options)
    risks = np.sum((values - run.network(signals)) ** 2, axis=1)
    # The risk of zero is among them.
    assert np.sum(values**2, axis=1).max() <= allowed[-1]
    assert max(run.sample_risk.max(), risks.max()) <= allowed[-1]
