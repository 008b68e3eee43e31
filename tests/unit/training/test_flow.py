"""The gradient flow against exact solutions, another integrator, and its symmetries."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.integrate

from recollect import targets, training

ONE = targets.exponential_sum([1.0], [1.0])


def bumped(delay, base=ONE):
    return training.exact_loss(base + targets.Bump(delay=delay, width=1.0, height=1.0))


def test_agrees_with_an_explicit_integrator_of_high_order():
    loss = bumped(6.0)
    start = np.array([0.3, 0.9, 1.0, 0.6])

    def field(_, theta):
        return -loss.gradient(theta[:2], theta[2:])

    plain = scipy.integrate.solve_ivp(
        field, (0, 30.0), start, method="DOP853", rtol=1e-12, atol=1e-14, t_eval=[3.0, 30.0]
    )
    flow = training.solve_flow(loss, start[:2], start[2:], flow_time=30.0, rtol=1e-10)
    np.testing.assert_allclose(flow.weights[-1], plain.y[:, 1], rtol=1e-9)
    np.testing.assert_allclose(flow.at(3.0)[0], plain.y[:, 0], rtol=1e-7)


def test_one_unit_with_a_known_flow():
    # With the amplitude at its best for each rate the flow of one unit is a quadrature away; here the
    # linear part alone: a fast relaxation `a(τ) = a* + (a_0 - a*) e^{-τ/w}` while w is held by a = 0.
    loss = training.exact_loss(targets.exponential_sum([1e-9], [1.0]))
    flow = training.solve_flow(loss, [1e-9], [2.0], flow_time=5.0)
    best = 1e-9 * 2 * 2 / (2 + 1)
    exact = best + (1e-9 - best) * np.exp(-flow.flow_times / 2.0)
    np.testing.assert_allclose(flow.weights[:, 0], exact, atol=1e-15)


def test_loss_never_rises_and_ends_at_a_minimum():
    loss = training.exact_loss(targets.exponential_sum([1.0, 1.0], [1.0, 3.0]))
    flow = training.solve_flow(loss, [0.5, 2.0], [0.7, 2.0])
    assert (np.diff(flow.losses) <= 1e-15).all()
    assert flow.end == "minimum"
    order = np.argsort(flow.rates)
    np.testing.assert_allclose(flow.rates[order], [1.0, 3.0], rtol=1e-6)
    np.testing.assert_allclose(flow.amplitudes[order], [1.0, 1.0], rtol=1e-6)
    assert flow.eigenvalues[0] > 0


def test_permuted_units_flow_alike():
    loss = bumped(8.0)
    one = training.solve_flow(loss, [0.3, 0.7], [1.0, 0.9], flow_time=50.0)
    two = training.solve_flow(loss, [0.7, 0.3], [0.9, 1.0], flow_time=50.0)
    np.testing.assert_allclose(one.amplitudes, two.amplitudes[::-1], rtol=1e-8)
    np.testing.assert_allclose(one.rates, two.rates[::-1], rtol=1e-8)


def test_scaling_the_kernel_scales_the_flow():
    # ρ → cρ, a → ca: J → c²J; the flow of a is the same, that of w faster by c².
    c = 2.0
    one = training.exact_loss(ONE)
    two = training.exact_loss(targets.exponential_sum([c], [1.0]))
    a, w = np.array([0.5, 0.1]), np.array([1.3, 0.8])
    np.testing.assert_allclose(two.gradient(c * a, w)[:2], c * one.gradient(a, w)[:2], rtol=1e-13)
    np.testing.assert_allclose(
        two.gradient(c * a, w)[2:], c**2 * one.gradient(a, w)[2:], rtol=1e-13
    )


def test_scaling_time_scales_loss_and_gradient():
    # ρ(t) → ρ(ct), w → cw: J → J/c, ∂J/∂a → (1/c) ∂J/∂a, ∂J/∂w → (1/c²) ∂J/∂w.
    c, a, w = 2.5, np.array([0.3, 0.9]), np.array([1.0, 0.6])
    bumps = [targets.Bump(delay=6.0 / k, width=1.0 / k, height=1.0) for k in (1.0, c)]
    slow = training.exact_loss(targets.exponential_sum([1.0], [1.0]) + bumps[0])
    fast = training.exact_loss(targets.exponential_sum([1.0], [c]) + bumps[1])
    assert fast(a, c * w) == pytest.approx(slow(a, w) / c, rel=1e-12)
    scale = np.array([1 / c, 1 / c, 1 / c**2, 1 / c**2])
    np.testing.assert_allclose(fast.gradient(a, c * w), scale * slow.gradient(a, w), rtol=1e-10)


def test_a_batch_is_its_lanes():
    losses = [bumped(6.0), bumped(9.0), bumped(6.0)]
    a = np.array([[0.3, 0.7], [0.2, 0.8], [0.6, 0.4]])
    w = np.array([[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
    losses[2] = losses[0]
    flows = training.solve_flows(losses, a, w, flow_time=40.0, rtol=1e-9)
    for lane, flow in enumerate(flows):
        alone = training.solve_flow(losses[lane], a[lane], w[lane], flow_time=40.0, rtol=1e-9)
        np.testing.assert_allclose(flow.weights[-1], alone.weights[-1], rtol=1e-7)


@pytest.mark.parametrize(
    ("a", "w", "end"),
    [
        ([0.5, 0.5], [1.0, 1.0], "saddle"),  # equal units stay equal
        ([1.3, -0.3], [1.0, 1.0], "degenerate"),  # a coincident unit of negative amplitude
        ([1.0], [1.0], "minimum"),  # as many units as modes
    ],
)
def test_starts_that_never_leave_end_by_themselves(a, w, end):
    flow = training.solve_flow(bumped(10.0), a, w)
    assert flow.end == end
    assert flow.flow_time == np.inf
    assert flow.status.is_ok
    assert flow.stats["n_steps"] < 200
    slope = bumped(10.0).gradient(flow.amplitudes, flow.rates)
    assert np.linalg.norm(slope) < 1e-14


def test_a_flow_without_a_minimiser_runs_away_and_says_so():
    target = targets.exponential_sum([1.0, 0.5], [1.0, 2.0])
    loss = training.exact_loss(target + targets.Bump(delay=16.0, width=1.0, height=1.0))
    flow = training.solve_flow(loss, [0.4, 0.6, 0.5], [1.0, 1.0, 2.0])
    assert flow.end == "unbounded"
    assert flow.status.code == "no_minimiser"


def test_times_outside_are_refused():
    flow = training.solve_flow(bumped(6.0), [0.3, 0.7], [1.0, 1.0], flow_time=2.0)
    assert flow.flow_time == 2.0
    assert flow.end == "time"
    with pytest.raises(ValueError, match="flow_times"):
        flow.at(3.0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: training.solve_flow(bumped(6.0), [1.0], [0.0]), "positive rates"),
        (lambda: training.solve_flow(bumped(6.0), [np.nan], [1.0]), "finite"),
        (lambda: training.solve_flow(bumped(6.0), [1.0, 2.0], [1.0]), "shape"),
        (lambda: training.solve_flow(bumped(6.0), [1.0], [1.0], flow_time=-1.0), "flow_time"),
        (
            lambda: training.solve_flow(
                bumped(6.0), [1.0], [1.0], hit=training.FlowEvent("weights", 1.0)
            ),
            "FlowEvent",
        ),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
