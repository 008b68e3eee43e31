"""The quadrature over lags: accuracy, decay found, independent grid, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st

from recollect import targets
from recollect._core._quadrature import (
    adaptive_panels,
    adaptive_quadrature,
    finite_panels,
    panel_primitive,
)


@pytest.mark.parametrize(
    ("function", "integral", "decay"),
    [
        (lambda t: np.exp(-t), 1.0, "exponential"),
        (lambda t: np.exp(-1e9 * t), 1e-9, "exponential"),
        (lambda t: np.exp(-1e-9 * t), 1e9, "exponential"),
        (lambda t: np.exp(-t) + np.exp(-1e6 * t), 1 + 1e-6, "exponential"),
        (lambda t: np.exp(-((t - 16) ** 2) / 2), math.sqrt(2 * math.pi), "exponential"),
        (lambda t: np.exp(-(t**0.3)), math.gamma(1 / 0.3) / 0.3, "exponential"),
        (lambda t: np.exp(-0.1 * t) * np.cos(5 * t), 0.1 / 25.01, "exponential"),
        (lambda t: np.where((t >= 9) & (t < 11), 1.0, 0.0), 2.0, "compact"),
        (lambda t: np.maximum(0.0, 1 - t), 0.5, "compact"),
        (lambda t: (1 + t) ** -2.0, 1.0, "algebraic"),
        (lambda t: (1 + t) ** -1.1, 10.0, "algebraic"),
        (lambda t: (1 + t / 1e3) ** -4.5, 1e3 / 3.5, "algebraic"),
    ],
)
def test_integral_decay_and_independent_grid(function, integral, decay):
    q = adaptive_quadrature(function, rtol=1e-11)
    tail = q.tail if decay == "algebraic" else 0.0
    assert q.decay == decay
    assert q.integral() + tail == pytest.approx(integral, rel=1e-10)
    fine = q.denser()
    assert len(fine.nodes) == pytest.approx(2.5 * len(q.nodes), rel=0.01)
    assert not np.isin(fine.nodes, q.nodes).any()
    assert fine.integral() + tail == pytest.approx(integral, rel=1e-10)
    assert (np.diff(q.nodes) > 0).all()
    assert (q.weights > 0).all()


@pytest.mark.parametrize("exponent", [1.05, 1.5, 2.0, 3.7, 8.0])
def test_exponent_of_an_algebraic_tail(exponent):
    q = adaptive_quadrature(lambda t: (1 + t) ** -exponent)
    assert q.exponent == pytest.approx(exponent, abs=1e-3)


def test_tail_estimate_is_the_tail():
    q = adaptive_quadrature(lambda t: (1 + t) ** -1.5, rtol=1e-6)
    assert q.tail == pytest.approx(2 * (1 + q.support) ** -0.5, rel=1e-3)
    assert q.tail <= 1e-6 * q.total
    q = adaptive_quadrature(lambda t: (1 + t) ** -1.5, rtol=1e-6, norm="l2")
    assert q.tail == pytest.approx(math.sqrt((1 + q.support) ** -2.0 / 2), rel=1e-3)


def test_a_jump_without_a_hint_is_found():
    for start, stop in [(9, 11), (3.3, 3.9), (0.01, 40.0)]:
        q = adaptive_quadrature(lambda t, a=start, b=stop: np.where((t >= a) & (t < b), 1.0, 0.0))
        assert q.integral() == pytest.approx(stop - start, rel=1e-8)


def test_nodes_reach_beyond_the_support():
    q = adaptive_quadrature(lambda t: np.exp(-((t - 16) ** 2) / 2), reach=2.0)
    assert q.nodes[-1] > 1.9 * q.support
    q = adaptive_quadrature(lambda t: np.exp(-((t - 16) ** 2) / 2), reach=1.0)
    assert q.nodes[-1] <= q.support


@pytest.mark.parametrize(
    ("function", "norm", "words"),
    [
        (np.cos, "l1", "stays at the same size"),
        (np.ones_like, "l2", "decays"),
        (lambda t: 1e-3 + np.exp(-t), "l1", "decays"),
        (lambda t: t, "linf", "grows"),
        (np.exp, "l1", "grows without limit"),
        (lambda t: 1 / (1 + t), "l1", "finite in the l1 norm"),
        (lambda t: (1 + t) ** -0.4, "l2", "finite in the l2 norm"),
        (lambda t: 1 / ((1 + t) * np.log(2 + t)), "l1", "finite in the l1 norm"),
        (lambda t: t**-0.5, "l1", "lag 0"),
        (lambda t: np.sin(t) / (1 + t) ** 2, "l1", "panels"),
    ],
)
def test_kernels_that_cannot_be_integrated_are_refused(function, norm, words):
    with pytest.raises(ValueError, match=words) as error:
        adaptive_quadrature(function, norm=norm)
    assert "\n" not in str(error.value)


def test_slow_kernels_pass_in_the_norms_that_hold_them():
    assert adaptive_quadrature(lambda t: 1 / (1 + t), norm="l2").decay == "algebraic"
    assert adaptive_quadrature(lambda t: (1 + t) ** -0.4, norm="linf").decay == "algebraic"


def test_zero_is_a_kernel():
    assert adaptive_quadrature(np.zeros_like).integral() == 0


@settings(max_examples=40, deadline=None)
@given(
    rate=st.floats(1e-8, 1e8),
    ratio=st.floats(1e-4, 1.0),
    share=st.floats(0.0, 1.0),
    scale=st.floats(1e-30, 1e30),
)
def test_integral_scales_with_time_and_size(rate, ratio, share, scale):
    def function(t):
        return scale * (share * np.exp(-rate * t) + (1 - share) * np.exp(-ratio * rate * t))

    exact = scale * (share / rate + (1 - share) / (ratio * rate))
    assert adaptive_quadrature(function).integral() == pytest.approx(exact, rel=1e-9)


def test_primitive_follows_the_function():
    def function(t):
        return np.stack([np.cos(3 * t), np.exp(-50 * t)], axis=1)

    panels, values = adaptive_panels(function, finite_panels(7.0), rtol=1e-13)
    lags = np.linspace(0, 7, 501)
    exact = np.stack([np.sin(3 * lags) / 3, (1 - np.exp(-50 * lags)) / 50], axis=1)
    np.testing.assert_allclose(panel_primitive(panels, values, lags), exact, atol=1e-13)


def test_quadrature_of_models_samples_and_delays():
    q = targets.kernel_quadrature(targets.exponential_sum([1.0, 2.0], [1.0, 0.01]))
    assert q.values.shape == (len(q.nodes), 1, 1)
    assert q.integral() == pytest.approx(201, rel=1e-10)
    q = targets.kernel_quadrature(targets.Delay(5, dt=0.5))
    assert q.integral() == pytest.approx(1.0, rel=1e-12)
    lags = np.linspace(0, 10, 3001)
    q = targets.kernel_quadrature(targets.SampledKernel(lags, scipy.special.j0(lags)))
    assert len(q.nodes) == 3001
    lags = np.array([0.0, 1.0, 3.0])
    q = targets.kernel_quadrature(targets.SampledKernel(lags, [1.0, 0.5, 0.0]))
    assert q.integral() == pytest.approx(0.75 + 0.5, rel=1e-12)
