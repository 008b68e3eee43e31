"""C's four theorems hold in every randomised run, and fail where an assumption does."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
import pytest

from recollect import convergence as c

METHODS = ("projected", "average", "sgd", "plain")
N_RUNS = 1000
SHAPES = ((64, 3, 3, 2), (8, 2, 4, 1), (32, 5, 2, 3), (128, 2, 2, 2))  # width, n, T, d
STEPS = 60


def sample(seed, *, width, horizon=3, n=4, d=2, alpha=0.3, nu=0.5, noise=0.0):
    target = c.draw_transport_target(d, nu_w=nu, nu_u=nu, alpha=alpha, seed=seed)
    signals = c.draw_sequences(n, horizon, d, seed=seed)
    values, _ = target(signals, n_points=256, n_replicates=2)
    rng = np.random.default_rng(seed)
    values = values + noise * rng.standard_normal(values.shape)
    return c.initialise_paired(width, d, alpha=alpha, seed=seed), signals, values, target


def train(network, signals, values, bound, method, seed, n_steps=STEPS, radius=0.5):
    radii = {} if method == "plain" else {"radius_w": radius, "radius_u": radius}
    run = c.train_paired(
        network,
        signals,
        values,
        n_steps=n_steps,
        step_size=bound.step_size,
        method="projected" if method == "average" else method,
        seed=seed,
        **radii,
    )
    return run, float(run.average_risk[-1]) if method == "average" else float(
        np.nanmin(run.risk[:-1])
    )


def judge(seed, method, step_size, *, noise=0.0, width=64):
    network, signals, values, _ = sample(seed, width=width, noise=noise)
    radii = {} if method == "plain" else {"radius_w": 0.5, "radius_u": 0.5}
    bound = c.bound_risk_on_data(
        network, signals, values, n_steps=STEPS, method=method, step_size=step_size, **radii
    )
    run, measured = train(network, signals, values, bound, method, seed)
    return bound, run, measured


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_certificate_holds_in_every_run(method):
    ratios, tight = [], 0
    n_steps = 300 if method == "sgd" else 30
    for seed in range(N_RUNS):
        rng = np.random.default_rng([seed, METHODS.index(method)])
        width, n, horizon, d = SHAPES[seed % len(SHAPES)]
        # Below the cutoff and above it, small and large targets, noisy or not, wide balls or not.
        alpha, nu = rng.uniform(0, 1.3), rng.uniform(0.2, 1.5)
        network, signals, values, _ = sample(
            seed,
            width=width,
            horizon=horizon,
            n=n,
            d=d,
            alpha=alpha,
            nu=nu,
            noise=rng.choice([0.0, 0.05, 0.2]),
        )
        radius = nu * rng.choice([0.5, 1.0, 3.0])
        radii = {} if method == "plain" else {"radius_w": radius, "radius_u": radius}
        step_size = rng.choice(["ours", "paper", "free"])
        bound = c.bound_risk_on_data(
            network,
            signals,
            values,
            n_steps=n_steps,
            method=method,
            step_size={"ours": None, "paper": "paper", "free": rng.uniform(0.01, 0.3)}[step_size],
            **radii,
        )
        run, measured = train(network, signals, values, bound, method, seed, n_steps, radius)
        assert run.status.is_ok
        assert measured <= bound.bound * (1 + 1e-5), seed
        if method == "plain" and math.isfinite(bound.bound):
            drift = run.drift[: bound.confined_steps].max()
            assert drift <= math.hypot(bound.radius_w, bound.radius_u) * (1 + 1e-5), seed
        ratios.append(bound.bound / measured)
        tight += not bound.is_vacuous
    assert np.median(ratios) < 1e4
    # A bound that is always vacuous would hold too.
    assert tight > N_RUNS // 50


@pytest.mark.parametrize("method", METHODS)
def test_certificates_hold_in_a_few_runs(method):
    for seed in range(4):
        bound, _, measured = judge(seed, method, "paper" if seed == 0 else None)
        assert measured <= bound.bound * (1 + 1e-5)


NU = 0.01
CLASS = {"n_samples": 2, "horizon": 2, "nu_w": NU, "nu_u": NU, "alpha": 0.1}


def promise(method, width=4096):
    # The draws of stochastic descent cost ln(1/δ)/τ; plain descent is followed for 100 steps only.
    n_steps = 400 if method == "sgd" else 100
    return n_steps, c.bound_risk(width=width, n_steps=n_steps, method=method, **CLASS)


def large_target(seed, width=4096):
    """Two sequences of two steps from a target that moves every unit as far as the class allows."""
    target = dataclasses.replace(
        c.draw_transport_target(1, nu_w=NU, nu_u=NU, alpha=CLASS["alpha"], seed=seed),
        transport=lambda w, u: (np.full(len(w), NU), np.full((len(u), 1), NU)),
    )
    signals = np.sign(c.draw_sequences(2, 2, 1, seed=seed))
    values, _ = target(signals, n_points=256, n_replicates=2)
    return c.initialise_paired(width, 1, alpha=CLASS["alpha"], seed=seed), signals, values


@pytest.mark.parametrize("method", METHODS)
def test_bounds_without_data_hold_where_they_say_something(method):
    n_steps, bound = promise(method)
    for seed in range(2):
        network, signals, values = large_target(seed)
        # Answering zero would not do.
        assert bound.bound < 0.7 * np.sum(values**2) / 2
        _, measured = train(network, signals, values, bound, method, seed, n_steps, NU)
        assert measured <= bound.bound


@pytest.mark.parametrize("method", METHODS)
def test_bounds_without_data_are_the_formulas_they_state(method):
    n_steps, bound = promise(method)
    found = c.predict_recursions(horizon=2, alpha=0.1, radius_w=bound.radius_w, width=4096)
    largest_seen = _largest_seen(method, bound, n_steps)
    error, squared, averaged = _terms(method, bound, found)
    eta, q = bound.step_size, 1 - bound.step_size * squared
    nu = math.hypot(NU, NU)
    x = ((error + math.sqrt(error**2 + q * nu**2 / (eta * n_steps))) / (2 * q)) ** 2
    if method == "average":
        x = (math.sqrt(x) + averaged) ** 2
    elif method == "sgd":
        draws = largest_seen * math.log(2 / 0.05) / n_steps
        x = min((k * x + draws) / -math.expm1(-k) for k in np.geomspace(1e-3, 10, 4000))
    elif method == "plain":
        radius = math.hypot(bound.radius_w, bound.radius_u) / math.sqrt(2)
        assert 2 * eta * math.sqrt(squared * x) * n_steps <= radius
    assert bound.bound == pytest.approx(x, rel=1e-4)


def _terms(method, bound, found):
    """E, G² and ½ρ²√ΣS²/√m of the docstring."""
    start = c.predict_recursions(horizon=2, alpha=0.1)
    # Plain descent's radius bounds the whole displacement of a unit.
    rho = bound.radius_w if method == "plain" else math.hypot(bound.radius_w, bound.radius_u)
    nu, delta = math.hypot(NU, NU), 0.05 / (2 if method == "sgd" else 1)
    sampled = 2 * start.gradient * nu * math.sqrt(math.log(2 * 2 * 2 / delta))
    bent = found.curvature * (rho * nu + rho**2 / 2)
    error = float(np.linalg.norm(bent + sampled)) / 64
    averaged = rho**2 / 2 * float(np.linalg.norm(found.curvature)) / 64
    return error, float(np.sum(found.gradient**2)), averaged


def _largest_seen(method, bound, n_steps):
    """(G_0 √(ν² + ητE²/q) + E)², or what the ball allows."""
    start = c.predict_recursions(horizon=2, alpha=0.1)
    found = c.predict_recursions(horizon=2, alpha=0.1, radius_w=bound.radius_w, width=4096)
    error, squared, _ = _terms(method, bound, found)
    far = 2 * NU**2 + bound.step_size * n_steps * error**2 / (1 - bound.step_size * squared)
    within = float(np.sum((found.gradient + start.gradient) ** 2)) * 2 * NU**2
    return min(within, (np.linalg.norm(start.gradient) * math.sqrt(far) + error) ** 2)


def test_no_step_of_stochastic_descent_sees_a_larger_risk_than_stated():
    for n_steps in (100, 400):
        bound = c.bound_risk(width=4096, n_steps=n_steps, method="sgd", **CLASS)
        allowed = _largest_seen("sgd", bound, n_steps)
        network, signals, values = large_target(0)
        run, _ = train(network, signals, values, bound, "sgd", 0, n_steps, NU)
        risks = np.sum((values - run.network(signals)) ** 2, axis=1)
        assert max(run.sample_risk.max(), risks.max()) <= allowed
        # Control: a target ten times as large as its ν says is above it from the first step.
        assert np.sum((10 * values) ** 2, axis=1).min() > allowed


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_no_certificate_is_vacuous_at_4096_units_and_5_steps(method):
    network, signals, values, _ = sample(1, width=4096, horizon=5, n=8, d=3)
    radii = {} if method == "plain" else {"radius_w": 0.5, "radius_u": 0.5}
    bound = c.bound_risk_on_data(network, signals, values, n_steps=300, method=method, **radii)
    assert not bound.is_vacuous
    assert bound.bound < 0.5 * bound.initial_risk
    _, measured = train(network, signals, values, bound, method, 1, n_steps=300)
    assert measured <= bound.bound
    # The bound without data says nothing here.
    plain = c.bound_risk(
        width=4096,
        n_samples=8,
        horizon=5,
        n_steps=300,
        nu_w=0.5,
        nu_u=0.5,
        alpha=0.3,
        method=method,
        initial_risk=bound.initial_risk,
    )
    assert plain.is_vacuous


@pytest.mark.parametrize("method", METHODS)
def test_noise_in_the_labels_breaks_the_class_but_not_the_certificate(method):
    # Control: one input twice, the target in the class as before, and noise of its own size that
    # differs between the two.
    n_steps, promised = promise(method)
    network, signals, values = large_target(0)
    signals, values = np.repeat(signals[:1], 2, axis=0), np.repeat(values[:1], 2, axis=0)
    _, clean = train(network, signals, values, promised, method, 0, n_steps, NU)
    assert clean <= promised.bound
    noisy = values + np.array([[1.0], [-1.0]]) * np.sqrt(np.mean(values**2))
    _, measured = train(network, signals, noisy, promised, method, 0, n_steps, NU)
    assert measured > promised.bound
    radii = {} if method == "plain" else {"radius_w": NU, "radius_u": NU}
    bound = c.bound_risk_on_data(network, signals, noisy, n_steps=n_steps, method=method, **radii)
    _, measured = train(network, signals, noisy, bound, method, 0, n_steps, NU)
    assert measured <= bound.bound * (1 + 1e-5)


@functools.cache
def kept(method):
    """A promise that is far from vacuous, and kept. Softplus units do not saturate."""
    signals = c.draw_sequences(4, 6, 2, seed=3)
    options = {"alpha": 0.3, "activation": "softplus", "seed": 3}
    target = c.draw_transport_target(2, nu_w=0.5, nu_u=0.5, **options)
    values, _ = target(signals, n_points=256, n_replicates=2)
    network = c.initialise_paired(1024, 2, **options)
    radii = {} if method == "plain" else {"radius_w": 0.5, "radius_u": 0.5}
    bound = c.bound_risk_on_data(network, signals, values, n_steps=300, method=method, **radii)
    assert bound.bound < 0.2 * bound.initial_risk
    _, measured = train(network, signals, values, bound, method, 3, 300)
    assert measured <= bound.bound * (1 + 1e-5)
    return network, signals, values, bound


CONTROLLED = (
    "projected",
    "sgd",
    *(pytest.param(m, marks=pytest.mark.slow) for m in ("plain", "average")),
)


@pytest.mark.parametrize("method", CONTROLLED)
def test_an_asymmetric_start_breaks_the_bound(method):
    network, signals, values, bound = kept(method)
    # The same units with all signs equal: an output of order √m instead of zero.
    other = dataclasses.replace(network, signs=np.ones(network.width))
    assert not other.is_paired
    with pytest.raises(ValueError, match="a paired start"):
        c.bound_risk_on_data(other, signals, values, n_steps=9, radius_w=0.5, radius_u=0.5)
    _, measured = train(other, signals, values, bound, method, 3, 300)
    assert measured > bound.bound


@pytest.mark.parametrize("method", CONTROLLED)
def test_a_start_beyond_the_cutoff_breaks_a_bound_proved_below_it(method):
    network, signals, values, bound = kept(method)
    other = dataclasses.replace(network, weights=2.5 / 0.3 * network.weights, alpha=2.5)
    _, measured = train(other, signals, values, bound, method, 3, 300)
    assert measured > bound.bound


@pytest.mark.parametrize(
    "method", ["projected", "sgd", pytest.param("average", marks=pytest.mark.slow)]
)
def test_a_radius_that_is_too_small_cannot_hold_the_target(method):
    network, signals, values, bound = kept(method)
    _, measured = train(network, signals, values, bound, method, 3, 300, 0.01)
    assert measured > bound.bound


@pytest.mark.parametrize("method", ["projected", "average", "sgd"])
def test_a_radius_below_the_size_of_the_target_breaks_the_promise(method):
    n_steps, bound = promise(method)
    _, measured = train(*large_target(0), bound, method, 0, n_steps, NU / 10)
    assert measured > bound.bound


def test_a_target_outside_the_ball_is_refused():
    with pytest.raises(ValueError, match="at least ν"):
        c.bound_risk(
            width=64,
            n_samples=4,
            horizon=3,
            n_steps=9,
            nu_w=0.5,
            nu_u=0.5,
            alpha=0.3,
            radius_w=0.01,
        )


def test_beyond_the_cutoff_the_budget_is_exponential_in_the_length():
    def log_width(alpha, horizon):
        found = c.predict_budget(
            0.1, n_samples=32, horizon=horizon, nu_w=0.5, nu_u=0.5, alpha=alpha
        )
        assert found.width is not None
        return math.log(found.width)

    lengths = np.array([40, 60, 80])
    above = np.polyfit(lengths, [log_width(1.5, t) for t in lengths], 1)[0]
    # S_T ~ a^{2T} and m ~ ΣS_t²: rate 4 ln a.
    assert above == pytest.approx(4 * math.log(1.5), rel=0.02)
    below = np.polyfit(np.log(lengths), [log_width(0.3, t) for t in lengths], 1)[0]
    # The risk is a sum over T samples: m ∝ T at a fixed sum.
    assert below == pytest.approx(1.0, abs=0.1)


def test_the_kernel_converges_at_the_rate_of_a_mean():
    signals = c.draw_sequences(3, 4, 2, seed=0)
    limit = c.estimate_ntk(signals, alpha=0.5, n_points=4096, n_replicates=4)
    widths = np.array([64, 256, 1024, 4096])
    errors = [
        np.sqrt(
            np.mean(
                [
                    np.mean(
                        (
                            c.measure_ntk(
                                c.initialise_paired(int(m), 2, alpha=0.5, seed=seed), signals
                            ).ntk
                            - limit.ntk
                        )
                        ** 2
                    )
                    for seed in range(12)
                ]
            )
        )
        for m in widths
    ]
    slope = np.polyfit(np.log(widths), np.log(errors), 1)[0]
    # 12 seeds leave 10 % per point, 0.05 in a slope over two decades; three of those.
    assert slope == pytest.approx(-0.5, abs=0.15)


def test_units_that_repeat_each_other_bring_the_kernel_no_nearer():
    # Control: the rate is that of a mean over independent units.
    signals = c.draw_sequences(3, 4, 2, seed=0)
    few = c.initialise_paired(8, 2, alpha=0.5, seed=0)

    def repeated(values, n_copies):
        return np.concatenate([np.repeat(half, n_copies, axis=0) for half in np.split(values, 2)])

    for n_copies in (8, 512):
        many = dataclasses.replace(
            few,
            weights=repeated(few.weights, n_copies),
            U=repeated(few.U, n_copies),
            signs=repeated(few.signs, n_copies),
        )
        assert many.is_paired
        np.testing.assert_allclose(
            c.measure_ntk(many, signals).ntk, c.measure_ntk(few, signals).ntk, rtol=1e-12
        )
