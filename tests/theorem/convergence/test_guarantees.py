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


@pytest.mark.parametrize("method", METHODS)
def test_bounds_without_data_hold_in_a_few_runs(method):
    for seed in range(4):
        network, signals, values, _ = sample(seed, width=64)
        bound = c.bound_risk(
            width=64,
            n_samples=4,
            horizon=3,
            n_steps=STEPS,
            nu_w=0.5,
            nu_u=0.5,
            alpha=0.3,
            method=method,
        )
        eta = bound.step_size if math.isfinite(bound.step_size) else 0.01
        _, measured = train(
            network, signals, values, dataclasses.replace(bound, step_size=eta), method, seed
        )
        assert measured <= bound.bound


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
    # Control: opposite labels for one input; no network fits, and the class's bound is violated.
    network, signals, _, _ = sample(0, width=64)
    signals = np.repeat(signals[:1], 4, axis=0)
    values = 30.0 * np.array([1, -1, 1, -1])[:, None] * np.ones((4, 3))
    options = {"n_samples": 4, "horizon": 3, "nu_w": 1e-5, "nu_u": 1e-5, "alpha": 0.3}
    promised = c.bound_risk(width=64, n_steps=STEPS, method=method, **options)
    assert math.isfinite(promised.bound)
    _, measured = train(network, signals, values, promised, method, 0)
    assert measured > promised.bound
    radii = {} if method == "plain" else {"radius_w": 0.5, "radius_u": 0.5}
    bound = c.bound_risk_on_data(network, signals, values, n_steps=STEPS, method=method, **radii)
    eta = bound.step_size if math.isfinite(bound.step_size) else 0.01
    bound = dataclasses.replace(bound, step_size=eta)
    _, measured = train(network, signals, values, bound, method, 0)
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
