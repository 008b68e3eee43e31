"""Closed forms of the width theory against independent computations."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import scipy.integrate
import scipy.linalg

from recollect import approximation, targets
from recollect.approximation._fixed_rates import _basis, absolute_integral, input_normal_matrices
from recollect.approximation._theory import (
    _alternating_sum,
    _log_damping_cost,
    _power_law_duality,
    canonical_lags,
)
from recollect.models import LinearRNN


def test_constants_are_those_of_the_derivation():
    expected = [
        (a + 1) * (math.pi / 4) ** a * math.factorial(2 * a + 1) / math.factorial(a + 1)
        for a in range(1, 9)
    ]
    found = [approximation.bound_constant(a) for a in range(1, 9)]
    np.testing.assert_allclose(found, expected, rtol=1e-13)
    np.testing.assert_allclose(found[:4], [4.712, 37.01, 406.96, 5753.2], rtol=1e-4)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_derivative_of_the_transformed_kernel_stays_below_its_bound(order):
    # q(s) = ρ(t)/s, s = e^{-βt/(α+1)}: ‖q^(α)‖ ≤ γβ(2α+1)!/(α+1)!, exact derivatives by mpmath.
    rates, amplitudes = (1.0, 2.7), (1.0, 0.5)
    model = targets.exponential_sum(amplitudes, rates)
    smooth = approximation.measure_smoothness(model, order=order)
    n = (order + 1) / smooth.beta
    with mpmath.workdps(30):
        worst = 0.0
        for s in np.linspace(0.01, 1.0, 60):
            value = sum(
                a * mpmath.ff(n * w - 1, order) * mpmath.mpf(s) ** (n * w - 1 - order)
                for a, w in zip(amplitudes, rates, strict=True)
            )
            worst = max(worst, abs(float(value)))
    bound = smooth.gamma * smooth.beta * math.factorial(2 * order + 1) / math.factorial(order + 1)
    assert worst <= bound * (1 + 1e-12)


@pytest.mark.parametrize(("order", "degree"), [(1, 0), (1, 4), (1, 9), (2, 1), (2, 6), (3, 5)])
def test_polynomial_bound_holds_for_splines(order, degree):
    # Functions whose derivative of this order is ±1 are the extreme points of the class.
    x = (1 + np.cos(np.linspace(0, np.pi, 4001))) / 2
    rng = np.random.default_rng(order * 10 + degree)
    knots = np.sort(rng.uniform(0, 1, 5))
    signs = (-1.0) ** np.arange(6)
    jumps = np.diff(signs)
    function = signs[0] * x**order / math.factorial(order)
    for knot, jump in zip(knots, jumps, strict=True):
        function = function + jump * np.maximum(x - knot, 0) ** order / math.factorial(order)
    vandermonde = np.polynomial.chebyshev.chebvander(2 * x - 1, degree)
    n = degree + 1
    # The least maximum error by linear programming: an upper estimate of E_n.
    cost = np.r_[np.zeros(n), 1.0]
    block = np.column_stack([vandermonde, -np.ones(len(x))])
    flipped = np.column_stack([-vandermonde, -np.ones(len(x))])
    result = scipy.optimize.linprog(
        cost,
        A_ub=np.vstack([block, flipped]),
        b_ub=np.r_[function, -function],
        bounds=[(None, None)] * n + [(0, None)],
    )
    assert result.fun <= approximation.bound_polynomial_error(degree, order=order) * (1 + 1e-9)


def test_no_degree_helps_with_a_step():
    # Negative control of Jackson: a jump has no derivative, and half its height is always left.
    x = np.concatenate([np.linspace(0, 0.499, 200), [0.5 - 1e-7, 0.5 + 1e-7]])
    x = np.concatenate([x, np.linspace(0.501, 1, 200)])
    step = np.where(x < 0.5, 0.0, 1.0)
    ones = np.ones(len(x))
    for degree in (1, 12):
        columns = np.polynomial.chebyshev.chebvander(2 * x - 1, degree)
        left = scipy.optimize.linprog(
            np.r_[np.zeros(degree + 1), 1.0],
            A_ub=np.block([[columns, -ones[:, None]], [-columns, -ones[:, None]]]),
            b_ub=np.r_[step, -step],
            bounds=[(None, None)] * (degree + 1) + [(0, None)],
        ).fun
        assert left == pytest.approx(0.5, abs=1e-4)
    assert approximation.bound_polynomial_error(12, order=1) < 0.5


def test_polynomial_bound_is_sharp_for_a_line():
    # E_0 of f(x) = x is 1/2; Jackson gives π/4: no more than a factor π/2.
    assert approximation.bound_polynomial_error(0, order=1) == pytest.approx(math.pi / 4)


def test_width_inverts_the_error_bound():
    for order in (1, 2, 4):
        width = approximation.bound_width(1e-3, gamma=2.0, order=order, n_inputs=3)
        at = {
            m: approximation.bound_width_error(m, gamma=2.0, beta=1.0, order=order, n_inputs=3)
            for m in (int(width) - 1, int(width))
        }
        assert at[int(width)] <= 1e-3 * (1 + 1e-9) < at[int(width) - 1] * (1 + 1e-6)


@pytest.mark.parametrize("exponent", [1.0, 0.5, 0.1])
@pytest.mark.parametrize("log_damping", [-20.0, -3.0, 0.0, 3.0])
def test_cost_of_damping_is_the_integral(exponent, log_damping):
    with mpmath.workdps(30):
        damping = mpmath.exp(log_damping)
        # ∫ (1 - e^{-δt})(1+t)^{-1-ω} = (δ/ω) ∫ e^{-δt} (1+t)^{-ω}
        exact = damping / exponent * mpmath.exp(damping) * mpmath.expint(exponent, damping)
        found = _log_damping_cost(log_damping, exponent)
        assert found == pytest.approx(float(mpmath.log(exact)), rel=1e-10, abs=1e-10)


@pytest.mark.parametrize("order", [1, 2, 5])
def test_power_law_width_uses_a_true_gamma(order):
    result = approximation.bound_power_law_width(0.05, 0.5, order=order)
    delta, p = result.damping, 1.5
    with mpmath.workdps(40):
        worst = max(
            abs(mpmath.diff(lambda t: (1 + t) ** -p * mpmath.exp(-delta * t), t, k))
            * mpmath.exp(delta * t)
            / mpmath.mpf(delta) ** (k + 1)
            for k in range(order + 1)
            for t in (0, 0.1, 1, 10)
        )
    left = 0.05 - result.tail
    suffices = approximation.bound_width(left, gamma=float(worst), order=order)
    assert suffices <= result.width * (1 + 1e-6)
    assert suffices == pytest.approx(result.width, rel=0.02)


def test_power_law_width_grows_as_the_paper_says():
    # log m ≈ (1 + 1/α)/ω log(1/(ωε)) + (1/α) log(1/ε) for small ω and fixed α.
    for order in (1, 2):
        logs = []
        for exponent in (1 / 8, 1 / 16):
            found = approximation.bound_power_law_width(0.01, exponent, order=order)
            paper = (1 + 1 / order) / exponent * math.log10(1 / (exponent * 0.01))
            logs.append(found.log10_width / (paper + 2 / order))
        assert 0.85 < logs[0] < 1.2
        assert 0.85 < logs[1] < 1.2


def test_input_normal_states_are_orthonormal_and_match_the_recurrence():
    spacing, width = 0.7, 6
    rates = spacing * np.arange(1, width + 1)
    matrix, column = input_normal_matrices(rates)
    gram = scipy.linalg.solve_continuous_lyapunov(matrix, -column @ column.T)
    np.testing.assert_allclose(gram, np.eye(width), atol=1e-12)
    lags = np.linspace(0, 9, 23)
    exact = np.array([scipy.linalg.expm(matrix * t) @ column for t in lags])[:, :, 0]
    np.testing.assert_allclose(_basis(np.exp(-spacing * lags), width, spacing), exact, atol=1e-12)


def test_canonical_signs_are_orthogonal_to_every_rate():
    width, spacing = 7, 0.3
    jumps = np.concatenate([[0.0], canonical_lags(width, spacing), [np.inf]])
    for j in range(1, width + 1):
        pieces = -np.diff(np.exp(-j * spacing * jumps)) / (j * spacing)
        assert abs(np.sum(pieces * (-1.0) ** np.arange(width + 1))) < 1e-13
    outside = -np.diff(np.exp(-(width + 1) * spacing * jumps))
    assert abs(np.sum(outside * (-1.0) ** np.arange(width + 1))) > 1e-6


@pytest.mark.parametrize("exponent", [1.0, 0.25])
def test_duality_at_both_ends_equals_the_whole_sum(exponent):
    for width in (4000, 20_001):
        for c in (1.0, 20.0, 300.0):
            log_spacing = math.log(c) - 2 * math.log(width)
            whole = max(_alternating_sum(n, log_spacing, exponent) for n in (width, width + 1))
            ends = _power_law_duality(math.log(width), log_spacing, exponent)
            assert ends == pytest.approx(whole, rel=1e-4, abs=1e-9)


def test_fixed_rate_bound_agrees_with_quadrature_and_step_responses():
    kernel = targets.PowerLaw(exponent=1.5)
    found = approximation.bound_fixed_rate_error(kernel, width=5, spacing=0.2)
    direct = max(_alternating_sum(n, math.log(0.2), 0.5) for n in (5, 6))
    assert found == pytest.approx(direct, rel=1e-9)


def test_least_fixed_width_is_least():
    result = approximation.bound_fixed_rate_width(0.05, 1.0)
    spacings = np.geomspace(1e-4, 3.0, 400)

    def least(width):
        return min(
            max(_alternating_sum(n, math.log(r), 1.0) for n in (width, width + 1)) for r in spacings
        )

    assert least(int(result.width)) <= 0.05 * 1.01
    assert least(int(result.width) - 1) > 0.05


def test_sinc_bound_covers_the_integrated_error():
    for exponent, error in ((1.0, 0.05), (0.5, 0.01), (0.25, 0.1)):
        fit = approximation.fit_sinc_quadrature(error, exponent)
        assert fit.width == approximation.bound_sinc_width(error, exponent)
        assert fit.error <= fit.bound <= error
        target = targets.PowerLaw(exponent=1 + exponent)
        # An independent quadrature of the difference, from the network itself.
        z = np.linspace(0, 60 / max(exponent, 0.5), 20_001)
        t = np.expm1(z)
        modes = np.diag(fit.model.A)
        fitted = np.exp(np.outer(t, modes)) @ (
            np.asarray(fit.model.C)[0] * np.asarray(fit.model.B)[:, 0]
        )
        density = np.abs(fitted - np.asarray(target.kernel(t))[:, 0, 0]) * np.exp(z)
        inside = scipy.integrate.simpson(density, x=z)
        assert inside <= fit.error * 1.001
        if exponent >= 0.5:
            assert inside == pytest.approx(fit.error, rel=2e-3)


def test_absolute_integral_splits_at_sign_changes():
    edges = np.linspace(0, 10, 7)
    found = absolute_integral(lambda t: np.stack([np.cos(t), np.ones_like(t)], axis=1), edges)
    exact = 6 + math.sin(3 * math.pi / 2) * -1 + (math.sin(10) - math.sin(7 * math.pi / 2)) - 1
    whole = scipy.integrate.quad(lambda t: abs(math.cos(t)), 0, 10, limit=200)[0]
    assert found[0] == pytest.approx(whole, rel=1e-9)
    assert found[1] == pytest.approx(10, rel=1e-12)
    del exact


def test_existence_is_stated_only_where_it_is_known():
    assert approximation.predict_existence(targets.PowerLaw(exponent=2.0)).is_ok
    bump = targets.Bump(delay=4.0, width=1.0)
    assert approximation.predict_existence(bump).code == "no_minimiser"
    network = LinearRNN(np.diag([-1.0]), np.ones((1, 1)), np.ones((1, 1)))
    assert approximation.predict_existence(network).code == "undecided"
    assert approximation.predict_existence(network, is_completely_monotone=True).is_ok
    assert approximation.measure_complete_monotonicity(bump).code == "no_minimiser"
    smooth = targets.StretchedExponential(timescale=1.0, exponent=0.5)
    assert approximation.measure_complete_monotonicity(smooth).code == "undecided"


def test_smoothness_of_networks_is_exact():
    # ρ = 2e^{-t}: |ρ^(k)| = 2e^{-t}, so β = 1, γ = 2 (a smaller β only raises γ).
    model = targets.exponential_sum([2.0], [1.0])
    found = approximation.measure_smoothness(model, order=3)
    assert found.beta == pytest.approx(1.0, rel=1e-3)
    assert found.gamma == pytest.approx(2.0, rel=1e-2)
    assert found.status.is_ok


def test_sampled_derivatives_agree_with_exact_ones():
    kernel = targets.Bump(delay=4.0, width=1.0)

    def derivative(lags, k):
        z = lags - 4.0
        hermite = [np.ones_like(z), -z, z**2 - 1][k]
        return (hermite * np.exp(-(z**2) / 2))[:, None, None]

    sampled = approximation.measure_smoothness(kernel, order=2)
    exact = approximation.measure_smoothness(kernel, order=2, derivative=derivative)
    assert sampled.gamma == pytest.approx(exact.gamma, rel=1e-3)


@pytest.mark.parametrize(
    ("kernel", "word"),
    [
        (targets.PowerLaw(exponent=2.0), "falls like"),
        (targets.Box(1.0, 2.0), "jumps at lag 1"),
    ],
)
def test_smoothness_refuses_what_the_theorem_excludes(kernel, word):
    found = approximation.measure_smoothness(kernel, order=1)
    assert found.gamma == math.inf
    assert found.status.code == "infinite"
    assert word in found.status.message


def test_repeated_rates_need_a_smaller_beta():
    # t e^{-t} is not bounded by e^{-t}.
    jordan = LinearRNN(
        np.array([[-1.0, 0.0], [1.0, -1.0]]), np.array([[1.0], [0.0]]), np.array([[0.0, 1.0]])
    )
    found = approximation.measure_smoothness(jordan, order=2)
    assert found.beta < 0.999
    t = np.linspace(0, 200, 20_001)
    derivatives = [t * np.exp(-t), (1 - t) * np.exp(-t), (t - 2) * np.exp(-t)]
    for k, value in enumerate(derivatives):
        limit = found.gamma * found.beta ** (k + 1) * np.exp(-found.beta * t)
        assert np.all(np.abs(value) <= limit * (1 + 1e-3))


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: approximation.bound_width_error(1, gamma=1, beta=1, order=2), "width"),
        (lambda: approximation.bound_width_error(2, gamma=1, beta=0, order=1), "beta"),
        (lambda: approximation.bound_width_error(2, gamma=1, beta=1, order=1, form="x"), "form"),
        (lambda: approximation.bound_power_law_width(0.1, 1.5), "exponent"),
        (lambda: approximation.bound_fixed_rate_width(-1.0, 0.5), "error"),
        (lambda: approximation.fit_sinc_quadrature(3.0, 0.5), "error"),
    ],
)
def test_bad_input_is_named(call, word):
    with pytest.raises(ValueError, match=f"^{word}: expected"):
        call()


def test_a_callable_is_not_a_functional():
    with pytest.raises(TypeError, match="linear functional"):
        approximation.fit_fixed_rates(np.exp, width=2, spacing=1.0)
